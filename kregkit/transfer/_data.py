"""Labelled examples in the forms that `fit` takes: arrays, or something that can be read batch by batch."""

import functools

import keras
import numpy as np
import tensorflow as tf

from kregkit._core.batches import is_endless, read_batches

_BATCH_SIZE = 32


def is_pair(data):
    """Returns whether `data` is a pair `(x, y)`, and not something that yields batches."""
    return isinstance(data, (tuple, list))


def labels_of(name, data):
    """Returns all labels of `data`, a vector of integers from 0, in one pass.

    Args:
        name: String, the argument's name, for messages.
        data: `(x, y)`, arrays, where `x` may be a structure of several inputs; or a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or another iterable of such pairs in batches, which can be read again.

    Raises:
        ValueError: `data` is nothing of this, never ends, or labels are not integers from 0, one per example.
    """
    return labelled(name, data)[1] if is_pair(data) else np.concatenate([y for _, y in _batches(name, data)])


def features_of(name, data, model):
    """Returns a list of the outputs of `model` for all of `data`, and their labels, in one pass; as `labels_of`."""
    if is_pair(data):
        x, y = labelled(name, data)
        return _predicted(model, x, len(y)), y
    parts, labels = [], []
    for x, y in _batches(name, data):
        parts.append(keras.tree.flatten(model.predict_on_batch(x)))
        labels.append(y)
    return [np.concatenate(part) for part in zip(*parts)], np.concatenate(labels)


def _predicted(model, x, num):
    """Returns a list of the outputs of `model` for arrays, in batches.

    `predict` traces one function per model, which TensorFlow takes for one function that is traced again and again: it
    warns whoever predicts with a few models of his own behind it. It tells a partial function from all others.
    """
    x = keras.tree.map_structure(np.asarray, x)
    specs = keras.tree.map_structure(lambda one: tf.TensorSpec((None, *one.shape[1:]), one.dtype), x)
    traced = tf.function(functools.partial(model, training=False), input_signature=[specs], autograph=False)
    parts = []
    for start in range(0, num, _BATCH_SIZE):
        batch = keras.tree.map_structure(lambda one, start=start: one[start : start + _BATCH_SIZE], x)
        parts.append([one.numpy() for one in keras.tree.flatten(traced(batch))])
    return [np.concatenate(part) for part in zip(*parts)]


def labelled(name, data):
    """Returns the arrays `(x, y)`, the labels as a vector of integers; `x` may be one array per input."""
    if len(data) != 2:
        raise ValueError(
            f"`{name}` must be a pair of arrays (x, y), or a dataset that yields such pairs, without sample weights. "
            f"Received: {name}={type(data).__name__} of {len(data)}"
        )
    x, y = data[0], integer_labels(name, data[1])
    lengths = [len(array) for array in keras.tree.flatten(x)]
    if not len(y) or any(length != len(y) for length in lengths):
        raise ValueError(f"`{name}` must hold one label per example. Received: examples={lengths}, labels={len(y)}")
    return x, y


def integer_labels(name, y):
    """Returns the labels of an argument as a vector of integers from 0."""
    y = np.asarray(y)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    # Binary labels of image folders are whole numbers in float32.
    if y.ndim == 1 and np.issubdtype(y.dtype, np.floating) and (y == np.rint(y)).all():
        y = y.astype("int64")
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer) or y.min(initial=0) < 0:
        raise ValueError(
            f"`{name}` must have labels that are integers from 0, one per example, not one-hot. "
            f"Received: dtype={y.dtype}, shape={y.shape}"
        )
    return y


def _batches(name, data):
    """Yields the batches `(x, y)` of a dataset once."""
    kind = type(data).__name__
    if is_endless(data):
        raise ValueError(
            f"`{name}` must end, as it is read from end to end: leave out `repeat`, or cut it by `take`. "
            f"Received: {name}={kind} without end"
        )
    # A generator is empty after one pass, and there are several.
    readable = isinstance(data, keras.utils.PyDataset) or (hasattr(data, "__iter__") and not hasattr(data, "__next__"))
    empty = True
    for x, y, sample_weight in read_batches(data) if readable else [(data, None, None)]:
        empty = False
        if y is None or np.ndim(y) == 0 or sample_weight is not None:
            raise ValueError(
                f"`{name}` must be a pair of arrays (x, y), or a dataset that yields such pairs in batches without "
                "sample weights and can be read again, such as a tf.data.Dataset or a keras.utils.PyDataset. "
                f"Received: {name}={kind}"
            )
        yield labelled(name, (x, y))
    if empty:
        raise ValueError(f"`{name}` holds no examples. Received: {name}={kind}")
