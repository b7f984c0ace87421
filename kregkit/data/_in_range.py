"""Images of 16 bits, as floats in the range in which operations expect floats."""

import tensorflow as tf


class InRange:
    """A source of pairs whose uint16 images come out as float32 in a range, 65535 as its upper end.

    Everything else is the given source's.

    Args:
        source: The source, with random access.
        value_range: The `ValueRange`.
    """

    encoded = False

    def __init__(self, source, value_range):
        self._source, self._value_range = source, value_range
        image, *rest = source.spec
        self.spec = (tf.TensorSpec(image.shape, tf.float32), *rest)
        self.original = getattr(source, "original", source)

    def __getattr__(self, name):
        return getattr(self._source, name)

    def fetch(self, index):
        """Returns what the source's `fetch` does."""
        example = self._source.fetch(index)
        if self._source.skip:
            return self._scaled(example[0]), example[1]
        return self._scaled(example)

    def _scaled(self, example):
        image, *rest = example
        low, high = self._value_range
        return (tf.cast(image, tf.float32) * ((high - low) / 65535) + low, *rest)
