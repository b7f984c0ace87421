"""Maxout over the channels of a convolution."""

from collections.abc import Sequence
from typing import Any, Literal

import keras

from kregkit.layers._pieces import MaxOfPieces, check_arguments, initializer


@keras.saving.register_keras_serializable(package="kregkit")
class MaxoutConv2D(MaxOfPieces):
    """Computes `y_j = max_k (x * w_jk + b_jk)` over `pieces` convolutions for each of `filters` outputs.

    All are one convolution with `pieces * filters` filters; pieces are contiguous, and the default initialiser is
    that of `Maxout`, where both are explained.

    Args:
        filters: Integer >= 1, the output's channels.
        kernel_size: Integer, or two.
        pieces: Integer >= 1, the convolutions for each channel. Defaults to 2.
        strides: Integer, or two. Defaults to 1.
        padding: `"valid"` or `"same"`. Defaults to `"valid"`.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to Keras's setting.
        dilation_rate: Integer, or two. Defaults to 1.
        use_bias: Boolean, whether there is a bias. Defaults to `True`.
        kernel_initializer: Initialiser, or None for that of `Maxout`. Defaults to None.
        bias_initializer: Initialiser. Defaults to `"zeros"`.
        kernel_regularizer: Regulariser or None. Defaults to None.

    Input shape: `(batch, height, width, channels)` or `(batch, channels, height, width)`.
    Output shape: that of `keras.layers.Conv2D` with `filters` filters.

    Raises:
        ValueError: for `filters` or `pieces` below 1, and what `keras.layers.Conv2D` refuses.

    Example:

    >>> layer = MaxoutConv2D(4, 3, pieces=2, padding="same", data_format="channels_last")
    >>> tuple(layer(keras.ops.ones((2, 8, 8, 3))).shape)
    (2, 8, 8, 4)

    Reference: [Goodfellow et al., 2013](https://arxiv.org/abs/1302.4389)
    """

    arguments = (
        "kernel_size",
        "strides",
        "padding",
        "data_format",
        "dilation_rate",
        "use_bias",
        "kernel_initializer",
        "bias_initializer",
        "kernel_regularizer",
    )

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        pieces: int = 2,
        strides: int | Sequence[int] = 1,
        padding: Literal["valid", "same"] = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        use_bias: bool = True,
        kernel_initializer: Any = None,
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        check_arguments(
            filters=filters,
            kernel_size=kernel_size,
            pieces=pieces,
            strides=strides,
            padding=padding,
            dilation_rate=dilation_rate,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
        )
        super().__init__(**kwargs)
        self.filters = filters
        self.pieces = pieces
        self.product = keras.layers.Conv2D(
            filters * pieces,
            kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            use_bias=use_bias,
            kernel_initializer=initializer(pieces, kernel_initializer),
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            dtype=self.dtype_policy,
            name="product",
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters}
