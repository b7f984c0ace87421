"""A model's layers in call order, and what its last layer does."""

import re

import keras

from kregkit._core import keras_internals
from kregkit._core.replacing import replaced_all


def flat_layers(model):
    """Returns the layers of `model` in call order, each once; nested models' layers stand in place of the model.

    Wrappers such as `TimeDistributed` are one layer, and inputs are left out. Where a model's graph isn't known, as in
    a subclass, the order is that of its attributes.
    """
    layers = []
    for layer in _called_layers(model):
        if isinstance(layer, keras.Model):
            layers += flat_layers(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            layers.append(layer)
    return list({id(layer): layer for layer in layers}.values())


def _called_layers(model):
    """Returns a model's own layers, in the order of their first call where that is known."""
    functional = keras_internals.functional_of(model)
    if functional is None:
        return model.layers
    # Layers of one depth don't depend on each other: they keep the order in which they were made.
    position = {}
    for node in keras_internals.nodes_in_order(functional):
        position.setdefault(id(node.operation), len(position))
    return sorted(model.layers, key=lambda layer: position.get(id(layer), len(position)))


def layers_as_called(model):
    """Returns `flat_layers(model)` in call order, also where a subclass knows only the order of its attributes.

    A subclass is called once on symbolic inputs of the shapes that it was built on; nothing is computed.

    Raises:
        ValueError: The model isn't built, or the subclass can't be called so.
    """
    if not model.built:
        raise ValueError(
            "The order in which a model calls its layers isn't known before it is built: call it on a batch, or give "
            f"it an Input, first. Received: model={model!r}"
        )
    if keras_internals.functional_of(model) is None:
        return _layers_as_traced(model)
    layers = []
    for layer in _called_layers(model):
        layers += layers_as_called(layer) if isinstance(layer, keras.Model) else [layer]
    layers = [layer for layer in layers if not isinstance(layer, keras.layers.InputLayer)]
    return list({id(layer): layer for layer in layers}.values())


def _layers_as_traced(model):
    layers, position = flat_layers(model), {}

    def recording(layer):
        call = layer.call
        return lambda *args, **kwargs: (position.setdefault(id(layer), len(position)), call(*args, **kwargs))[1]

    try:
        shapes = (model.get_build_config() or {})["input_shape"]
        inputs = keras.tree.map_shape_structure(lambda shape: keras.Input(batch_shape=shape), shapes)
        with replaced_all([(layer, "call", recording(layer)) for layer in layers]):
            model(inputs)
    except Exception as error:
        raise ValueError(
            "The order in which this model calls its layers isn't known: it is a subclass, and calling it on symbolic "
            f"inputs of the shapes that it was built on failed ({error}). Received: model={model!r}"
        ) from error
    return sorted(layers, key=lambda layer: position.get(id(layer), len(position)))


def reads_channels_first(model):
    """Returns whether the first layer that has a `data_format` reads images with their channels as the first axis.

    `False` too where something before it changes the shape, such as a transposition, and of a subclass, whose graph
    isn't known.
    """
    functional = keras_internals.functional_of(model)
    for node in [] if functional is None else keras_internals.nodes_in_order(functional):
        operation = node.operation
        if isinstance(operation, keras.Model):
            return reads_channels_first(operation)
        if hasattr(operation, "data_format"):
            return operation.data_format == "channels_first"
        shapes = {tuple(tensor.shape) for tensor in (*node.input_tensors, *node.output_tensors)}
        if len(shapes) > 1:
            return False
    return False


def all_layers(model):
    """Returns the layers inside a model at every depth, each once: wrapped layers and cells too, without the model."""
    return keras_internals.flatten_layers(model, include_self=False)


def layer_paths(model):
    """Returns pairs of a path and a layer, for the model and the layers inside at every depth, each once.

    A path is the names of all models and layers around the layer and its own, such as `"net/backbone/block_1/dropout"`.
    A variable's path has the names only of those that built it: a functional model builds its layers before it is part
    of another, so that theirs lack its name.
    """
    pairs = {}

    def visit(layer, outer):
        path = f"{outer}{layer.name}"
        if id(layer) not in pairs:
            pairs[id(layer)] = path, layer
            for inner in keras_internals.inner_layers(layer):
                visit(inner, f"{path}/")

    visit(model, "")
    return list(pairs.values())


def block_paths(model):
    """Returns pairs of a path and a layer as `layer_paths` does, with names that the next model of the session has too.

    The model's own name is left out, as in `"backbone/block_1/dropout"`. Keras counts its automatic names through the
    session, as in `"dense_13"`: within each block they are counted anew, from `"dense"`, unless they begin so already.
    """
    pairs, seen = [], set()

    def visit(layer, outer):
        inner = [one for one in keras_internals.inner_layers(layer) if id(one) not in seen]
        seen.update(map(id, inner))
        for one, name in zip(inner, _names_in_block(inner)):
            pairs.append((f"{outer}{name}", one))
            visit(one, f"{outer}{name}/")

    visit(model, "")
    return pairs


def _names_in_block(layers):
    """Returns names for layers of one block: their own, or counted from the block's first of that kind."""
    numbers = [_automatic_number(layer) for layer in layers]
    names = [layer.name for layer in layers]
    for kind in {kind for kind, _ in filter(None, numbers)}:
        places = [place for place, one in enumerate(numbers) if one is not None and one[0] == kind]
        if min(numbers[place][1] for place in places) > 1:
            for count, place in enumerate(sorted(places, key=lambda place: numbers[place][1])):
                names[place] = f"{kind}_{count}" if count else kind
    # A layer of the user's own may have such a name.
    return names if len(set(names)) == len(set(map(id, layers))) else [layer.name for layer in layers]


def _automatic_number(layer):
    """Returns the kind and number of a name such as `"dense_13"` of a `Dense`, or `None` for other names."""
    found = re.fullmatch(r"(\w+?)(?:_(\d+))?", layer.name)
    if found and found[1].replace("_", "") == type(layer).__name__.lower().replace("_", ""):
        return found[1], int(found[2] or 0)
    return None


def matches_path(pattern, path):
    """Returns whether a regular expression matches the whole path, or all of it behind a slash."""
    return re.fullmatch(f"(?:.*/)?(?:{pattern})", path) is not None


def nested_models(model):
    """Returns the models within `model`, outer ones first."""
    inner = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    return [nested for outer in inner for nested in (outer, *nested_models(outer))]


def last_activation(output):
    """Returns `"softmax"`, `"sigmoid"`, `"linear"` or another activation's name for a symbolic output, or `None`.

    Looks through reshapes, identities and nested models.
    """
    history = keras_internals.keras_history(output)
    if history is None:
        return None
    operation, node_index, tensor_index = history
    if isinstance(operation, keras.Model):
        inner = getattr(operation, "outputs", None)
        return last_activation(inner[tensor_index]) if inner else None
    if isinstance(operation, keras.layers.Softmax):
        return "softmax" if operation.axis == -1 else None
    if isinstance(operation, keras.layers.TimeDistributed):
        operation = operation.layer
    activation = getattr(operation, "activation", None)
    name = getattr(activation, "__name__", None)
    passes = isinstance(operation, (keras.layers.Reshape, keras.layers.Flatten, keras.layers.Identity)) or (
        isinstance(operation, keras.layers.Activation) and name == "linear"
    )
    if passes:
        return last_activation(keras_internals.inbound_nodes(operation)[node_index].input_tensors[0])
    if name is None and type(operation).__name__ in ("Softmax", "Sigmoid"):
        # `keras.ops.softmax` or `keras.ops.sigmoid` on a symbolic tensor.
        return type(operation).__name__.lower() if getattr(operation, "axis", -1) in (-1, None) else None
    if isinstance(activation, keras.layers.Layer):
        return None
    return name
