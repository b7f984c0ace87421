"""Automatic augmentation: operations drawn from a list for each image, without anything to tune or with two numbers."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kregkit._core.checks import check_choice, check_integer, check_number
from kregkit._core.types import Tensor
from kregkit.data import _tones, _warp
from kregkit.data._arguments import register
from kregkit.data._warp import affine
from kregkit.data.augment import Operation
from kregkit.data.color import LUMA
from kregkit.data.geometry import FILLS, Geometric

KINDS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast",
    "sharpness", "posterize", "solarize", "auto_contrast", "equalize",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Space:
    """What an operation of full strength does.

    Args:
        shear: Float, the tangent of the angle.
        shift: Callable from the image's side, in pixels, to the pixels of a shift.
        degrees: Float.
        factor: Float: brightness, colour, contrast and sharpness go from `1 - factor` to `1 + factor`.
        bits: Integer, how many of the 8 bits are cut off.
    """

    shear: float
    shift: Callable[[Any], Any]
    degrees: float
    factor: float
    bits: int


class Automatic(Geometric):
    """For each image `num` of the operations, each uniformly drawn, with a strength in [0, 1] and a sign.

    It has two parts. What moves pixels is one affine transform, which fuses with its neighbours; then come colours and
    tones, in the order in which they were drawn.
    """

    needs_range = True
    space: Space
    num = 1

    @property
    def num_draws(self) -> Any:
        return 3 * self.num

    @property
    def parts(self) -> Any:
        return [self, _Tones(self)]

    def strength(self, u: Tensor) -> Any:
        """Returns strengths in [0, 1] from uniform numbers."""
        raise NotImplementedError

    def drawn(self, u: Tensor) -> Any:
        """Yields `(kind, strength, sign)` of each of the `num` operations, vectors of the batch; `kind` is an index."""
        for each in tf.split(u, self.num, axis=-1):
            kind = tf.minimum(tf.cast(each[:, 0] * len(KINDS), tf.int32), len(KINDS) - 1)
            yield kind, self.strength(each[:, 1]), tf.where(each[:, 2] < 0.5, -1.0, 1.0)

    def steps(self, u: Tensor, height: Tensor, width: Tensor) -> Any:
        height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
        space, matrix = self.space, None
        for kind, strength, sign in self.drawn(u):
            amount = strength * sign

            def where(name, value, kind=kind):
                return tf.where(kind == KINDS.index(name), value, 0.0)

            angle = where("rotate", amount * (space.degrees * math.pi / 180))
            cos, sin = tf.cos(angle), tf.sin(angle)
            one = affine(
                cos, sin - where("shear_x", amount * space.shear), -where("translate_x", amount * space.shift(width)),
                -sin - where("shear_y", amount * space.shear), cos, -where("translate_y", amount * space.shift(height)),
            )  # fmt: skip
            matrix = one if matrix is None else matrix @ one
        return [("affine", matrix)]


class _Tones(Operation):
    """The part of an automatic augmentation that changes colours and tones."""

    needs_range = True

    def __init__(self, automatic):
        self.automatic = automatic

    def run(self, group, images, masks, value_range, black):
        ((_, u),) = group
        low, high = value_range
        values = _tones.levels(images, value_range)
        if self.automatic.num > 1:
            # One type, so that one compiled function serves all turns.
            values = tf.cast(values, tf.float32)
        paint = _warp.compiled(_paint, values)
        for kind, strength, sign in self.automatic.drawn(u):
            values = self._change(values, kind, strength, sign, paint)
        return values * ((high - low) / 255) + low, masks

    def _change(self, values, kind, strength, sign, paint):
        space = self.automatic.space

        def drawn(*names):
            return tf.reduce_any(tf.stack([kind == KINDS.index(name) for name in names]), 0)

        values = _tones.only_where(drawn("equalize"), values, _tones.equalize)
        channels = values.shape[-1]
        factor = 1 + space.factor * strength * sign
        colored = drawn("color")
        if channels == 3:
            # Towards grey or away from it.
            keep = tf.where(colored, factor, 1.0)[:, None, None]
            matrix = keep * tf.eye(3) + (1 - keep) * tf.tile(LUMA[:, None], (1, 3))
        else:
            matrix = tf.tile(tf.eye(channels)[None], (tf.size(kind), 1, 1))
        extremes = _tones.measured_where(
            drawn("auto_contrast"), values, _tones.extremes, [0.0] * channels + [255.0] * channels
        )
        stretch, offset = _tones.stretch(extremes)
        scale = tf.where(drawn("brightness", "contrast"), factor, 1.0)[:, None]
        grey = _tones.measured_where(drawn("contrast"), values, _tones.mean_level, [0.0])
        matrix = matrix * (stretch * scale)[:, None]
        offset = offset + tf.where(drawn("contrast"), 1 - factor, 0.0)[:, None] * grey
        threshold = tf.where(drawn("solarize"), 255 * (1 - strength), 256.0)
        step = tf.where(drawn("posterize"), 2.0 ** tf.round(space.bits * strength), 0.0)

        painted = paint(values, matrix, offset, threshold, step)
        sharp = drawn("sharpness")
        return _tones.only_where(sharp, painted, _tones.sharpen, tf.where(sharp, factor, 1.0))


def _paint(values, matrix, offset, threshold, step):
    """Does in one pass over the images what is a function of each pixel's own levels."""
    values = tf.cast(values, tf.float32)
    result = offset[:, None, None]
    for channel in range(values.shape[-1]):
        result = result + values[..., channel : channel + 1] * matrix[:, None, None, channel]
    result = tf.clip_by_value(result, 0.0, 255.0)
    result = _tones.solarize(result, threshold[:, None, None, None])
    return _tones.posterize(result, step[:, None, None, None])


