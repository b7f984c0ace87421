"""Maxout: the largest of several linear functions, as an activation that is learnt."""

from typing import Any

import keras

from kregkit.layers._pieces import MaxOfPieces, check_arguments, initializer


@keras.saving.register_keras_serializable(package="kregkit")
class Maxout(MaxOfPieces):
    """Computes `y_j = max_k (x w_jk + b_jk)` over `pieces` linear functions for each of `units` outputs.

    All functions are one product with a kernel `(in, pieces * units)`. Pieces are contiguous: function `k` of output
    `j` is column `k * units + j`, so that the maximum is over whole slices.

    The default initialiser is a truncated normal law of variance `1 / (fan_in c)`, `c` the second moment of the
    largest of `pieces` independent standard normals (1 for two, 1.28 for three, 1.55 for four). It keeps the mean
    square of activations from layer to layer, at the value it has in He-initialised ReLU networks. Their mean is larger
    than with ReLU.

    Keras has no such layer. It has `pieces` times the parameters of a Dense layer with the same outputs.

    Args:
        units: Integer >= 1, the outputs.
        pieces: Integer >= 1, the linear functions of each. Defaults to 2.
        use_bias: Boolean, whether there is a bias. Defaults to `True`.
        kernel_initializer: Initialiser, or None for the above. Defaults to None.
        bias_initializer: Initialiser. Defaults to `"zeros"`.
        kernel_regularizer: Regulariser or None. Defaults to None.

    Input shape: `(batch, ..., in)`.
    Output shape: `(batch, ..., units)`.

    Raises:
        ValueError: for `units` or `pieces` below 1.

    Example:

    >>> tuple(Maxout(4, pieces=3)(keras.ops.ones((2, 5, 8))).shape)
    (2, 5, 4)

    Reference: [Goodfellow et al., 2013](https://arxiv.org/abs/1302.4389)
    """

    arguments = ("use_bias", "kernel_initializer", "bias_initializer", "kernel_regularizer")

    def __init__(
        self,
        units: int,
        pieces: int = 2,
        use_bias: bool = True,
        kernel_initializer: Any = None,
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        check_arguments(
            units=units,
            pieces=pieces,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
        )
        super().__init__(**kwargs)
        self.units = units
        self.pieces = pieces
        self.product = keras.layers.Dense(
            units * pieces,
            use_bias=use_bias,
            kernel_initializer=initializer(pieces, kernel_initializer),
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            dtype=self.dtype_policy,
            name="product",
        )
        self.supports_masking = True

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}
