"""Operations that move pixels. Neighbours fuse: the image is resampled once, or only copied where that is exact."""

import math
from typing import Any

import tensorflow as tf

from kregkit._core.checks import check_choice, check_number
from kregkit._core.types import Tensor
from kregkit.data import _warp
from kregkit.data._arguments import check_range, register
from kregkit.data._warp import affine
from kregkit.data.augment import Operation

FILLS = ("constant", "nearest", "reflect")


class Geometric(Operation):
    """An operation that says, for each output pixel, which place of the input it shows.

    `move` is the form for whole pixels, `steps` the general one. `u` are the draws `(batch, num_draws)`, or `None` at
    test time, when only operations that change the size still act, by their central version. Black is the lower end of
    the images' range, or the mean after `Standardize`.
    """

    moves_pixels = True
    exact = False
    # True if output positions are an affine map of input positions and the size stays. Then predictions per pixel of
    # test-time views can be mapped back by the inverse.
    invertible = True
    # True if it only cuts, resizes and mirrors.
    cuts = False
    # True if positions in the output are an affine map of those in the input: then a decoder can leave out what isn't
    # shown.
    is_affine = True
    margin = 0
    fill = None  # An operation that never looks outside fuses with any fill.

    def fuses_after(self, group: Tensor) -> Any:
        if not isinstance(group[-1], Geometric):
            return False
        operations = (*group, self)
        fills = {operation.fill for operation in operations} - {None}
        # A crop that pads shows zeros outside, which fuses with a constant fill only.
        if any(operation.margin for operation in operations):
            fills.add("constant")
        return len(fills) <= 1

    def run(self, group: Tensor, images: Tensor, masks: Tensor, value_range: tuple[float, float], black: Tensor) -> Any:
        return _warp.move(group, images, masks, value_range, black)

    def output_size(self, height: Tensor, width: Tensor) -> Any:
        return height, width

    def drawn_size(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        """Returns the size of the output where it depends on the draws: a number or a vector of the batch each."""
        return self.output_size(height, width)

    def move(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        """Returns `((flip, shift) of rows, (flip, shift) of columns)` of whole pixels, vectors of the batch."""
        raise NotImplementedError

    def steps(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        """Returns steps from this operation's output back to its input, as `_warp.coordinates` reads them."""
        sizes = (height, width)
        steps = []
        for (flip, shift), size, out in zip(self.move(u, height, width), sizes, self.output_size(height, width)):
            sign = tf.where(flip, -1.0, 1.0)
            # Centred: shift + i - (size - 1) / 2, where i = i_centred + (out - 1) / 2; a flip only negates i_centred.
            steps.append((sign, tf.cast(shift, tf.float32) + tf.cast(out - size, tf.float32) / 2))
        (sign_y, shift_y), (sign_x, shift_x) = steps
        return [("affine", affine(sign_x, 0.0, shift_x, 0.0, sign_y, shift_y))]

    def central(self, batch: Any, height: Tensor, width: Tensor) -> Any:
        """Returns `move` without randomness, for operations that change the size: the central window."""
        raise NotImplementedError

    def window(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        """Returns `(flip, start, length, out)` of rows and of columns, for operations that only cut and mirror.

        The pixels from `start` on, `length` of them, become `out` pixels, mirrored where `flip`. Numbers, or vectors
        of the batch.
        """
        out = self.output_size(height, width)
        moves = self.central(1, height, width) if u is None else self.move(u, height, width)
        return tuple((flip, start, size, size) for (flip, start), size in zip(moves, out))

    def matrix(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        """Returns `(batch, 3, 3)`: the map from positions in the output to positions in the input, from the centre.

        Raises:
            ValueError: if this operation is not `invertible`.
        """
        if not self.invertible:
            raise ValueError(f"This operation has no inverse that is known afterwards. Received: operation={self!r}")
        ((_, matrix),) = self.steps(u, height, width)
        return matrix


def _between(u, low, high):
    return low + (high - low) * u


def _radians(u, angle, most):
    return _between(u, *check_range("angle", angle, -most, most)) * (math.pi / 180)


@register
class RandomFlip(Geometric):
    """Mirrors each image left to right with probability 1/2: `y[i, j] = x[i, w - 1 - j]`. An exact copy.

    Args:
        mode: `"horizontal"` (the default), `"vertical"`, or `"both"`: two independent flips, so that all four
            results are equally likely (`keras.layers.RandomFlip("horizontal_and_vertical")` gives only two).
        probability: Float in [0, 1], of each flip. Defaults to `0.5`.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import RandomFlip
    >>> image = np.arange(4, dtype="uint8").reshape(1, 1, 4, 1)
    >>> (RandomFlip(probability=1.0)(image, key=0) * 255).numpy().round().ravel().tolist()
    [3.0, 2.0, 1.0, 0.0]
    """

    num_draws = 2
    exact = True
    cuts = True

    def __init__(self, mode: str = "horizontal", probability: float = 0.5) -> None:
        self.mode = check_choice("mode", mode, ("horizontal", "vertical", "both"))
        self.probability = check_number("probability", probability, 0, 1)

    def move(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        flip = u < self.probability
        never, still = tf.zeros_like(flip[:, 0]), tf.zeros_like(u[:, 0], tf.int32)
        horizontal = flip[:, 0] if self.mode != "vertical" else never
        vertical = flip[:, 1] if self.mode != "horizontal" else never
        return (vertical, still), (horizontal, still)


@register
class RandomTranslation(Geometric):
    """Shifts each image: `y(p) = x(p - t)`, `t_x ~ U(-width, width) w`, `t_y ~ U(-height, height) h`.

    Args:
        height, width: Floats in [0, 1] or pairs `(low, high)` in [-1, 1], as fractions of the image's size; positive
            moves down and right. Default to `0.1`.
        fill: `"constant"` (black, the default), `"nearest"` or `"reflect"`: what shows where the image has left.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import RandomTranslation
    >>> image = np.arange(4, dtype="uint8").reshape(1, 1, 4, 1)
    >>> (RandomTranslation(0.0, (0.25, 0.25))(image, key=0) * 255).numpy().round().ravel().tolist()
    [0.0, 0.0, 1.0, 2.0]
    """

    num_draws = 2

    def __init__(self, height: Tensor = 0.1, width: Tensor = 0.1, fill: str | float = "constant") -> None:
        check_range("height", height, -1, 1)
        check_range("width", width, -1, 1)
        self.height, self.width = height, width
        self.fill = check_choice("fill", fill, FILLS)

    def steps(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        down = _between(u[:, 0], *check_range("height", self.height, -1, 1)) * tf.cast(height, tf.float32)
        right = _between(u[:, 1], *check_range("width", self.width, -1, 1)) * tf.cast(width, tf.float32)
        return [("affine", affine(1.0, 0.0, -right, 0.0, 1.0, -down))]


@register
class RandomRotation(Geometric):
    """Turns each image about its centre: `y(R p) = x(p)`, `R = [[cos a, -sin a], [sin a, cos a]]`, `a` uniform.

    Args:
        angle: Float or pair `(low, high)`, in degrees; positive turns clockwise, as y points down. Defaults to `15.0`.
        fill: `"constant"` (black, the default), `"nearest"` or `"reflect"`: what shows in the corners.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import RandomRotation
    >>> image = np.arange(4, dtype="uint8").reshape(1, 2, 2, 1)
    >>> (RandomRotation((90, 90))(image, key=0) * 255).numpy().round().ravel().tolist()
    [2.0, 0.0, 3.0, 1.0]
    """

    num_draws = 1

    def __init__(self, angle: float = 15.0, fill: str | float = "constant") -> None:
        check_range("angle", angle, -360, 360)
        self.angle = angle
        self.fill = check_choice("fill", fill, FILLS)

    def steps(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        angle = _radians(u[:, 0], self.angle, 360)
        cos, sin = tf.cos(angle), tf.sin(angle)
        return [("affine", affine(cos, sin, 0.0, -sin, cos, 0.0))]


@register
class RandomStretch(Geometric):
    """Stretches each axis about the centre: `y(s p) = x(p)`, `log s_x, log s_y ~ U(-log(1 + f), log(1 + f))`.

    Args:
        factor: Float in [0, 10]: each axis is stretched or shrunk by up to `1 + factor`, both as often. Defaults to
            `0.2`.
        same: Boolean, whether both axes share one draw, which zooms and keeps proportions. Defaults to `False`.
        fill: `"constant"` (black, the default), `"nearest"` or `"reflect"`.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import RandomStretch
    >>> tuple(RandomStretch(0.3)(np.zeros((2, 8, 8, 3), "uint8"), key=0).shape)
    (2, 8, 8, 3)
    """

    num_draws = 2

    def __init__(self, factor: float = 0.2, same: bool = False, fill: str | float = "constant") -> None:
        self.factor = check_number("factor", factor, 0, 10)
        self.same = check_choice("same", same, (True, False))
        self.fill = check_choice("fill", fill, FILLS)

    def steps(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        most = math.log1p(self.factor)
        x, y = _between(u[:, 0], -most, most), _between(u[:, 0 if self.same else 1], -most, most)
        return [("affine", affine(tf.exp(-x), 0.0, 0.0, 0.0, tf.exp(-y), 0.0))]


@register
class RandomShear(Geometric):
    """Slants each image about its centre: `y(p_x + k p_y, p_y) = x(p)`, `k = tan a`, `a ~ U(-angle, angle)`.

    Args:
        angle: Float or pair `(low, high)` in [-80, 80], in degrees. Defaults to `10.0`.
        fill: `"constant"` (black, the default), `"nearest"` or `"reflect"`.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import RandomShear
    >>> tuple(RandomShear(20)(np.zeros((2, 8, 8, 3), "uint8"), key=0).shape)
    (2, 8, 8, 3)
    """

    num_draws = 1

    def __init__(self, angle: float = 10.0, fill: str | float = "constant") -> None:
        check_range("angle", angle, -80, 80)
        self.angle = angle
        self.fill = check_choice("fill", fill, FILLS)

    def steps(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        angle = _radians(u[:, 0], self.angle, 80)
        return [("affine", affine(1.0, -tf.tan(angle), 0.0, 0.0, 1.0, 0.0))]


@register
class LensDistortion(Geometric):
    """Bends each image as a lens does: `y(p) = x(p (1 + k r^2))`, `r = |p| / (half the diagonal)`, `k ~ U(-c, c)`.

    Positive `k` gives barrel distortion, as of a wide-angle lens, negative `k` pincushion.

    Args:
        coefficient: Float in [0, 0.3], or pair `(low, high)` in [-0.3, 0.3], in which the map stays one to one.
            Defaults to `0.15`.
        fill: `"constant"` (black, the default), `"nearest"` or `"reflect"`.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import LensDistortion
    >>> tuple(LensDistortion(0.2)(np.zeros((2, 8, 8, 3), "uint8"), key=0).shape)
    (2, 8, 8, 3)

    Reference: [Brown, 1966](https://www.asprs.org/wp-content/uploads/pers/1966journal/may/1966_may_444-462.pdf), the
    first radial term.
    """

    num_draws = 1
    invertible = False
    is_affine = False

    def __init__(self, coefficient: float = 0.15, fill: str | float = "constant") -> None:
        check_range("coefficient", coefficient, -0.3, 0.3)
        self.coefficient = coefficient
        self.fill = check_choice("fill", fill, FILLS)

    def steps(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        k = _between(u[:, 0], *check_range("coefficient", self.coefficient, -0.3, 0.3))
        height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
        return [("radial", k, 4.0 / (height * height + width * width))]
