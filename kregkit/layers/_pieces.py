"""What the maxout layers share: how wide to start, and the maximum over pieces."""

import math

import keras
import numpy as np
from keras import ops


def second_moment(pieces):
    """Returns `E[max(z_1, ..., z_pieces) ** 2]` of independent standard normals; 1 for one piece and for two.

    >>> round(second_moment(2), 6), round(second_moment(3), 6)
    (1.0, 1.275664)
    """
    z = np.linspace(-12, 12, 24001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    below = np.array([0.5 * math.erfc(-one / math.sqrt(2)) for one in z])
    return float(np.sum(z**2 * pieces * density * below ** (pieces - 1)) * (z[1] - z[0]))


def initializer(pieces, given=None):
    """Returns `given`, or the initialiser that keeps activations' second moment from layer to layer."""
    if given is not None:
        return keras.initializers.get(given)
    return keras.initializers.VarianceScaling(1 / second_moment(pieces), "fan_in", "truncated_normal")


def max_over_pieces(x, pieces, axis):
    """Returns the entry-wise maximum of `pieces` equal parts of `x`, cut along `axis`."""
    parts = ops.split(x, pieces, axis=axis)
    largest = parts[0]
    for part in parts[1:]:
        largest = ops.maximum(largest, part)
    return largest
