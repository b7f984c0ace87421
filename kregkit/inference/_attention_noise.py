"""Dropout of attention's weights, where the layer drops them itself."""

from keras import layers, ops

from kregkit.inference._draws import sizes
from kregkit.inference._keras_noise import keep


def is_noisy_attention(layer):
    """Returns whether the layer is an `Attention`, an `AdditiveAttention` say, with dropout."""
    return isinstance(layer, layers.Attention) and layer.dropout > 0


def weights_of_attention(layer, draws, place):
    """Returns `(layer, attribute, value)`, what to set so that the mask of a layer's weights comes from `draws`."""
    original = layer._apply_scores

    def apply_scores(scores, value, scores_mask=None, training=False):
        _, weights = original(scores, value, scores_mask=scores_mask, training=False)
        weights = weights * keep(draws.uniform(place, sizes(weights)), layer.dropout, weights.dtype)
        return ops.matmul(weights, value), weights

    return layer, "_apply_scores", apply_scores
