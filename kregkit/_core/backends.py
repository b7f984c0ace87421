"""What needs Keras on TensorFlow."""

import keras


def require_tensorflow(what):
    """Raises `RuntimeError` unless Keras runs on TensorFlow.

    Called first thing by every public class and function that traces a model into a TensorFlow graph, so that on
    another backend the user isn't left with an error from deep inside.

    Args:
        what: String, the public name, such as `"marginalize"`; begins the message.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"{what} needs Keras on TensorFlow: set the environment variable KERAS_BACKEND to tensorflow before keras "
            f"is imported. Received: backend={backend!r}"
        )
