"""How the noise of Keras's own layers is drawn: dropout of all kinds, Gaussian noise, attention, recurrent cells."""

import functools
import math

import tensorflow as tf
from keras import layers, ops

from kregkit._core import keras_internals

_SPATIAL = (layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D)
_POOLING = tuple(
    getattr(layers, f"{prefix}Pooling{rank}D")
    for prefix in ("Max", "Average", "GlobalMax", "GlobalAverage")
    for rank in (1, 2, 3)
)
# What a SELU saturates at (Klambauer et al. 2017).
_SELU_LOW = -1.7580993408473766
# Unbiased noise, for which inference gives the mean.
_UNBIASED = (layers.Attention, layers.Dropout, layers.GaussianDropout, layers.GaussianNoise)


def is_noisy(layer):
    """Returns whether the layer is one of Keras's whose noise can be drawn here, and has any."""
    return is_elementwise(layer) or _is_noisy_attention(layer) or _is_noisy_cell(layer)


def has_expectation(layer):
    """Returns whether the layer's output in inference is the mean of its noise."""
    return isinstance(layer, _UNBIASED)


def changes(layer, every, draws, layer_index):
    """Yields `(object, attribute, value)`: what to set so that a layer for which `is_noisy` draws from `draws`.

    Args:
        layer: The layer.
        every: List of the model's layers, the owners of recurrent cells among them.
        draws: `Draws`.
        layer_index: Integer, the layer's index in `every`.
    """
    if _is_noisy_cell(layer):
        yield from _changes_of_cell(layer, every, draws, layer_index)
    elif _is_noisy_attention(layer):
        yield _change_of_attention(layer, draws, layer_index)
    else:
        yield layer, "call", lambda inputs, *_, **__: perturbed(layer, draws, layer_index, inputs)


def expectation_changes(layer):
    """Yields `(object, attribute, value)`: what to set so that a layer gives its mean, also if it is always on."""
    if is_elementwise(layer):
        yield layer, "call", without_noise
    elif _is_noisy_attention(layer):
        name, original = keras_internals.apply_scores(layer)
        yield layer, name, lambda scores, value, scores_mask=None, training=False: original(scores, value, scores_mask)


def without_noise(inputs, *_, **__):
    """Does what a layer for which `is_elementwise` does without its noise."""
    return inputs


# Layers that compute `factor * inputs + shift`, both random.


def is_elementwise(layer):
    """Returns whether the layer is one of Keras's that multiply by and add noise, and does."""
    rate = getattr(layer, "rate", None) or getattr(layer, "stddev", None)
    return bool(rate) and any(isinstance(layer, kind) for kind, _ in _KINDS)


def perturbed(layer, draws, layer_index, inputs):
    """Returns what a layer makes of its inputs.

    Args:
        layer: A layer for which `is_elementwise`.
        draws: `Draws`.
        layer_index: Integer.
        inputs: Tensor of `k * B` rows.
    """
    kind = next(kind for types, kind in _KINDS if isinstance(layer, types))
    factor, shift = kind(layer, draws, layer_index, _sizes(inputs), inputs.dtype)
    outputs = inputs if factor is None else inputs * factor
    return outputs if shift is None else outputs + shift


def commutes(dropout, pooling):
    """Returns whether dropping whole channels does the same before and after a layer.

    Factors per channel that aren't negative commute with maxima and means over the other axes.
    """
    same = _channels_first(dropout) == _channels_first(pooling)
    return isinstance(dropout, _SPATIAL) and type(pooling) in _POOLING and same


def _dropout_mask(numbers, rate, dtype):
    """Returns an inverted dropout mask: 0 with probability `rate`, else `1 / (1 - rate)`."""
    if rate >= 1:
        return tf.zeros(tf.shape(numbers), dtype)
    return tf.cast(numbers >= rate, dtype) * tf.cast(1.0 / (1.0 - rate), dtype)


def _dropout(layer, draws, layer_index, shape, dtype):
    return _dropout_mask(draws.uniform(layer_index, shape, layer.noise_shape), layer.rate, dtype), None


