"""The part of an image that crops show: what a decoder has to give, and how that becomes the output.

Where an `Augment` begins with operations that only cut, resize and mirror, each axis of the output shows a window of
the image: `length` pixels from `start` on become `out` pixels, mirrored or not. Only the window is decoded, shrunk by
the decoder as far as the output allows, and resampled once.
"""

import typing

import tensorflow as tf

from kregkit.data import _warp
from kregkit.data.color import Color
from kregkit.data.crops import reduction
from kregkit.data.geometry import Geometric, RandomFlip


def windows(augment, training):
    """Returns the `Windows` of an `Augment`, or `None` where its first operations do more than cut and mirror."""
    groups = augment._groups(training)
    operations = [operation for _, operation in groups[0]] if groups else []
    if not operations or not all(isinstance(one, Geometric) and one.cuts for one in operations):
        return None
    # The last size that is set must be one for all images.
    resizing = [one for one in operations if one.changes_size]
    if not resizing or resizing[-1].least_side is not None:
        return None
    return Windows(augment, training, resizing[-1].size)


class Plan(typing.NamedTuple):
    """How an image becomes the output.

    Attributes:
        window: int32 `(4,)`: top, left, height and width of what is decoded, in pixels of the shrunk file.
        factor: float32, 1, 2, 4 or 8: by how much the decoder shrinks.
        kind: int32: 0 if the window is the output, 1 if it has whole pixels and is larger, else 2.
        box: float32 `(1, 4)`: the outermost samples in the window for `tf.raw_ops.CropAndResize`.
        flips: Booleans `(2,)`, whether rows and columns are to be mirrored.
        size: int32 `(2,)`, the whole image's, upright.
    """

    window: tf.Tensor
    factor: tf.Tensor
    kind: tf.Tensor
    box: tf.Tensor
    flips: tf.Tensor
    size: tf.Tensor

    def resample(self, image, size):
        """Resamples the upright window: bilinear between pixel centres, not mirrored. Returns float32 in 0..255."""

        def resize():
            # Twice as fast as what follows, but it knows windows of whole pixels only.
            return tf.raw_ops.ResizeBilinear(images=image[None], size=size, half_pixel_centers=True)[0]

        def interpolate():
            # Many times as fast as `tf.pad(mode="SYMMETRIC")`.
            padded = tf.concat([image[:1], image, image[-1:]], 0)
            padded = tf.concat([padded[:, :1], padded, padded[:, -1:]], 1)
            return tf.raw_ops.CropAndResize(image=padded[None], boxes=self.box, box_ind=[0], crop_size=size)[0]

        result = tf.switch_case(self.kind, [lambda: tf.cast(image, tf.float32), resize, interpolate])
        return tf.ensure_shape(result, (*size, image.shape[-1]))


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
        modes = [one.mode for _, one in self._first if isinstance(one, RandomFlip)]
        # Rows, columns.
        self._flips = any(mode != "horizontal" for mode in modes), any(mode != "vertical" for mode in modes)

    def plan(self, key, size, turn):
        """Returns the `Plan` of an image: one compiled function, as a hundred small operations take longer than that.

        Args:
            key: Its key.
            size: int32 `(2,)`, height and width as they are stored.
            turn: int32, its EXIF orientation.
        """
        return Plan(*tf.function(self._plan, jit_compile=True, autograph=False)(key, size, turn))

    def _plan(self, key, size, turn):
        size = tf.where(turn >= 5, size[::-1], size)
        axes = self._axes(key, size[0], size[1])
        factor = reduction(tf.minimum(*(length / tf.cast(out, tf.float32) for _, _, length, out in axes)))
        num = tf.cast(tf.math.ceil(tf.cast(size, tf.float32) / factor), tf.int32)
        mirrored = [tf.reduce_any(turn == tf.constant(values)) for values in ((3, 4, 7, 8), (2, 3, 6, 7))]
        window, ends, whole, same = [], [], True, True
        for axis, (_, start, length, out) in enumerate(axes):
            # The last square of the file may stick out of the image; mirrored, it is the first.
            beyond = tf.cast(num[axis], tf.float32) - tf.cast(size[axis], tf.float32) / factor
            start, length = start / factor + tf.where(mirrored[axis], beyond, 0.0), length / factor
            first, count = _pixels(start, length, out, num[axis])
            in_file = tf.where(mirrored[axis], num[axis] - first - count, first)
            window.append((in_file, count))
            # A window that is larger than the image is refused later, by the image's name.
            inside = (start >= 0) & (start + length <= tf.cast(num[axis], tf.float32))
            whole, same = whole & inside & _is_whole(start, length, out), same & (length == tf.cast(out, tf.float32))
            # In the window padded by one pixel on each side, as shares of its length.
            start, most, half = start - tf.cast(first, tf.float32), tf.cast(count, tf.float32) + 1, length / out / 2
            end = start + half + 0.5, start + length - half + 0.5
            ends.append([tf.clip_by_value(one, 0.0, most) / most for one in end])
        (top, height), (left, width) = window
        window = tf.where(turn >= 5, tf.stack([left, top, width, height]), tf.stack([top, left, height, width]))
        box = tf.stack([ends[axis][end] for end in (0, 1) for axis in (0, 1)])[None]
        kind = tf.where(whole, tf.where(same, 0, 1), 2)
        flips = tf.stack([tf.cast(flip, tf.bool) for flip, *_ in axes])
        return window, factor, kind, box, flips, size

    def _axes(self, key, height, width):
        """Returns the windows of rows and of columns, scalars `(flip, start, length, out)`."""
        axes = tuple((False, tf.zeros([]), tf.cast(size, tf.float32), size) for size in (height, width))
        for index, operation in self._first:
            u = self.augment.draws(key[None], index) if self.training else None
            sizes = [size for *_, size in axes]
            axes = tuple(_composed(*both) for both in zip(axes, operation.window(u, *sizes)))
        return axes

    def finish(self, images, flips, keys):
        """Applies everything else to a batch, in one compiled pass as far as the colours go.

        Args:
            images: float32 images in 0..255, as `Plan.resample` gives them.
            flips: Booleans `(batch, 2)`, whether rows and columns are mirrored.
            keys: Their keys.

        Returns:
            float32 images in the range.
        """
        augment = self.augment
        draws = [augment.draws(keys, index) if self.training else None for index, _ in self._color]

        def run(images, flips, *draws):
            images = augment.value_range.scaled(images)
            for axis in (0, 1):
                if self._flips[axis]:
                    images = tf.where(flips[:, axis, None, None, None], tf.reverse(images, [1 + axis]), images)
            if self._color:
                pairs = [(operation, u) for (_, operation), u in zip(self._color, draws)]
                images, _ = pairs[0][0].run(pairs, images, None, augment.value_range, augment.value_range.low)
            return images

        images = _warp.compiled(run, images)(images, flips, *draws)
        return augment.transform(images, keys, None, self.training, num_done=1 + bool(self._color))[0]


