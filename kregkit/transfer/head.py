"""Backbones and heads: put on a new one, take features out, leave layers out, put layers in."""

import keras

from kregkit._core.checks import check_choice, check_integer
from kregkit.transfer._graph import check_graph, flat_layers, matching, rebuilt

# Layers that may stand behind the last one with weights without being a part of the features.
_TAIL = (
    keras.layers.Activation,
    keras.layers.Softmax,
    keras.layers.Dropout,
    keras.layers.Identity,
    keras.layers.Reshape,
)
# Layers that do nothing outside of training.
_TRAINING_ONLY = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.AlphaDropout,
    keras.layers.ActivityRegularization,
    keras.layers.RandomBrightness,
    keras.layers.RandomContrast,
    keras.layers.RandomFlip,
    keras.layers.RandomRotation,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
    keras.layers.RandomColorJitter,
    keras.layers.RandomErasing,
    keras.layers.RandomGaussianBlur,
    keras.layers.RandomGrayscale,
    keras.layers.RandomHue,
    keras.layers.RandomPerspective,
    keras.layers.RandomSaturation,
    keras.layers.RandomShear,
)


def replace_head(model, num_classes, pooling="average", name="head", activation=None):
    """Returns a new model: the body of `model` and a fresh linear layer for other classes.

    The head is the last `Dense` (or 1x1 convolution to the outputs) with the activations, dropout and reshapes behind
    it. A model without one, such as from `keras.applications` with `include_top=False`, is all body. The new model has
    its own copy of the weights: training it leaves `model` as it is. It is not compiled.

    Args:
        model: A functional, built sequential or `keras.applications` model with one output.
        num_classes: Integer >= 1, the outputs of the new head.
        pooling: `"average"`, `"max"` or `"flatten"`, what makes a vector of features with places. Defaults to
            `"average"`.
        name: String, the new layer's name. Defaults to `"head"`.
        activation: The new layer's activation. Defaults to none: outputs are logits.

    Raises:
        ValueError: An argument is out of range, or the model has no readable graph, or several outputs.

    Example:

    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, "relu", name="body"), keras.layers.Dense(2, "softmax")]
    >>> model = replace_head(keras.Sequential(layers), num_classes=7)
    >>> [layer.name for layer in model.layers[1:]], model.output_shape
    (['body', 'head'], (None, 7))
    """
    check_integer("num_classes", num_classes, 1)
    check_choice("pooling", pooling, ("average", "max", "flatten"))
    check_graph(model)
    if len(model.outputs) != 1:
        raise ValueError(f"`model` must have one output. Received: outputs={len(model.outputs)}")
    if any(layer.name == name for layer in flat_layers(model)[:-1]):
        raise ValueError(f"`name` must differ from the names of the body's layers. Received: name={name!r}")
    body = rebuilt(model)
    x = _pooled(_body_output(body.outputs[0]), pooling)
    head = keras.layers.Dense(num_classes, activation, name=name, dtype="float32")
    return keras.Model(body.input, head(x), name=model.name)


def _body_output(output):
    """Returns what the last layer with weights receives, if that is a head, else `output`."""
    tensor = output
    while True:
        layer, node, _ = tensor._keras_history
        inputs = layer._inbound_nodes[node].input_tensors
        if isinstance(layer, keras.layers.Dense):
            return inputs[0]
        if isinstance(layer, keras.layers.Conv2D) and set(layer.kernel_size) == {1} and tensor is not output:
            return inputs[0]
        pooled = isinstance(layer, (keras.layers.GlobalAveragePooling2D, keras.layers.Flatten)) and tensor is output
        if not (isinstance(layer, _TAIL) or pooled) or len(inputs) != 1:
            return output
        if pooled and not isinstance(inputs[0]._keras_history[0], (*_TAIL, keras.layers.Conv2D)):
            return output
        if pooled and not _is_class_map(inputs[0], output):
            return output
        tensor = inputs[0]


def _is_class_map(tensor, output):
    layer = tensor._keras_history[0]
    return (
        isinstance(layer, keras.layers.Conv2D) and set(layer.kernel_size) == {1} and layer.filters == output.shape[-1]
    )


def _pooled(x, pooling):
    rank = len(x.shape)
    if rank == 2:
        return x
    if pooling == "flatten":
        return keras.layers.Flatten()(x)
    kind = "Average" if pooling == "average" else "Max"
    return getattr(keras.layers, f"Global{kind}Pooling{rank - 2}D")()(x)


