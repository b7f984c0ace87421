"""Keras's noise layers at a rate that is a tensor. Their own code takes a number of Python, and compares it with 0.

The numbers are drawn as Keras draws them: a constant rate gives the masks of the plain layer.
"""

import keras
from keras import layers, ops, random

_SPATIAL = (layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D)
# What a SELU saturates at (Klambauer et al. 2017).
_SELU_LOW = -1.7580993408473766


def rate_attribute(layer: keras.Layer) -> str | None:
    """Returns the name of the attribute that holds the layer's rate, or None if it isn't one of these layers."""
    return next((name for kind, name, _ in _KINDS if isinstance(layer, kind)), None)


def call_at(layer: keras.Layer, rate):
    """Returns what to put in place of `layer.call`, so that it has the rate of a scalar tensor."""
    outputs = next(function for kind, _, function in _KINDS if isinstance(layer, kind))

    def call(inputs, training=False):
        return outputs(layer, inputs, ops.cast(rate, inputs.dtype)) if training else inputs

    return call


def _dropout(layer, inputs, rate):
    numbers = random.uniform(_noise_shape(layer, inputs), dtype=inputs.dtype, seed=layer.seed_generator)
    return ops.where(numbers >= rate, inputs / (1 - rate), ops.zeros_like(inputs))


def _noise_shape(layer, inputs):
    shape = ops.shape(inputs)
    if isinstance(layer, _SPATIAL):
        ones = [1] * (len(shape) - 2)
        first = getattr(layer, "data_format", "channels_last") == "channels_first"
        return (*shape[:2], *ones) if first else (shape[0], *ones, shape[-1])
    return tuple(full if own is None else own for own, full in zip(layer.noise_shape or [None] * len(shape), shape))


def _alpha_dropout(layer, inputs, rate):
    numbers = random.uniform(_noise_shape(layer, inputs), seed=layer.seed_generator)
    kept = ops.cast(numbers >= ops.cast(rate, numbers.dtype), inputs.dtype)
    scale = ((1 - rate) * (1 + rate * _SELU_LOW**2)) ** -0.5
    return scale * (inputs * kept + _SELU_LOW * (1 - kept)) - scale * _SELU_LOW * rate


def _gaussian_dropout(layer, inputs, rate):
    return inputs * (1 + ops.sqrt(rate / (1 - rate)) * _normal(layer, inputs))


def _gaussian_noise(layer, inputs, stddev):
    return inputs + stddev * _normal(layer, inputs)


def _normal(layer, inputs):
    return random.normal(ops.shape(inputs), dtype=layer.compute_dtype, seed=layer.seed_generator)


# The spatial layers are `Dropout` too.
_KINDS = [
    (layers.Dropout, "rate", _dropout),
    (layers.AlphaDropout, "rate", _alpha_dropout),
    (layers.GaussianDropout, "rate", _gaussian_dropout),
    (layers.GaussianNoise, "stddev", _gaussian_noise),
]
