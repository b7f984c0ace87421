"""DropBlock: squares of feature maps that are dropped while training."""

from typing import Any

import keras
from keras import ops

from kregkit._core.checks import check_choice, check_integer, check_number
from kregkit._core.types import Shape, Tensor
from kregkit.layers._hash import hashed_uniform
from kregkit.layers._noise import NoisyLayer, is_surely


@keras.saving.register_keras_serializable(package="kregkit")
class DropBlock2D(NoisyLayer):
    """Drops squares of `block_size x block_size` values, in each channel of each example others.

    Neighbouring values of a feature map say nearly the same, so that Dropout of single values takes little away.

    ```
    gamma = 1 - (1 - rate) ** (1 / block_size ** 2)
    y = x / (1 - rate)      where none of the block_size ** 2 squares over a value is drawn, each with probability gamma
    y = 0                   elsewhere
    ```

    Every value is kept with probability `1 - rate` exactly, at the border and on maps smaller than a square too, so
    that the mean over draws is the input, which inference gives.

    Departures from the paper: squares may reach over the border, where the paper draws only those that lie inside; so
    a border value is under as many squares as any other. And `gamma` counts that squares overlap, where the paper's
    doesn't and keeps too much: with 7 x 7 squares on 28 x 28 values and `rate` 0.25 it drops 21 %. The factor is
    `1 / (1 - rate)`, where the paper divides by the share that this batch keeps; so an example's output doesn't depend
    on the rest of its batch.

    Args:
        rate: Float in [0, 1), the fraction of values dropped. The paper lets it grow from 0 during training, which
            `callbacks.NoiseSchedule` does.
        block_size: Integer >= 1, the side of a square; 1 is Dropout. Defaults to 7.
        data_format: `"channels_last"`, `"channels_first"` or None, Keras's own. Defaults to None.
        seed: Integer >= 0 or None, seeds the squares. Defaults to None, a random seed.

    Input shape, output shape: the same, `(batch, height, width, channels)`, or `(batch, channels, height, width)`.

    Raises:
        ValueError: for an argument outside its range, and for inputs that aren't images.

    Example:

    >>> y = DropBlock2D(0.5, block_size=3, seed=0)(keras.ops.ones((1, 8, 8, 1)), training=True)
    >>> sorted({float(value) for value in keras.ops.convert_to_numpy(y).ravel()})
    [0.0, 2.0]

    Reference: [Ghiasi et al., 2018](https://arxiv.org/abs/1810.12890)
    """

    rate_attribute = "rate"

    def __init__(
        self,
        rate: float,
        block_size: int = 7,
        data_format: str | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_number("rate", rate, 0, 1, high_open=True)
        check_integer("block_size", block_size, low=1)
        if data_format is not None:
            check_choice("data_format", data_format, ("channels_last", "channels_first"))
        super().__init__(seed=seed, **kwargs)
        self.rate = rate
        self.block_size = block_size
        self.data_format = data_format or keras.config.image_data_format()
        self.input_spec = keras.layers.InputSpec(ndim=4)
        self.supports_masking = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return self.draw_call(inputs, training=training) if training else self.expected_call(inputs)

    def draw_call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if is_surely(self.rate, 0):
            return inputs
        last = self.data_format == "channels_last"
        sizes = ops.shape(inputs)
        batch, height, width, channels = sizes if last else (sizes[0], *sizes[2:], sizes[1])
        beyond = self.block_size - 1
        noise = self.uniform((batch, height + beyond, width + beyond, channels))
        dropped = ops.cast(noise < self._seed_probability(), self.compute_dtype)
        # A value is dropped if any square over it is; squares are found one axis after the other.
        for window in ((self.block_size, 1), (1, self.block_size)):
            dropped = ops.max_pool(dropped, window, strides=1, padding="valid", data_format="channels_last")
        dropped = dropped if last else ops.transpose(dropped, (0, 3, 1, 2))
        outputs = inputs * ops.cast(1 / (1 - self.rate), inputs.dtype)
        return ops.where(dropped > 0, ops.zeros_like(outputs), outputs)

    def expected_call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the mean over draws: the inputs."""
        return inputs

    def uniform(self, shape: Shape, per_replica: bool = True) -> Tensor:
        return hashed_uniform(self.next_key(per_replica), shape)

    def _seed_probability(self):
        """Returns the probability of a square: a value lies under `block_size ** 2`, and all must be missing."""
        rate = ops.convert_to_tensor(self.rate, "float32")
        return -ops.expm1(ops.log1p(-rate) / self.block_size**2)

    def compute_output_shape(self, input_shape: Shape) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "rate": self.rate,
            "block_size": self.block_size,
            "data_format": self.data_format,
        }
