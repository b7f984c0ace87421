"""Checks of what only the data can show, made where the data are: in the graph."""

import re

import tensorflow as tf

from kregkit._core import keras_internals


def require(condition, describe):
    """Stops with the text that `describe()` returns, a string tensor, where `condition`, a Boolean scalar, is false.

    Eagerly it is a `ValueError`; in a graph, such as that of `ds.map`, a `tf.errors.InvalidArgumentError` whose message
    holds the text (which should have no quotes and brackets: TensorFlow escapes them). XLA can't stop: there nothing is
    checked.
    """
    if tf.executing_eagerly():
        if not condition:
            raise ValueError(describe().numpy().decode(errors="replace"))
        return
    if keras_internals.compiled_by_xla(tf.compat.v1.get_default_graph()):
        return

    def stop():
        with tf.control_dependencies([tf.debugging.Assert(condition, [describe()])]):
            return tf.identity(condition)

    tf.cond(condition, lambda: tf.identity(condition), stop)


def text_of(error):
    """Returns the text of a check that stopped a graph, or `None` for any other error."""
    match = re.search(r"assertion failed: \[(.*?)\](?:\s|$)", str(error), re.DOTALL)
    return match and match.group(1)


def text(*parts):
    """Returns one string tensor from strings and numbers, tensors or not."""
    parts = [part if isinstance(part, str) else tf.convert_to_tensor(part) for part in parts]
    strings = [
        part
        if isinstance(part, str) or part.dtype == tf.string
        else tf.strings.as_string(part, shortest=part.dtype.is_floating)
        for part in parts
    ]
    return tf.strings.join(strings)
