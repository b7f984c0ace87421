"""The one-cycle learning rate."""

import math
from typing import Any, Literal

import keras
from keras import ops

from kregkit._core.checks import check_choice, check_number, check_string
from kregkit._core.types import Tensor
from kregkit._core.written import Written


@keras.saving.register_keras_serializable(package="kregkit")
class OneCycle(Written, keras.optimizers.schedules.LearningRateSchedule):
    """Rises once to the maximum, then falls far below where it started.

    From `maximum / initial_divisor` up to `maximum` over the first `warmup_fraction` of the steps, then down to
    `maximum / (initial_divisor * final_divisor)` at the last step; each part is half a cosine, or a line. Only the
    learning rate moves: Keras bakes the momentum, which the paper moves against it, into the train step.

    Args:
        maximum_learning_rate: Float > 0.
        total_steps: Float > 1, the steps of the whole run. After them the rate stays at its last value.
        warmup_fraction: Float in (0, 1), the part of the run in which the rate rises. Defaults to `0.3`.
        initial_divisor: Float >= 1. Defaults to `25.0`.
        final_divisor: Float >= 1. Defaults to `1e4`.
        shape: `"cosine"` or `"linear"`. Defaults to `"cosine"`.
        name: String, the schedule's name.

    Raises:
        ValueError: An argument is out of range.

    Example:

    >>> schedule = OneCycle(1.0, total_steps=11, warmup_fraction=0.4, initial_divisor=5, shape="linear")
    >>> [round(float(schedule(step)), 2) for step in (0, 2, 4, 7, 10)]
    [0.2, 0.6, 1.0, 0.5, 0.0]

    Reference: [Smith and Topin, 2018](https://arxiv.org/abs/1708.07120)
    """

    def __init__(
        self,
        maximum_learning_rate: float,
        total_steps: float,
        warmup_fraction: float = 0.3,
        initial_divisor: float = 25.0,
        final_divisor: float = 1e4,
        shape: Literal["cosine", "linear"] = "cosine",
        name: str = "OneCycle",
    ) -> None:
        super().__init__()
        check_string("name", name, none=True)
        self.maximum_learning_rate = check_number("maximum_learning_rate", maximum_learning_rate, 0, low_open=True)
        self.total_steps = check_number("total_steps", total_steps, 1, low_open=True)
        self.warmup_fraction = check_number("warmup_fraction", warmup_fraction, 0, 1, low_open=True, high_open=True)
        self.initial_divisor = check_number("initial_divisor", initial_divisor, 1)
        self.final_divisor = check_number("final_divisor", final_divisor, 1)
        self.shape = check_choice("shape", shape, ("cosine", "linear"))
        self.name = name

    def __call__(self, step: Tensor) -> Any:
        # The last step is number total_steps - 1, and it is the one that uses the lowest rate.
        time = ops.clip(ops.cast(step, "float32") / (self.total_steps - 1), 0.0, 1.0)
        low = self.maximum_learning_rate / self.initial_divisor
        rising = self._blend(low, self.maximum_learning_rate, time / self.warmup_fraction)
        falling = self._blend(
            self.maximum_learning_rate,
            low / self.final_divisor,
            (time - self.warmup_fraction) / (1 - self.warmup_fraction),
        )
        return ops.where(time < self.warmup_fraction, rising, falling)

    def _blend(self, start, end, progress):
        if self.shape == "cosine":
            progress = (1 - ops.cos(math.pi * progress)) / 2
        # Both terms keep full precision where the end is thousands of times smaller than the start.
        return start * (1 - progress) + end * progress

    def get_config(self) -> dict[str, Any]:
        return {
            "maximum_learning_rate": self.maximum_learning_rate,
            "total_steps": self.total_steps,
            "warmup_fraction": self.warmup_fraction,
            "initial_divisor": self.initial_divisor,
            "final_divisor": self.final_divisor,
            "shape": self.shape,
            "name": self.name,
        }