@register
class TrivialAugment(Automatic):
    """Applies one operation of random kind and strength to each image: nothing to tune.

    The kind is one of 14, uniformly: identity, shear in x or y, shift in x or y, rotation, brightness, colour,
    contrast, sharpness, posterise, solarise, automatic contrast, equalise. The strength is one of 31 steps from nothing
    to the end of the paper's wide space: a shear of 0.99, a shift of 32 pixels (at most the side), 135 degrees, factors
    of 0.01 to 1.99, 2 bits, a threshold of 0. Signs are random.

    Put it behind `RandomFlip` and `RandomCrop`, with which its moves fuse to one transform, and before `RandomErasing`.
    Images are sheared about their centre, not about the upper left corner.

    Args:
        fill: `"constant"` (black, the default), `"nearest"` or `"reflect"`: what shows where the image has left.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import TrivialAugment
    >>> y = TrivialAugment()(np.full((4, 32, 32, 3), 100, "uint8"), key=0)
    >>> tuple(y.shape), y.dtype.name
    ((4, 32, 32, 3), 'float32')

    Reference: [Müller and Hutter, 2021](https://arxiv.org/abs/2103.10158)
    """

    space = Space(shear=0.99, shift=lambda side: tf.minimum(32.0, side), degrees=135.0, factor=0.99, bits=6)

    def __init__(self, fill: str = "constant") -> None:
        self.fill = check_choice("fill", fill, FILLS)

    def strength(self, u: Tensor) -> Any:
        return tf.minimum(tf.floor(u * 31), 30.0) / 30


@register
class RandAugment(Automatic):
    """Applies `num` operations of random kinds and one strength to each image, drawn with replacement.

    The kinds are those of `TrivialAugment`. At full strength, `magnitude=30`: a shear of 0.3, a shift of 45% of the
    side, 30 degrees, factors of 0.1 and 1.9, 4 bits, a threshold of 0. Signs are random. What moves pixels is done
    first, as one transform, then the rest in the order drawn. (`keras.layers.RandAugment` draws the kinds for the batch
    as a whole.)

    Args:
        num: Integer from 1 to 1000, operations for each image. Defaults to `2`.
        magnitude: Float in [0, 30], the strength. Defaults to `9.0`.
        fill: `"constant"` (black, the default), `"nearest"` or `"reflect"`: what shows where the image has left.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import RandAugment
    >>> tuple(RandAugment(2, 9)(np.full((4, 32, 32, 3), 100, "uint8"), key=0).shape)
    (4, 32, 32, 3)

    Reference: [Cubuk et al., 2020](https://arxiv.org/abs/1909.13719)
    """

    space = Space(shear=0.3, shift=lambda side: side * (150 / 331), degrees=30.0, factor=0.9, bits=4)

    def __init__(self, num: int = 2, magnitude: float = 9.0, fill: str = "constant") -> None:
        self.num = check_integer("num", num, 1, 1000)
        self.magnitude = check_number("magnitude", magnitude, 0, 30)
        self.fill = check_choice("fill", fill, FILLS)

    def strength(self, u: Tensor) -> Any:
        return tf.ones_like(u) * (self.magnitude / 30)
