"""Operations that cut a window out of each image."""

import math
from typing import Any

import tensorflow as tf

from kregkit._core.checks import check_integer
from kregkit._core.types import Tensor
from kregkit.data._arguments import check_size, register
from kregkit.data._warp import affine
from kregkit.data.geometry import Geometric

# How often RandomResizedCrop draws a part's size.
_TRIES = 10


@register
class RandomCrop(Geometric):
    """Cuts a window at a random position, per image: `y[i, j] = x[i + a - p, j + b - p]`. An exact copy.

    `a ~ U{0 ... h + 2 p - height}`, `b` alike, black outside. At test time the window is the central one. (Keras's
    `RandomCrop` draws one position per batch, and at test time resizes the image instead.)

    Args:
        padding: Integer >= 0, `p`, black added on every side first. Defaults to `4`, the usual choice at 32x32.
        size: Integer or pair `(height, width)`, the window. Defaults to `None`: the image's own size.

    Raises:
        ValueError: if the window is larger than the padded image.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import RandomCrop
    >>> tuple(RandomCrop(0, size=24)(np.zeros((2, 32, 32, 3), "uint8"), key=0).shape)
    (2, 24, 24, 3)

    Reference: [He et al., 2016](https://arxiv.org/abs/1512.03385)
    """

    num_draws = 2
    exact = True

    @property
    def cuts(self) -> Any:
        return not self.padding

    def __init__(self, padding: int = 4, size: Any = None) -> None:
        self.padding = check_integer("padding", padding, 0)
        self.size = None if size is None else check_size(size)

    @property
    def margin(self) -> Any:
        return self.padding

    @property
    def changes_size(self) -> Any:
        return self.size is not None

    @property
    def invertible(self) -> Any:
        # A window that is smaller than the image doesn't show all of it; one of the same size is a shift.
        return self.size is None

    @property
    def minimum_size(self) -> Any:
        return None if self.size is None else tuple(side - 2 * self.padding for side in self.size)

    def output_size(self, height: Tensor, width: Tensor) -> Any:
        if self.size is None:
            return height, width
        for have, want in zip((height, width), self.size):
            if isinstance(have, int) and have + 2 * self.padding < want:
                raise ValueError(
                    f"`size` must be at most the image and its padding, {height + 2 * self.padding}x"
                    f"{width + 2 * self.padding}. Received: size={self.size}"
                )
        return self.size

    def move(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        moves = []
        for axis, (have, want) in enumerate(zip((height, width), self.output_size(height, width))):
            choices = have + 2 * self.padding - want + 1
            start = tf.cast(tf.floor(u[:, axis] * tf.cast(choices, tf.float32)), tf.int32)
            moves.append((tf.zeros_like(start, tf.bool), tf.minimum(start, choices - 1) - self.padding))
        return tuple(moves)

    def central(self, batch: Tensor, height: Tensor, width: Tensor) -> Any:
        # The middle of an odd number of positions, else the upper left of the two middle ones.
        moves = []
        for have, want in zip((height, width), self.output_size(height, width)):
            start = tf.zeros([batch], tf.int32) + (have - want) // 2
            moves.append((tf.zeros_like(start, tf.bool), start))
        return tuple(moves)


@register
class RandomResizedCrop(Geometric):
    """Cuts a random part of random size and shape, and resizes it to `size`: "random sizes" of the ImageNet recipe.

    The part has area `s h w`, `s ~ U(scale)`, and width over height `r`, `log r ~ U(log ratio)`, at a uniform position:
    the first of ten draws that fits into the image, as torchvision and timm have it; where none does, the largest
    central part whose `r` is in the range. Bilinear, without smoothing before reduction. At test time: the largest
    central part of the output's proportions.

    A part that is larger than the output has whole pixels as its edges; where it is 2, 4 or 8 times as large or more,
    they are multiples of that. The outermost samples of a part from half the output's size on are pixels. So a decoder
    can cut and shrink it, and it is resampled at twice the speed; edges move by a pixel at most, of the image or of the
    output.

    Args:
        size: Integer or pair `(height, width)` of the output.
        scale: Pair of floats in (0, 1], the part's share of the area. Defaults to `(0.08, 1.0)`.
        ratio: Pair of floats > 0. Defaults to `(3 / 4, 4 / 3)`.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import RandomResizedCrop
    >>> tuple(RandomResizedCrop(24)(np.zeros((2, 40, 32, 3), "uint8"), key=0).shape)
    (2, 24, 24, 3)

    Reference: [Szegedy et al., 2015](https://arxiv.org/abs/1409.4842)
    """

    num_draws = 2 + 2 * _TRIES
    cuts = True
    changes_size = True
    invertible = False

    def __init__(self, size: Any, scale: Any = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> None:
        self.size = check_size(size)
        for name, pair, high in (("scale", scale, 1.0), ("ratio", ratio, math.inf)):
            if not (
                isinstance(pair, (tuple, list))
                and len(pair) == 2
                and all(isinstance(end, (int, float)) for end in pair)
                and 0 < pair[0] <= pair[1] <= high
            ):
                raise ValueError(
                    f"`{name}` must be a pair of numbers in order, > 0{' and <= 1' if high == 1 else ''}. "
                    f"Received: {name}={pair!r}"
                )
        self.scale = tuple(map(float, scale))
        self.ratio = tuple(map(float, ratio))

    def output_size(self, height: Tensor, width: Tensor) -> Any:
        return self.size

    def part(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        """Returns height, width and centre (from the image's centre, y and x) of the part, in pixels."""
        height, width = (tf.cast(side, tf.float32) + tf.zeros_like(u[:, 0]) for side in (height, width))
        low, high = (math.log(end) for end in self.ratio)
        # Of the first try, then the position, then of the other tries.
        fraction, shape = (tf.concat([u[:, first : first + 1], u[:, 4 + first :: 2]], 1) for first in (0, 1))
        area = (self.scale[0] + (self.scale[1] - self.scale[0]) * fraction) * (height * width)[:, None]
        ratio = tf.exp(low + (high - low) * shape)
        heights, widths = tf.sqrt(area / ratio), tf.sqrt(area * ratio)
        fits = (heights <= height[:, None]) & (widths <= width[:, None])
        # The first that fits, else the largest central part.
        ratio = tf.clip_by_value(width / height, *self.ratio)
        rest = tf.minimum(height, width / ratio), tf.minimum(width, height * ratio)
        first = tf.range(_TRIES) == tf.argmax(tf.cast(fits, tf.int32), 1, tf.int32)[:, None]
        found = tf.reduce_any(fits, 1)
        part_height, part_width = (
            tf.where(found, tf.reduce_sum(tf.where(first, sides, 0.0), 1), side)
            for sides, side in zip((heights, widths), rest)
        )
        y, x = (tf.where(found, u[:, index] - 0.5, 0.0) for index in (2, 3))
        return part_height, part_width, y * (height - part_height), x * (width - part_width)

    def window(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
        if u is None:
            ratio = self.size[1] / self.size[0]
            part_width = tf.minimum(width, height * ratio) + tf.zeros([1])
            part_height, y, x = part_width / ratio, 0.0, 0.0
        else:
            part_height, part_width, y, x = self.part(u, height, width)
        lengths = part_height, part_width
        scale = tf.minimum(*(length / size for length, size in zip(lengths, self.size)))
        grid = reduction(scale)
        axes = []
        for length, centre, have, size in zip(lengths, (y, x), (height, width), self.size):
            start = (have - length) / 2 + centre
            # Less than an output pixel away, on the grid of what a decoder gives.
            most = tf.floor(have / grid)
            whole = tf.minimum(tf.round(length / grid), most)
            first = tf.clip_by_value(tf.round(start / grid), 0.0, most - whole)
            edges = first * grid, whole * grid
            # The outermost samples, half an output pixel inside, on pixels: two of them, or the part stays as drawn.
            gaps = size - 1
            num = tf.minimum(tf.round(length * gaps / size), have - 1)
            first = tf.clip_by_value(tf.round(start + length / size / 2 - 0.5), 0.0, have - 1 - num)
            samples = first + 0.5 - num / max(gaps, 1) / 2, num * size / max(gaps, 1)
            on_pixels = (scale >= 0.5) & (num > 0)
            start, length = (
                tf.where(scale >= 1, edge, tf.where(on_pixels, sample, free))
                for edge, sample, free in zip(edges, samples, (start, length))
            )
            axes.append((False, start, length, size))
        return tuple(axes)

    def steps(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        (_, top, part_height, out_height), (_, left, part_width, out_width) = self.window(u, height, width)
        y = top + (part_height - tf.cast(height, tf.float32)) / 2
        x = left + (part_width - tf.cast(width, tf.float32)) / 2
        return [("affine", affine(part_width / out_width, 0.0, x, 0.0, part_height / out_height, y))]

    def central_steps(self, batch: Tensor, height: Tensor, width: Tensor) -> Any:
        return [("affine", matrix + tf.zeros([batch, 1, 1])) for _, matrix in self.steps(None, height, width)]


def reduction(scale: Any) -> Any:
    """Returns by how much a decoder may shrink an image: the largest of 1, 2, 4 and 8 that is at most `scale`."""
    return tf.where(scale >= 8, 8.0, tf.where(scale >= 4, 4.0, tf.where(scale >= 2, 2.0, 1.0)))


@register
class CenterCrop(Geometric):
    """Cuts the central window out of each image, in training too: `y[i, j] = x[i + a, j + b]`. An exact copy.

    `a = floor((h - height) / 2)`, `b` alike.

    Args:
        size: Integer or pair `(height, width)`, the window.

    Raises:
        ValueError: if the window is larger than the image.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import CenterCrop
    >>> tuple(CenterCrop(24)(np.zeros((2, 32, 40, 3), "uint8")).shape)
    (2, 24, 24, 3)
    """

    random = False
    exact = True
    cuts = True
    changes_size = True
    invertible = False

    def __init__(self, size: Any) -> None:
        self.size = check_size(size)
        self._crop = RandomCrop(0, self.size)

    @property
    def minimum_size(self) -> Any:
        return self.size

    def output_size(self, height: Tensor, width: Tensor) -> Any:
        return self._crop.output_size(height, width)

    def move(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        return self.central(tf.shape(u)[0], height, width)

    def central(self, batch: Tensor, height: Tensor, width: Tensor) -> Any:
        return self._crop.central(batch, height, width)


@register
class ResizeShortSide(Geometric):
    """Resizes each image, proportions kept, so that its shorter side has `size` pixels: drawn from a range, or fixed.

    `s ~ U{low ... high}` pixels, and `round(s long / short)` for the longer side. At test time `s` is the middle of the
    range, `(low + high) // 2`. Images of a batch must come out in one size, so that a crop follows: ResNet's training
    crop is `[ResizeShortSide((256, 480)), RandomCrop(0, size=224)]`, which resamples once. Bilinear, without smoothing
    before reduction.

    Args:
        size: Integer, or pair `(low, high)` of integers.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import Augment, RandomCrop, ResizeShortSide
    >>> crop = Augment([ResizeShortSide((32, 48)), RandomCrop(0, size=24)])
    >>> tuple(crop(np.zeros((2, 40, 60, 3), "uint8"), key=0).shape)
    (2, 24, 24, 3)

    Reference: [Simonyan and Zisserman, 2015](https://arxiv.org/abs/1409.1556), section 3.1; [He et al.,
    2016](https://arxiv.org/abs/1512.03385), section 3.4
    """

    num_draws = 1
    cuts = True
    changes_size = True
    invertible = False

    def __init__(self, size: Any) -> None:
        low, high = size if isinstance(size, (tuple, list)) and len(size) == 2 else (size, size)
        low, high = check_integer("size", low, 1), check_integer("size", high, 1)
        if low > high:
            raise ValueError(f"`size` must be an integer or a pair (low, high) in order. Received: size={size!r}")
        self.size = size if isinstance(size, int) else (low, high)
        self._range = low, high

    @property
    def least_side(self) -> Any:
        return self._range[0]

    def output_size(self, height: Tensor, width: Tensor) -> Any:
        low, high = self._range
        if height is None or width is None:
            return None, None
        if low == high and isinstance(height, int) and isinstance(width, int):
            return tuple(max(1, round(low * side / min(height, width))) for side in (height, width))
        return self.drawn_size(None, height, width) if low == high else (None, None)

    def drawn_size(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        low, high = self._range
        if low == high and isinstance(height, int) and isinstance(width, int):
            return self.output_size(height, width)
        short = tf.fill([1], (low + high) // 2)
        if u is not None:
            drawn = tf.cast(tf.floor(u[:, 0] * (high - low + 1)), tf.int32)
            short = low + tf.minimum(drawn, high - low)
        height, width = tf.cast(height, tf.int32), tf.cast(width, tf.int32)
        factor = tf.cast(short, tf.float64) / tf.cast(tf.minimum(height, width), tf.float64)
        sizes: Any = (tf.cast(tf.round(factor * tf.cast(side, tf.float64)), tf.int32) for side in (height, width))
        sizes = tuple(tf.maximum(size, 1) for size in sizes)
        # One size for all images of one size is a number.
        alike = height.shape.rank == 0 and (low == high or u is None)
        return tuple(size[0] for size in sizes) if alike else sizes

    def window(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        out = self.drawn_size(u, height, width)
        return tuple((False, 0, side, size) for side, size in zip((height, width), out))

    def steps(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        out_height, out_width = (tf.cast(size, tf.float32) for size in self.drawn_size(u, height, width))
        height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
        each = tf.zeros([1]) if u is None else tf.zeros_like(u[:, 0])
        scale_y, scale_x = height / out_height + each, width / out_width + each
        return [("affine", affine(scale_x, 0.0, 0.0, 0.0, scale_y, 0.0))]

    def central_steps(self, batch: Tensor, height: Tensor, width: Tensor) -> Any:
        return [("affine", matrix + tf.zeros([batch, 1, 1])) for _, matrix in self.steps(None, height, width)]
