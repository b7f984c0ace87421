"""Polyak averaging: test with an average of the weights that training passed through."""

import contextlib
import functools
import hashlib
import numbers
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import keras
from keras import ops

from kregkit._core import keras_internals
from kregkit._core._repeatable import why_passes_differ
from kregkit._core.checks import check_boolean, check_choice, check_integer, check_number, check_string
from kregkit._core.metrics import direction, is_better, one_value
from kregkit._core.optimizers import leaf_optimizers
from kregkit._core.types import Tensor
from kregkit._core.weights import assign_values, copy_values, swapped
from kregkit.callbacks._weight_moments import WeightMoments, gaussian
from kregkit.callbacks.traced import TracedCallback
from kregkit.inference import WeightPosterior


class PolyakAveraging(TracedCallback):
    """Keeps averages of the weights inside the train step, and puts one in wherever the model is judged.

    After each weight update, `w' = d w' + (1 - d) w`, starting from the weights that `fit` starts with; or, with
    `decay="uniform"`, the plain mean of the weights after every update from `start_step` on (Polyak and Ruppert). It
    needs nothing from `compile`: neither `use_ema`, which averages every micro-batch under gradient accumulation,
    loses the raw weights and leaves BatchNormalization statistics as they are, nor `SwapEMAWeights`, which rounds.

    Validation runs on the average. Callbacks placed after this one see it in the model when the epoch ends, so that
    `ModelCheckpoint` saves and `EarlyStopping` restores what was scored; those placed before it see the raw weights,
    which is where `BackupAndRestore` belongs, and a warning names the others. Within an epoch all see the raw weights.
    Training goes on from the raw weights, whose bits swapping doesn't touch. After `fit` the model holds the average;
    the raw weights are kept, and another `fit` with this callback goes on from them (unless the model's weights have
    been changed meanwhile: then from those, with a new average). If `fit` ends in an error, the model holds the raw
    weights.

    All floating-point weights are averaged, BatchNormalization statistics among them. After a change of the weights
    the statistics that training averaged may not fit; `kregkit.inference.recompute_batch_normalization` computes them
    from data.

    Args:
        decay: Float in [0, 1); `"uniform"`; or a list of these, averages kept side by side. Of several, each epoch's
            validation tells the best, whose scores go into `logs` and which goes into the model at the end; the
            others cost one evaluation each, so the validation data must be readable again. Defaults to `0.999`.
        start_step: Integer >= 0, the batches before averaging starts; until then the average is the weights. A
            second fit that goes on from the first doesn't start again. Defaults to `0`.
        warmup: Boolean, whether the `t`-th averaged update uses `min(decay, (1 + t) / (10 + t))`, `t` from 0, so that
            early weights are forgotten sooner. Defaults to `False`.
        monitor: String, what tells the best of several averages, a quantity of validation. Defaults to `"val_loss"`.
        mode: `"min"`, `"max"`, or `"auto"`: as the model's metric of that name, or Keras's.
        posterior: Boolean, whether to gather a Gaussian over the weights as well (SWAG, Maddox et al. 2019), for
            `inference.marginalize(model, weights=average.weight_posterior())`: the mean, half the variance of each
            weight and half the covariance of the last `rank` deviations from the mean so far. It is gathered from
            `start_step` on, which should be where training no longer makes large progress, at a rate that is not too
            small. Defaults to `False`.
        rank: Integer >= 2, how many deviations are kept; each needs the memory of the trained weights. Defaults to 20.
        posterior_every: Integer, gather every so many averaged updates. Defaults to `None`: at the end of each epoch.

    Attributes:
        best: The `decay` that goes into the model: the best so far, at first the first.

    Raises:
        ValueError: An argument is out of range. In `fit`, before the first step: the optimizer averages as well; the
            model has no weights yet; the list holds two of these or `BackupAndRestore` behind it; several averages
            are to be scored on data that differs from pass to pass.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> average = PolyakAveraging(decay=0.9)
    >>> x = np.ones((8, 2), "float32")
    >>> history = model.fit(x, x[:, :1], epochs=2, verbose=0, callbacks=[average])
    >>> with average.raw():
    ...     raw_loss = model.evaluate(x, x[:, :1], verbose=0)
    >>> raw_loss < model.evaluate(x, x[:, :1], verbose=0)  # so early the average lags behind
    True

    References: [Polyak and Juditsky, 1992](https://doi.org/10.1137/0330046), with the EMA of
    [Tarvainen and Valpola, 2017](https://arxiv.org/abs/1703.01780);
    [Maddox et al., 2019](https://arxiv.org/abs/1902.02476)
    """

    needs_compiled_optimizer = True
    untraced_attributes: tuple[str, ...] = (
        *("best", "monitor", "mode", "_direction", "_raw", "_left", "_pending", "_ended", "_chosen"),
        *("_values", "_update_count", "_posterior_state"),
    )
    fit_attributes: tuple[str, ...] = ("_averages", "_updates", "_traced", "_weight_moments")
    _averages = None  # within a fit: per decay, one variable per weight
    _weight_moments = None  # within a fit that gathers a posterior

    def __init__(
        self,
        decay: float | str | Sequence[float | str] = 0.999,
        start_step: int = 0,
        warmup: bool = False,
        monitor: str = "val_loss",
        mode: Literal["auto", "min", "max"] = "auto",
        posterior: bool = False,
        rank: int = 20,
        posterior_every: int | None = None,
    ) -> None:
        super().__init__()
        self.decay = decay
        self.decays = list(decay) if isinstance(decay, (list, tuple)) else [decay]
        if not self.decays or len(set(map(str, self.decays))) != len(self.decays):
            raise ValueError(f"`decay` must be one or several different decays. Received: decay={decay!r}")
        for one in self.decays:
            if one != "uniform":
                if not isinstance(one, numbers.Real):
                    raise ValueError(
                        f"`decay` must be a number in [0, 1), 'uniform', or a list. Received: decay={decay!r}"
                    )
                check_number("decay", one, 0, 1, high_open=True)
        check_string("monitor", monitor)
        if len(self.decays) > 1 and not str(monitor).startswith("val_"):
            raise ValueError(
                "The best of several averages is told by validation, so `monitor` must start with 'val_'. "
                f"Received: monitor={monitor!r}"
            )
        self.start_step = check_integer("start_step", start_step, 0)
        self.warmup = check_boolean("warmup", warmup)
        self.monitor = monitor
        self.mode = check_choice("mode", mode, ("auto", "min", "max"))
        self.posterior = check_boolean("posterior", posterior)
        self.rank = check_integer("rank", rank, 2)
        self.posterior_every = None if posterior_every is None else check_integer("posterior_every", posterior_every, 1)
        direction(monitor, "min")  # the name's own error comes now; "auto" is resolved when there is a model
        self.best = self.decays[0]
        self._values = None  # after a fit: per decay, one array per weight
        self._update_count = 0
        self._posterior_state = None  # after a fit that gathers a posterior
        self._raw = None  # the raw weights, while an average is in the model
        self._left = None  # the fingerprint of what the last fit left in the model
        self._pending: Any = None  # the state to go on from
        self._ended = True
        self._chosen = False  # whether this fit's validation has told the best

    # Outside the step: what users call.

    @contextlib.contextmanager
    def applied(self, decay: float | str | None = None) -> Iterator[None]:
        """Holds an average in the model for a block, then puts back exactly what was there.

        Args:
            decay: Which of several averages. Defaults to the best.

        Example: `with average.applied(): model.save("averaged.keras")`.
        """
        self._check_started()
        if decay is not None and decay not in self.decays:
            raise ValueError(f"`decay` must be one of {self.decays}. Received: decay={decay!r}")
        with swapped(self._weights(), self._average(self.best if decay is None else decay)):
            yield

    @contextlib.contextmanager
    def raw(self) -> Iterator[None]:
        """Holds the raw weights in the model for a block, then puts back exactly what was there."""
        self._check_started()
        weights = self._weights()
        with swapped(weights, copy_values(weights) if self._raw is None else self._raw):
            yield

    def weight_posterior(self) -> WeightPosterior:
        """Returns the Gaussian over the trained weights that was gathered, for `inference.marginalize`.

        Raises:
            ValueError: Nothing is gathered (`posterior=False`), or fewer than two times.
        """
        self._check_started()
        state = self._moments_now()
        if state is None or state["gathered"] < 2:
            raise ValueError(
                "A posterior needs weights from two times at least: fit with `posterior=True`, for two epochs or with "
                "a smaller `posterior_every`, after `start_step`. Received: "
                f"posterior={self.posterior}, gathered={0 if state is None else state['gathered']}"
            )
        trained = {id(weight) for weight in self._trained()}
        indices = [index for index, weight in enumerate(self.model.weights) if id(weight) in trained]
        shapes = [self.model.weights[index].shape for index in indices]
        mean, diagonal, deviations = gaussian(state)
        return WeightPosterior(indices, shapes, mean, diagonal, deviations, information={"gathered": state["gathered"]})

    def get_state(self) -> dict[str, Any]:
        """Returns the averages, the number of averaged updates and the raw weights, as arrays and JSON values."""
        self._check_started()
        return {
            "best": self.best,
            "updates": self._count(),
            "averages": self._copies(),
            "raw": copy_values(self._weights()) if self._raw is None else list(self._raw),
            "in_model": self._raw is not None,
            "chosen": self._chosen,
            "moments": self._moments_now(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from `state`, its averages and its raw weights: in the next fit, or in this one before it begins."""
        if len(state["averages"]) != len(self.decays):
            raise ValueError(
                f"The state must hold {len(self.decays)} averages, one per decay. "
                f"Received: averages={len(state['averages'])}"
            )
        self._pending = state

    def _check_started(self):
        if self._averages is None and self._values is None:
            raise ValueError("There is no average before the first `fit` with this callback. Received: average=None")

    def _weights(self):
        return [weight for weight in self.model.weights if keras.backend.is_float_dtype(weight.dtype)]

    def _trained(self):
        """Returns the weights that training changes, also if they are frozen, in the order of the model's weights."""
        own = {
            id(weight)
            for layer in keras_internals.flatten_layers(self.model)
            for weight in keras_internals.own_trainable_variables(layer)
        }
        return [weight for weight in self._weights() if id(weight) in own]

    def _moments_now(self):
        return self._posterior_state if self._weight_moments is None else self._weight_moments.state()

    def _average(self, decay):
        """Returns an average as arrays of the weights' own types."""
        index = self.decays.index(decay)
        values = self._values[index] if self._averages is None else copy_values(self._averages[index])
        return [value.astype(weight.dtype, copy=False) for value, weight in zip(values, self._weights())]

    def _copies(self):
        """Returns all averages as arrays that no training changes."""
        if self._averages is None:
            return [list(values) for values in self._values]
        return [copy_values(averages) for averages in self._averages]

    def _count(self):
        return self._update_count if self._averages is None else int(ops.convert_to_numpy(self._updates))

    # Inside the step.

    def after_update(self, step: Tensor) -> None:
        if len(self._weights()) != len(self._traced):
            raise ValueError(
                "Averages start from the weights that `fit` starts with, but this model makes weights in its first "
                f"step: call it once on a batch of inputs before `fit`. Received: model={self.model.name!r}"
            )
        if self.start_step == 0:
            self._move()
        else:
            ops.cond(ops.logical_or(step >= self.start_step, self._updates > 0), self._move, self._follow)

    def _move(self):
        count = self._updates + 1
        self._updates.assign(count)
        for decay, averages in zip(self.decays, self._averages):
            new_part = self._new_part(decay, ops.cast(count, "float32"))
            for average, weight in zip(averages, self._traced):
                value = ops.cast(weight, average.dtype)
                difference = value - average
                if not weight.trainable:
                    # What doesn't change stays: masks hold -inf, and inf - inf is no number.
                    difference = ops.where(value == average, 0.0, difference)
                average.assign_add(ops.cast(new_part, average.dtype) * difference)
        if self._weight_moments is not None and self.posterior_every is not None:
            ops.cond(count % self.posterior_every == 0, self._weight_moments.gather, lambda: None)

    def _follow(self):
        for averages in self._averages:
            for average, weight in zip(averages, self._traced):
                average.assign(ops.cast(weight, average.dtype))

    def _new_part(self, decay, count):
        """Returns the part of the new value in averaged update number `count`, from 1."""
        if decay == "uniform":
            return 1 / count
        if self.warmup:
            return ops.maximum(1.0 - decay, 9 / (9 + count))
        return ops.convert_to_tensor(1.0 - decay, "float32")

    # Around the step.

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        if self.model.optimizer is None:
            raise ValueError("Weights are averaged at each of the optimizer's updates. Received: optimizer=None")
        for leaf in leaf_optimizers(self.model.optimizer):
            if leaf.use_ema:
                raise ValueError(
                    f"The optimizer {leaf.name!r} puts its own average into the model at the end of `fit`: compile "
                    f"without it. Received: use_ema={leaf.use_ema}"
                )
        self._check_callbacks()
        if len(self.decays) > 1:
            self._direction = direction(self.monitor, self.mode, self.model)
            reason = why_passes_differ(
                self.train_step.validation.get("validation_data"), self.train_step.validation.get("validation_steps")
            )
            if reason is not None:
                raise ValueError(
                    f"The best of several averages is chosen by scores on the same batches, but `validation_data` "
                    f"{reason}. Pass arrays or a data set that is read whole and unchanged, such as "
                    f"`dataset.take(steps).cache()`, or one `decay`. Received: decay={self.decay}"
                )
        self._ended, self._chosen = False, False

    def _check_callbacks(self):
        callbacks = self.train_step.callbacks
        names = [type(callback).__name__ for callback in callbacks]
        if len(self.train_step.find(PolyakAveraging)) > 1:
            raise ValueError(
                "Two PolyakAveraging callbacks would average each other's averages: make one with "
                f"`decay=[first, second]`. Received: callbacks={names}"
            )
        behind = False
        for callback in callbacks:
            behind = behind or callback is self
            if isinstance(callback, keras.callbacks.BackupAndRestore) and behind:
                raise ValueError(
                    "BackupAndRestore would back up the average and train on from it: place it before "
                    f"PolyakAveraging. Received: callbacks={names}"
                )
            problem = self._problem_with(callback, behind)
            if problem:
                warnings.warn(f"{type(callback).__name__} {problem}. Received: callbacks={names}", stacklevel=3)

    def _problem_with(self, callback, behind):
        """Returns what another callback does with the weights or scores that its user may not expect, or None."""
        saves = isinstance(callback, keras.callbacks.ModelCheckpoint)
        monitor = str(getattr(callback, "monitor", ""))
        if saves and callback.save_freq != "epoch":
            return "saves within epochs, where the model holds the raw weights: use `save_freq='epoch'` for the average"
        if behind or isinstance(callback, keras.callbacks.BackupAndRestore):
            return None
        if saves or getattr(callback, "restore_best_weights", False):
            by_score = monitor.startswith("val_") and getattr(callback, "save_best_only", True)
            judged = f" by {monitor!r}, which is that of the average" if by_score else ""
            return f"keeps the raw weights{judged}: place it after PolyakAveraging to keep the average"
        return None

    def prepare(self) -> None:
        self._traced = self._weights()
        state, goes_on = self._pending, self._values is not None and self._left == self._fingerprint()
        self._pending = None
        if state is not None:
            self.best = state["best"]
            self._create(state["averages"], state["updates"], state.get("moments"))
            assign_values(self._traced, state["raw"])
            self._chosen = state.get("chosen", False)
        elif goes_on:
            self._create(self._values, self._update_count, self._posterior_state)
            if self._raw is not None:
                assign_values(self._traced, self._raw)
        else:
            self._create([copy_values(self._traced)] * len(self.decays), 0)
        self._raw = self._values = self._posterior_state = None
        if state is not None and state.get("in_model", False):
            # As between two epochs: callbacks before this one find it there.
            self._put_in(self.best)

    def _create(self, averages, updates, moments=None):
        variable = self.train_step.variable
        self._weight_moments = None
        if self.posterior:
            make = functools.partial(variable, self)
            self._weight_moments = WeightMoments(make, self._trained(), self.rank, moments)
        self._updates = variable(self, "updates", updates, "int64")
        self._averages = [
            [
                variable(self, f"{decay}_{index}", value, "float64" if weight.dtype == "float64" else "float32")
                for index, (value, weight) in enumerate(zip(values, self._traced))
            ]
            for decay, values in zip(self.decays, averages)
        ]

    def _fingerprint(self):
        digest = hashlib.sha256()
        for value in copy_values(self._weights()):
            digest.update(value.tobytes())
        return digest.digest()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._take_out()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._averages is not None and not self._ended:
            self._put_in(self.best)

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        # For the callbacks before this one.
        if self._averages is not None and not self._ended:
            self._take_out()

    def before_epoch_end(self, logs: dict[str, Any]) -> None:
        if len(self.decays) > 1 and self.monitor in logs:
            self._choose(logs)
            self._chosen = True
            # Callbacks before this one find the raw weights.
            self._take_out()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._weight_moments is not None and self.posterior_every is None and self._count() > 0:
            self._weight_moments.gather()
        self._put_in(self.best)

    def _choose(self, logs):
        """Scores the other averages as this one was scored, and hands the best one's scores on."""
        scores = {self.best: {name: value for name, value in logs.items() if name.startswith("val_")}}
        for decay in self.decays:
            if decay not in scores:
                self._put_in(decay)
                # As fit does, on the iterator that it keeps for its own evaluation.
                results = self.model.evaluate(verbose=0, return_dict=True, _use_cached_eval_dataset=True)
                scores[decay] = {f"val_{name}": value for name, value in results.items()}
        best = None
        for decay in self.decays:
            value = one_value(self.monitor, scores[decay][self.monitor])
            logs[f"{self.monitor}_{decay}"] = value
            if is_better(value, best, self._direction):
                self.best, best = decay, value
        logs.update(scores[self.best])

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if len(self.decays) > 1 and not self._chosen:
            warnings.warn(
                f"PolyakAveraging chooses among {self.decays} by {self.monitor!r}, which was never in the logs: the "
                f"model holds that of {self.best}",
                stacklevel=2,
            )
        self.train_step.prepare()
        self._ended = True
        self._put_in(self.best)
        self._left = self._fingerprint()
        super().on_train_end(logs)

    def release(self) -> None:
        if self._averages is None:
            return
        # The next fit's variables may be these: keep what is in them.
        self._values, self._update_count = self._copies(), self._count()
        self._posterior_state, self._weight_moments = self._moments_now(), None
        if not self._ended:
            self._take_out()
            self._left = self._fingerprint()
        self._averages = self._updates = None

    def _put_in(self, decay):
        if self._raw is None:
            self._raw = copy_values(self._traced)
        assign_values(self._traced, self._average(decay))

    def _take_out(self):
        if self._raw is not None:
            assign_values(self._traced, self._raw)
            self._raw = None
