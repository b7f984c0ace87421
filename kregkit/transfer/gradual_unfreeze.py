"""Thaw a model from the top inside one fit."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kregkit._core.checks import check_integer, check_number
from kregkit._core.graph import flat_layers
from kregkit._core.types import Tensor
from kregkit.callbacks import RateCallback
from kregkit.transfer._graph import matching
from kregkit.transfer.freezing import layers_from, prepare, restore_flags, set_trainable, trainable_flags


class GradualUnfreeze(RateCallback):
    """Trains the head first, then lets layers join from the top, inside one `fit`.

    At the first epoch of a stage its layers thaw, and the train step is made anew: frozen layers cost no backward
    pass. Layers of no stage that began yet are frozen, BatchNormalization among them in inference mode. From the
    second stage on all rates are `learning_rate_factor` times the base, and other rate callbacks multiply with that.

    The optimizer gets slots for all weights before the first step, so that nothing is lost or refused when a layer
    thaws; they stay at zero until then. The stage follows from the epoch alone, so a run that is resumed, by
    `initial_epoch`, `Resume` or `BackupAndRestore`, goes on in the right one. When the fit ends, in whatever way, each
    layer is as trainable as before it. Parts that were frozen within a layer that trains (a layer's own layers, single
    weights) stay frozen.

    Args:
        stages: List of `(epoch, layers)`, the epochs increasing from 0. `layers` is an integer, that many layers that
            have kernels counted from the top; or a layer's name, a regular expression, or a list of these, from the
            lowest of which on all layers train.
        learning_rate_factor: Float > 0. Defaults to `0.1`.

    Raises:
        ValueError: An argument is out of range. When `fit` begins: a stage names no layer of the model, the model has
            no weights yet, or the optimizer was built while layers were frozen.

    Example:

    >>> import keras, numpy as np
    >>> layers = [keras.Input((2,)), keras.layers.Dense(2, name="body"), keras.layers.Dense(1, name="head")]
    >>> model = keras.Sequential(layers)
    >>> model.compile(keras.optimizers.SGD(0.1), "mse")
    >>> x = np.ones((8, 2), "float32")
    >>> history = model.fit(x, x[:, :1], epochs=2, verbose=0, callbacks=[GradualUnfreeze([(0, "head"), (1, "body")])])
    >>> [round(float(rate), 3) for rate in history.history["learning_rate"]]
    [0.1, 0.01]

    Reference: [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146)
    """

    whole_epochs_suffice = True
    multiplies_cycles = True

    def __init__(self, stages: Sequence[Any], learning_rate_factor: float = 0.1) -> None:
        super().__init__("epoch")
        pairs = isinstance(stages, (list, tuple)) and all(isinstance(one, (list, tuple)) for one in stages)
        if not pairs or not stages or any(len(one) != 2 for one in stages):
            raise ValueError(f"`stages` must be a list of pairs (epoch, layers). Received: stages={stages!r}")
        epochs = [check_integer("stages", epoch, 0) for epoch, _ in stages]
        if epochs[0] != 0 or sorted(set(epochs)) != epochs:
            raise ValueError(f"The epochs of `stages` must increase from 0. Received: stages={stages!r}")
        self.stages = [(epoch, layers) for epoch, (_, layers) in zip(epochs, stages)]
        self.learning_rate_factor = check_number("learning_rate_factor", learning_rate_factor, 0, low_open=True)
        self._flags = None

    def make_schedule(self, unit_steps: int, total_steps: int) -> Any:
        return None

    def factor_at(self, step: Tensor) -> Tensor:
        if len(self.stages) == 1:
            return 1.0
        return ops.where(self.train_step.epoch >= self.stages[1][0], self.learning_rate_factor, 1.0)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        # Before any callback's `on_train_begin`: BackupAndRestore would build an optimizer for what trains now only.
        if model.built:
            prepare(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if not self.model.built:
            raise ValueError(
                "GradualUnfreeze needs the layers' weights: give the model an `Input`, or call it once. "
                f"Received: model={self.model.name!r}"
            )
        self._members = [self._layers_of(layers) for _, layers in self.stages]
        prepare(self.model, [layer for layers in self._members for layer in layers])
        super().on_train_begin(logs)
        self._flags = trainable_flags(self.model)
        self._stage: int | None = None

    def _layers_of(self, layers):
        if isinstance(layers, (list, tuple)):
            layers = matching(self.model, list(layers), "stages")
        return layers_from(self.model, layers, "stages")

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        stage = max(index for index, (start, _) in enumerate(self.stages) if start <= epoch)
        if stage != self._stage:
            self._stage = stage
            free = {id(layer) for layers in self._members[: stage + 1] for layer in layers}
            flat = flat_layers(self.model)
            # What the user froze within a layer that trains anyway stays as it was.
            restore_flags(self.model, self._flags)
            set_trainable(self.model, [layer for layer in flat if id(layer) not in free], False)
            closed = [layer for layer in flat if not layer.trainable]
            set_trainable(self.model, [layer for layer in closed if id(layer) in free], True)
            # The step has the weights that it trains baked in; other callbacks' hooks stay in it.
            self.train_step.retrace()

    def release(self) -> None:
        if self._flags is not None:
            function = self.model.train_function
            restore_flags(self.model, self._flags)
            self._flags = None
            # What was traced before this fit had these flags.
            self.model.train_function = function
