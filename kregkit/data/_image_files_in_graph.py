"""Image files that TensorFlow reads by itself, so that processes without this one's Python code can."""

import mmap

import numpy as np
import tensorflow as tf

from kregkit.data._cache import _Nothing
from kregkit.data._exif import exif_orientation
from kregkit.data._image_files import FileSource


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
    """The files of a `FileSource`, decoded by the operation that decodes them there."""

    batched = skip = False

    def __init__(self, source):
        self.spec, self.size = source.spec, source.size
        self.first, self.first_spec, self.describe = source.first, source.first_spec, source.describe
        self.original = source
        self._paths, self._labels = source._path_tensor, source.labels
        # Known before, since TensorFlow has no operation that reads the header.
        self._orientations = tf.constant([_orientation(path, source.orientation) for path in source.paths])

    def fetch(self, index):
        content = tf.io.read_file(tf.gather(self._paths, index))
        image = tf.io.decode_image(content, channels=self.original.channels, expand_animations=False)
        image.set_shape(self.spec[0].shape)
        orientation = tf.gather(self._orientations, index)
        image = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
        image = tf.cond(_among(orientation, (2, 3, 6, 7)), lambda: tf.reverse(image, [1]), lambda: image)
        image = tf.cond(_among(orientation, (3, 4, 7, 8)), lambda: tf.reverse(image, [0]), lambda: image)
        return tf.ensure_shape(image, self.spec[0].shape), tf.gather(self._labels, index)


def _among(orientation, values):
    return tf.reduce_any(orientation == tf.constant(values))


def _orientation(path, wanted):
    """Returns the EXIF orientation of a JPEG or PNG file; its pages alone are read that hold the header."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[:2] != b"\xff\xd8" and content[:8] != b"\x89PNG\r\n\x1a\n":
                raise ValueError(
                    f"`service` needs JPEG or PNG files. Received: path={path!r}, which begins with {content[:8]!r}"
                )
            return np.int32(exif_orientation(content) if wanted else 1)
    except OSError as error:
        raise ValueError(f"The image file {path} can't be read: {error}") from None
