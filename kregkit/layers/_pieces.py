"""The base class of the maxout layers, and the initialiser that keeps the scale of activations."""

import math

import keras
import numpy as np
from keras import ops

from kregkit._core import rules
from kregkit._core.written import Words


def second_moment(pieces):
    """Returns `E[max(z_1, ..., z_pieces) ** 2]` of independent standard normals; 1 for one piece and for two.

    >>> round(second_moment(2), 6), round(second_moment(3), 6)
    (1.0, 1.275664)
    """
    z = np.linspace(-12, 12, 24001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in z])
    return float(np.sum(z**2 * pieces * density * below ** (pieces - 1)) * (z[1] - z[0]))


_size = rules.any_of(rules.whole(1), rules.entries(rules.whole(1)))
_RULES = {
    "units": rules.whole(1),
    "filters": rules.whole(1),
    "pieces": rules.whole(1),
    "kernel_size": _size,
    "strides": _size,
    "dilation_rate": _size,
    "padding": rules.word(),
    "use_bias": rules.boolean,
    "kernel_initializer": rules.keras_object("initializers"),
    "bias_initializer": rules.keras_object("initializers"),
    "kernel_regularizer": rules.keras_object("regularizers"),
}


def check_arguments(**arguments):
    """Raises `ValueError` for an argument that no maxout layer can use."""
    rules.check(_RULES, **arguments)


def initializer(pieces, given=None):
    """Returns `given`, or the initialiser that keeps activations' second moment from layer to layer."""
    if given is not None:
        return keras.initializers.get(given)
    return keras.initializers.VarianceScaling(1 / second_moment(pieces), "fan_in", "truncated_normal")


class MaxOfPieces(Words, keras.layers.Layer):
    """Splits the output of a layer called `product` into `pieces` contiguous parts and takes their maximum, entry-wise.

    A subclass sets `product` and `pieces`. It lists in `arguments` those arguments that it hands on to `product`.
    """

    arguments: tuple[str, ...] = ()

    def build(self, input_shape):
        self.product.build(input_shape)

    def call(self, inputs):
        largest, *others = ops.split(self.product(inputs), self.pieces, axis=self._axis())
        for other in others:
            largest = ops.maximum(largest, other)
        return largest

    def _axis(self):
        """Returns the axis that the pieces lie along."""
        return 1 if getattr(self.product, "data_format", None) == "channels_first" else -1

    def compute_output_shape(self, input_shape):
        shape = list(self.product.compute_output_shape(input_shape))
        shape[self._axis()] //= self.pieces
        return tuple(shape)

    def get_config(self):
        product = self.product.get_config()
        arguments = {name: product[name] for name in self.arguments}
        return {**super().get_config(), "pieces": self.pieces, **arguments}
