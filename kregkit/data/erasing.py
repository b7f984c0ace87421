"""Operations that remove a part of each image."""

import tensorflow as tf

from kregkit._core.checks import check_integer
from kregkit.data._arguments import register
from kregkit.data._warp import sizes
from kregkit.data.augment import Operation


@register
class Cutout(Operation):
    """Sets a square to zero: `y[i, j] = 0` for `i` in `a - size // 2 + {0 ... size - 1}`, `j` likewise around `b`.

    The centre is uniform over the image's pixels, so that squares at the border are smaller, as in the paper.
    Zero is black in [0, 1], grey in [-1, 1], and the mean after `Standardize`.

    Args:
        size: Integer >= 1, the square's side in pixels. Defaults to `16`, the paper's choice for CIFAR-10.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import Cutout
    >>> y = Cutout(2)(np.full((1, 8, 8, 1), 255, "uint8"), key=0)
    >>> int((y.numpy() == 0).sum()) in (1, 2, 4)
    True

    Reference: [DeVries and Taylor, 2017](https://arxiv.org/abs/1708.04552)
    """

    num_draws = 2

    def __init__(self, size=16):
        self.size = check_integer("size", size, 1)

    def apply(self, images, u, value_range):
        keep = box_mask(u, self.size, self.size, sizes(images))
        return tf.where(keep[..., None], tf.zeros((), images.dtype), images)


def box_mask(u, box_height, box_width, size):
    """Returns Booleans `(batch, h, w)`: a box of a side of whole pixels around a uniformly drawn pixel."""
    inside = []
    for axis, (side, pixels) in enumerate(zip((box_height, box_width), size)):
        centre = tf.cast(tf.floor(u[:, axis] * tf.cast(pixels, tf.float32)), tf.int32)
        start = centre - side // 2
        i = tf.range(pixels)[None, :]
        stop = start + side
        inside.append((i >= start[:, None]) & (i < stop[:, None]))
    return inside[0][:, :, None] & inside[1][:, None, :]
