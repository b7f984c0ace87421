"""The order of examples in an epoch, and their augmentation: pure functions of `(seed, epoch, example)`."""

import keras
import tensorflow as tf

from kregkit.data._epochs import plain
from kregkit.data._fields import get
from kregkit.data._graph_checks import require, text
from kregkit.data._random import make_keys, uniform


class Order:
    """The order of a source's examples in each epoch, of which this worker reads every `num_shards`-th one.

    Args:
        seed: Integer.
        size: Integer, the number of examples of a source with random access, or `None`.
        shuffle: Boolean.
        shard, num_shards: Integers.
    """

    def __init__(self, seed, size, shuffle, shard, num_shards):
        self.seed, self.size, self.shuffle = seed, size, shuffle
        self.shard, self.num_shards = shard, num_shards

    def num_examples(self):
        """Returns the number of examples of this worker's epoch, or `None`."""
        return None if self.size is None else (self.size - self.shard + self.num_shards - 1) // self.num_shards

    def index(self, epoch, position):
        """Returns which example of the source stands at a position of this worker's epoch."""
        position = position * self.num_shards + self.shard
        if not self.shuffle:
            return position
        key = tf.bitcast(make_keys(self.seed, epoch, -2), tf.int32)
        return tf.random.experimental.index_shuffle(position, key, tf.cast(self.size - 1, tf.int64))

    def stream(self, dataset, epoch, buffer_size):
        """Returns this worker's part of a stream, as pairs `(index, example)`."""
        dataset = dataset.enumerate()
        if self.shuffle:
            graph = tf.compat.v1.get_default_graph()
            # `shuffle` would mix in the global seed, so that `set_random_seed` changed the order.
            global_seed, graph.seed = graph.seed, None
            key = make_keys(self.seed, epoch, -1)
            dataset = dataset.shuffle(buffer_size, seed=key, reshuffle_each_iteration=False)
            graph.seed = global_seed
        # After the shuffle: shards that shuffle alone would each mix a part only.
        return dataset.shard(self.num_shards, self.shard)


class Augmenter:
    """Augments examples: `prepare` and `prepare_one` transform each by itself, then `finish` mixes a batch.

    Args:
        source: The source.
        fields: `Fields`, which hold the `Augment`.
        seed: Integer.
    """

    def __init__(self, source, fields, seed):
        self.source, self.fields, self.seed = source, fields, seed
        augment = fields.augment
        # Partners from the whole epoch need random access.
        self.epoch_partners = (
            fields.training
            and augment.mixes
            and hasattr(source, "fetch")
            and all(operation.partners == "epoch" for operation in augment.operations if operation.mixes)
        )

    def prepare(self, epoch, index, element):
        """Transforms a batch. Returns the pair of it and its partners, which may be `None`, and the keys."""
        self._check(element, index)
        keys = make_keys(self.seed, epoch, index)
        transformed = self.fields.transform(element, keys)
        other = None
        if self.epoch_partners:
            partner = self.partner(keys)
            other_keys = make_keys(self.seed, epoch, partner)
            other = self.source.fetch(partner)
            self._check(other, partner)
            other = self.fields.transform(other, other_keys)
        return (transformed, other), keys

    def prepare_one(self, epoch, index, element):
        """Does the same for one example, before batching, since sizes may differ until an operation makes them equal.

        An example whose partner can't be read is mixed with itself.
        """
        key = make_keys(self.seed, epoch, index)
        transformed = self._transform_one(element, key, index)
        other = None
        if self.epoch_partners:
            partner = self.partner(key[None])[0]
            other, key_of_other = self.source.fetch(partner), make_keys(self.seed, epoch, partner)
            if self.source.skip:
                other, good = other
                other = tf.cond(good, lambda: self._transform_one(other, key_of_other, partner), lambda: transformed)
            else:
                other = self._transform_one(other, key_of_other, partner)
        return (transformed, other), key

    def check_first(self):
        """Checks the first examples and all labels, if the source knows them, so that `pipeline` itself raises."""
        element, labels = self.source.first(256)
        if element is not None:
            self.fields.check(element, self.source.describe)
        path = self.fields.labels
        if labels is not None and path is not None:
            self.fields.augment.check_labels(get(labels, path), self.source.describe)

    def has_sizes(self, spec):
        """Returns whether images of these transformed examples may differ in size."""
        return self.fields.image is not None and None in get(spec, self.fields.image).shape[:2]

    def same_size(self, dataset, batch_size):
        """Raises an error that names the example, before batching, where the images of a batch differ in size.

        Args:
            dataset: Dataset of `(pair, index, ...)`.
            batch_size: Integer.
        """

        def compare(state, element):
            pair, index, *_ = element
            size = tf.shape(get(pair[0], self.fields.image))[:2]
            number, expected = state
            expected = tf.where(number % batch_size == 0, size, expected)
            sizes = [size] if pair[1] is None else [size, tf.shape(get(pair[1], self.fields.image))[:2]]
            require(
                tf.reduce_all([tf.reduce_all(each == expected) for each in sizes]),
                lambda: text(
                    self.source.describe(index), ": images of a batch must have one size. Add an operation that gives "
                    "it, `RandomResizedCrop(size)` or `RandomCrop(0, size)`, with training=False too. Received: ",
                    *(part for each in (*sizes, expected) for part in (" ", each[0], "x", each[1])),
                ),
            )  # fmt: skip
            return (number + 1, expected), element

        zero = tf.constant(0, tf.int64)
        return dataset.scan((zero, tf.zeros([2], tf.int32)), plain(compare))

    def finish(self, pair, keys):
        """Mixes a batch with its partners, or with itself."""
        element, other = pair
        return self.fields.mix(element, keys, other)

    def _check(self, element, index):
        self.fields.check(element, lambda row: self.source.describe(index[row]))

    def _transform_one(self, element, key, index):
        batch = keras.tree.map_structure(lambda value: value[None], element)
        self._check(batch, index[None])
        return keras.tree.map_structure(lambda value: value[0], self.fields.transform(batch, key[None]))

    def partner(self, keys):
        """Returns which example of the source each is mixed with."""
        # 24 bits from each of two draws reach every example of a source of up to 2^48.
        u = tf.cast(uniform(keys, "partner", 2), tf.float64)
        position = (u[:, 0] + u[:, 1] * 2.0**-24) * float(self.source.size)
        return tf.minimum(tf.cast(position, tf.int64), self.source.size - 1)