def _spatial_dropout(layer, draws, layer_index, shape, dtype):
    ones = [1] * (len(shape) - 2)
    noise_shape = [None, None, *ones] if _channels_first(layer) else [None, *ones, None]
    return _dropout_mask(draws.uniform(layer_index, shape, noise_shape), layer.rate, dtype), None


def _gaussian_dropout(layer, draws, layer_index, shape, dtype):
    scale = math.sqrt(layer.rate / (1.0 - layer.rate))
    return tf.cast(1.0 + scale * draws.normal(layer_index, shape), dtype), None


def _gaussian_noise(layer, draws, layer_index, shape, dtype):
    return None, tf.cast(layer.stddev * draws.normal(layer_index, shape), dtype)


def _alpha_dropout(layer, draws, layer_index, shape, dtype):
    # The affine map brings mean 0 and variance 1 back.
    scale = ((1.0 - layer.rate) * (1.0 + layer.rate * _SELU_LOW**2)) ** -0.5
    kept = tf.cast(draws.uniform(layer_index, shape, layer.noise_shape) >= layer.rate, dtype)
    return scale * kept, scale * _SELU_LOW * ((1.0 - layer.rate) - kept)


# The first kind that matches a layer draws its noise.
_KINDS = [
    (_SPATIAL, _spatial_dropout),
    (layers.Dropout, _dropout),
    (layers.GaussianDropout, _gaussian_dropout),
    (layers.GaussianNoise, _gaussian_noise),
    (layers.AlphaDropout, _alpha_dropout),
]


def _channels_first(layer):
    return getattr(layer, "data_format", "channels_last") == "channels_first"


def _sizes(tensor):
    """Returns the axes' sizes, as integers where they are known."""
    dynamic = tf.shape(tensor)
    return [dynamic[axis] if size is None else size for axis, size in enumerate(tensor.shape)]


# Attention that drops its weights itself; `MultiHeadAttention` has a Dropout layer inside.


def _is_noisy_attention(layer):
    return isinstance(layer, layers.Attention) and layer.dropout > 0


def _change_of_attention(layer, draws, layer_index):
    name, original = keras_internals.apply_scores(layer)

    def apply_scores(scores, value, scores_mask=None, training=False):
        _, weights = original(scores, value, scores_mask=scores_mask, training=False)
        numbers = draws.uniform(layer_index, _sizes(weights))
        weights = weights * _dropout_mask(numbers, layer.dropout, weights.dtype)
        return ops.matmul(weights, value), weights

    return layer, name, apply_scores


# Recurrent cells, whose masks hold for all steps of a sequence.


def _is_noisy_cell(layer):
    return hasattr(layer, "get_recurrent_dropout_mask") and (layer.dropout > 0 or layer.recurrent_dropout > 0)


def _changes_of_cell(cell, every, draws, layer_index):
    masks = {}

    def mask(name, rate, step_input):
        # An outer call makes the masks before the loop over time; inside it they must not be made anew.
        if rate > 0 and name not in masks:
            count = getattr(cell, "dropout_mask_count", None)
            numbers = [draws.uniform(layer_index, _sizes(step_input)) for _ in range(count or 1)]
            made = [_dropout_mask(each, rate, step_input.dtype) for each in numbers]
            masks[name] = made if count else made[0]
        return masks.get(name)

    yield cell, "call", functools.partial(_training_call, cell.call)
    yield cell, "get_dropout_mask", functools.partial(mask, "input", cell.dropout)
    yield cell, "get_recurrent_dropout_mask", functools.partial(mask, "state", cell.recurrent_dropout)
    yield cell, "reset_dropout_mask", lambda: masks.pop("input", None)
    yield cell, "reset_recurrent_dropout_mask", lambda: masks.pop("state", None)
    for owner in every:
        # LSTM and GRU look at `training` themselves, to choose a kernel without dropout.
        if isinstance(owner, layers.RNN) and owner.cell is cell:
            yield owner, "inner_loop", functools.partial(_training_loop, owner.inner_loop)


def _training_call(original, inputs, states, training=None, **options):
    return original(inputs, states, training=True, **options)


def _training_loop(original, sequences, initial_state, mask, training=None):
    return original(sequences, initial_state, mask, training=True)
