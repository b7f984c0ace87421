"""The part of an image that crops show: what a decoder has to give, and how that becomes the output.

Where an `Augment` begins with operations that cut, resize, mirror, turn and shift, only the part that they show is
decoded, shrunk by the decoder as far as the output allows, and resampled once.
"""

import typing

import tensorflow as tf

from kregkit.data import _warp
from kregkit.data._cuts import Cuts
from kregkit.data._warps import Warps
from kregkit.data.color import Color
from kregkit.data.crops import reduction
from kregkit.data.geometry import Geometric


def windows(augment, training):
    """Returns the `Windows` of an `Augment`, or `None` where its first operations need the whole image."""
    groups = augment._groups(training)
    operations = [operation for _, operation in groups[0]] if groups else []
    if not operations or not all(isinstance(one, Geometric) and one.is_affine for one in operations):
        return None
    # The last size that is set must be one for all images.
    resizing = [one for one in operations if one.changes_size]
    if not resizing or resizing[-1].least_side is not None:
        return None
    return Windows(augment, training, resizing[-1].size)


# How many images are planned at once.
TOGETHER = 16


class Plan(typing.NamedTuple):
    """What of images is decoded. Each entry has the images as its first dimension, or is of one image.

    Attributes:
        window: int32 `(4,)`: top, left, height and width of what is decoded, in pixels of the shrunk file.
        factor: float32, 1, 2, 4 or 8: by how much the decoder shrinks.
        size: int32 `(2,)`, the whole image's, upright.
        how: A `Cut` or a `Warp`, how that becomes the output.
    """

    window: tf.Tensor
    factor: tf.Tensor
    size: tf.Tensor
    how: typing.Any


class File(typing.NamedTuple):
    """Files as the decoder shrinks them, seen upright; pairs are of rows and columns, of vectors of the images.

    Attributes:
        sizes: int32 `(num, 2)`, before they are shrunk.
        factor: float32, by how much they are.
        nums: Pair of int32: how many pixels there are then.
        beyond: Pair of float32: how far behind the first pixel's edge the image begins, in pixels.
    """

    sizes: tf.Tensor
    factor: tf.Tensor
    nums: typing.Any
    beyond: typing.Any


class Windows:
    """The first operations of an `Augment`, by windows; `finish` applies the others to whole batches.

    Args:
        augment: The `Augment`.
        training: Boolean.
        size: Pair, height and width of the output.
    """

    def __init__(self, augment, training, size):
        self.augment, self.training, self.size = augment, training, size
        self._first, *others = augment._groups(training)
        self._color = others[0] if others and isinstance(others[0][0][1], Color) else []
        operations = [operation for _, operation in self._first]
        self._way = (Cuts if all(one.cuts for one in operations) else Warps)(operations, size)

    def plans(self, keys, sizes, turns):
        """Returns the `Plan` of at most `TOGETHER` images.

        One compiled function, as a hundred small operations take longer than decoding; and one for many images, as its
        call takes a quarter of decoding. It always gets `TOGETHER` of them, so that no result depends on their number.

        Args:
            keys: Their keys, `(num,)`.
            sizes: int32 `(num, 2)`, heights and widths as they are stored.
            turns: int32 `(num,)`, their EXIF orientations.
        """
        num = tf.shape(keys)[0]

        def filled(values):
            values = tf.concat([values, tf.ones((TOGETHER - num, *values.shape[1:]), values.dtype)], 0)
            return tf.ensure_shape(values, (TOGETHER, *values.shape[1:]))

        compiled = tf.function(self._plans, jit_compile=True, autograph=False)
        return tf.nest.map_structure(lambda values: values[:num], compiled(*map(filled, (keys, sizes, turns))))

    def plan(self, key, size, turn):
        """Returns the `Plan` of one image."""
        return tf.nest.map_structure(lambda values: values[0], self.plans(key[None], size[None], turn[None]))

    def _plans(self, keys, sizes, turns):
        turned = turns[:, None] >= 5
        sizes = tf.where(turned, sizes[:, ::-1], sizes)
        seen, scale = self._way.look(self._pairs(self._first, keys), sizes)
        factor = reduction(scale)
        nums = tf.unstack(tf.cast(tf.math.ceil(tf.cast(sizes, tf.float32) / factor[:, None]), tf.int32), axis=1)
        mirrored = [tf.reduce_any(turns[:, None] == tf.constant(values), 1) for values in ((3, 4, 7, 8), (2, 3, 6, 7))]
        # The last square of the file may stick out of the image; mirrored, it is the first.
        beyond = [
            tf.where(mirror, tf.cast(num, tf.float32) - tf.cast(sizes[:, axis], tf.float32) / factor, 0.0)
            for axis, (mirror, num) in enumerate(zip(mirrored, nums))
        ]
        parts, how = self._way.parts(seen, File(sizes, factor, nums, beyond))
        (top, height), (left, width) = (
            (tf.where(mirror, num - first - count, first), count)
            for (first, count), mirror, num in zip(parts, mirrored, nums)
        )
        window = tf.where(turned, tf.stack([left, top, width, height], 1), tf.stack([top, left, height, width], 1))
        return Plan(window, factor, sizes, how)

    def _pairs(self, group, keys):
        return [(operation, self.augment.draws(keys, index) if self.training else None) for index, operation in group]

    def resample(self, image, plan):
        """Makes the output of the upright window that a `Plan` asks for: float32 in 0..255; `finish` does the rest."""
        return tf.ensure_shape(self._way.resample(image, plan.how), (*self.size, image.shape[-1]))

    def finish(self, images, later, keys):
        """Applies everything else to a batch, in one compiled pass as far as the colours go.

        Args:
            images: float32 images in 0..255, as `resample` gives them.
            later: What `Plan.how.later` says of each of them.
            keys: Their keys.

        Returns:
            float32 images in the range.
        """
        augment = self.augment
        draws = [u for _, u in self._pairs(self._color, keys)]

        def run(images, later, *draws):
            images = augment.value_range.scaled(images)
            images = self._way.finish(images, later, augment.value_range.low)
            if self._color:
                pairs = [(operation, u) for (_, operation), u in zip(self._color, draws)]
                images, _ = pairs[0][0].run(pairs, images, None, augment.value_range, augment.value_range.low)
            return images

        images = _warp.compiled(run, images)(images, later, *draws)
        return augment.transform(images, keys, None, self.training, num_done=1 + bool(self._color))[0]


def shrunk(image, factor):
    """Returns the means of squares of `factor` pixels, rounded: what a decoder gives that shrinks, or nearly."""

    def mean():
        side = tf.cast(factor, tf.int32)
        size = tf.shape(image)[:2]
        num = -(-size // side)
        rows = tf.minimum(tf.range(num[0] * side), size[0] - 1)
        columns = tf.minimum(tf.range(num[1] * side), size[1] - 1)
        whole = tf.cast(tf.gather(tf.gather(image, rows), columns, axis=1), tf.float32)
        squares = tf.reshape(whole, (num[0], side, num[1], side, image.shape[-1]))
        return tf.cast(tf.round(tf.reduce_mean(squares, (1, 3))), tf.uint8)

    return tf.cond(factor > 1, mean, lambda: image)
