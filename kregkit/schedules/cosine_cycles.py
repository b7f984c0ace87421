"""Cosine cycles with restarts."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from kregkit._core.checks import check_integer, check_number, check_string
from kregkit._core.types import Tensor
from kregkit._core.written import Written


@keras.saving.register_keras_serializable(package="kregkit")
class CosineCycles(Written, keras.optimizers.schedules.LearningRateSchedule):
    """Falls from the maximum to the minimum along half a cosine, `cycles` times over `total_steps`.

    `a(s) = low + (high - low) / 2 * (cos(pi * mod(s, C) / C) + 1)`, with steps `s` from 0 and `C = ceil(T / M)` for
    `T` steps in `M` cycles: the rate of snapshot ensembles, whose `t` counts from 1. The last cycle is cut where `T`
    is no multiple of `C`. With `restart_multiplier` `r > 1` each cycle is `r` times as long as the one before, cycle
    `k` ending at step `ceil(T (r^k - 1) / (r^M - 1))`. Keras's `CosineDecayRestarts` takes the first cycle's length
    instead of the number of cycles, and restarts in float32 where its cycles grow.

    Args:
        maximum_learning_rate: Float > 0, the rate at each cycle's start.
        total_steps: Integer >= 1, the steps of the whole run. After them the rate stays at its last value.
        cycles: Integer >= 1.
        minimum_learning_rate: Float >= 0, the rate that each cycle approaches. Defaults to `0.0`.
        restart_multiplier: Float >= 1. Defaults to `1.0`, cycles of equal length.
        name: String, the schedule's name.

    Attributes:
        ends: List of integers, the number of steps after which each cycle is complete.

    Raises:
        ValueError: An argument is out of range, or the steps are too few for so many cycles.

    Example:

    >>> schedule = CosineCycles(0.1, total_steps=8, cycles=2)
    >>> [round(float(schedule(step)), 4) for step in range(8)]
    [0.1, 0.0854, 0.05, 0.0146, 0.1, 0.0854, 0.05, 0.0146]

    References: [Huang et al., 2017](https://arxiv.org/abs/1704.00109),
    [Loshchilov and Hutter, 2017](https://arxiv.org/abs/1608.03983)
    """

    def __init__(
        self,
        maximum_learning_rate: float,
        total_steps: float,
        cycles: int = 5,
        minimum_learning_rate: float = 0.0,
        restart_multiplier: float = 1.0,
        name: str = "CosineCycles",
    ) -> None:
        super().__init__()
        check_string("name", name, none=True)
        self.maximum_learning_rate = check_number("maximum_learning_rate", maximum_learning_rate, 0, low_open=True)
        self.total_steps = check_integer("total_steps", total_steps, 1)
        self.cycles = check_integer("cycles", cycles, 1, 10**6)
        self.minimum_learning_rate = check_number(
            "minimum_learning_rate", minimum_learning_rate, 0, maximum_learning_rate
        )
        self.restart_multiplier = check_number("restart_multiplier", restart_multiplier, 1)
        self.name = name
        self.ends: list[int]
        starts, lengths, self.ends = self._cycle_bounds()
        self._starts, self._lengths = np.asarray(starts, "float32"), np.asarray(lengths, "float32")
        self._last_step = float(self.total_steps - 1)

    def _cycle_bounds(self):
        total, cycles, ratio = self.total_steps, self.cycles, self.restart_multiplier
        if ratio == 1:
            length = math.ceil(total / cycles)
            starts = [k * length for k in range(cycles)]
            ends = [*starts[1:], total]
            lengths = [length] * cycles
        elif cycles * math.log(ratio) > 700:
            # They grow beyond what a float holds, and the first would have no step.
            starts, lengths, ends = [0], [0], [0]
        else:
            ends = [math.ceil(total * (ratio**k - 1) / (ratio**cycles - 1) - 1e-9) for k in range(1, cycles + 1)]
            starts = [0, *ends[:-1]]
            lengths = [end - start for start, end in zip(starts, ends)]
        if any(end <= start for start, end in zip(starts, ends)):
            raise ValueError(
                f"`total_steps` must be enough for {cycles} cycles of whole steps, {math.ceil(total / cycles)} each "
                "or growing, the last one cut short. "
                f"Received: total_steps={total}, cycles={cycles}, restart_multiplier={ratio}"
            )
        return starts, lengths, ends

    def __call__(self, step: Tensor) -> Any:
        step = ops.minimum(ops.cast(step, "float32"), self._last_step)
        starts, lengths = ops.cast(self._starts, "float32"), ops.cast(self._lengths, "float32")
        index = ops.sum(ops.cast(step >= starts[1:], "int32"))
        phase = (step - ops.take(starts, index)) / ops.take(lengths, index)
        low, high = self.minimum_learning_rate, self.maximum_learning_rate
        return low + (high - low) / 2 * (ops.cos(math.pi * phase) + 1)

    def get_config(self) -> dict[str, Any]:
        return {
            "maximum_learning_rate": self.maximum_learning_rate,
            "total_steps": self.total_steps,
            "cycles": self.cycles,
            "minimum_learning_rate": self.minimum_learning_rate,
            "restart_multiplier": self.restart_multiplier,
            "name": self.name,
        }
