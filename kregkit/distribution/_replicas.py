"""Numbers that replicas exchange within a step."""

import tensorflow as tf


def num_replicas():
    """Returns the number of replicas of the strategy in scope, as a float."""
    return float(tf.distribute.get_strategy().num_replicas_in_sync)


def sum_over_replicas(value):
    """Returns the sum of a scalar tensor over all replicas; outside of replicas, the scalar itself."""
    replica = tf.distribute.get_replica_context()
    return value if replica is None or num_replicas() == 1 else replica.all_reduce(tf.distribute.ReduceOp.SUM, value)
