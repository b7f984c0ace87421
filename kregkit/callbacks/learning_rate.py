"""How callbacks share one learning rate: the base of those that take part in it, and their product."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from kregkit import schedules
from kregkit._core.checks import check_choice
from kregkit._core.optimizers import leaf_optimizers
from kregkit._core.types import Tensor
from kregkit.callbacks._train_step import Hook
from kregkit.callbacks.traced import TracedCallback

_keras_schedules = keras.optimizers.schedules

# The attributes of schedules that follow from the length of a fit or of its epochs, which variables hold in a traced
# step; and those that a call doesn't read.
_LENGTHS = {
    _keras_schedules.ExponentialDecay: (["decay_steps"], []),
    _keras_schedules.InverseTimeDecay: (["decay_steps"], []),
    _keras_schedules.CosineDecay: (["decay_steps"], []),
    schedules.StepDecay: (["_numerator", "_denominator", "_steps", "_times", "_interval"], ["every", "at"]),
    schedules.Warmup: (["steps"], []),
    schedules.Cooldown: (["total_steps", "length"], []),
    schedules.Triangular: (["period"], []),
    schedules.OneCycle: (["total_steps"], []),
    schedules.CosineCycles: (
        ["_starts", "_lengths", "_last_step"],
        ["total_steps", "cycles", "restart_multiplier", "ends"],
    ),
}
_WHOLE = ("_numerator", "_denominator", "_steps")


class RateCallback(TracedCallback):
    """Base of the callbacks that take part in the learning rate.

    In each step, before the model's own work, `rate = base * product of all factors` is assigned to
    `optimizer.learning_rate`, and written to `logs["learning_rate"]`. The base is what the optimizer holds when the
    fit begins; it is put back when the fit ends. Several optimizers (`MultiOptimizer`) each keep their own base; the
    first one's rate is `"learning_rate"`, the others' are `"learning_rate_1"` and so on. A model saved within the fit
    holds the rate of that moment: set `optimizer.learning_rate` to the base before training a loaded model on.

    A subclass overrides `make_schedule`, or `factor_at` where its factor is no schedule of the step.

    Attributes:
        replaces_base: True if the callback gives the rate itself, in place of the compiled one.
        whole_epochs_suffice: True if the schedule only changes at epoch boundaries, so that it works on data of
            unknown length.
        floor: Float, the smallest factor: a smaller one is raised to it.
        multiplies_cycles: True if the factor may also multiply the cycles of `SnapshotEnsemble`.

    Args:
        unit: `"epoch"` or `"step"`, what lengths and times are counted in. A step is a trained batch. Epochs are
            exact to the batch, fractions included.

    Raises:
        ValueError: `unit` is neither. In `fit`, before the first step: the learning rate isn't a number to set, the
            data's length is needed and unknown, or another callback sets the rate too.

    Example:

    >>> import keras
    >>> class Halved(RateCallback):
    ...     def make_schedule(self, unit_steps, total_steps):
    ...         return keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.5])
    >>> callback = Halved()
    """

    needs_compiled_optimizer = True
    untraced_attributes: tuple[str, ...] = ("_introduced", "_counting")
    fit_attributes: tuple[str, ...] = ("_introduced", "_schedule")
    replaces_base = False
    whole_epochs_suffice = False
    floor = 0.0
    multiplies_cycles = False

    def __init__(self, unit: str = "epoch") -> None:
        super().__init__()
        self.unit = check_choice("unit", unit, ("epoch", "step"))

    def combines_with(self, other: Any) -> bool:
        """Returns whether the rate callback `other` may act in the same fit."""
        return not (self.replaces_base and other.replaces_base)

    def make_schedule(self, unit_steps: int, total_steps: int) -> Callable[[Tensor], Tensor]:
        """Returns the schedule of this callback's factor over steps.

        Args:
            unit_steps: Float, steps per unit of time.
            total_steps: Integer, steps from epoch 0 to the fit's end; `None` if unknown.
        """
        raise NotImplementedError

    def factor_at(self, step: Tensor) -> Tensor:
        """Returns, inside the step, what multiplies the rate."""
        factor = self._schedule(self.train_step.epoch if self._in_whole_epochs else step)
        return ops.maximum(factor, self.floor) if self.floor else factor

    def rate_at(self, step: Tensor, base: Tensor) -> Tensor:
        """Returns, inside the step, what replaces `base`, where `replaces_base`."""
        return self.factor_at(step)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        # `fit` introduces the model before any callback's `on_train_begin` changes it.
        self._introduced = compiled_rates(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        steps, epochs = self.train_step.steps_per_epoch, self.train_step.epochs
        self._counting = False
        self._in_whole_epochs = steps is None and self.unit == "epoch"
        if self._in_whole_epochs and not self.whole_epochs_suffice:
            raise ValueError(
                f"{type(self).__name__} needs the number of steps per epoch, which this data doesn't tell. Pass "
                "`steps_per_epoch` to `fit`, or use `dataset.apply(tf.data.experimental.assert_cardinality(n))`. "
                f"Received: unit={self.unit!r}"
            )
        if self._in_whole_epochs:
            unit_steps, total_steps = 1, epochs
        else:
            unit_steps = steps if self.unit == "epoch" else 1
            total_steps = None if steps is None else steps * epochs
        self._schedule = self._with_variables(self.make_schedule(unit_steps, total_steps))
        self.train_step.share(Rates).add(self)

    def _with_variables(self, schedule):
        """Returns the schedule with its lengths in variables, so that fits of other lengths can share one trace."""
        lengths, unread = _LENGTHS.get(type(schedule), ((), ()))
        if not lengths:
            return schedule
        schedule = copy.copy(schedule)
        for name in lengths:
            value = getattr(schedule, name)
            if value is not None:
                dtype = "int64" if name in _WHOLE else "float32"
                setattr(schedule, name, self.train_step.variable(self, f"schedule{name}", value, dtype))
        for name in unread:
            delattr(schedule, name)
        return schedule

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        uncounted = self.train_step.steps_per_epoch is None and self.train_step.resumed is None
        if epoch and uncounted and self.unit == "step" and not self._counting:
            raise ValueError(
                f"{type(self).__name__} can't tell how many steps came before `initial_epoch`, as this data doesn't "
                f"tell its length. Pass `steps_per_epoch` to `fit`. Received: initial_epoch={epoch}"
            )
        self._counting = True

    def _length(self, length, unit_steps, total_steps):
        if length is not None:
            return length * unit_steps
        if total_steps is None:
            raise ValueError(
                f"{type(self).__name__} needs a `length` where the data doesn't tell the number of steps: pass it, or "
                f"`steps_per_epoch` to `fit`. Received: length={length}"
            )
        return total_steps


def compiled_rates(model: keras.Model):
    """Returns pairs of each optimizer that updates weights and its rate, where that is a variable."""
    leaves = [] if getattr(model, "optimizer", None) is None else leaf_optimizers(model.optimizer)
    return [
        (leaf, float(ops.convert_to_numpy(leaf.learning_rate)))
        for leaf in leaves
        if isinstance(leaf.learning_rate, keras.Variable)
    ]


def refuse_other_rates(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Raises `ValueError` if Keras's own callbacks would set the rate that kregkit's set."""
    for kind in (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau):
        if any(isinstance(callback, kind) for callback in callbacks):
            raise ValueError(
                f"keras.callbacks.{kind.__name__} sets the learning rate that kregkit's callbacks set as well; use "
                "`LearningRate(schedule)` or `PlateauDecay` instead, which multiply with the others. "
                f"Received: callbacks={[type(callback).__name__ for callback in callbacks]}"
            )


