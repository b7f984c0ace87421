"""Streams whose images are still encoded: bytes of a `tf.data.Dataset`, and TFDS sets of JPEG files."""

import tensorflow as tf

from kregkit._core.optional import import_optional
from kregkit.data import _tfds
from kregkit.data._epochs import plain
from kregkit.data._fields import get, image_path, put
from kregkit.data._image_files import MOST_PIXELS, decoded_content
from kregkit.data.sources import StreamSource


class EncodedStream(StreamSource):
    """A stream of examples whose images are bytes. `dataset` gives them decoded whole, `encoded_dataset` as they are.

    Args:
        dataset: `tf.data.Dataset` of single examples.
        path: Where in an example the bytes are.
        channels: 1, 3 or 4.
        orientation: Boolean, whether images are turned as their EXIF header says.
        decoded: Dataset of the same examples with decoded images, or `None`.
    """

    encoded = in_part = True

    def __init__(self, dataset, path, channels, orientation=True, decoded=None):
        super().__init__(dataset)
        self.encoded_dataset, self.channels, self.orientation, self.max_pixels = (
            dataset, channels, orientation, MOST_PIXELS,
        )  # fmt: skip
        # Of a tuple `map` makes several arguments.
        together = isinstance(dataset.element_spec, tuple)

        def decode(*parts):
            example = parts if together else parts[0]
            return put(example, path, self.whole(get(example, path)))

        if decoded is None:
            decoded = dataset.map(plain(decode), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        self.dataset = decoded
        self.spec = put(dataset.element_spec, path, tf.TensorSpec((None, None, channels), tf.uint8))

    def whole(self, content):
        """Returns an image, uint8 `(h, w, channels)`."""

        def decode(content):
            try:
                return decoded_content(content, self.channels, self.orientation, self.max_pixels)
            except (ValueError, tf.errors.OpError) as error:
                reason = getattr(error, "message", error)
                raise ValueError(f"An image of the source can't be decoded: {reason}") from None

        image = tf.numpy_function(decode, [content], tf.uint8, stateful=False)
        image.set_shape((None, None, self.channels))
        return image


def with_encoded_images(source, image, channels, orientation=True):
    """Returns an `EncodedStream` where a stream's images are strings, else the source itself."""
    path = None if image is None or type(source) is not StreamSource else image_path(source.spec, image)
    entry = None if path is None else get(source.spec, path)
    if not isinstance(entry, tf.TensorSpec) or entry.dtype != tf.string or entry.shape.rank != 0:
        return source
    if channels not in (1, 3, 4):
        raise ValueError(f"`channels` must be 1, 3 or 4 for a stream of encoded images. Received: channels={channels}")
    return EncodedStream(source.dataset, path, channels, orientation)


def encoded_tfds(builder, split, supervised, orientation=True):
    """Returns the `EncodedStream` of a TFDS split whose images are JPEG files, else `None`.

    TFDS itself shows photographs as they are stored, which `orientation=False` does too.
    """
    tfds = import_optional("tensorflow_datasets", "kregkit.data")
    name = builder.info.supervised_keys[0] if supervised else "image"
    feature = builder.info.features[name] if isinstance(name, str) and name in builder.info.features else None
    # A subclass may decode in another way.
    if type(feature) is not tfds.features.Image or feature.dtype not in ("uint8", tf.uint8):
        return None
    if feature.shape[-1] not in (1, 3):
        return None
    _tfds.check_split(builder, split)
    decoders = {name: tfds.decode.SkipDecoding()}
    dataset = builder.as_dataset(split=split, as_supervised=supervised, shuffle_files=False, decoders=decoders)
    path = (0,) if supervised else (name,)
    content = next((get(example, path) for example in dataset.take(1).as_numpy_iterator()), b"")
    if not content.startswith(b"\xff\xd8\xff"):
        return None
    decoded = None if orientation else _tfds.read(builder, split, supervised)
    return EncodedStream(dataset, path, feature.shape[-1], orientation, decoded)
