"""Rates of dropout and other noise that change while training."""

import contextlib
import re
from typing import Any

import keras
import numpy as np
from keras import ops

from kregkit._core.checks import check_choice
from kregkit._core.graph import layer_paths, matches_path
from kregkit._core.keras_internals import flatten_layers
from kregkit._core.replacing import replaced_all
from kregkit._core.types import Tensor
from kregkit.callbacks import _keras_noise
from kregkit.callbacks.traced import TracedCallback

# A rate of 1 leaves nothing to divide by; this is the largest that float16 tells from it by far.
_LARGEST = 0.99


class NoiseSchedule(TracedCallback):
    """Sets the rate of stochastic layers by a schedule, inside the train step: `rate = schedule(t)`.

    Noise that is right at the end of training is often too much at its beginning, or the other way round: DropBlock
    starts at 0 and grows (Ghiasi et al. 2018). The rate is the fraction dropped, for `StochasticDepth` one minus the
    survival probability, for `GaussianNoise` the standard deviation. It acts in the train step alone: everything else,
    such as `evaluate`, `marginalize` and a model that is saved in between, has the layer's own rate, a float, and so
    has the layer when the fit has ended. The logs hold what the schedule gives, with `relative` its factor, as
    `noise_rate`; a further schedule's is `noise_rate_1` and so on.

    It works for Keras's `Dropout`, `SpatialDropout1D` to `3D`, `AlphaDropout`, `GaussianDropout` and `GaussianNoise`,
    wherever they stand (`MultiHeadAttention` has a `Dropout` inside); for kregkit's `DropPath`, `DropBlock2D`,
    `DropConnect` and `StochasticDepth`; and for layers of your own that name their `rate_attribute`. The `dropout` of
    recurrent layers and of `Attention` is no layer, and isn't among them.

    Args:
        layers: String, a regular expression of layers' paths: the names of the models and layers around a layer and
            its own, such as `"backbone/block_1/drop"`. It must match the whole path, or all of it behind a slash;
            `".*"` is all layers. Or a layer or a list of layers, which stand for all stochastic layers inside too.
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`, Keras's, kregkit's or your own. At every step a
            rate is brought into [0, 0.99].
        relative: Boolean, whether the schedule is a factor of each layer's own rate. Defaults to `False`.
        unit: `"step"` or `"epoch"`, what the schedule counts in. With `"epoch"` it is called with fractions of epochs;
            where the data's length is unknown, with whole epochs. Defaults to `"step"`.

    Raises:
        ValueError: An argument is of another kind. In `fit`, before the first step: no layer has a rate to set, or one
            of Keras's layers was made with a rate of 0, and so without random numbers; the schedule gives a rate
            outside [0, 1), looked at in 33 steps of the fit; two schedules are for one layer; or XLA is to compile
            `StochasticDepth(mode="subset")` with subsets of changing size.

    Example: a dropout rate that grows from 0 to 0.2 in 1000 steps.

    >>> growing = keras.optimizers.schedules.PolynomialDecay(0.0, decay_steps=1000, end_learning_rate=0.2)
    >>> callback = NoiseSchedule(".*dropout.*", growing)

    Reference: [Ghiasi et al., 2018](https://arxiv.org/abs/1810.12890); [Morerio et al.,
    2017](https://arxiv.org/abs/1703.06229) for Dropout.
    """

    untraced_attributes: tuple[str, ...] = ("_applied", "_scheduled")
    fit_attributes: tuple[str, ...] = (
        "_applied",
        "_scheduled",
        "_targets",
        "_unit_steps",
        "_in_whole_epochs",
        "_log_name",
    )

    def __init__(
        self,
        layers: str | keras.Layer | list,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        relative: bool = False,
        unit: str = "step",
    ) -> None:
        super().__init__()
        if isinstance(layers, str):
            try:
                re.compile(layers)
            except re.error as error:
                raise ValueError(
                    f"`layers` must be a regular expression ({error}). Received: layers={layers!r}"
                ) from error
        else:
            listed = list(layers) if isinstance(layers, (list, tuple)) else [layers]
            if not listed or not all(isinstance(layer, keras.Layer) for layer in listed):
                raise ValueError(
                    "`layers` must be a regular expression of layers' paths, a layer, or a list of layers. "
                    f"Received: layers={layers!r}"
                )
            layers = listed
        if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            raise ValueError(
                "`schedule` must be a LearningRateSchedule, such as keras.optimizers.schedules.PolynomialDecay. "
                f"Received: schedule={schedule!r}"
            )
        self.layers = layers
        self.schedule = schedule
        self.relative = check_choice("relative", relative, (True, False))
        self.unit = check_choice("unit", unit, ("step", "epoch"))

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        steps = self.train_step.steps_per_epoch
        self._applied = contextlib.ExitStack()
        self._in_whole_epochs = steps is None and self.unit == "epoch"
        divides = self.unit == "epoch" and steps is not None
        self._unit_steps = self.train_step.variable(self, "unit_steps", steps if divides else 1, "float32")
        self._targets = self._find_targets()

    def prepare(self) -> None:
        others = [hook for hook in self.train_step.hooks if isinstance(hook, NoiseSchedule)]
        index = next(index for index, other in enumerate(others) if other is self)
        self._log_name = f"noise_rate_{index}" if index else "noise_rate"
        for other in others[:index]:
            both = {id(layer) for layer, *_ in other._targets}
            shared = [path for layer, _, _, path in self._targets if id(layer) in both]
            if shared:
                raise ValueError(f"Two NoiseSchedules are for {shared[0]!r}. Received: layers={self.layers!r}")
        steps = self.train_step.steps_per_epoch
        if steps is not None:
            total = steps * self.train_step.epochs
            self._check_rates(np.unique(np.linspace(0, max(total - 1, 0), 33).astype("int64")))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._check_rates([int(ops.convert_to_numpy(self.train_step.step))])

    def _find_targets(self):
        """Returns `(layer, attribute, own rate, path)` of each layer whose rate is set."""
        pairs = layer_paths(self.model)
        if isinstance(self.layers, str):
            meant = [(path, layer) for path, layer in pairs if matches_path(self.layers, path)]
        else:
            inside = {id(part) for layer in self.layers for part in flatten_layers(layer)}
            meant = [(path, layer) for path, layer in pairs if id(layer) in inside]
        targets = [
            (layer, name, float(getattr(layer, name)), path) for path, layer in meant if (name := _attribute(layer))
        ]
        if not targets:
            known = [path for path, layer in pairs if _attribute(layer)]
            raise ValueError(
                "`layers` must match a stochastic layer of the model whose rate can be set; these are "
                f"{known}. Received: layers={self.layers!r}"
            )
        for layer, name, own, path in targets:
            if _keras_noise.rate_attribute(layer) and own == 0:
                raise ValueError(
                    f"The layer {path!r} was made with {name}=0, without random numbers: make it with the rate that "
                    f"inference shall know of, such as the schedule's last one. Received: {name}={own}"
                )
            if getattr(layer, "mode", None) == "subset" and self.model.jit_compile:
                raise ValueError(
                    f"XLA needs subsets of a known size, and {path!r} has mode='subset': take another mode, or compile "
                    f"with jit_compile=False. Received: jit_compile={self.model.jit_compile}"
                )
        return targets

    def _check_rates(self, steps):
        """Raises `ValueError` where the schedule gives a rate that is none."""
        for step in steps:
            value = float(ops.convert_to_numpy(self.schedule(self._time(ops.convert_to_tensor(step, "int64")))))
            for _, name, own, path in self._targets:
                rate = value * _rate(name, own) if self.relative else value
                if not (0 <= rate < (np.inf if name == "stddev" else 1)):
                    raise ValueError(
                        f"The schedule must give rates in [0, 1), or standard deviations >= 0, and gives {path!r} "
                        f"{rate:g} at step {step}. Received: schedule={self.schedule!r}"
                    )

    def _time(self, step):
        if self._in_whole_epochs:
            return self.train_step.epoch
        return step if self.unit == "step" else ops.cast(step, "float32") / self._unit_steps

    def before_step(self, step: Tensor) -> Any:
        value = ops.cast(self.schedule(self._time(step)), "float32")
        changes = []
        for layer, name, own, _ in self._targets:
            rate = ops.maximum(value * _rate(name, own) if self.relative else value, 0.0)
            rate = rate if name == "stddev" else ops.minimum(rate, _LARGEST)
            if _keras_noise.rate_attribute(layer):
                changes.append((layer, "call", _keras_noise.call_at(layer, rate)))
            else:
                changes.append((layer, name, _rate(name, rate)))
        self._scheduled = value
        # Replicas take turns while they are traced: whoever begins undoes what another has set.
        self._applied.enter_context(replaced_all(changes))

    def after_step(self, step: Tensor, logs: dict[str, Any]) -> None:
        self._applied.close()
        logs[self._log_name] = self._scheduled

    def release(self) -> None:
        self._applied.close()
        self._targets, self._scheduled = (), None


def _attribute(layer):
    """Returns the name of the attribute that holds a layer's rate, or None."""
    return getattr(layer, "rate_attribute", None) or _keras_noise.rate_attribute(layer)


def _rate(name, value):
    """Returns the rate that belongs to a survival probability, or the other way round; other values are rates."""
    return 1 - value if name == "survival_probability" else value
