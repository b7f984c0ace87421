"""Step decay."""

import fractions
import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kregkit._core.checks import check_number, check_string
from kregkit._core.types import Tensor
from kregkit._core.written import Written

# Steps may be int32, so whatever comes later never comes.
_LARGEST = 2**31 - 1

# Two units in the last place of float32: what the divisions that led to a fraction of a step may have lost.
_TOLERANCE = 2.4e-7


@keras.saving.register_keras_serializable(package="kregkit")
class StepDecay(Written, keras.optimizers.schedules.LearningRateSchedule):
    """Multiplies the learning rate by `factor` at regular or at given steps: `a0 * factor ** floor(t / every)`.

    Steps are compared as integers, so that the rate changes at exactly the stated step, also where `every` is a
    fraction (it changes at the first step at or after each multiple). Keras's `PiecewiseConstantDecay` wants every
    value spelled out, and its `ExponentialDecay(staircase=True)` divides in float32.

    Args:
        initial_learning_rate: Float > 0, the rate `a0` before the first decay.
        factor: Float > 0, what each decay multiplies by. Usually 0.1 or 0.5.
        every: Float >= 1e-6, steps between decays. Give this or `at`.
        at: Increasing list of floats >= 0, the steps at which to decay. Give this or `every`.
        name: String, the schedule's name.

    Raises:
        ValueError: An argument is out of range, or not exactly one of `every` and `at` is given.

    Example:

    >>> schedule = StepDecay(0.1, factor=0.5, at=[2, 3])
    >>> [round(float(schedule(step)), 4) for step in range(5)]
    [0.1, 0.1, 0.05, 0.025, 0.025]
    """

    def __init__(
        self,
        initial_learning_rate: float,
        factor: float,
        every: float | None = None,
        at: Sequence[float] | None = None,
        name: str = "StepDecay",
    ) -> None:
        super().__init__()
        check_string("name", name, none=True)
        self.initial_learning_rate = check_number("initial_learning_rate", initial_learning_rate, 0, low_open=True)
        self.factor = check_number("factor", factor, 0, low_open=True)
        if (every is None) == (at is None):
            raise ValueError(f"Give exactly one of `every` and `at`. Received: every={every}, at={at}")
        self.every = None if every is None else check_number("every", every, 1e-6)
        if at is not None:
            if isinstance(at, str) or not hasattr(at, "__iter__"):
                raise ValueError(f"`at` must be a non-empty, increasing list. Received: at={at!r}")
            at = [check_number("at", step, 0) for step in at]
            if not at or any(later <= earlier for earlier, later in itertools.pairwise(at)):
                raise ValueError(f"`at` must be a non-empty, increasing list. Received: at={at}")
        self.at = at
        self.name = name
        if at is not None:
            # The first whole step at or after each boundary; 0.3 * 10 steps is meant to be 3.
            self._steps: Any = [min(math.ceil(boundary - 1e-9 * max(1.0, boundary)), _LARGEST) for boundary in at]
            self._times: Any = [boundary * (1 - _TOLERANCE) for boundary in at]
            self._interval: Any = None
            self._numerator = self._denominator = None
        else:
            self._steps = self._times = None
            self._interval = self.every
            ratio = fractions.Fraction(min(self._interval, _LARGEST)).limit_denominator(10**6)
            self._numerator, self._denominator = ratio.numerator, ratio.denominator

    def __call__(self, step: Tensor) -> Any:
        step = ops.convert_to_tensor(step)
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(step.dtype)):
            count = self._count_fractional(step)
        else:
            count = self._count_whole(step)
        return self.initial_learning_rate * ops.power(self.factor, ops.cast(count, "float32"))

    def _count_whole(self, step):
        if self._steps is not None:
            return ops.sum(ops.cast(step >= ops.cast(self._steps, step.dtype), "int32"))
        # Steps that are whole need no wider integers.
        if not (isinstance(self._denominator, int) and self._denominator == 1):
            step = ops.cast(step, "int64") * self._denominator
        return ops.floor_divide(step, self._numerator)

    def _count_fractional(self, step):
        if self._times is not None:
            return ops.sum(ops.cast(step >= ops.cast(self._times, step.dtype), "int32"))
        return ops.floor(step / self._interval * (1 + _TOLERANCE))

    def get_config(self) -> dict[str, Any]:
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "factor": self.factor,
            "every": self.every,
            "at": self.at,
            "name": self.name,
        }
