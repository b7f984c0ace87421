"""Dropped paths: a tensor that is set to zero for some of the examples while training."""

from typing import Any

import keras
from keras import ops

from kregkit._core.checks import check_number
from kregkit._core.types import Shape, Tensor
from kregkit.layers._noise import NoisyLayer, coin, is_surely


@keras.saving.register_keras_serializable(package="kregkit")
class DropPath(NoisyLayer):
    """Computes `b * x / (1 - rate)` in training, one `b ~ Bernoulli(1 - rate)` per example, and `x` in inference.

    For code that has its residual sum itself: `x + DropPath(0.1)(f(x))`. The same as `StochasticDepth(f, 0.9,
    mode="sample")`, draw by draw where both have one seed. The path is computed for all examples, and its
    BatchNormalization sees them all; `StochasticDepth` has modes that save the time of a dropped path.

    Args:
        rate: Float in [0, 1), the fraction of examples whose path is dropped.
        seed: Integer >= 0 or None, seeds the coins. Defaults to None, a random seed.

    Input shape, output shape: the same, any; the first axis is the examples'.

    Raises:
        ValueError: `rate` or `seed` is outside its range.

    Example:

    >>> x = keras.ops.ones((4, 2))
    >>> tuple((x + DropPath(0.5)(2 * x, training=True)).shape)
    (4, 2)

    Reference: [Huang et al., 2016](https://arxiv.org/abs/1603.09382); the name is that of
    [Larsson et al., 2017](https://arxiv.org/abs/1605.07648), whose paths join otherwise.
    """

    rate_attribute = "rate"

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        check_number("rate", rate, 0, 1, high_open=True)
        super().__init__(seed=seed, **kwargs)
        self.rate = rate
        self.supports_masking = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return self.draw_call(inputs, training=training) if training else self.expected_call(inputs)

    def draw_call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if is_surely(self.rate, 0):
            return inputs
        kept = 1 - self.rate
        shape = (ops.shape(inputs)[0], *[1] * (len(inputs.shape) - 1))
        survives = coin(self.uniform(shape), kept)
        outputs = inputs * ops.cast(1 / kept, inputs.dtype)
        return ops.where(survives, outputs, ops.zeros_like(outputs))

    def expected_call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the mean over coins: the inputs."""
        return inputs

    def compute_output_shape(self, input_shape: Shape) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}
