"""The triangular cyclic learning rate."""

from typing import Any

import keras
from keras import ops

from kregkit._core.checks import check_choice, check_number, check_string
from kregkit._core.types import Tensor
from kregkit._core.written import Written


@keras.saving.register_keras_serializable(package="kregkit")
class Triangular(Written, keras.optimizers.schedules.LearningRateSchedule):
    """Rises from the minimum to the maximum and falls back, linearly, again and again.

    `a(s) = low + (high - low) * decay^n * (1 - |2 s / period - 2 k - 1|)`, with `k = floor(s / period)` and `n = k`, or
    `n = s` where `scale="exp"`.

    Args:
        maximum_learning_rate: Float > 0, the rate half-way through the first cycle.
        minimum_learning_rate: Float >= 0, the rate at each cycle's ends.
        period: Float > 0, steps of one cycle, up and down (twice the paper's `stepsize`).
        amplitude_decay: Float in (0, 1], what each cycle, or each step, multiplies the swing by. Defaults to `1.0`.
        scale: `"cycle"` or `"exp"`, when the swing decays: with each cycle (with a decay of `0.5` the paper's
            `triangular2`), or with each step (its `exp_range`; TensorFlow Addons' `gamma`). Defaults to `"cycle"`.
        name: String, the schedule's name.

    Raises:
        ValueError: An argument is out of range.

    Example:

    >>> schedule = Triangular(1.0, 0.2, period=4)
    >>> [round(float(schedule(step)), 2) for step in range(6)]
    [0.2, 0.6, 1.0, 0.6, 0.2, 0.6]

    Reference: [Smith, 2017](https://arxiv.org/abs/1506.01186)
    """

    def __init__(
        self,
        maximum_learning_rate: float,
        minimum_learning_rate: float,
        period: float,
        amplitude_decay: float = 1.0,
        scale: str = "cycle",
        name: str = "Triangular",
    ) -> None:
        super().__init__()
        check_string("name", name, none=True)
        self.maximum_learning_rate = check_number("maximum_learning_rate", maximum_learning_rate, 0, low_open=True)
        self.minimum_learning_rate = check_number(
            "minimum_learning_rate", minimum_learning_rate, 0, maximum_learning_rate
        )
        self.period = check_number("period", period, 0, low_open=True)
        self.amplitude_decay = check_number("amplitude_decay", amplitude_decay, 0, 1, low_open=True)
        self.scale = check_choice("scale", scale, ("cycle", "exp"))
        self.name = name

    def __call__(self, step: Tensor) -> Any:
        step = ops.cast(step, "float32")
        time = step / self.period
        count = ops.floor(time)
        height = 1 - ops.abs(2 * (time - count) - 1)
        swing = self.maximum_learning_rate - self.minimum_learning_rate
        return (
            self.minimum_learning_rate
            + swing * ops.power(self.amplitude_decay, count if self.scale == "cycle" else step) * height
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "maximum_learning_rate": self.maximum_learning_rate,
            "minimum_learning_rate": self.minimum_learning_rate,
            "period": self.period,
            "amplitude_decay": self.amplitude_decay,
            "scale": self.scale,
            "name": self.name,
        }
