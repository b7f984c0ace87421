"""What a model draws and remembers in inference by itself: sampling layers, noise that is always on, states."""

import contextlib
import functools

import keras
import tensorflow as tf

from kregkit._core import keras_internals
from kregkit._core.keras_internals import flatten_layers
from kregkit._core.replacing import replaced_all

# TensorFlow's operations that draw from states of their own, which no seed of a layer reaches.
_RANDOM = {
    "Multinomial", "ParameterizedTruncatedNormal", "RandomGamma", "RandomPoisson", "RandomPoissonV2", "RandomShuffle",
    "RandomStandardNormal", "RandomUniform", "RandomUniformInt", "TruncatedNormal",
}  # fmt: skip
_ASSIGNING = {"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"}


class DrawsInInferenceError(ValueError):
    """A model draws random numbers in inference, where it was expected not to."""


def has_own_code(layer):
    """Returns whether the layer runs code that is neither Keras's nor kregkit's, which may draw or remember."""
    package = type(layer).__module__.partition(".")[0]
    return isinstance(layer, keras.layers.Lambda) or package not in ("keras", "kregkit")


@contextlib.contextmanager
def own_numbers(model, next_key):
    """Makes everything in a model that draws through Keras take its keys from `next_key`, for the block.

    Args:
        model: A Keras model.
        next_key: Callable `(index, state)` that returns a key `(2,)`. `index` is the seed generator's number in the
            model, 0 for Keras's global one; `state` is the present value of its state.
    """
    with tf.init_scope():
        # Where it has to be made, not as a part of the graph that is being traced.
        generators = [keras_internals.global_seed_generator()]
    generators += [generator for layer in flatten_layers(model) for generator in keras_internals.seed_generators(layer)]
    unique = {id(generator): generator for generator in generators}.values()

    def key(index, generator, ordered=True):
        return next_key(index, generator.state.value)

    changes = [(each, "next", functools.partial(key, index, each)) for index, each in enumerate(unique)]
    with replaced_all(changes):
        yield


def no_numbers(index, state):
    """The `next_key` of `own_numbers` that allows none.

    Raises:
        DrawsInInferenceError: Always.
    """
    raise DrawsInInferenceError("the model draws random numbers in inference")


def traced_operations(model):
    """Returns the types of the operations in the graph that is being traced; empty where nobody's own code is in it."""
    if tf.executing_eagerly() or not any(has_own_code(layer) for layer in flatten_layers(model)):
        return set()
    definition = tf.compat.v1.get_default_graph().as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    return {node.op for node in nodes}


def draws_by_tensorflow(operations):
    """Returns whether any of `traced_operations` draws random numbers that no key reaches."""
    return bool(operations & _RANDOM)


def assigns_variables(operations):
    """Returns whether any of `traced_operations` changes a TensorFlow variable."""
    return bool(operations & _ASSIGNING)
