"""Operations that cut a window out of each image."""

import math

import tensorflow as tf

from kregkit._core.checks import check_integer
from kregkit.data._arguments import check_size, register
from kregkit.data._warp import affine
from kregkit.data.geometry import Geometric


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

    def __init__(self, padding=4, size=None):
        self.padding = check_integer("padding", padding, 0)
        self.size = None if size is None else check_size(size)

    @property
    def margin(self):
        return self.padding

    @property
    def changes_size(self):
        return self.size is not None

    @property
    def invertible(self):
        # A window that is smaller than the image doesn't show all of it; one of the same size is a shift.
        return self.size is None

    @property
    def minimum_size(self):
        return None if self.size is None else tuple(side - 2 * self.padding for side in self.size)

    def output_size(self, height, width):
        if self.size is None:
            return height, width
        for have, want in zip((height, width), self.size):
            if isinstance(have, int) and have + 2 * self.padding < want:
                raise ValueError(
                    f"`size` must be at most the image and its padding, {height + 2 * self.padding}x"
                    f"{width + 2 * self.padding}. Received: size={self.size}"
                )
        return self.size

    def move(self, u, height, width):
        moves = []
        for axis, (have, want) in enumerate(zip((height, width), self.output_size(height, width))):
            choices = have + 2 * self.padding - want + 1
            start = tf.cast(tf.floor(u[:, axis] * tf.cast(choices, tf.float32)), tf.int32)
            moves.append((tf.zeros_like(start, tf.bool), tf.minimum(start, choices - 1) - self.padding))
        return tuple(moves)

    def central(self, batch, height, width):
        # The middle of an odd number of positions, else the upper left of the two middle ones.
        moves = []
        for have, want in zip((height, width), self.output_size(height, width)):
            start = tf.fill([batch], (have - want) // 2)
            moves.append((tf.zeros_like(start, tf.bool), start))
        return tuple(moves)


@register
class RandomResizedCrop(Geometric):
    """Cuts a random part of random size and shape, and resizes it to `size`: "random sizes" of the ImageNet recipe.

    The part has area `s h w`, `s ~ U(scale)`, and width over height `r`, `log r ~ U(log ratio)`, at a uniform position.
    Where it would stick out, `r` is brought to the nearest value for which it fits (others draw again, up to ten
    times, which a fixed number of draws per image can't). Bilinear, without smoothing before reduction. At test time:
    the largest central part of the output's proportions.

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

    num_draws = 4
    changes_size = True
    invertible = False

    def __init__(self, size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
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

    def output_size(self, height, width):
        return self.size

    def part(self, u, height, width):
        """Returns height, width and centre (from the image's centre, y and x) of the part, in pixels."""
        height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
        fraction = self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, 0]
        low, high = (math.log(end) for end in self.ratio)
        ratio = tf.exp(low + (high - low) * u[:, 1])
        # Width sqrt(area r) <= w and height sqrt(area / r) <= h bound r on both sides; the bounds meet at area h w.
        area = fraction * height * width
        ratio = tf.clip_by_value(ratio, area / (height * height), (width * width) / area)
        part_width = tf.minimum(tf.sqrt(area * ratio), width)
        part_height = tf.minimum(tf.sqrt(area / ratio), height)
        return part_height, part_width, (u[:, 2] - 0.5) * (height - part_height), (u[:, 3] - 0.5) * (width - part_width)

    def _onto(self, part_height, part_width, y, x):
        out_height, out_width = self.size
        return [("affine", affine(part_width / out_width, 0.0, x, 0.0, part_height / out_height, y))]

    def steps(self, u, height, width):
        return self._onto(*self.part(u, height, width))

    def central_steps(self, batch, height, width):
        height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
        ratio = self.size[1] / self.size[0]
        zero = tf.zeros([batch])
        part_width = tf.minimum(width, height * ratio)
        return self._onto(part_width / ratio + zero, part_width + zero, zero, zero)
