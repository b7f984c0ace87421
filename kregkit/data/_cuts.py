"""Windows that are cut out of images, resized and mirrored: what to decode, and how it becomes the output.

Each axis of the output shows `length` pixels of the image, from `start` on, as `out` pixels, mirrored or not.
"""

import functools
import typing

import tensorflow as tf

from kregkit.data.geometry import RandomFlip

# Of a pixel: what float32 positions of the largest images may be off.
_NEAR = 0.004


class Cut(typing.NamedTuple):
    """How decoded windows become the output. Each entry has the images as its first dimension, or is of one image.

    Attributes:
        kind: int32: 0 if the window is the output, 1 if its edges are those of pixels, 2 if the outermost samples are
            pixels, else 3.
        box: float32 `(1, 4)`: the outermost samples in the window for `tf.raw_ops.CropAndResize`.
        later: Booleans `(2,)`, whether rows and columns are to be mirrored.
    """

    kind: tf.Tensor
    box: tf.Tensor
    later: tf.Tensor


class Cuts:
    """Operations that only cut, resize and mirror.

    Args:
        operations: List of `Geometric` operations.
        size: Pair, height and width of the output.
    """

    def __init__(self, operations, size):
        self._size = size
        modes = [one.mode for one in operations if isinstance(one, RandomFlip)]
        # Rows, columns.
        self._flips = any(mode != "horizontal" for mode in modes), any(mode != "vertical" for mode in modes)

    def look(self, pairs, sizes):
        """Returns what the output shows, and how many of the image's pixels one of its pixels covers.

        Args:
            pairs: List of `(operation, u)`, with `u` the operation's draws, or `None` at test time.
            sizes: int32 `(num, 2)`, heights and widths of the upright images.
        """
        nothing = tf.zeros(tf.shape(sizes)[:1], tf.bool)
        start = tf.zeros(tf.shape(sizes)[:1])
        axes = tuple((nothing, start, tf.cast(size, tf.float32), size) for size in (sizes[:, 0], sizes[:, 1]))
        for operation, u in pairs:
            following = operation.window(u, *[size for *_, size in axes])
            axes = tuple(_composed(*both) for both in zip(axes, following))
        return axes, tf.minimum(*(length / tf.cast(out, tf.float32) for _, _, length, out in axes))

    def parts(self, axes, file):
        """Returns `(first, count)` of the rows and of the columns to decode, in the shrunk file, and the `Cut`."""
        spans = [
            _Span(start / file.factor + beyond, length / file.factor, tf.cast(out, tf.float32), num)
            for (_, start, length, out), beyond, num in zip(axes, file.beyond, file.nums)
        ]
        edges = _all(span.has_edges_of_pixels() for span in spans)
        samples = _all(_is_near(end) for span in spans for end in span.outermost())
        same = edges & _all(tf.abs(span.length - span.out) < _NEAR for span in spans)
        parts, ends = [], []
        for span in spans:
            first, count = span.pixels(edges, samples)
            parts.append((first, count))
            # In the window padded by one pixel on each side, as shares of its length.
            begin, most = tf.cast(first, tf.float32) - 1, tf.cast(count, tf.float32) + 1
            ends.append([tf.clip_by_value(end - begin, 0.0, most) / most for end in span.outermost()])
        box = tf.stack([ends[axis][end] for end in (0, 1) for axis in (0, 1)], 1)[:, None]
        kind = tf.where(same, 0, tf.where(edges, 1, tf.where(samples, 2, 3)))
        return parts, Cut(kind, box, tf.stack([flip for flip, *_ in axes], 1))

    def resample(self, image, cut):
        """Resamples an upright window, uint8, bilinearly; not mirrored. Returns float32 in 0..255."""

        def resize(**how):
            # Twice as fast as what follows, but it knows windows of whole pixels only.
            return lambda: tf.raw_ops.ResizeBilinear(images=image[None], size=self._size, **how)[0]

        def interpolate():
            # Many times as fast as `tf.pad(mode="SYMMETRIC")`.
            padded = tf.concat([image[:1], image, image[-1:]], 0)
            padded = tf.concat([padded[:, :1], padded, padded[:, -1:]], 1)
            return tf.raw_ops.CropAndResize(image=padded[None], boxes=cut.box, box_ind=[0], crop_size=self._size)[0]

        copy = lambda: tf.cast(image, tf.float32)  # noqa: E731
        ways = [copy, resize(half_pixel_centers=True), resize(align_corners=True), interpolate]
        return tf.switch_case(cut.kind, ways)

    def finish(self, images, flips, black):
        """Mirrors a batch, under XLA."""
        for axis in (0, 1):
            if self._flips[axis]:
                images = tf.where(flips[:, axis, None, None, None], tf.reverse(images, [1 + axis]), images)
        return images


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
