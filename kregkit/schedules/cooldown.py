"""A constant rate with a late decay."""

import math
from typing import Any

import keras
from keras import ops

from kregkit._core.checks import check_choice, check_number, check_string
from kregkit._core.types import Tensor
from kregkit._core.written import Written
from kregkit.schedules.warmup import check_learning_rate

SHAPES = ("linear", "1-sqrt", "cosine")


@keras.saving.register_keras_serializable(package="kregkit")
class Cooldown(Written, keras.optimizers.schedules.LearningRateSchedule):
    """Leaves a learning rate as it is until the last `length` steps, in which it falls.

    `a(s) = target(s) * (to + (1 - to) * f(u))` with `u = (s - (total_steps - length)) / length`, held within 0 and 1,
    and `f(u)` one of

        "linear"  1 - u
        "1-sqrt"  1 - sqrt(u)
        "cosine"  (1 + cos(pi u)) / 2

    With `Warmup` around it this is the schedule "warm-up, stable, decay": the rate doesn't depend on the run's length
    before the decay begins, so a run can be made longer, or decay from any of its checkpoints.

    Args:
        learning_rate: Float > 0, or the `LearningRateSchedule` to wrap.
        total_steps: Float > 0, the steps of the whole run.
        length: Float in (0, total_steps], steps of the decay: a tenth to a fifth of the run is usual.
        shape: `"linear"`, `"1-sqrt"` or `"cosine"`. Defaults to `"linear"`.
        to: Float in [0, 1], the factor at the end. Defaults to `0.0`.
        name: String, the schedule's name.

    Raises:
        ValueError: An argument is out of range.

    Example:

    >>> schedule = Cooldown(1.0, total_steps=6, length=4)
    >>> [round(float(schedule(step)), 2) for step in range(7)]
    [1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]

    References: [Hu et al., 2024](https://arxiv.org/abs/2404.06395),
    [Hägele et al., 2024](https://arxiv.org/abs/2405.18392), from whom the shape "1-sqrt" is
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        total_steps: float,
        length: float,
        shape: str = "linear",
        to: float = 0.0,
        name: str = "Cooldown",
    ) -> None:
        super().__init__()
        check_string("name", name, none=True)
        self.learning_rate = check_learning_rate(learning_rate)
        self.total_steps = check_number("total_steps", total_steps, 0, low_open=True)
        self.length = check_number("length", length, 0, total_steps, low_open=True)
        self.shape = check_choice("shape", shape, SHAPES)
        self.to = check_number("to", to, 0, 1)
        self.name = name

    def __call__(self, step: Tensor) -> Any:
        target = self.learning_rate(step) if callable(self.learning_rate) else self.learning_rate
        past = (ops.cast(step, "float32") - (self.total_steps - self.length)) / self.length
        past = ops.clip(past, 0.0, 1.0)
        if self.shape == "linear":
            kept = 1 - past
        elif self.shape == "1-sqrt":
            kept = 1 - ops.sqrt(past)
        else:
            kept = (1 + ops.cos(math.pi * past)) / 2
        return target * (self.to + (1 - self.to) * kept)

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": keras.saving.serialize_keras_object(self.learning_rate),
            "total_steps": self.total_steps,
            "length": self.length,
            "shape": self.shape,
            "to": self.to,
            "name": self.name,
        }