def _composed(axis, following):
    flip, start, length, out = axis
    flips, first, num, size = following
    out, first, num = (tf.cast(value, tf.float32) for value in (out, first, num))
    # Products of whole numbers are exact, and so are their quotients where those are whole.
    first = tf.where(flip, out - first - num, first)
    values = tf.math.logical_xor(flip, flips), start + first * length / out, num * length / out
    return (*(tf.reshape(value, []) for value in values), size if isinstance(size, int) else tf.reshape(size, []))


def _pixels(start, length, out, size):
    """Returns `(first, num)`, int32: which pixels of an axis of `size` pixels the output is interpolated from."""
    half = length / tf.cast(out, tf.float32) / 2
    whole = _is_whole(start, length, out)
    # The outermost samples lie half an output pixel inside.
    first = tf.where(whole, start, tf.floor(start + half - 0.5))
    last = tf.where(whole, start + length - 1, tf.floor(start + length - half - 0.5) + 1)
    first, last = (tf.clip_by_value(tf.cast(value, tf.int32), 0, size - 1) for value in (first, last))
    return first, tf.maximum(last, first) - first + 1


def _is_whole(start, length, out):
    return (start == tf.floor(start)) & (length == tf.floor(length)) & (length >= tf.cast(out, tf.float32))


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
