"""Layers of a model in order, and copies of its graph with layers left out or put in."""

import re

import keras

from kregkit._core.weights import copy_values


def flat_layers(model):
    """Returns the layers of `model` in order, those of nested models in place of the model, without inputs."""
    layers = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            layers += flat_layers(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            layers.append(layer)
    return list({id(layer): layer for layer in layers}.values())


def weighted_layers(model):
    """Returns the flat layers that have a kernel, matrix or table: those that depth is counted in."""
    return [layer for layer in flat_layers(model) if any(len(variable.shape) > 1 for variable in layer.weights)]


def matching(model, layers, name):
    """Returns the flat layers that `layers` means.

    Args:
        model: A Keras model.
        layers: A layer, its name, a regular expression that matches whole names, or a list of these.
        name: String, the argument's name, for messages.
    """
    flat = flat_layers(model)
    chosen = []
    for one in layers if isinstance(layers, (list, tuple)) else [layers]:
        if isinstance(one, keras.Model):
            found = flat_layers(one)
        elif isinstance(one, keras.layers.Layer):
            found = [layer for layer in flat if layer is one]
        elif isinstance(one, str):
            found = [layer for layer in flat if layer.name == one]
            nested = [m for m in model._flatten_layers(include_self=False) if m.name == one and hasattr(m, "layers")]
            found = found or [layer for inner in nested for layer in flat_layers(inner)]
            found = found or [layer for layer in flat if _matches(one, layer.name, name)]
        else:
            found = []
        if not found:
            names = ", ".join(layer.name for layer in flat)
            raise ValueError(f"`{name}` must name layers of the model, which are {names}. Received: {name}={one!r}")
        chosen += found
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


def rebuilt(model, drop=lambda layer: False, after=None):
    """Returns a copy of a model's graph with its own layers and the same weights.

    Args:
        model: A functional or built sequential model; nested ones are copied as well.
        drop: Function of a layer that says whether to leave it out; it must give what it gets.
        after: Dictionary from a layer's identity to a layer to call on its output. Defaults to none.
    """
    check_graph(model)
    pairs = []
    copy = _copy(model, drop, dict(after or {}), pairs, {})
    for old, new in pairs:
        for variable, value in zip(new.variables, copy_values(old.variables)):
            variable.assign(value)
    return copy


def _copy(model, drop, after, pairs, known):
    origins = {}

    def clone(layer):
        if id(layer) not in known:
            if isinstance(layer, keras.Model) and getattr(layer, "inputs", None):
                known[id(layer)] = _copy(layer, drop, after, pairs, known)
            else:
                known[id(layer)] = type(layer).from_config(layer.get_config())
                pairs.append((layer, known[id(layer)]))
        origins[id(known[id(layer)])] = layer
        return known[id(layer)]

    def call(layer, *args, **kwargs):
        origin = origins.get(id(layer))
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
    return keras.models.clone_model(model, clone_function=clone, call_function=call)
