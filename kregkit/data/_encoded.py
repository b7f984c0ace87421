"""Examples whose images are still encoded: only the windows that the first operations show are decoded."""

import keras
import numpy as np
import tensorflow as tf

from kregkit.data._decoding import WindowDecoder
from kregkit.data._epochs import plain
from kregkit.data._fields import get, put
from kregkit.data._random import make_keys
from kregkit.data._windows import windows

_NUMBERED_AT_ONCE = 128


def window_reader(source, order, augmenter):
    """Returns the `WindowReader` of a pipeline, or `None` where images must be decoded whole."""
    fields = augmenter.fields
    found = windows(fields.augment, fields.training) if getattr(source, "encoded", False) else None
    # An example whose partner can't be read is mixed with itself, which this one can't.
    if found is None or not fields.moves_images_alone() or (augmenter.epoch_partners and source.skip):
        return None
    return WindowReader(source, order, augmenter, found)


class WindowReader:
    """Reads examples and decodes their windows one by one, and does everything else to whole batches.

    Args:
        source: A source with `encoded`.
        order: The `Order`.
        augmenter: The `Augmenter`.
        found: The `Windows`.
    """

    def __init__(self, source, order, augmenter, found):
        self._source, self._order, self._augmenter, self._windows = source, order, augmenter, found
        self._fields = augmenter.fields
        self._decoder = WindowDecoder(found, source.channels, source.orientation, source.max_pixels, source.in_part)

    def read(self, dataset, parallel):
        """Reads a dataset of `(epoch, position)`, of a source with random access. Elements are dictionaries."""

        def number(epoch, position):
            index = self._order.index(epoch[0], position)
            element = {"epoch": epoch, "position": position, "index": index}
            element["key"] = make_keys(self._augmenter.seed, epoch[0], index)
            if self._augmenter.epoch_partners:
                element["partner"] = self._augmenter.partner(element["key"])
                element["other_key"] = make_keys(self._augmenter.seed, epoch[0], element["partner"])
            return element

        def fetch(element):
            element = {**element, "own": self._fetch(element["index"], element["key"])}
            if "partner" in element:
                element["other"] = self._fetch(element["partner"], element["other_key"])
            return element

        # Many at once: for each image alone the numbers would take a fifth of the time of decoding it.
        dataset = dataset.batch(_NUMBERED_AT_ONCE).map(plain(number)).unbatch()
        return dataset.map(plain(fetch), **parallel)

    def read_stream(self, epoch, index, example):
        """Returns an element from an example of a stream."""
        key = make_keys(self._augmenter.seed, epoch, index)
        content = get(example, self._fields.image)
        decoded = self._decoder.decode(content, key, lambda: self._source.whole(content))
        return {"epoch": epoch, "index": index, "key": key, "own": self._placed(example, decoded)}

    def _fetch(self, index, key):
        content, example, orientation = self._source.fetch_encoded(index)
        return self._placed(example, self._decoder.decode(content, key, lambda: self._source.whole(index), orientation))

    def _placed(self, example, decoded):
        image, flips, size = decoded
        return put(example, self._fields.image, image), flips, size

    def without_unreadable(self, dataset, end, first, counter):
        """Reads elements of a dataset of `(epoch, position)` up to `end`, and reports files that can't be read.

        Python reads them once more, and raises the error that names the file, or logs that it is skipped.

        Args:
            dataset: What `read` returns.
            end: Integer, the number of positions.
            first: Callable that gives the first position.
            counter: Variable, the epoch.
        """
        spec = dataset.element_spec

        def last(_):
            zeros = keras.tree.map_structure(lambda one: tf.zeros(one.shape, one.dtype), spec)
            return {**zeros, "epoch": counter.read_value(), "position": tf.constant(end, tf.int64)}

        def compare(expected, element):
            expected = tf.cond(expected < 0, first, lambda: expected)
            position = element["position"]

            def report():
                index = self._order.index(element["epoch"], tf.range(expected, position))
                keys = make_keys(self._augmenter.seed, element["epoch"], index)
                partners = self._augmenter.partner(keys) if self._augmenter.epoch_partners else index[:0]
                return tf.numpy_function(self._report, [index, partners], tf.int64)

            reported = tf.cond(position > expected, report, lambda: tf.constant(0, tf.int64))
            with tf.control_dependencies([reported]):
                return position + 1, element

        dataset = dataset.ignore_errors().concatenate(tf.data.Dataset.from_tensors(0).map(plain(last)))
        dataset = dataset.scan(tf.constant(-1, tf.int64), plain(compare))
        return dataset.filter(plain(lambda element: element["position"] < end))

    def _report(self, indices, partners):
        for index in indices:
            self._source.report(int(index))
        for index in partners:
            self._source.report(int(index))
        if not self._source.skip:
            names = [self._source.paths[int(index)] for index in indices]
            raise ValueError(f"The image file {names[0]} can't be read: its window can't be decoded")
        return np.int64(0)

    def batched(self, dataset, batch_size, drop_remainder, parallel):
        """Makes batches `(content, epoch, keys)` of a dataset of elements."""
        dataset = dataset.map(plain(self._checked)).batch(batch_size, drop_remainder)
        return dataset.map(plain(self._finished), **parallel)

    def _checked(self, element):
        fields = self._fields
        for part, index in (("own", "index"), ("other", "partner")):
            if part not in element:
                continue
            example, _, size = element[part]
            name = lambda row, index=index: self._source.describe(element[index])  # noqa: E731
            fields.augment.check_size(size[0], size[1], tf.constant(False), fields.training, name)
            if fields.labels is not None:
                fields.augment.check_labels(get(example, fields.labels)[None], name)
        return element

    def _finished(self, batch):
        keys = batch["key"]
        element = self._transformed(batch["own"], keys)
        other = self._transformed(batch["other"], batch["other_key"]) if "other" in batch else None
        return self._fields.mix(element, keys, other), batch["epoch"][0], keys

    def _transformed(self, part, keys):
        example, flips, _ = part
        images = self._windows.finish(get(example, self._fields.image), flips, keys)
        return put(example, self._fields.image, images)
