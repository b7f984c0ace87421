"""Layers of a model in order, and copies of its graph with layers left out or put in."""

import re

import keras
import numpy as np

from kregkit._core import keras_internals
from kregkit._core.graph import flat_layers, nested_models
from kregkit._core.weights import assign_values, copy_values

# What belongs to the layer with a kernel before it. Some of these hold matrices too, such as one slope per position.
_FOLLOWING = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ELU,
)
# Where the branch of a residual block ends.
_JOINING = (keras.layers.Add,)


def weighted_layers(model):
    """Returns the flat layers that have a kernel, matrix or table: those that depth is counted in."""
    return [
        layer
        for layer in flat_layers(model)
        if not isinstance(layer, _FOLLOWING) and any(len(variable.shape) > 1 for variable in layer.weights)
    ]


def stage_end(model, layer):
    """Returns the last of the normalisations, activations and sums that alone use what `layer` gives, or `layer`."""
    users = _users(model)
    while len(users.get(id(layer), ())) == 1 and isinstance(users[id(layer)][0], (*_FOLLOWING, *_JOINING)):
        layer = users[id(layer)][0]
    return layer


def stage_names(model, count):
    """Returns the names of at most `count` stages spread over the body's depth, the last one included.

    The body is all but a `Dense` at the end, where a model ends in one.
    """
    weighted = weighted_layers(model)
    body = weighted[:-1] if isinstance(weighted[-1], keras.layers.Dense) and len(weighted) > 1 else weighted
    indices = sorted({round(index) for index in np.linspace(0, len(body) - 1, count + 1)[1:]})
    return list(dict.fromkeys(stage_end(model, body[index]).name for index in indices))


def _users(model):
    """Returns a dictionary from a layer's identity to what its outputs go into, nested models' layers included."""
    users = {}
    for part in (model, *nested_models(model)):
        functional = keras_internals.functional_of(part)
        for node in keras_internals.nodes_in_order(functional) if functional is not None else ():
            for parent in node.parent_nodes:
                users.setdefault(id(parent.operation), []).append(node.operation)
    return users


def matching(model, layers, name, whole=False):
    """Returns the layers that `layers` means.

    Args:
        model: A Keras model.
        layers: A layer, its name, a regular expression that matches whole names, or a list of these.
        name: String, the argument's name, for messages.
        whole: Boolean, whether a nested model means itself. Defaults to `False`: it means its flat layers.
    """
    flat = flat_layers(model)
    nested = nested_models(model)
    chosen = []
    for given in layers if isinstance(layers, (list, tuple)) and len(layers) else [layers]:
        if isinstance(given, keras.layers.Layer):
            meant = [layer for layer in (*flat, *nested) if layer is given]
        elif isinstance(given, str):
            meant = [layer for layer in (*flat, *nested) if layer.name == given]
            meant = meant or [layer for layer in flat if _matches(given, layer.name, name)]
        else:
            meant = []
        if not whole:
            meant = [part for layer in meant for part in (flat_layers(layer) if layer in nested else [layer])]
        if not meant:
            names = ", ".join(layer.name for layer in flat)
            raise ValueError(f"`{name}` must name layers of the model, which are {names}. Received: {name}={given!r}")
        chosen += meant
    return list({id(layer): layer for layer in chosen}.values())


def _matches(pattern, text, name):
    try:
        return re.fullmatch(pattern, text) is not None
    except re.error as error:
        raise ValueError(f"`{name}` must be a regular expression ({error}). Received: {name}={pattern!r}") from error


def check_graph(model):
    """Raises `ValueError` for a model whose graph can't be read."""
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ValueError(
            "`model` must be a functional or built sequential model, whose layers and their connections Keras knows. "
            f"Received: model={model!r}"
        )


def inputs_of(model):
    """Returns the model's inputs in the structure that it takes; `Sequential` has no `input`."""
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def pooled(x, pooling):
    """Returns features as vectors; `pooling` is `"average"`, `"max"` or `"flatten"`."""
    rank = len(x.shape)
    if rank == 2:
        return x
    if pooling == "flatten":
        return keras.layers.Flatten()(x)
    kind = "Average" if pooling == "average" else "Max"
    return getattr(keras.layers, f"Global{kind}Pooling{rank - 2}D")()(x)


def rebuilt(model, drop=lambda layer: False, after=None, unwrap=lambda layer: layer):
    """Returns a copy of a model's graph with its own layers and the same weights.

    Args:
        model: A functional or built sequential model; nested ones are copied as well.
        drop: Function of a layer that says whether to leave it out; it must give what it gets.
        after: Dictionary from a layer's identity to a layer to call on its output. Defaults to none.
        unwrap: Function of a layer that returns the layer to put in its place, such as the one that it wraps.
    """
    check_graph(model)
    pairs = []
    copy = _copy(model, drop, dict(after or {}), unwrap, pairs, {})
    for old, new in pairs:
        assign_values(new.variables, copy_values(old.variables))
        if hasattr(new, "finalize_state"):
            # Normalization computes with what it derives from its variables.
            new.finalize_state()
    return copy


def _copy(model, drop, after, unwrap, pairs, known):
    origins = {}

    def clone(layer):
        if not isinstance(layer, keras.layers.Layer):
            # An operation, such as the sum of two tensors, has no state.
            return layer
        if id(layer) not in known:
            if isinstance(layer, keras.Model) and getattr(layer, "inputs", None):
                known[id(layer)] = _copy(layer, drop, after, unwrap, pairs, known)
            elif hasattr(layer, "adapt") and not layer.variables:
                # Lookup tables are in no variable; such a layer has nothing to train either, so it is shared.
                known[id(layer)] = layer
            else:
                source = unwrap(layer)
                known[id(layer)] = new = type(source).from_config(source.get_config())
                # A layer without a `get_config` of its own forgets its name.
                new.name = source.name
                pairs.append((source, new))
        origins[id(known[id(layer)])] = layer
        return known[id(layer)]

    def call(layer, *args, **kwargs):
        origin = origins.get(id(layer))
        if type(layer) is not type(origin):
            # What was inside a wrapper may not know the wrapper's arguments.
            kwargs = {name: value for name, value in kwargs.items() if value is not None}
        outputs = args[0] if origin is not None and drop(origin) else layer(*args, **kwargs)
        if origin is not None and id(origin) in after:
            outputs = after[id(origin)](outputs)
        return outputs

    if isinstance(model, keras.Sequential):
        layers = [keras.Input(batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype)]
        for layer in model.layers:
            if not drop(layer):
                layers.append(clone(layer))
            if id(layer) in after:
                layers.append(after[id(layer)])
        return keras.Sequential(layers, name=model.name)
    # Keras would copy what the model was compiled with as well, and fail on a loss that isn't registered.
    compiled, model.compiled = model.compiled, False
    try:
        return keras.models.clone_model(model, clone_function=clone, call_function=call)
    finally:
        model.compiled = compiled
