"""What Keras's noisy layers do to their inputs: `factor * inputs + shift`, both random."""

import math

import tensorflow as tf
from keras import layers

from kregkit.inference._draws import sizes

_SPATIAL = (layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D)
# What a SELU saturates at (Klambauer et al. 2017).
_SELU_LOW = -1.7580993408473766


def keep(numbers, rate, dtype):
    """Returns an inverted dropout mask: 0 with probability `rate`, else `1 / (1 - rate)`."""
    if rate >= 1:
        return tf.zeros(tf.shape(numbers), dtype)
    return tf.cast(numbers >= rate, dtype) * tf.cast(1.0 / (1.0 - rate), dtype)


def _dropout(layer, draws, place, shape, dtype):
    return keep(draws.uniform(place, shape, layer.noise_shape), layer.rate, dtype), None


def _spatial_dropout(layer, draws, place, shape, dtype):
    ones = [1] * (len(shape) - 2)
    noise_shape = [None, None, *ones] if _channels_first(layer) else [None, *ones, None]
    return keep(draws.uniform(place, shape, noise_shape), layer.rate, dtype), None


def _gaussian_dropout(layer, draws, place, shape, dtype):
    scale = math.sqrt(layer.rate / (1.0 - layer.rate))
    return tf.cast(1.0 + scale * draws.normal(place, shape), dtype), None


def _gaussian_noise(layer, draws, place, shape, dtype):
    return None, tf.cast(layer.stddev * draws.normal(place, shape), dtype)


def _alpha_dropout(layer, draws, place, shape, dtype):
    # The affine map brings mean 0 and variance 1 back.
    scale = ((1.0 - layer.rate) * (1.0 + layer.rate * _SELU_LOW**2)) ** -0.5
    kept = tf.cast(draws.uniform(place, shape, layer.noise_shape) >= layer.rate, dtype)
    return scale * kept, scale * _SELU_LOW * ((1.0 - layer.rate) - kept)


# The first kind that matches a layer draws its noise.
_KINDS = [
    (_SPATIAL, _spatial_dropout),
    (layers.Dropout, _dropout),
    (layers.GaussianDropout, _gaussian_dropout),
    (layers.GaussianNoise, _gaussian_noise),
    (layers.AlphaDropout, _alpha_dropout),
]


def is_elementwise(layer):
    """Returns whether the layer is one of Keras's that multiply by and add noise, and does."""
    rate = getattr(layer, "rate", None) or getattr(layer, "stddev", None)
    return bool(rate) and any(isinstance(layer, kind) for kind, _ in _KINDS)


def perturbed(layer, draws, place, inputs):
    """Returns what the layer at `place` makes of its inputs.

    Args:
        layer: A layer for which `is_elementwise`.
        draws: `Draws`.
        place: Integer.
        inputs: Tensor of `k * B` rows.
    """
    kind = next(kind for types, kind in _KINDS if isinstance(layer, types))
    factor, shift = kind(layer, draws, place, sizes(inputs), inputs.dtype)
    outputs = inputs if factor is None else inputs * factor
    return outputs if shift is None else outputs + shift


def _channels_first(layer):
    return getattr(layer, "data_format", "channels_last") == "channels_first"


def commutes(dropout, pooling):
    """Returns whether dropping whole channels does the same before and after a layer.

    Factors per channel, of which none is negative, pass through maxima and means over the other axes.
    """
    same = _channels_first(dropout) == _channels_first(pooling)
    return isinstance(dropout, _SPATIAL) and type(pooling) in _POOLING and same


_POOLING = tuple(
    getattr(layers, f"{prefix}Pooling{rank}D")
    for prefix in ("Max", "Average", "GlobalMax", "GlobalAverage")
    for rank in (1, 2, 3)
)
