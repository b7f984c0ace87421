"""What `keras.ops` can't say."""

import tensorflow as tf


def compiled_over_steps(function, num_steps):
    """Returns a compiled function that calls `function` at `num_steps` steps in a row, from the one that it is given.

    Args:
        function: Function from an int64 scalar tensor to a number.
        num_steps: Integer.
    """

    @tf.function
    def over_steps(first):
        steps = tf.cast(first, "int64") + tf.range(num_steps, dtype="int64")
        return tf.map_fn(lambda step: tf.cast(function(step), "float32"), steps, fn_output_signature="float32")

    return lambda first: over_steps(tf.constant(first, "int64")).numpy()
