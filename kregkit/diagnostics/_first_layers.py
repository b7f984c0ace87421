"""What becomes of a model's inputs before the first kernel."""

import keras
import numpy as np
import tensorflow as tf

from kregkit._core import keras_internals
from kregkit._core.graph import all_layers
from kregkit._core.replacing import replaced_all
from kregkit.diagnostics._calls import quiet

# Layers for which a number or a string is the name of a category, so that its size means nothing.
_ENCODERS = (
    keras.layers.CategoryEncoding,
    keras.layers.Discretization,
    keras.layers.HashedCrossing,
    keras.layers.Hashing,
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
)


class _Reached(Exception):
    """Ends a call of a model at its first kernel."""


def first_kernel(model, x):
    """Returns the first layer with a kernel that is called on a batch, and its input there as an array.

    A kernel is a weight of two dimensions or more: the scales of normalisation layers aren't. The call ends there, so
    that tokens without a row in an embedding do no harm. `(None, None)` where no kernel is applied to the batch.
    """
    num, reached = len(keras.tree.flatten(x)[0]), []

    def stopping(layer):
        def run(*args, **kwargs):
            tensors = [t for t in keras.tree.flatten((args, kwargs)) if tf.is_tensor(t) and t.shape.rank]
            if tensors and tensors[0].shape[0] == num and not tf.is_symbolic_tensor(tensors[0]):
                reached.append((layer, _array(tensors[0])))
                raise _Reached
            return call(*args, **kwargs)

        call = layer.call
        return run

    layers = [layer for layer in all_layers(model) if not isinstance(layer, keras.Model)]
    kernels = [layer for layer in layers if any(len(weight.shape) > 1 for weight in layer.weights)]
    # Batch normalisation of raw inputs is preprocessing too, and has seen no batch yet.
    with quiet(model), replaced_all([(layer, "call", stopping(layer)) for layer in kernels]):
        try:
            model(x, training=False)
        except Exception:
            # Keras may raise an exception of its own around `_Reached`.
            if not reached:
                raise
    return reached[0] if reached else (None, None)


def _array(tensor):
    """Returns a tensor as an array of a type that NumPy knows: it has no bfloat16."""
    return (tf.cast(tensor, "float32") if tensor.dtype == tf.bfloat16 else tensor).numpy()


def token_inputs(model):
    """Returns `{input name: rows}` for the inputs of a functional model that go to an Embedding, or to an encoder.

    The rows are the Embedding's, `None` for encoders. `None` instead of a dictionary where there is no graph.
    """
    functional = keras_internals.functional_of(model)
    if functional is None:
        return None
    origin = {id(tensor): {tensor.name} for tensor in keras.tree.flatten(functional.inputs)}
    rows = {}
    for node in keras_internals.nodes_in_order(functional):
        layer, tensors = node.operation, node.input_tensors
        names = set().union(*(origin.get(id(tensor), set()) for tensor in tensors)) if tensors else set()
        if isinstance(layer, (keras.layers.Embedding, *_ENCODERS)):
            rows.update({name: getattr(layer, "input_dim", None) for name in names})
        elif not getattr(layer, "weights", ()):
            origin.update({id(tensor): names for tensor in node.output_tensors if id(tensor) not in origin})
    return rows


def has_embedding(model):
    """Returns the most rows that an Embedding of the model has, `None` if there is none."""
    sizes = [layer.input_dim for layer in all_layers(model) if isinstance(layer, keras.layers.Embedding)]
    return max(sizes, default=None)


def encodes(model):
    """Returns whether a layer of the model takes values for names of categories."""
    return any(isinstance(layer, _ENCODERS) for layer in all_layers(model))


def numeric(array):
    """Returns whether an array holds numbers, and not strings or objects."""
    return np.issubdtype(array.dtype, np.number) or array.dtype == bool
