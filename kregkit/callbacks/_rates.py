"""How callbacks share one learning rate: the base of those that take part in it, and their product."""

import keras
from keras import ops

from kregkit._core.checks import check_choice
from kregkit._core.optimizers import leaf_optimizers
from kregkit.callbacks._train_step import Hook
from kregkit.callbacks.traced import TracedCallback


class RateCallback(TracedCallback):
    """Base of the callbacks that take part in the learning rate.

    In each step, before the model's own work, `rate = base * product of all factors` is assigned to
    `optimizer.learning_rate`, and written to `logs["learning_rate"]`. The base is what the optimizer holds when the
    fit begins; it is put back when the fit ends. Several optimizers (`MultiOptimizer`) each keep their own base; the
    first one's rate is `"learning_rate"`, the others' are `"learning_rate_1"` and so on. A model saved within the fit
    holds the rate of that moment: who loads it to go on sets `optimizer.learning_rate` to the base first.

    Args:
        unit: `"epoch"` or `"step"`, what lengths and times are counted in. A step is a trained batch. Epochs are
            exact to the batch, fractions included.
    """

    replaces_base = False
    # Whether a whole epoch is fine enough a clock, where the data's length is unknown.
    whole_epochs_suffice = False

    def __init__(self, unit="epoch"):
        super().__init__()
        self.unit = check_choice("unit", unit, ("epoch", "step"))

    def combines_with(self, other):
        """Returns whether the rate callback `other` may act in the same fit."""
        return not (self.replaces_base and other.replaces_base)

    def make_schedule(self, unit_steps, total_steps):
        """Returns the schedule of this callback's factor over steps.

        Args:
            unit_steps: Float, steps per unit of time.
            total_steps: Integer, steps from epoch 0 to the fit's end; `None` if unknown.
        """
        raise NotImplementedError

    def factor_at(self, step):
        """Returns, inside the step, what multiplies the rate."""
        return self._schedule(self.train_step.epoch if self._in_whole_epochs else step)

    def rate_at(self, step, base):
        """Returns, inside the step, what replaces `base`, where `replaces_base`."""
        return self.factor_at(step)

    def set_model(self, model):
        super().set_model(model)
        leaves = leaf_optimizers(model.optimizer) if getattr(model, "optimizer", None) is not None else []
        rates = [leaf.learning_rate for leaf in leaves]
        self._rates_before = [
            (rate, float(ops.convert_to_numpy(rate))) for rate in rates if isinstance(rate, keras.Variable)
        ]

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if any(isinstance(one, keras.callbacks.BackupAndRestore) for one in self.train_step.callbacks):
            # What it restored before this callback began is the rate of the moment of saving, not the base.
            for variable, rate in self._rates_before:
                variable.assign(rate)
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
        self._schedule = self.make_schedule(unit_steps, total_steps)
        self.train_step.share(Rates).add(self)

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        if epoch and self.train_step.steps_per_epoch is None and self.unit == "step" and not self._counting:
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


class Rates(Hook):
    """The one learning rate of a fit: bases, factors, and their product."""

    def __init__(self, train_step):
        self.members = []
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
        names = [type(callback).__name__ for callback in train_step.callbacks]
        for name in ("LearningRateScheduler", "ReduceLROnPlateau"):
            if name in names:
                raise ValueError(
                    f"keras.callbacks.{name} sets the learning rate that kregkit's callbacks set as well; use "
                    "`LearningRate(schedule)` or `PlateauDecay` instead, which multiply with the others. "
                    f"Received: callbacks={names}"
                )
        self.bases = [float(ops.convert_to_numpy(leaf.learning_rate)) for leaf in self.optimizers]

    def add(self, callback):
        for member in self.members:
            if not (member.combines_with(callback) and callback.combines_with(member)):
                names = [type(member).__name__, type(callback).__name__]
                raise ValueError(
                    f"{names[0]} and {names[1]} can't share one learning rate. Received: callbacks={names}"
                )
        self.members.append(callback)

    def before_step(self, step):
        factors = [member.factor_at(step) for member in self.members if not member.replaces_base]
        replacing = next((member for member in self.members if member.replaces_base), None)
        self.rates = []
        for leaf, base in zip(self.optimizers, self.bases):
            rate = base if replacing is None else replacing.rate_at(step, base)
            for factor in factors:
                rate = rate * factor
            rate = ops.cast(rate, leaf.learning_rate.dtype)
            leaf.learning_rate.assign(rate)
            self.rates.append(rate)

    def after_step(self, step, logs):
        for index, rate in enumerate(self.rates):
            logs["learning_rate" if index == 0 else f"learning_rate_{index}"] = rate

    def release(self):
        for leaf, base in zip(self.optimizers, self.bases):
            leaf.learning_rate = base
