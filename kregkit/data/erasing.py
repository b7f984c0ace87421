"""Operations that remove a part of each image."""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kregkit._core.checks import check_integer, check_number
from kregkit._core.types import Tensor
from kregkit.data import _random, _warp
from kregkit.data._arguments import check_pair, register
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

    def __init__(self, size: int | Sequence[int] = 16) -> None:
        self.size = check_integer("size", size, 1)

    def apply(self, images: Tensor, u: Tensor, value_range: tuple[float, float]) -> Any:
        keep = box_mask(u, self.size, self.size, sizes(images))
        return tf.where(keep[..., None], tf.zeros((), images.dtype), images)


@register
class RandomErasing(Operation):
    """Fills a random rectangle with one value, or with noise: `y[i, j] = v` inside, `x[i, j]` outside.

    The rectangle has area `s h w`, `s ~ U(scale)`, and height over width `r`, `log r ~ U(log ratio)`, sides rounded to
    pixels and at most the image's, at a uniform position at which it lies inside. (The paper draws again where it
    doesn't fit.)

    Args:
        probability: Float in [0, 1], of erasing at all. Defaults to `0.5`.
        scale: Pair of floats in (0, 1], the share of the area. Defaults to `(0.02, 0.33)`.
        ratio: Pair of floats > 0, height over width. Defaults to `(0.3, 10 / 3)`.
        value: `"noise"` (the default): each pixel and channel uniform over the images' range, as the paper finds best;
            or a number, in units of the images at this point: after `Standardize`, 0 is the mean.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import RandomErasing
    >>> y = RandomErasing(1.0, value=0.0)(np.full((1, 8, 8, 1), 255, "uint8"), key=0).numpy()
    >>> 1 <= int((y == 0).sum()) < 64
    True

    Reference: [Zhong et al., 2020](https://arxiv.org/abs/1708.04896)
    """

    num_draws = 7

    def __init__(
        self,
        probability: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 10 / 3),
        value: float | str = "noise",
    ) -> None:
        self.probability = check_number("probability", probability, 0, 1)
        self.scale = check_pair("scale", scale, 1.0)
        self.ratio = check_pair("ratio", ratio)
        if isinstance(value, str) and value != "noise":
            raise ValueError(f'`value` must be a number or "noise". Received: value={value!r}')
        self.value = value if isinstance(value, str) else check_number("value", value)

    @property
    def needs_range(self) -> Any:
        # Noise fills the range, which `Standardize` leaves.
        return self.value == "noise"

    def apply(self, images: Tensor, u: Tensor, value_range: tuple[float, float]) -> Any:
        size = sizes(images)
        sides, starts = [], []
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, 1]
        low, high = (math.log(end) for end in self.ratio)
        ratio = tf.exp(low + (high - low) * u[:, 2])
        height, width = (tf.cast(pixels, tf.float32) for pixels in size)
        for pixels, shape, draw in ((height, ratio, u[:, 3]), (width, 1 / ratio, u[:, 4])):
            side = tf.clip_by_value(tf.round(tf.sqrt(area * height * width * shape)), 1.0, pixels)
            sides.append(tf.where(u[:, 0] < self.probability, side, 0.0))
            starts.append(tf.minimum(tf.floor(draw * (pixels - side + 1)), pixels - side))
        words = tf.cast(u[:, 5:7] * 2.0**24, tf.int32)

        def erase(images, tops, heights, lefts, widths, words):
            inside = []
            for start, side, pixels in ((tops, heights, size[0]), (lefts, widths, size[1])):
                i = tf.range(tf.cast(pixels, tf.float32))[None]
                inside.append((i >= start[:, None]) & (i < (start + side)[:, None]))
            inside = (inside[0][:, :, None] & inside[1][:, None, :])[..., None]
            filling = tf.constant(0.0 if self.value == "noise" else self.value, tf.float32)
            if self.value == "noise":
                filling = _random.noise(words, (*size, images.shape[-1]))
                filling = filling * (value_range.high - value_range.low) + value_range.low
            return tf.where(inside, filling, images)

        return _warp.compiled(erase, images)(images, starts[0], sides[0], starts[1], sides[1], words)


def _starts(u, sides, size):
    """Yields the first pixel of a box of whole sides around a uniformly drawn pixel, down and across."""
    for axis, (side, pixels) in enumerate(zip(sides, size)):
        yield tf.cast(tf.floor(u[:, axis] * tf.cast(pixels, tf.float32)), tf.int32) - side // 2


def box_mask(u: Tensor, box_height: Tensor, box_width: Tensor, size: Any) -> Any:
    """Returns Booleans `(batch, h, w)`: a box of a side of whole pixels around a uniformly drawn pixel."""
    inside = []
    sides = (box_height, box_width)
    for start, side, pixels in zip(_starts(u, sides, size), sides, size):
        i = tf.range(pixels)[None, :]
        stop = start + side
        inside.append((i >= start[:, None]) & (i < stop[:, None]))
    return inside[0][:, :, None] & inside[1][:, None, :]


def box_window(u: Tensor, box_height: Tensor, box_width: Tensor, size: Any) -> Any:
    """Returns the same boxes as float32 `(batch, 4)`: left, top, right and bottom, cut off at the border."""
    sides = (box_height, box_width)
    edges = []
    for start, side, pixels in zip(_starts(u, sides, size), sides, size):
        edges.append([tf.cast(tf.clip_by_value(edge, 0, pixels), tf.float32) for edge in (start, start + side)])
    (top, bottom), (left, right) = edges
    return tf.stack([left, top, right, bottom], -1)
