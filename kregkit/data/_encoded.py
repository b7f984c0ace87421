"""Examples whose images are still encoded: only the windows that the first operations show are decoded."""

import functools

import keras
import numpy as np
import tensorflow as tf

from kregkit.data._decoding import WindowDecoder
from kregkit.data._epochs import plain
from kregkit.data._fields import get, put
from kregkit.data._random import make_keys
from kregkit.data._windows import TOGETHER, windows

# Numbers of images that are computed at once.
CHUNK = 128


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

    def read(self, chunks, parallel, with_gaps=False):
        """Reads a dataset of `(epoch, positions)`, of a source with random access. Elements are dictionaries.

        Besides these maps, nothing is called for each image alone: the call of a function takes a tenth of decoding.

        Args:
            chunks: The dataset.
            parallel: Keyword arguments of `map`.
            with_gaps: Boolean, whether files that can't be read are left out. `without_unreadable` reports them.
        """

        def number(epoch, position):
            index = self._order.index(epoch, position)
            element = {"epoch": tf.fill(tf.shape(position), epoch), "position": position, "index": index}
            element["key"] = make_keys(self._augmenter.seed, epoch, index)
            if self._augmenter.epoch_partners:
                element["partner"] = self._augmenter.partner(element["key"])
                element["other_key"] = make_keys(self._augmenter.seed, epoch, element["partner"])
            return element

        def fetch(element):
            element = {**element, "own": self._fetch(element["index"], element["key"])}
            if "partner" in element:
                element["other"] = self._fetch(element["partner"], element["other_key"])
            return element

        def decode(element):
            for part, index in (("own", "index"), ("other", "partner")):
                if part in element:
                    whole = functools.partial(self._source.whole, element[index])
                    element = {**element, part: self._decoded(*element[part], whole)}
            return element

        fetched = chunks.map(plain(number)).unbatch().map(plain(fetch), **parallel)
        if with_gaps:
            # Before images are planned together: an error would take those that are planned with it.
            fetched = fetched.ignore_errors()
        return self._planned(fetched).map(plain(decode), **parallel)

    def read_stream(self, stream, parallel):
        """Reads a dataset of `(epoch, index, example)`. Elements are dictionaries."""

        def fetch(epoch, index, example):
            key = make_keys(self._augmenter.seed, epoch, index)
            own = self._part(get(example, self._fields.image), example, key)
            return {"epoch": epoch, "index": index, "key": key, "own": own}

        def decode(element):
            content = element["own"][0]
            return {**element, "own": self._decoded(*element["own"], lambda: self._source.whole(content))}

        return self._planned(stream.map(plain(fetch), **parallel)).map(plain(decode), **parallel)

    def _fetch(self, index, key):
        content, example, orientation = self._source.fetch_encoded(index)
        return self._part(content, example, key, orientation)

    def _part(self, content, example, key, orientation=None):
        # The content once: what is held twice is copied where it is batched and taken apart.
        example = put(example, self._fields.image, tf.constant(""))
        return content, example, key, self._decoder.header(content, orientation)

    def _planned(self, dataset):
        """Appends the `Plan` to the parts of all elements."""
        specs = keras.tree.flatten(dataset.element_spec)
        # TensorFlow's `unbatch` ends the process where a part has no size, such as boxes of which there are none.
        together = all(isinstance(spec, tf.TensorSpec) and spec.shape.num_elements() for spec in specs)
        make = self._windows.plans if together else self._windows.plan

        def plan(element):
            for part in ("own", "other"):
                if part in element:
                    *_, key, header = element[part]
                    element = {**element, part: (*element[part], make(key, header.size, header.turn))}
            return element

        # Examples whose shapes differ, such as those with boxes, can't be put together.
        return dataset.batch(TOGETHER).map(plain(plan)).unbatch() if together else dataset.map(plain(plan))

    def _decoded(self, content, example, key, header, plan, whole):
        image, later, size = self._decoder.decode(content, key, header, plan, whole)
        return put(example, self._fields.image, image), later, size

    def without_unreadable(self, dataset, batch_size, end, first, counter):
        """Batches what `read` returns, up to `end`, and reports files that can't be read.

        Python reads them once more, and raises the error that names the file, or logs that it is skipped.

        Args:
            dataset: What `read` returns, `with_gaps`.
            batch_size: Integer.
            end: Integer, the number of positions.
            first: Callable that gives the first position.
            counter: Variable, the epoch.
        """
        if self._source.skip:
            dataset = dataset.ignore_errors().batch(batch_size)
        else:
            # Decoding and batching are one call then, which copies an image while it is in the processor's cache.
            dataset = dataset.batch(batch_size).ignore_errors()
        spec = dataset.element_spec

        def last(_):
            zeros = keras.tree.map_structure(lambda one: tf.zeros([1, *one.shape[1:]], one.dtype), spec)
            return {**zeros, "epoch": counter.read_value()[None], "position": tf.constant([end], tf.int64)}

        def compare(state, batch):
            position, epoch = batch["position"], batch["epoch"][0]
            expected, before = state
            expected = tf.cond(expected < 0, first, lambda: expected)
            # Behind the last batch the counter may have moved on.
            epoch = tf.where((position[0] == end) & (before >= 0), before, epoch)

            # A short batch is the last one, and nothing comes behind it.
            num = tf.size(position, tf.int64)
            is_short = (num < batch_size) & (position[0] < end)
            stop = tf.where(is_short, tf.constant(end, tf.int64), position[-1] + 1)

            def report():
                passed = tf.range(expected, stop)
                missing = tf.boolean_mask(passed, ~tf.reduce_any(passed[:, None] == position, 1))
                index = self._order.index(epoch, missing)
                keys = make_keys(self._augmenter.seed, epoch, index)
                partners = self._augmenter.partner(keys) if self._augmenter.epoch_partners else index[:0]
                return tf.numpy_function(self._report, [index, partners], tf.int64)

            reported = tf.cond(stop - expected > num, report, lambda: tf.constant(0, tf.int64))
            with tf.control_dependencies([reported]):
                return (stop, epoch), batch

        dataset = dataset.concatenate(tf.data.Dataset.from_tensors(0).map(plain(last)))
        dataset = dataset.scan((tf.constant(-1, tf.int64), tf.constant(-1, tf.int64)), plain(compare))
        return dataset.filter(plain(lambda batch: batch["position"][0] < end))

    def _report(self, indices, partners):
        for index in indices:
            self._source.report(int(index))
        for index in partners:
            self._source.report(int(index))
        if not self._source.skip:
            # Python reads all of them. The one that TensorFlow can't decode has taken its batch with it.
            numbers = [int(index) for index in (*indices, *partners)]
            path = self._source.paths[next((index for index in numbers if not self._is_decoded(index)), numbers[0])]
            raise ValueError(f"The image file {path} can't be read: its window can't be decoded")
        return np.int64(0)

    def _is_decoded(self, index):
        content = self._source.fetch_encoded(index)[0].numpy()
        if not content.startswith(b"\xff\xd8"):
            # Python has read it, and nothing else does.
            return True
        try:
            tf.io.decode_jpeg(content)
        except tf.errors.OpError:
            return False
        return True

    def finished(self, dataset, batch_size, drop_remainder, parallel):
        """Makes batches `(content, epoch, keys)` of a dataset of batches of elements."""
        if drop_remainder:
            dataset = dataset.filter(plain(lambda batch: tf.shape(batch["key"])[0] == batch_size))

        def finish(batch):
            if drop_remainder:
                batch = keras.tree.map_structure(lambda one: tf.ensure_shape(one, (batch_size, *one.shape[1:])), batch)
            return self._finished(batch)

        return dataset.map(plain(finish), **parallel)

    def _check(self, batch):
        fields = self._fields
        for part, index in (("own", "index"), ("other", "partner")):
            if part not in batch:
                continue
            example, _, size = batch[part]
            name = lambda row, index=index: self._source.describe(batch[index][row])  # noqa: E731
            fields.augment.check_sizes(size, fields.training, name)
            if fields.labels is not None:
                fields.augment.check_labels(get(example, fields.labels), name)

    def _finished(self, batch):
        self._check(batch)
        keys = batch["key"]
        element = self._transformed(batch["own"], keys)
        other = self._transformed(batch["other"], batch["other_key"]) if "other" in batch else None
        return self._fields.mix(element, keys, other), batch["epoch"][0], keys

    def _transformed(self, part, keys):
        example, later, _ = part
        images = self._windows.finish(get(example, self._fields.image), later, keys)
        return put(example, self._fields.image, images)
