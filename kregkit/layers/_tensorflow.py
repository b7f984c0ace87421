"""What `keras.ops` doesn't have: whether XLA compiles the graph, the replica's number, a compiled part of a graph."""

import tensorflow as tf

from kregkit._core import keras_internals


def compiled_by_xla():
    """Returns whether the graph being traced is that of a `tf.function(jit_compile=True)`."""
    return not tf.executing_eagerly() and keras_internals.compiled_by_xla(tf.compat.v1.get_default_graph())


def runs_eagerly():
    """Returns whether no graph is being traced."""
    return tf.executing_eagerly()


def has_accelerator():
    """Returns whether TensorFlow sees any device besides CPUs."""
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


def num_replicas():
    """Returns the number of replicas of the strategy in scope."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def replica_number():
    """Returns the number of the replica that runs, a scalar tensor; None where none does."""
    replica = tf.distribute.get_replica_context()
    return None if replica is None else tf.convert_to_tensor(replica.replica_id_in_sync_group)


def gather(x, rows):
    """Returns the rows of `x`, without the branch for negative indices that `keras.ops.take` has.

    Inside a loop that XLA fuses, that branch costs six times the rest.
    """
    return tf.gather(x, rows)


def compiled(function):
    """Returns `function`, compiled by XLA wherever it is called from."""
    return tf.function(function, jit_compile=True, autograph=False)
