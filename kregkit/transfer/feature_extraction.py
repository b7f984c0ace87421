"""Features of several stages."""

from collections.abc import Sequence
from typing import Literal

import keras

from kregkit._core import keras_internals
from kregkit._core.checks import check_choice
from kregkit._core.graph import flat_layers
from kregkit.transfer._graph import check_graph, inputs_of, matching, pooled


def features(
    model: keras.Model,
    layers: keras.layers.Layer | str | Sequence[keras.layers.Layer | str],
    pooling: Literal["average", "max", "flatten"] | None = None,
) -> keras.Model:
    """Returns a model with the outputs of several layers, for heads on several stages at once.

    Detection heads and captioning read features at several depths. The new model shares its layers, and so its
    weights, with `model`.

    Args:
        model: A functional or built sequential model. Layers of models nested in it can be named as well.
        layers: List of layers or their names; or one, which gives one output.
        pooling: `None`, `"average"`, `"max"` or `"flatten"`, what makes vectors of features with several positions.

    Returns:
        A Keras model, not compiled.

    Raises:
        ValueError: A layer is not in the model, or is called more than once, or the model has no readable graph.

    Example:

    >>> stages = [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, name="low"), keras.layers.Conv2D(6, 3, name="high")]
    >>> [tuple(shape) for shape in features(keras.Sequential(stages), ["low", "high"]).output_shape]
    [(None, 6, 6, 4), (None, 4, 4, 6)]
    """
    check_graph(model)
    check_choice("pooling", pooling, (None, "average", "max", "flatten"))
    several = isinstance(layers, (list, tuple)) and len(layers) > 0
    chosen = [matching(model, one, "layers") for one in (layers if several else [layers])]
    flat = [layer for layers in chosen for layer in layers]
    tensors = _outputs(model, flat)
    if pooling is not None:
        tensors = [pooled(tensor, pooling) for tensor in tensors]
    return keras.Model(inputs_of(model), tensors if several or len(tensors) > 1 else tensors[0])


def _outputs(model, layers):
    """Returns the layers' output tensors, as functions of the model's inputs."""
    own = {id(layer): layer for layer in model.layers}
    results = {}
    for layer in layers:
        if id(layer) in own:
            results[id(layer)] = _only_node(model, layer).output_tensors[0]
    for inner in (layer for layer in model.layers if isinstance(layer, keras.Model)):
        members = {id(layer) for layer in flat_layers(inner)}
        wanted = [layer for layer in layers if id(layer) not in results and id(layer) in members]
        if wanted:
            inputs = _only_node(model, inner).input_tensors
            outputs = keras.Model(inner.inputs, _outputs(inner, wanted))(inputs if len(inputs) > 1 else inputs[0])
            results.update(zip(map(id, wanted), keras.tree.flatten(outputs)))
    return [results[id(layer)] for layer in layers]


def _only_node(model, layer):
    """Returns the one call of the layer in the model's graph, a node."""
    calls = [
        node for node in keras_internals.nodes_in_order(keras_internals.functional_of(model)) if node.operation is layer
    ]
    if len(calls) != 1:
        raise ValueError(
            f"A layer must be called once to have one output. Received: layer={layer.name!r}, calls={len(calls)}"
        )
    return calls[0]
