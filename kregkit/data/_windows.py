"""The part of an image that crops show: what a decoder has to give, and how that becomes the output.

Where an `Augment` begins with operations that only cut, resize and mirror, each axis of the output shows a window of
the image: `length` pixels from `start` on become `out` pixels, mirrored or not. Only the window is decoded, shrunk by
the decoder as far as the output allows, and resampled once.
"""

import functools
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


# How many images are planned at once.
TOGETHER = 16
# Of a pixel: what float32 positions of the largest images may be off.
_NEAR = 0.004


class Plan(typing.NamedTuple):
    """How images become the output. Each entry has the images as its first dimension, or is of one image.

    Attributes:
        window: int32 `(4,)`: top, left, height and width of what is decoded, in pixels of the shrunk file.
        factor: float32, 1, 2, 4 or 8: by how much the decoder shrinks.
        kind: int32: 0 if the window is the output, 1 if its edges are those of pixels, 2 if the outermost samples are
            pixels, else 3.
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

        def resize(**how):
            # Twice as fast as what follows, but it knows windows of whole pixels only.
            return lambda: tf.raw_ops.ResizeBilinear(images=image[None], size=size, **how)[0]

        def interpolate():
            # Many times as fast as `tf.pad(mode="SYMMETRIC")`.
            padded = tf.concat([image[:1], image, image[-1:]], 0)
            padded = tf.concat([padded[:, :1], padded, padded[:, -1:]], 1)
            return tf.raw_ops.CropAndResize(image=padded[None], boxes=self.box, box_ind=[0], crop_size=size)[0]

        copy = lambda: tf.cast(image, tf.float32)  # noqa: E731
        ways = [copy, resize(half_pixel_centers=True), resize(align_corners=True), interpolate]
        return tf.ensure_shape(tf.switch_case(self.kind, ways), (*size, image.shape[-1]))


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
        return Plan(*(values[:num] for values in compiled(*map(filled, (keys, sizes, turns)))))

    def plan(self, key, size, turn):
        """Returns the `Plan` of one image."""
        return Plan(*(values[0] for values in self.plans(key[None], size[None], turn[None])))

    def _plans(self, keys, sizes, turns):
        sizes = tf.where(turns[:, None] >= 5, sizes[:, ::-1], sizes)
        axes = self._axes(keys, sizes[:, 0], sizes[:, 1])
        factor = reduction(tf.minimum(*(length / tf.cast(out, tf.float32) for _, _, length, out in axes)))
        nums = tf.cast(tf.math.ceil(tf.cast(sizes, tf.float32) / factor[:, None]), tf.int32)
        mirrored = [tf.reduce_any(turns[:, None] == tf.constant(values), 1) for values in ((3, 4, 7, 8), (2, 3, 6, 7))]
        spans = []
        for axis, (_, start, length, out) in enumerate(axes):
            num = nums[:, axis]
            # The last square of the file may stick out of the image; mirrored, it is the first.
            beyond = tf.cast(num, tf.float32) - tf.cast(sizes[:, axis], tf.float32) / factor
            start = start / factor + tf.where(mirrored[axis], beyond, 0.0)
            spans.append(_Span(start, length / factor, tf.cast(out, tf.float32), num))
        edges = _all(span.has_edges_of_pixels() for span in spans)
        samples = _all(_is_near(end) for span in spans for end in span.outermost())
        same = edges & _all(tf.abs(span.length - span.out) < _NEAR for span in spans)
        window, ends = [], []
        for span, mirror in zip(spans, mirrored):
            first, count = span.pixels(edges, samples)
            window.append((tf.where(mirror, span.num - first - count, first), count))
            # In the window padded by one pixel on each side, as shares of its length.
            begin, most = tf.cast(first, tf.float32) - 1, tf.cast(count, tf.float32) + 1
            ends.append([tf.clip_by_value(end - begin, 0.0, most) / most for end in span.outermost()])
        (top, height), (left, width) = window
        window = tf.where(
            turns[:, None] >= 5, tf.stack([left, top, width, height], 1), tf.stack([top, left, height, width], 1)
        )
        box = tf.stack([ends[axis][end] for end in (0, 1) for axis in (0, 1)], 1)[:, None]
        kind = tf.where(same, 0, tf.where(edges, 1, tf.where(samples, 2, 3)))
        flips = tf.stack([flip for flip, *_ in axes], 1)
        return window, factor, kind, box, flips, sizes

    def _axes(self, keys, heights, widths):
        """Returns the windows of rows and of columns: `(flip, start, length, out)`, vectors of the images."""
        nothing = tf.zeros(tf.shape(keys), tf.bool)
        axes = tuple((nothing, tf.zeros(tf.shape(keys)), tf.cast(size, tf.float32), size) for size in (heights, widths))
        for index, operation in self._first:
            u = self.augment.draws(keys, index) if self.training else None
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
    first = tf.where(flip, out - first - num, first)
    return tf.math.logical_xor(flip, flips), start + first * length / out, num * length / out, size


class _Span(typing.NamedTuple):
    """What axes show: `length` of their `num` pixels, from `start` on, as `out` pixels. Vectors of the images."""

    start: tf.Tensor
    length: tf.Tensor
    out: tf.Tensor
    num: tf.Tensor

    def outermost(self):
        """Returns where the first and the last sample lie, half an output pixel inside; 0 is a pixel's centre."""
        half = self.length / self.out / 2
        return self.start + half - 0.5, self.start + self.length - half - 0.5

    def has_edges_of_pixels(self):
        # A window that is larger than the image is refused later, by the image's name.
        inside = (self.start > -_NEAR) & (self.start + self.length < tf.cast(self.num, tf.float32) + _NEAR)
        return inside & _is_near(self.start) & _is_near(self.length) & (self.length > self.out - _NEAR)

    def pixels(self, edges, samples):
        """Returns `(first, count)`, int32: which pixels the output is interpolated from.

        Args:
            edges: Booleans, whether the window's edges are those of pixels, on both axes.
            samples: Booleans, whether its outermost samples are pixels, on both axes.
        """
        low, high = self.outermost()
        first = tf.where(edges, tf.round(self.start), tf.where(samples, tf.round(low), tf.floor(low)))
        last = tf.where(samples, tf.round(high), tf.floor(high) + 1)
        last = tf.where(edges, tf.round(self.start + self.length) - 1, last)
        first, last = (tf.clip_by_value(tf.cast(value, tf.int32), 0, self.num - 1) for value in (first, last))
        return first, tf.maximum(last, first) - first + 1


def _is_near(value):
    return tf.abs(value - tf.round(value)) < _NEAR


def _all(conditions):
    return functools.reduce(tf.logical_and, conditions)


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