def features(model, layers, pooling=None):
    """Returns a model with the outputs of several layers, for heads on several stages at once.

    Detection heads and captioning read features at several depths. The new model shares its layers, and so its
    weights, with `model`.

    Args:
        model: A functional or built sequential model. Layers of models nested in it can be named as well.
        layers: List of layers or their names; or one, which gives one output.
        pooling: `None`, `"average"`, `"max"` or `"flatten"`, what makes vectors of features with places.

    Raises:
        ValueError: A layer is not in the model, or is called more than once, or the model has no readable graph.

    Example:

    >>> stages = [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, name="low"), keras.layers.Conv2D(6, 3, name="high")]
    >>> [tuple(shape) for shape in features(keras.Sequential(stages), ["low", "high"]).output_shape]
    [(None, 6, 6, 4), (None, 4, 4, 6)]
    """
    check_graph(model)
    check_choice("pooling", pooling, (None, "average", "max", "flatten"))
    several = isinstance(layers, (list, tuple))
    chosen = [matching(model, one, "layers") for one in (layers if several else [layers])]
    flat = [layer for found in chosen for layer in found]
    tensors = _outputs(model, flat)
    if pooling is not None:
        tensors = [_pooled(tensor, pooling) for tensor in tensors]
    return keras.Model(model.input, tensors if several or len(tensors) > 1 else tensors[0])


def _outputs(model, layers):
    """Returns the layers' output tensors, as functions of the model's inputs."""
    own = {id(layer): layer for layer in model.layers}
    results = {}
    for layer in layers:
        if id(layer) in own:
            nodes = [n for n in layer._inbound_nodes if _belongs(model, n)]
            if len(nodes) != 1:
                raise ValueError(
                    "A layer must be called once to have one output. "
                    f"Received: layer={layer.name!r}, calls={len(nodes)}"
                )
            results[id(layer)] = nodes[0].output_tensors[0]
    for inner in (layer for layer in model.layers if isinstance(layer, keras.Model)):
        wanted = [
            layer for layer in layers if id(layer) not in results and any(layer is one for one in flat_layers(inner))
        ]
        if wanted:
            nodes = [n for n in inner._inbound_nodes if _belongs(model, n)]
            outputs = keras.Model(inner.inputs, _outputs(inner, wanted))(nodes[0].input_tensors)
            results.update(zip(map(id, wanted), keras.tree.flatten(outputs)))
    return [results[id(layer)] for layer in layers]


def _belongs(model, node):
    functional = getattr(model, "_functional", None) or model
    return any(node is one for nodes in functional._nodes_by_depth.values() for one in nodes)


def insert(model, after, layer):
    """Returns a copy of a model with one more layer, the weights kept: such as dropout in a pretrained network.

    Args:
        model: A functional or built sequential model.
        after: A layer of the model or its name; the new layer gets its output, and what used that output gets the new
            layer's. A regular expression or a list means several places, each with its own copy of the new layer.
        layer: A Keras layer that keeps the shape.

    Raises:
        ValueError: `after` names no layer, or the model has no readable graph.

    Example:

    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, name="one"), keras.layers.Dense(2, name="two")]
    >>> model = keras.Sequential(layers)
    >>> [one.name for one in insert(model, after="one", layer=keras.layers.Dropout(0.5, name="noise")).layers]
    ['one', 'noise', 'two']
    """
    check_graph(model)
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(f"`layer` must be a Keras layer. Received: layer={layer!r}")
    places, added = matching(model, after, "after"), {}
    for index, place in enumerate(places):
        config = layer.get_config()
        name = config["name"] if len(places) == 1 else f"{config['name']}_{index}"
        added[id(place)] = (
            layer if index == 0 and len(places) == 1 else type(layer).from_config({**config, "name": name})
        )
    return rebuilt(model, after=added)


def strip(model):
    """Returns a copy of a model without the layers that do something in training only, for export.

    These are Keras's dropout, noise and random augmentation layers (not `RandomCrop`, which cuts the centre at test
    time), activity regularisation, and any layer that says so by an attribute `training_only = True`. Predictions are
    the same, bit for bit.

    Raises:
        ValueError: The model has no readable graph.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(2, name="top")])
    >>> [layer.name for layer in strip(model).layers]
    ['top']
    """
    return rebuilt(
        model, drop=lambda layer: isinstance(layer, _TRAINING_ONLY) or getattr(layer, "training_only", False)
    )


def reinitialize(model, layers):
    """Gives layers new weights, as if they had just been built; changes `model`, and returns the layers' names.

    Where little data differ from those that the model was trained on, more of the top layers begin anew. A compiled
    model should be compiled again: its optimizer's slots belong to the old weights.

    Args:
        model: A built Keras model.
        layers: A layer, its name, a regular expression, a list of these; or an integer, that many layers with kernels
            from the top.

    Raises:
        ValueError: `layers` names no layer.

    Example:

    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, name="one"), keras.layers.Dense(2, name="two")]
    >>> model = keras.Sequential(layers)
    >>> reinitialize(model, 1)
    ['two']
    """
    from kregkit.transfer._graph import weighted_layers

    if isinstance(layers, int) and not isinstance(layers, bool):
        weighted = weighted_layers(model)
        check_integer("layers", layers, 1, len(weighted))
        flat = flat_layers(model)
        start = next(index for index, layer in enumerate(flat) if layer is weighted[-layers])
        chosen = flat[start:]
    else:
        chosen = matching(model, layers, "layers")
    done = []
    for layer in chosen:
        if layer.weights:
            fresh = type(layer).from_config(layer.get_config())
            fresh.build_from_config(layer.get_build_config())
            for variable, new in zip(layer.weights, fresh.weights):
                variable.assign(new)
            done.append(layer.name)
    return done
