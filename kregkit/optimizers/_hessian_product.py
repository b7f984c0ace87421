"""The Hessian of a scalar times a vector, exactly, on TensorFlow."""

import contextlib
import threading

import keras
import tensorflow as tf

_moments_lock = threading.Lock()


def gradient_of(value_function, variables):
    """Returns a function's value and its dense gradient per variable, None where the value doesn't depend on it."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        value = value_function()
    return value, _dense(tape.gradient(value, variables))


def hessian_product(value_function, variables, directions):
    """Returns the Hessian times a vector, per variable; None where the gradient doesn't depend on the variable.

    Reverse mode over reverse mode: every differentiable operation has it, unlike forward mode.

    Args:
        value_function: Callable without arguments that returns a scalar tensor of `variables`.
        variables: List of `tf.Variable`.
        directions: List of tensors with the variables' shapes, the vector.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape, _twice_differentiable_moments():
        tape.watch(variables)
        _, gradients = gradient_of(value_function, variables)
        slopes = [
            tf.reduce_sum(gradient * tf.cast(direction, gradient.dtype))
            for gradient, direction in zip(gradients, directions)
            if gradient is not None
        ]
        slope = tf.add_n(slopes) if slopes else tf.zeros(())
    return _dense(tape.gradient(slope, variables))


def _dense(tensors):
    return [tf.convert_to_tensor(tensor) if isinstance(tensor, tf.IndexedSlices) else tensor for tensor in tensors]


@contextlib.contextmanager
def _twice_differentiable_moments():
    """Gives `tf.nn.moments`, and so every normalisation layer, its true second derivative while this thread traces.

    TensorFlow stops the gradient of the mean inside of the variance. That is right for the first derivative, where the
    term is zero, and wrong for the second. Keras calls `tf.nn.moments` by its name in the module, so the function is
    replaced for the whole process: one thread at a time, and other threads get the original.
    """
    original, owner, calls = tf.nn.moments, threading.get_ident(), []

    def moments(x, axes, shift=None, keepdims=False, name=None):
        if threading.get_ident() != owner:
            return original(x, axes, shift, keepdims, name)
        calls.append(None)
        mean = tf.reduce_mean(x, axes, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axes, keepdims=keepdims)
        return (mean if keepdims else tf.squeeze(mean, axes)), variance

    with _moments_lock:
        original = tf.nn.moments
        tf.nn.moments = moments
        try:
            keras.ops.moments(tf.ones((1,)), axes=[0])
            if not calls:
                raise RuntimeError(
                    "This version of Keras doesn't compute moments by `tf.nn.moments`: the Hessian of normalisation "
                    f"layers would be wrong. Received: keras.__version__={keras.__version__!r}"
                )
            yield
        finally:
            tf.nn.moments = original