class Rates(Hook):
    """The one learning rate of a fit: bases, factors, and their product."""

    untraced_attributes: tuple[str, ...] = ("members", "bases", "train_step", "rates", "_given")

    def __init__(self, train_step: Any) -> None:
        self.members: list[Any] = []
        self._given: Any = None
        self.train_step = train_step
        optimizer = train_step.model.optimizer
        if optimizer is None:
            raise ValueError("The model has no optimizer whose learning rate could be set. Received: optimizer=None")
        self.optimizers = leaf_optimizers(optimizer)
        for leaf in self.optimizers:
            if not isinstance(leaf.learning_rate, keras.Variable):
                raise ValueError(
                    f"The optimizer {leaf.name!r} was compiled with a schedule or function as its learning rate, which "
                    "leaves callbacks nothing to set. Compile with a float and pass the schedule as "
                    f"`kregkit.callbacks.LearningRate(schedule)`. Received: learning_rate={leaf.learning_rate}"
                )
        refuse_other_rates(train_step.callbacks)
        self._set_bases()

    def _set_bases(self):
        rates = compiled_rates(self.train_step.model)
        if self.train_step.find(keras.callbacks.BackupAndRestore):
            # It may have brought back the optimizer with the decayed rate of the moment that it was backed up.
            for callback in self.train_step.find(RateCallback)[:1]:
                rates += callback._introduced
        self.bases = [[rate for leaf, rate in rates if leaf is optimizer][-1] for optimizer in self.optimizers]

    def get_state(self) -> dict[str, Any]:
        """Returns the rates that were compiled, which the optimizers don't hold within a fit."""
        return {"bases": list(self.bases)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from `state`, before `prepare`."""
        self._given = list(state["bases"])

    def prepare(self) -> None:
        # Another callback's `on_train_begin` may have set the compiled rate, before or after this hook was made.
        self._set_bases()
        if self._given is not None:
            self.bases, self._given = self._given, None
        self.base_variables = [
            self.train_step.variable(self, f"base_{index}", base, leaf.learning_rate.dtype)
            for index, (leaf, base) in enumerate(zip(self.optimizers, self.bases))
        ]

    def add(self, callback: Any) -> None:
        for member in self.members:
            if not (member.combines_with(callback) and callback.combines_with(member)):
                names = [type(member).__name__, type(callback).__name__]
                raise ValueError(
                    f"{names[0]} and {names[1]} can't share one learning rate. Received: callbacks={names}"
                )
        self.members.append(callback)

    def before_step(self, step: Tensor) -> Any:
        factors = [member.factor_at(step) for member in self.members if not member.replaces_base]
        replacing = next((member for member in self.members if member.replaces_base), None)
        self.rates = []
        for leaf, base in zip(self.optimizers, self.base_variables):
            rate = ops.cast(base, leaf.learning_rate.dtype)
            rate = rate if replacing is None else replacing.rate_at(step, rate)
            for factor in factors:
                rate = rate * factor
            rate = ops.cast(rate, leaf.learning_rate.dtype)
            leaf.learning_rate.assign(rate)
            self.rates.append(rate)

    def after_step(self, step: Tensor, logs: dict[str, Any]) -> None:
        for index, rate in enumerate(self.rates):
            logs["learning_rate" if index == 0 else f"learning_rate_{index}"] = rate

    def release(self) -> None:
        for leaf, base in zip(self.optimizers, self.bases):
            leaf.learning_rate = base
        self.members = []
