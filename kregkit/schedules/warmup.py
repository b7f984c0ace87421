"""Linear warm-up around any schedule."""

from typing import Any

import keras
from keras import ops

from kregkit._core.checks import check_number, check_string
from kregkit._core.types import LearningRate, Tensor
from kregkit._core.written import Written


def check_learning_rate(learning_rate: LearningRate):
    """Returns a checked number > 0 or a schedule, which may come as its serialized dictionary."""
    if isinstance(learning_rate, dict):
        learning_rate = keras.saving.deserialize_keras_object(learning_rate)
    if isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        return learning_rate
    return check_number("learning_rate", learning_rate, 0, low_open=True)


@keras.saving.register_keras_serializable(package="kregkit")
class Warmup(Written, keras.optimizers.schedules.LearningRateSchedule):
    """Multiplies a learning rate by a line that reaches 1 after `steps` steps.

    `a(s) = target(s) * (f + (1 - f) * min((s + 1) / steps, 1))`, so that no step is wasted on a rate of zero. The
    target keeps its own clock: it is not delayed by the warm-up.

    Args:
        learning_rate: Float > 0, or the `LearningRateSchedule` to wrap.
        steps: Float > 0, the length of the warm-up.
        start_factor: Float in [0, 1], the factor `f` that the line starts from. Defaults to `0.0`.
        name: String, the schedule's name.

    Raises:
        ValueError: An argument is out of range.

    Example:

    >>> schedule = Warmup(0.4, steps=4)
    >>> [round(float(schedule(step)), 2) for step in range(6)]
    [0.1, 0.2, 0.3, 0.4, 0.4, 0.4]

    Reference: [Goyal et al., 2017](https://arxiv.org/abs/1706.02677)
    """

    def __init__(
        self, learning_rate: LearningRate, steps: float, start_factor: float = 0.0, name: str = "Warmup"
    ) -> None:
        super().__init__()
        check_string("name", name, none=True)
        self.learning_rate = check_learning_rate(learning_rate)
        self.steps = check_number("steps", steps, 0, low_open=True)
        self.start_factor = check_number("start_factor", start_factor, 0, 1)
        self.name = name

    def __call__(self, step: Tensor) -> Any:
        target = self.learning_rate(step) if callable(self.learning_rate) else self.learning_rate
        line = ops.minimum((ops.cast(step, "float32") + 1) / self.steps, 1.0)
        return target * (self.start_factor + (1 - self.start_factor) * line)

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": keras.saving.serialize_keras_object(self.learning_rate),
            "steps": self.steps,
            "start_factor": self.start_factor,
            "name": self.name,
        }
