"""Image files that TensorFlow reads by itself, so that processes without this one's Python code can."""

import mmap
import os

import numpy as np
import tensorflow as tf

from kregkit.data._cache import _Nothing
from kregkit.data._decoding import upright_in_graph
from kregkit.data._exif import exif_orientation
from kregkit.data._graph_checks import require, text
from kregkit.data._image_files import FileSource, check_num_pixels


def in_graph(source):
    """Returns a source with the same examples that calls no Python, where there is one; else the source itself.

    Raises:
        ValueError: A file is neither JPEG nor PNG, or the source keeps decoded images or skips files.
    """
    if not isinstance(source, FileSource):
        return source
    if source.skip or type(source._cache) is not _Nothing:
        raise ValueError(
            "`service` has the files decoded in other processes, which neither skip unreadable ones nor cache: use "
            f"`cache=False` and `on_error='raise'`. Received: on_error={source.on_error!r}"
        )
    return _GraphFileSource(source)


class _GraphFileSource:
    """The files of a `FileSource`, decoded by the operations that decode them there."""

    batched = skip = False
    in_part = True

    def __init__(self, source):
        self.spec, self.size = source.spec, source.size
        self.first, self.first_spec, self.describe = source.first, source.first_spec, source.describe
        self.channels, self.orientation, self.max_pixels = source.channels, source.orientation, source.max_pixels
        self.encoded, self.bits = source.encoded, source.bits
        self.original = source
        self._path_of, self._labels = source.path_in_graph, source.labels
        # Known before, since TensorFlow has no operation that reads the header.
        self._orientations = tf.constant(
            [_orientation(path, source.orientation, source.max_pixels) for path in source.paths]
        )

    def fetch_encoded(self, index):
        content = tf.io.read_file(self._path_of(index))
        return content, (content, tf.gather(self._labels, index)), tf.gather(self._orientations, index)

    def whole(self, index):
        content = tf.io.read_file(self._path_of(index))
        if self.max_pixels is not None:
            num = _num_pixels(content)
            # The file may have been replaced since the header was read.
            require(
                num <= self.max_pixels,
                lambda: text(
                    self.describe(index), " cannot be read: it would have ", num, f" pixels, more than `max_pixels="
                    f"{self.max_pixels}`. Received: max_pixels={self.max_pixels}",
                ),
            )  # fmt: skip
        image = _decoded(content, self.channels, self.spec[0].dtype)
        image.set_shape(self.spec[0].shape)
        return upright_in_graph(image, tf.gather(self._orientations, index))

    def fetch(self, index):
        return self.whole(index), tf.gather(self._labels, index)


def _decoded(content, channels, dtype):
    """Returns the pixels of a JPEG or PNG file as `FileSource` does: `(h, w, channels)` of a dtype."""

    def decoded(channels, dtype=tf.uint8):
        return tf.io.decode_image(content, channels=channels, dtype=dtype, expand_animations=False)

    def jpeg():
        if channels == 1:
            is_cmyk = tf.image.extract_jpeg_shape(content)[2] == 4
            image = tf.cond(is_cmyk, lambda: tf.image.rgb_to_grayscale(decoded(3)), lambda: decoded(1))
        else:
            image = decoded(channels % 4)
        return image if dtype == tf.uint8 else tf.cast(tf.cast(image, tf.int32) * 257, dtype)

    # TensorFlow gives no JPEG file an alpha, and PNG files of one bit a wrong one.
    is_jpeg = tf.strings.substr(content, 0, 2) == b"\xff\xd8"
    image = tf.cond(is_jpeg, jpeg, lambda: decoded(channels % 4, dtype))
    return _with_alpha(image) if channels == 4 else image


def _with_alpha(image):
    num = tf.shape(image)[-1]
    opaque = tf.fill(tf.shape(image[..., :1]), tf.constant(image.dtype.max, image.dtype))
    alpha = tf.cond(num % 2 == 0, lambda: image[..., -1:], lambda: opaque)
    color = tf.cond(num > 2, lambda: image[..., :3], lambda: tf.concat([image[..., :1]] * 3, -1))
    return tf.concat([color, alpha], -1)


def _num_pixels(content):
    """Returns the pixels of a JPEG or PNG file by its header, int64; 0 for what has none, which can't be decoded."""

    def png():
        sides = tf.cast(tf.io.decode_raw(tf.strings.substr(content, 16, 8), tf.uint8), tf.int64)
        return tf.reduce_prod(
            tf.linalg.matvec(tf.reshape(sides, (2, 4)), tf.constant([2**24, 2**16, 2**8, 1], tf.int64))
        )

    def jpeg():
        return tf.reduce_prod(tf.cast(tf.image.extract_jpeg_shape(content)[:2], tf.int64))

    is_jpeg = tf.strings.substr(content, 0, 2) == b"\xff\xd8"
    is_png = (tf.strings.length(content) >= 24) & (tf.strings.substr(content, 0, 4) == b"\x89PNG")
    return tf.cond(is_jpeg, jpeg, lambda: tf.cond(is_png, png, lambda: tf.constant(0, tf.int64)))


def _orientation(path, wanted, max_pixels):
    """Returns the EXIF orientation of a JPEG or PNG file; its pages alone are read that hold the header."""
    try:
        if not os.path.getsize(path):
            raise OSError("it is empty")
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[:2] != b"\xff\xd8" and content[:8] != b"\x89PNG\r\n\x1a\n":
                raise ValueError(
                    f"`service` needs JPEG or PNG files. Received: path={path!r}, which begins with {content[:8]!r}"
                )
            try:
                check_num_pixels(content, max_pixels)
            except ValueError as error:
                raise ValueError(f"The image file {path} can't be read: {error}") from None
            return np.int32(exif_orientation(content) if wanted else 1)
    except OSError as error:
        raise ValueError(f"The image file {path} can't be read: {error}") from None
