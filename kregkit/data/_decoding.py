"""Decodes the windows of encoded images, without Python for JPEG files."""

import typing

import numpy as np
import tensorflow as tf

from kregkit.data._exif import exif_orientation
from kregkit.data._windows import shrunk

# The EXIF header, or the beginning of the scan behind all headers: of three colours, or grey. TensorFlow's expressions
# can't name bytes above 127.
_EXIF_OR_SCAN = r"(?s)Exif\x00\x00|\x00\x0c\x03\C{6}[\x00-\x3f][\x00-\x3f]|\x00\x08\x01\C{2}[\x00-\x3f][\x00-\x3f]"
_HEADER_BYTES = 4096


class Header(typing.NamedTuple):
    """What is known of an image before it is decoded.

    Attributes:
        size: int32 `(2,)`, height and width as they are stored; zeros where the image isn't decoded in part.
        turn: int32, the EXIF orientation.
        in_part: Boolean.
    """

    size: tf.Tensor
    turn: tf.Tensor
    in_part: tf.Tensor


class WindowDecoder:
    """Decodes what a `Windows` shows of an image.

    Args:
        windows: The `Windows`.
        channels: 1, 3 or 4; JPEG files of the first two are decoded in part.
        orientation: Boolean, whether images are turned as their EXIF header says.
        max_pixels: Integer or `None`; larger ones are left to `whole`.
        in_part: Boolean. `False` leaves all images to `whole`.
    """

    def __init__(self, windows, channels, orientation, max_pixels, in_part=True):
        self._windows, self._channels = windows, channels
        self._orientation = orientation
        self._max_pixels = 2**62 if max_pixels is None else max_pixels
        self._in_part = in_part and channels in (1, 3)

    def header(self, content, orientation=None):
        """Returns what must be known before an image is planned: a `Header`.

        Args:
            content: String tensor, the bytes.
            orientation: Integer tensor, the EXIF orientation if it is known.
        """
        whole = Header(tf.zeros([2], tf.int32), tf.constant(1), tf.constant(False))
        if not self._in_part:
            return whole

        def read():
            shape = tf.image.extract_jpeg_shape(content)
            small = tf.cast(shape[0], tf.int64) * tf.cast(shape[1], tf.int64) <= self._max_pixels
            turn = self._orientation_of(content) if orientation is None else tf.cast(orientation, tf.int32)
            # Four channels, CMYK, are converted in another way.
            return Header(shape[:2], turn, small & (shape[2] <= 3))

        return tf.cond(_is_whole_jpeg(content), read, lambda: whole)

    def decode(self, content, key, header, plan, whole):
        """Returns `(image, later, size)`.

        Args:
            content: String tensor, the bytes.
            key: The image's key.
            header: Its `Header`.
            plan: The `Plan` made of key and header.
            whole: Callable that returns the upright image, uint8 `(h, w, channels)`, where it isn't decoded in part.

        Returns:
            The image, as `Windows.resample` gives it; what `Windows.finish` needs of it besides; and the size of the
            whole image, upright.
        """

        def decoded():
            image = tf.ensure_shape(whole(), (None, None, self._channels))
            plan = self._windows.plan(key, tf.shape(image)[:2], tf.constant(1))
            top, left, height, width = tf.unstack(plan.window)
            image = shrunk(image, plan.factor)[top : top + height, left : left + width]
            return self._windows.resample(image, plan), plan.how.later, plan.size

        def in_part():
            def cut(ratio):
                return tf.image.decode_and_crop_jpeg(content, plan.window, channels=self._channels, ratio=ratio)

            branch = tf.reduce_sum(tf.cast(plan.factor > [1.0, 2.0, 4.0], tf.int32))
            image = tf.switch_case(branch, [lambda ratio=ratio: cut(ratio) for ratio in (1, 2, 4, 8)])
            image.set_shape((None, None, self._channels))
            image = tf.cond(header.turn > 1, lambda: upright_in_graph(image, header.turn), lambda: image)
            return self._windows.resample(image, plan), plan.how.later, plan.size

        return tf.cond(header.in_part, in_part, decoded) if self._in_part else decoded()

    def _orientation_of(self, content):
        if not self._orientation:
            return tf.constant(1)
        head = tf.strings.substr(content, 0, _HEADER_BYTES)
        left = tf.strings.length(tf.strings.regex_replace(head, _EXIF_OR_SCAN, "", replace_global=False))
        num = tf.strings.length(head) - left

        def read():
            value = tf.numpy_function(lambda content: np.int32(exif_orientation(content)), [content], tf.int32, False)
            return tf.ensure_shape(value, ())

        # Of the three, the EXIF header's beginning alone has six bytes; without any, the headers are long.
        return tf.cond((num == 6) | (num == 0), read, lambda: tf.constant(1))


def upright_in_graph(image, orientation):
    """Returns an image `(h, w, channels)` as its EXIF orientation says that it is to be seen."""
    shape = image.shape
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    image = tf.cond(_among(orientation, (2, 3, 6, 7)), lambda: tf.reverse(image, [1]), lambda: image)
    image = tf.cond(_among(orientation, (3, 4, 7, 8)), lambda: tf.reverse(image, [0]), lambda: image)
    return tf.ensure_shape(image, (None, None, shape[-1]))


def _among(orientation, values):
    return tf.reduce_any(orientation == tf.constant(values))


def _is_whole_jpeg(content):
    """Returns whether the content begins and ends as a JPEG file; a file that was cut off may be decoded in part."""
    num = tf.strings.length(content)
    ends = tf.strings.substr(content, 0, 3), tf.strings.substr(content, tf.maximum(num - 2, 0), 2)
    return (num > 4) & (ends[0] == b"\xff\xd8\xff") & (ends[1] == b"\xff\xd9")
