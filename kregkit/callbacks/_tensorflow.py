"""What `keras.ops` can't say."""

import functools

import tensorflow as tf


def compiled_over_steps(function, num_steps):
    """Returns a compiled function that calls `function` at `num_steps` steps in a row, from the one that it is given.

    Args:
        function: Function from an int64 scalar tensor to a number.
        num_steps: Integer.
    """

    @tf.function(input_signature=[tf.TensorSpec((), "int64")])
    def over_steps(first):
        steps = first + tf.range(num_steps, dtype="int64")
        return tf.map_fn(lambda step: tf.cast(function(step), "float32"), steps, fn_output_signature="float32")

    # Called as itself it would be warned of as one that is traced too often, from the fifth function on. Traced by the
    # first call, before which `function` may not be ready.
    traced = functools.cache(over_steps.get_concrete_function)
    return lambda first: traced()(tf.constant(first, "int64")).numpy()
