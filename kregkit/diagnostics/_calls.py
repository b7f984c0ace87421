"""Listening to the calls of a model's layers, and changing how they are called, for a block."""

import contextlib
import functools

import keras
import tensorflow as tf


@contextlib.contextmanager
def recorded(model, calls):
    """Appends `(layer, outputs)` to `calls` when a layer returns: inner layers come before those that hold them.

    Models are left out; so are the cells of recurrent layers, which are called once a time step. Outputs are those
    that are floating-point tensors with values.
    """

    def recording(layer, call):
        def run(*args, **kwargs):
            outputs = call(*args, **kwargs)
            known = [t for t in keras.tree.flatten(outputs) if tf.is_tensor(t) and not tf.is_symbolic_tensor(t)]
            calls.append((layer, [tensor for tensor in known if tensor.dtype.is_floating]))
            return outputs

        return run

    layers = model._flatten_layers(include_self=False)
    cells = [layer.cell for layer in layers if isinstance(layer, keras.layers.RNN)]
    inside = {id(part) for cell in cells for part in cell._flatten_layers()}
    heard = [layer for layer in layers if not isinstance(layer, keras.Model) and id(layer) not in inside]
    with _replaced_calls(heard, recording):
        yield


@contextlib.contextmanager
def quiet(model):
    """Makes batch normalisation use the batch's statistics although the model is called with `training=False`."""

    def trained(layer, call):
        return lambda *args, **kwargs: call(*args, **{**kwargs, "training": True})

    layers = model._flatten_layers(include_self=False)
    batch = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable]
    with _replaced_calls(batch, trained):
        yield


@contextlib.contextmanager
def _replaced_calls(layers, wrap):
    # Attributes of the instances hide their methods; through `vars`, Keras doesn't track them.
    before = {layer: vars(layer).get("call") for layer in layers}
    try:
        for layer in before:
            vars(layer)["call"] = functools.wraps(layer.call)(wrap(layer, layer.call))
        yield
    finally:
        for layer, call in before.items():
            vars(layer).pop("call", None)
            if call is not None:
                vars(layer)["call"] = call
