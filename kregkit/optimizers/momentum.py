"""Momentum with the learning rate outside the velocity."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kregkit._core import keras_internals
from kregkit._core.checks import check_boolean, check_number
from kregkit._core.types import LearningRate, Tensor
from kregkit._core.written import Written
from kregkit.optimizers._arguments import keras_arguments


@keras.saving.register_keras_serializable(package="kregkit")
class Momentum(Written, keras.optimizers.Optimizer):
    """Gradient descent with a velocity in gradient units, classical or Nesterov.

    ```
    v = momentum * v + g
    x = x - learning_rate * v                       # classical
    x = x - learning_rate * (g + momentum * v)      # Nesterov
    ```

    Nesterov's look-ahead point is the variable itself, so that loss and gradient are evaluated at the same `x`.

    `keras.optimizers.SGD(momentum=...)` keeps the learning rate inside its velocity, `v = momentum * v - learning_rate
    * g`. At a constant rate the two are the same rule. Once the rate decays they differ: there, the old steps go on at
    their old rates for about `1 / (1 - momentum)` steps; here, a new rate scales the whole step at once, so that a rate
    of zero stands still.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable. Defaults to `0.01`. A constant gradient moves
            `learning_rate / (1 - momentum)` times itself per step.
        momentum: Float in [0, 1), the fraction of the velocity that each step keeps. Defaults to `0.9`.
        nesterov: Boolean, whether to look ahead. Defaults to `False`.
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency,
            loss_scale_factor, gradient_accumulation_steps, name: As in `keras.optimizers.Optimizer`. Weight decay is
            decoupled.

    Raises:
        ValueError: `momentum` is outside [0, 1).

    Example:

    >>> x = keras.Variable([1.0])
    >>> optimizer = Momentum(learning_rate=0.1, momentum=0.5)
    >>> for _ in range(2):
    ...     optimizer.apply([keras.ops.ones(1)], [x])  # v: 1, then 1.5
    >>> round(float(x[0]), 6)
    0.75

    Reference: [Polyak, 1964](https://doi.org/10.1016/0041-5553(64)90137-5);
    [Sutskever et al., 2013](https://proceedings.mlr.press/v28/sutskever13.html), who put the rate inside.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            **keras_arguments(
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                clipnorm=clipnorm,
                clipvalue=clipvalue,
                global_clipnorm=global_clipnorm,
                use_ema=use_ema,
                ema_momentum=ema_momentum,
                ema_overwrite_frequency=ema_overwrite_frequency,
                loss_scale_factor=loss_scale_factor,
                gradient_accumulation_steps=gradient_accumulation_steps,
                name=name,
            )
        )
        self.momentum = check_number("momentum", momentum, 0, 1, high_open=True)
        self.nesterov = check_boolean("nesterov", nesterov)

    def build(self, var_list: Sequence[Any]) -> None:
        if self.built:
            return
        super().build(var_list)
        self.velocities = self.add_optimizer_variables(var_list, "velocity")

    def update_step(self, gradient: Tensor, variable: Tensor, learning_rate: LearningRate) -> None:
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        velocity = self.velocities[keras_internals.variable_index(self, variable)]
        self.assign(velocity, ops.add(ops.multiply(velocity, self.momentum), gradient))
        step = ops.add(ops.multiply(velocity, self.momentum), gradient) if self.nesterov else velocity
        self.assign_sub(variable, ops.multiply(step, learning_rate))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}
