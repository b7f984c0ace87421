"""Momentum with the learning rate outside the velocity."""

import keras
from keras import ops

from kregkit._core import keras_internals
from kregkit._core.checks import check_number


@keras.saving.register_keras_serializable(package="kregkit")
class Momentum(keras.optimizers.Optimizer):
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
        **kwargs: Arguments of `keras.optimizers.Optimizer`: `weight_decay`, `clipnorm`, `use_ema`, ...

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

    def __init__(self, learning_rate=0.01, momentum=0.9, nesterov=False, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.momentum = check_number("momentum", momentum, 0, 1, high_open=True)
        self.nesterov = bool(nesterov)

    def build(self, var_list):
        if self.built:
            return
        super().build(var_list)
        self.velocities = self.add_optimizer_variables(var_list, "velocity")

    def update_step(self, gradient, variable, learning_rate):
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        velocity = self.velocities[keras_internals.variable_index(self, variable)]
        self.assign(velocity, ops.add(ops.multiply(velocity, self.momentum), gradient))
        step = ops.add(ops.multiply(velocity, self.momentum), gradient) if self.nesterov else velocity
        self.assign_sub(variable, ops.multiply(step, learning_rate))

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}
