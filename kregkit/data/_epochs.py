"""The number of the epoch: it is read when a pass begins, and advanced when the last batch is taken."""

import re

import keras
import tensorflow as tf

from kregkit.data._graph_checks import require

# Autograph would turn Python conditions into code of its own.
plain = tf.autograph.experimental.do_not_convert


def integer_variable(value, name):
    with tf.device("CPU:0"):
        return tf.Variable(value, dtype=tf.int64, trainable=False, name=name)


def with_epoch(positions, counter, start, per_batch):
    """Turns a dataset of positions into pairs `(epoch, position)`; the epoch is read once, when the pass begins."""

    def read(state, position):
        epoch = tf.cond(state < 0, counter.read_value, lambda: state)
        return epoch, (epoch, position)

    dataset = positions.scan(tf.constant(-1, tf.int64), plain(read))
    if start is not None:
        dataset = dataset.filter(lambda epoch, position: position >= start.read_value() * per_batch)
    return dataset


def counted(dataset, counter, start, num_batches, with_keys, source=""):
    """Hands out the batches of `(element, epoch, keys)`, and sets the counter to the next epoch at the last one.

    Args:
        dataset: Dataset of one pass.
        counter: Variable, the epoch.
        start: Variable, the batch at which the pass starts, or `None`.
        num_batches: Integer, or `None` where only reading tells it.
        with_keys: Boolean, whether to give pairs `(element, keys)`.
        source: String, what the examples come from, where a pass without a batch is an error; empty where it isn't.
    """

    def advance(epoch):
        counter.assign(epoch + 1)
        if start is not None:
            start.assign(0)
        return tf.constant(0)

    def hand_out(number, batch):
        element, epoch, keys = batch
        if num_batches:
            # After the prefetch: it runs when the consumer takes the batch, not when `prefetch` prepares it. Not in a
            # last stage of its own: `fit` stops asking once it has had as many batches as there are.
            first = tf.constant(0, tf.int64) if start is None else start.read_value()
            is_last = first + number + 1 >= num_batches
            with tf.control_dependencies([tf.cond(is_last, lambda: advance(epoch), lambda: tf.constant(0))]):
                element = keras.tree.map_structure(tf.identity, element)
        return (element, keys) if with_keys else element

    if not num_batches:
        # The last batch isn't known, or there is none: an empty stage at the end counts.
        spec = dataset.element_spec
        end = tf.data.Dataset.from_tensors(0).map(plain(lambda _: advance(counter.read_value())))
        if not source:
            end = end.filter(plain(lambda _: tf.constant(False)))
        end = end.map(plain(lambda _: keras.tree.map_structure(_zeros, spec)))
        dataset = _not_empty(dataset, end, source) if source else dataset.concatenate(end)
    result = dataset.enumerate().map(plain(hand_out))
    if num_batches == 0:
        result = result.apply(tf.data.experimental.assert_cardinality(0))
    if start is not None and num_batches is not None:
        # `fit` should count on whole passes; only the first one is shorter.
        result.cardinality = lambda: tf.constant(num_batches, tf.int64)
    result.epoch = counter
    return result


def _not_empty(dataset, end, source):
    """Appends a stage that yields nothing, and raises if nothing came before it."""
    message = (
        "This pass had no batch: the source gave no example, or with `drop_remainder` fewer than a batch. A generator "
        f"that is used up, or a filter that nothing passes, does that. Received: source={_printed(source)}"
    )

    def check(count, element, is_end):
        require(~is_end | (count > 0), lambda: tf.constant(message))
        return count + 1, (element, is_end)

    dataset = dataset.map(plain(lambda *element: (element, tf.constant(False))))
    dataset = dataset.concatenate(end.map(plain(lambda *element: (element, tf.constant(True)))))
    dataset = dataset.scan(tf.constant(0, tf.int64), plain(lambda count, element: check(count, *element)))
    return dataset.filter(plain(lambda _, is_end: ~is_end)).map(plain(lambda element, _: element))


def _printed(source):
    """Returns a text without what TensorFlow would escape in a message."""
    return re.sub(r"[\[\]'\"]", "", source)


def _zeros(spec):
    return tf.zeros([size or 0 for size in spec.shape], spec.dtype)
