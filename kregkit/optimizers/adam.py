"""Adam with a switch for its bias correction."""

from typing import Any

import keras
from keras import ops

from kregkit._core import keras_internals
from kregkit._core.types import LearningRate, Tensor
from kregkit._core.written import Written
from kregkit.optimizers._arguments import keras_arguments


@keras.saving.register_keras_serializable(package="kregkit")
class Adam(Written, keras.optimizers.Adam):
    """Keras's Adam, and with `bias_correction=False` the rule before the correction was added.

    ```
    m = beta_1 * m + (1 - beta_1) * g
    s = beta_2 * s + (1 - beta_2) * g ** 2
    x = x - learning_rate * m / (sqrt(s) + epsilon)                              # bias_correction=False
    x = x - learning_rate * correction(t) * m / (sqrt(s) + epsilon)              # bias_correction=True
    correction(t) = sqrt(1 - beta_2 ** t) / (1 - beta_1 ** t)
    ```

    Both averages start at zero, `s` recovers from it more slowly than `m`, and the uncorrected rule divides by it. With
    the default betas and a constant gradient its first step is 3.16 learning rates long and its twelfth, the longest,
    6.6; with the correction every step is one learning rate long. The uncorrected rule is there to show this.

    As in Keras, `epsilon` is added to the root of the uncorrected `s` (Kingma and Ba's "epsilon hat").

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable. Defaults to `0.001`.
        beta_1: Float in [0, 1), decay of the gradient's average. Defaults to `0.9`.
        beta_2: Float in [0, 1), decay of the squared gradient's average. Defaults to `0.999`.
        epsilon: Float, added to the root. Defaults to `1e-7`.
        amsgrad: Boolean, whether to divide by the largest `s` so far. Defaults to `False`.
        bias_correction: Boolean. Defaults to `True`, which is Keras's Adam.
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency,
            loss_scale_factor, gradient_accumulation_steps, name: As in `keras.optimizers.Optimizer`. Weight decay is
            decoupled.

    Raises:
        ValueError: `bias_correction` is not a boolean.

    Example:

    >>> x = keras.Variable([0.0])
    >>> Adam(learning_rate=0.1, bias_correction=False).apply([keras.ops.ones(1)], [x])
    >>> round(float(x[0]), 4)
    -0.3162

    Reference: [Kingma and Ba, 2015](https://arxiv.org/abs/1412.6980)
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        bias_correction: bool = True,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = "adam",
    ) -> None:
        super().__init__(
            **keras_arguments(
                learning_rate=learning_rate,
                beta_1=beta_1,
                beta_2=beta_2,
                epsilon=epsilon,
                amsgrad=amsgrad,
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
        if not isinstance(bias_correction, bool):
            raise ValueError(f"`bias_correction` must be True or False. Received: bias_correction={bias_correction!r}")
        self.bias_correction = bias_correction

    def update_step(self, gradient: Tensor, variable: Tensor, learning_rate: LearningRate) -> None:
        if self.bias_correction:
            super().update_step(gradient, variable, learning_rate)
            return
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        m, s, largest = keras_internals.adam_slots(self, variable)
        self.assign_add(m, ops.multiply(ops.subtract(gradient, m), 1 - self.beta_1))
        self.assign_add(s, ops.multiply(ops.subtract(ops.square(gradient), s), 1 - self.beta_2))
        if self.amsgrad:
            self.assign(largest, ops.maximum(largest, s))
            s = largest
        step = ops.divide(m, ops.add(ops.sqrt(s), self.epsilon))
        self.assign_sub(variable, ops.multiply(step, learning_rate))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bias_correction": self.bias_correction}
