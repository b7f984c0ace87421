"""Recording what a model's layers return, and running it without noise."""

import functools

import keras
import tensorflow as tf

from kregkit._core.graph import all_layers
from kregkit._core.keras_internals import flatten_layers
from kregkit._core.normalization import batch_normalizations, batch_statistics_in_inference
from kregkit._core.replacing import replaced_all


def recorded(model, calls):
    """Returns a context in which each layer that returns appends `(layer, outputs)` to `calls`, inner layers first.

    Models are left out; so are the cells of recurrent layers, which are called once a time step. Outputs are those
    that are floating-point tensors with values.
    """

    def recording(layer, call):
        @functools.wraps(call)
        def run(*args, **kwargs):
            outputs = call(*args, **kwargs)
            known = [t for t in keras.tree.flatten(outputs) if tf.is_tensor(t) and not tf.is_symbolic_tensor(t)]
            calls.append((layer, [tensor for tensor in known if tensor.dtype.is_floating]))
            return outputs

        return run

    layers = all_layers(model)
    cells = [layer.cell for layer in layers if isinstance(layer, keras.layers.RNN)]
    in_cells = {id(part) for cell in cells for part in flatten_layers(cell)}
    layers = [layer for layer in layers if not isinstance(layer, keras.Model) and id(layer) not in in_cells]
    return replaced_all([(layer, "call", recording(layer, layer.call)) for layer in layers])


def quiet(model):
    """Returns a context in which a call with `training=False` is training without noise.

    Dropout and other noise is off, and batch normalisation uses the batch's statistics.
    """
    return batch_statistics_in_inference(batch_normalizations(model))
