"""Which example stands where in an epoch, and how it looks there: pure functions of `(seed, epoch, example)`."""

import keras
import tensorflow as tf

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


class Looks:
    """Augments examples. `prepare` and `prepare_one` do what concerns an example alone, `finish` mixes a batch.

    Args:
        source: The source.
        fields: `Fields`, which hold the `Augment`.
        seed: Integer.
        training: Boolean.
    """

    def __init__(self, source, fields, seed, training):
        self.source, self.fields, self.seed, self.training = source, fields, seed, training
        augment = fields.augment
        # Partners from the whole epoch need random access.
        self.epoch_partners = (
            training
            and augment.mixes
            and hasattr(source, "fetch")
            and all(operation.partners == "epoch" for operation in augment.operations if operation.mixes)
        )

    def prepare(self, epoch, index, element):
        """Transforms a batch. Returns the pair of it and its partners, which may be `None`, and the keys."""
        keys = make_keys(self.seed, epoch, index)
        transformed = self.fields.transform(element, keys, self.training)
        other = None
        if self.epoch_partners:
            partner = self._partner(keys)
            other_keys = make_keys(self.seed, epoch, partner)
            other = self.fields.transform(self.source.fetch(partner), other_keys, self.training)
        return (transformed, other), keys

    def prepare_one(self, epoch, index, element):
        """Does the same for one example, before batching, since sizes may differ until an operation makes them equal.

        An example whose partner can't be read is mixed with itself.
        """
        key = make_keys(self.seed, epoch, index)
        transformed = self._transform_one(element, key)
        other = None
        if self.epoch_partners:
            partner = self._partner(key[None])[0]
            other, key_of_other = self.source.fetch(partner), make_keys(self.seed, epoch, partner)
            if self.source.skip:
                other, good = other
                other = tf.cond(good, lambda: self._transform_one(other, key_of_other), lambda: transformed)
            else:
                other = self._transform_one(other, key_of_other)
        return (transformed, other), key

    def finish(self, pair, keys):
        """Mixes a batch with its partners, or with itself."""
        element, other = pair
        return self.fields.mix(element, keys, other, self.training)

    def _transform_one(self, element, key):
        batch = keras.tree.map_structure(lambda value: value[None], element)
        return keras.tree.map_structure(lambda value: value[0], self.fields.transform(batch, key[None], self.training))

    def _partner(self, keys):
        """Returns which example of the source each is mixed with."""
        # 24 bits from each of two draws reach every example of a source of up to 2^48.
        u = tf.cast(uniform(keys, "partner", 2), tf.float64)
        position = (u[:, 0] + u[:, 1] * 2.0**-24) * float(self.source.size)
        return tf.minimum(tf.cast(position, tf.int64), self.source.size - 1)
