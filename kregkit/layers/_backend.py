"""What Keras is running on: backend, eager or traced, compiled by XLA or not."""

import keras


def on_tensorflow():
    """Returns the room's TensorFlow module on that backend, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    from kregkit.layers import _tensorflow

    return _tensorflow


def runs_eagerly():
    """Returns whether operations run as they are called, and have values to read; JAX doesn't tell."""
    tensorflow = on_tensorflow()
    return tensorflow.runs_eagerly() if tensorflow is not None else keras.backend.backend() == "torch"


def compile_apart():
    """Returns a decorator that has XLA compile one function of a plain graph, or None where that doesn't pay.

    It pays on TensorFlow with CPUs alone, while a graph is traced: outside of one, the function would be compiled anew
    at each call.
    """
    tensorflow = on_tensorflow()
    if tensorflow is None or tensorflow.runs_eagerly() or tensorflow.has_accelerator():
        return None
    return None if tensorflow.compiled_by_xla() else tensorflow.compiled
