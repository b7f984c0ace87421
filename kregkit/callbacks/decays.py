"""Learning rates inside `fit`: callbacks that multiply into one rate, computed in the train step."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
from keras import ops

from kregkit import schedules
from kregkit._core.checks import check_choice, check_number
from kregkit._core.types import Tensor
from kregkit.callbacks.learning_rate import RateCallback

keras_schedules = keras.optimizers.schedules


class LearningRate(RateCallback):
    """Drives any `LearningRateSchedule`: `rate = schedule(t)`, in place of the compiled rate.

    The other rate callbacks multiply with it. Keras's `LearningRateScheduler` calls a Python function once an epoch.

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`, Keras's, kregkit's or your own.
        unit: `"step"` or `"epoch"`, what the schedule counts in. With `"epoch"` it is called with fractions of
            epochs; where the data's length is unknown, with whole epochs. Defaults to `"step"`.

    Raises:
        ValueError: `schedule` is no schedule.

    Example:

    >>> import keras
    >>> callback = LearningRate(keras.optimizers.schedules.CosineDecay(0.1, decay_steps=1000))
    """

    untraced_attributes: tuple[str, ...] = ("schedule",)  # `_schedule` is what the step reads
    replaces_base = True
    whole_epochs_suffice = True

    def __init__(self, schedule: Any, unit: Literal["step", "epoch"] = "step") -> None:
        super().__init__(unit)
        if not isinstance(schedule, keras_schedules.LearningRateSchedule):
            raise ValueError(f"`schedule` must be a LearningRateSchedule. Received: schedule={schedule!r}")
        self.schedule = schedule

    def make_schedule(self, unit_steps: int, total_steps: int) -> Callable[[Tensor], Tensor]:
        if unit_steps == 1:
            return self.schedule
        schedule, unit = self.schedule, self.train_step.variable(self, "unit_steps", unit_steps, "float32")
        return lambda step: schedule(ops.cast(step, "float32") / unit)


class StepDecay(RateCallback):
    """Multiplies the rate by `factor` every so often: `factor ** floor(t / every)`, or at given times.

    Args:
        factor: Float > 0. Defaults to `0.1`.
        every: Float > 0, the time between decays. Give this or `at`.
        at: Increasing list of floats >= 0, the times of the decays. Give this or `every`.
        unit: `"epoch"` or `"step"`.
        floor: Float in [0, 1], the smallest factor, at which the decay stops. Defaults to `0.0`.

    Raises:
        ValueError: An argument is out of range, or not exactly one of `every` and `at` is given.

    Example:

    >>> callback = StepDecay(0.1, at=[30, 60, 90])
    """

    def __init__(
        self,
        factor: float = 0.1,
        every: float | None = None,
        at: Sequence[float] | None = None,
        unit: Literal["step", "epoch"] = "epoch",
        floor: float = 0.0,
    ) -> None:
        super().__init__(unit)
        self.floor = check_number("floor", floor, 0, 1)
        # Checked by the schedule, now rather than when the fit begins.
        checked = schedules.StepDecay(1.0, factor, every, at)
        self.factor, self.every, self.at = checked.factor, checked.every, checked.at
        times: list[Any] = self.at or [self.every]
        self.whole_epochs_suffice = all(time.is_integer() for time in times)

    def make_schedule(self, unit_steps: int, total_steps: int) -> Callable[[Tensor], Tensor]:
        every = None if self.every is None else self.every * unit_steps
        at = None if self.at is None else [time * unit_steps for time in self.at]
        return schedules.StepDecay(1.0, self.factor, every, at)


class ExponentialDecay(RateCallback):
    """Multiplies the rate by `exp(-rate t)`.

    Args:
        rate: Float >= 0, the fraction lost per unit of time, while small.
        unit: `"epoch"` or `"step"`.
        floor: Float in [0, 1], the smallest factor, at which the decay stops. Defaults to `0.0`.

    Raises:
        ValueError: An argument is out of range.

    Example:

    >>> callback = ExponentialDecay(0.05)
    """

    def __init__(self, rate: float, unit: Literal["step", "epoch"] = "epoch", floor: float = 0.0) -> None:
        super().__init__(unit)
        self.floor = check_number("floor", floor, 0, 1)
        self.rate = check_number("rate", rate, 0)

    def make_schedule(self, unit_steps: int, total_steps: int) -> Callable[[Tensor], Tensor]:
        if self.rate == 0:
            return keras_schedules.InverseTimeDecay(1.0, 1, 0.0)
        # One e-fold per 1 / rate steps: exp(-rate) itself, in float32, would be off by percents after 1e6 steps.
        return keras_schedules.ExponentialDecay(1.0, unit_steps / self.rate, 0.36787944117144233)


class InverseTimeDecay(RateCallback):
    """Multiplies the rate by `1 / (1 + rate t)`.

    Args:
        rate: Float >= 0.
        unit: `"epoch"` or `"step"`.
        floor: Float in [0, 1], the smallest factor, at which the decay stops. Defaults to `0.0`.

    Raises:
        ValueError: An argument is out of range.

    Example:

    >>> callback = InverseTimeDecay(0.1)
    """

    def __init__(self, rate: float, unit: Literal["step", "epoch"] = "epoch", floor: float = 0.0) -> None:
        super().__init__(unit)
        self.floor = check_number("floor", floor, 0, 1)
        self.rate = check_number("rate", rate, 0)

    def make_schedule(self, unit_steps: int, total_steps: int) -> Callable[[Tensor], Tensor]:
        return keras_schedules.InverseTimeDecay(1.0, unit_steps, self.rate)


class CosineDecay(RateCallback):
    """Multiplies the rate by `f + (1 - f) (1 + cos(pi t / T)) / 2`.

    Args:
        length: Float > 0, the time `T` after which the factor stays at `f`. Defaults to the fit's own length.
        final_factor: Float in [0, 1], the factor `f` at the end. Defaults to `0.0`.
        unit: `"epoch"` or `"step"`.
        floor: Float in [0, 1], the smallest factor: the cosine is cut off there, where `final_factor` stretches it.
            Defaults to `0.0`.

    Raises:
        ValueError: An argument is out of range; in `fit`, no length is given or known.

    Example:

    >>> callback = CosineDecay()
    """

    def __init__(
        self,
        length: float | None = None,
        final_factor: float = 0.0,
        unit: Literal["step", "epoch"] = "epoch",
        floor: float = 0.0,
    ) -> None:
        super().__init__(unit)
        self.floor = check_number("floor", floor, 0, 1)
        self.length = None if length is None else check_number("length", length, 0, low_open=True)
        self.final_factor = check_number("final_factor", final_factor, 0, 1)

    def make_schedule(self, unit_steps: int, total_steps: int) -> Callable[[Tensor], Tensor]:
        return keras_schedules.CosineDecay(1.0, self._length(self.length, unit_steps, total_steps), self.final_factor)


class Warmup(RateCallback):
    """Multiplies the rate by a line up to 1: `f + (1 - f) min((s + 1) / S, 1)` at step `s` of a warm-up of `S` steps.

    Args:
        length: Float > 0, the time after which the factor is 1.
        start_factor: Float in [0, 1], the factor `f` that the line starts from. Defaults to `0.0`; as each step
            takes the line's end rather than its start, the first step's rate is not zero.
        unit: `"epoch"` or `"step"`.

    Raises:
        ValueError: An argument is out of range.

    Example: five epochs of warm-up before a cosine, as one learning rate.

    >>> callbacks = [Warmup(5), CosineDecay()]
    """

    multiplies_cycles = True

    def __init__(self, length: float, start_factor: float = 0.0, unit: Literal["step", "epoch"] = "epoch") -> None:
        super().__init__(unit)
        self.length = check_number("length", length, 0, low_open=True)
        self.start_factor = check_number("start_factor", start_factor, 0, 1)

    def make_schedule(self, unit_steps: int, total_steps: int) -> Callable[[Tensor], Tensor]:
        return schedules.Warmup(1.0, self.length * unit_steps, self.start_factor)


class Cooldown(RateCallback):
    """Leaves the rate as it is until the last part of the fit, in which it falls.

    The factor is `to + (1 - to) f(u)`, where `u` goes from 0, `length` before the end, to 1 at the end, and `f(u)` is
    `1 - u`, `1 - sqrt(u)` or `(1 + cos(pi u)) / 2`. `[Warmup(1), Cooldown(10)]` is the schedule "warm-up, stable,
    decay". Its rate doesn't depend on the fit's length before the decay: to see where a long run stands, load one of
    its checkpoints and fit for `length` more epochs with `Cooldown(length)` alone.

    Args:
        length: Float > 0, how long the decay lasts: a tenth to a fifth of the fit is usual. One that is as long as the
            fit decays from its beginning; a longer one is an error.
        shape: `"linear"`, `"1-sqrt"` or `"cosine"`. Defaults to `"linear"`.
        to: Float in [0, 1], the factor at the end. Defaults to `0.0`.
        unit: `"epoch"` or `"step"`.
        floor: Float in [0, 1], the smallest factor, at which the decay stops. Defaults to `0.0`.

    Raises:
        ValueError: An argument is out of range; in `fit`, the data's length is unknown or the fit is shorter.

    Example:

    >>> callbacks = [Warmup(1), Cooldown(4, shape="1-sqrt")]

    References: [Hu et al., 2024](https://arxiv.org/abs/2404.06395),
    [Hägele et al., 2024](https://arxiv.org/abs/2405.18392)
    """

    def __init__(
        self,
        length: float,
        shape: Literal["linear", "1-sqrt", "cosine"] = "linear",
        to: float = 0.0,
        unit: Literal["step", "epoch"] = "epoch",
        floor: float = 0.0,
    ) -> None:
        super().__init__(unit)
        self.length = check_number("length", length, 0, low_open=True)
        # Checked by the schedule.
        checked = schedules.Cooldown(1.0, 1.0, 1.0, shape, to)
        self.shape, self.to = checked.shape, checked.to
        self.floor = check_number("floor", floor, 0, 1)

    def make_schedule(self, unit_steps: int, total_steps: int) -> Callable[[Tensor], Tensor]:
        length = self._length(self.length, unit_steps, total_steps)
        total = self._length(None, unit_steps, total_steps)
        # An epoch's thirds and the like add up to a little more than the whole.
        if length > total * (1 + 1e-9):
            raise ValueError(
                f"The fit has {total} steps, fewer than the {length:g} of the decay: take a shorter one. "
                f"Received: length={self.length:g}, unit={self.unit!r}"
            )
        return schedules.Cooldown(1.0, total, min(length, total), self.shape, self.to)


class Triangular(RateCallback):
    """Swings the rate between `minimum_factor` and 1 times the base, linearly, each `period`.

    The compiled rate is the peak, as for every rate callback.

    Args:
        period: Float > 0, the length of one cycle, up and down.
        minimum_factor: Float in [0, 1). Defaults to `0.1`.
        amplitude_decay: Float in (0, 1], what each cycle, or each step, multiplies the swing by. Defaults to `1.0`.
        unit: `"epoch"` or `"step"`, what `period` is counted in.
        scale: `"cycle"` or `"exp"`, whether the swing decays with each cycle or with each step. Defaults to `"cycle"`.

    Raises:
        ValueError: An argument is out of range.

    Example:

    >>> callback = Triangular(period=4)

    Reference: [Smith, 2017](https://arxiv.org/abs/1506.01186)
    """

    def __init__(
        self,
        period: float,
        minimum_factor: float = 0.1,
        amplitude_decay: float = 1.0,
        unit: Literal["step", "epoch"] = "epoch",
        scale: Literal["cycle", "exp"] = "cycle",
    ) -> None:
        super().__init__(unit)
        self.period = check_number("period", period, 0, low_open=True)
        self.minimum_factor = check_number("minimum_factor", minimum_factor, 0, 1, high_open=True)
        self.amplitude_decay = check_number("amplitude_decay", amplitude_decay, 0, 1, low_open=True)
        self.scale = check_choice("scale", scale, ("cycle", "exp"))

    def make_schedule(self, unit_steps: int, total_steps: int) -> Callable[[Tensor], Tensor]:
        period = self.period * unit_steps
        return schedules.Triangular(1.0, self.minimum_factor, period, self.amplitude_decay, self.scale)


class OneCycle(RateCallback):
    """Raises the rate once to the compiled one, then lowers it far below where it started.

    Args:
        length: Float > 0, the cycle's length. Defaults to the fit's own.
        warmup_fraction: Float in (0, 1), the part in which the rate rises. Defaults to `0.3`.
        initial_divisor: Float >= 1: the first factor is `1 / initial_divisor`. Defaults to `25.0`.
        final_divisor: Float >= 1: the last is `1 / (initial_divisor * final_divisor)`. Defaults to `1e4`.
        shape: `"cosine"` or `"linear"`. Defaults to `"cosine"`.
        unit: `"epoch"` or `"step"`.

    Raises:
        ValueError: An argument is out of range; in `fit`, no length is given or known.

    Example:

    >>> callback = OneCycle(warmup_fraction=0.25)

    Reference: [Smith and Topin, 2018](https://arxiv.org/abs/1708.07120)
    """

    def __init__(
        self,
        length: float | None = None,
        warmup_fraction: float = 0.3,
        initial_divisor: float = 25.0,
        final_divisor: float = 1e4,
        shape: Literal["cosine", "linear"] = "cosine",
        unit: Literal["step", "epoch"] = "epoch",
    ) -> None:
        super().__init__(unit)
        self.length = None if length is None else check_number("length", length, 0, low_open=True)
        schedules.OneCycle(1.0, 2, warmup_fraction, initial_divisor, final_divisor, shape)
        self.warmup_fraction = warmup_fraction
        self.initial_divisor = initial_divisor
        self.final_divisor = final_divisor
        self.shape = shape

    def make_schedule(self, unit_steps: int, total_steps: int) -> Callable[[Tensor], Tensor]:
        length = self._length(self.length, unit_steps, total_steps)
        return schedules.OneCycle(
            1.0, max(length, 1.5), self.warmup_fraction, self.initial_divisor, self.final_divisor, self.shape
        )
