"""Windows that images are turned, slanted and shifted in: what to decode, and how it becomes the output."""

import functools
import typing

import tensorflow as tf

from kregkit.data import _warp


class Warp(typing.NamedTuple):
    """How decoded windows become the output. Each entry has the images as its first dimension, or is of one image.

    Attributes:
        transform: float32 `(8,)`, from columns and rows of the output to those of the window, for
            `tf.raw_ops.ImageProjectiveTransformV3`.
        later: Booleans of the output's size, where it shows the image and not what is outside; `(1, 1)` where it shows
            nothing of that.
    """

    transform: tf.Tensor
    later: tf.Tensor


class Warps:
    """Operations of which each is an affine map: the image is resampled once, as by `_warp.warp`.

    Args:
        operations: List of `Geometric` operations.
        size: Pair, height and width of the output.
    """

    def __init__(self, operations, size):
        self._size = size
        self._fill = _warp.fill_of(operations)

    def look(self, pairs, sizes):
        """Returns what the output shows, and how many of the image's pixels one of its pixels covers.

        Arguments as for `Cuts.look`.
        """
        steps, _ = _warp.steps_of(pairs, tf.shape(sizes)[0], sizes[:, 0], sizes[:, 1])
        matrix = functools.reduce(tf.matmul, [matrix for _, matrix in steps])
        (a, b), (c, d) = (tf.unstack(matrix[:, row, :2], axis=1) for row in (0, 1))
        # The smaller singular value, and a little: rounding mustn't keep a decoder from halving what is halved.
        turned, slanted = tf.sqrt((a + d) ** 2 + (b - c) ** 2), tf.sqrt((a - d) ** 2 + (b + c) ** 2)
        return matrix, tf.abs(turned - slanted) / 2 * 1.0001

    def parts(self, matrix, file):
        """Returns `(first, count)` of the rows and of the columns to decode, in the shrunk file, and the `Warp`."""
        height, width = self._size
        y, x = (tf.range(float(size)) - (size - 1) / 2 for size in self._size)
        # TensorFlow's `unbatch` can't be given parts of no size.
        parts, rows, inside = [], [], tf.fill((tf.shape(matrix)[0], 1, 1), True)
        # Rows are the matrix's second row.
        for axis, values in ((0, matrix[:, 1]), (1, matrix[:, 0])):
            by_x, by_y, shift = tf.unstack(values, axis=1)
            side, num = tf.cast(file.sizes[:, axis], tf.float32), file.nums[axis]
            reach = (tf.abs(by_x) * (width - 1) + tf.abs(by_y) * (height - 1)) / 2
            # From distances to the image's centre to numbers of pixels in the shrunk file.
            middle = (shift + side / 2) / file.factor - 0.5 + file.beyond[axis]
            first, count = self._reached(middle, reach / file.factor, num)
            parts.append((first, count))
            corner = middle - (by_x * (width - 1) + by_y * (height - 1)) / 2 / file.factor - tf.cast(first, tf.float32)
            rows.append([by_x / file.factor, by_y / file.factor, corner])
            if self._fill == "constant":
                position = by_x[:, None, None] * x + by_y[:, None, None] * y[:, None] + shift[:, None, None]
                inside &= tf.abs(position) <= side[:, None, None] / 2
        nothing = tf.zeros_like(rows[0][0])
        return parts, Warp(tf.stack([*rows[1], *rows[0], nothing, nothing], 1), inside)

    def _reached(self, middle, reach, num):
        """Returns `(first, count)` of the pixels between which positions lie, from `middle - reach` on."""
        low, high = middle - reach, middle + reach
        if self._fill == "reflect":
            # What is mirrored at one border is behind the other end of what is seen.
            top = tf.cast(num, tf.float32) - 0.5
            low, high = tf.minimum(low, 2 * top - high), tf.maximum(high, -1 - low)
        first, last = (
            tf.clip_by_value(tf.cast(end, tf.int32), 0, num - 1) for end in (tf.floor(low), tf.floor(high) + 1)
        )
        return first, last - first + 1

    def resample(self, image, warp):
        """Resamples an upright window, uint8, bilinearly. Returns float32 in 0..255."""
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=tf.cast(image, tf.float32)[None],
            transforms=warp.transform[None],
            output_shape=self._size,
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="REFLECT" if self._fill == "reflect" else "NEAREST",
        )[0]

    def finish(self, images, inside, black):
        """Shows black outside the images of a batch, under XLA."""
        return tf.where(inside[..., None], images, black) if self._fill == "constant" else images
