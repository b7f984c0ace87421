"""Another head on a trained body."""

from typing import Any, Literal

import keras

from kregkit._core import keras_internals, rules
from kregkit._core.checks import check_choice, check_integer
from kregkit._core.graph import flat_layers
from kregkit.transfer._graph import check_graph, inputs_of, pooled, rebuilt

# What may stand behind a head: nothing here has weights.
_TAIL = (
    keras.layers.Activation,
    keras.layers.Softmax,
    keras.layers.Dropout,
    keras.layers.Identity,
    keras.layers.Reshape,
    keras.layers.Flatten,
    *(getattr(keras.layers, f"Global{kind}Pooling{rank}D") for kind in ("Average", "Max") for rank in (1, 2, 3)),
)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


@rules.checked(name=rules.word())
def replace_head(
    model: keras.Model,
    num_classes: int,
    pooling: Literal["average", "max", "flatten"] = "average",
    name: str = "head",
    activation: Any = None,
) -> keras.Model:
    """Returns a new model: the body of `model` and a fresh linear layer for other classes.

    The head is the last `Dense` (or 1x1 convolution to class maps) with the activations, pooling, dropout and reshapes
    behind it, also where it stands in a nested model. A model without one, such as from `keras.applications` with
    `include_top=False`, is all body. The new model has its own copy of the weights: training it leaves `model` as it
    is. It is not compiled.

    Args:
        model: A functional, built sequential or `keras.applications` model with one output.
        num_classes: Integer >= 1, the outputs of the new head.
        pooling: `"average"`, `"max"` or `"flatten"`, what makes a vector of features with positions. Defaults to
            `"average"`.
        name: String, the new layer's name. Defaults to `"head"`.
        activation: The new layer's activation. Defaults to none: outputs are logits.

    Returns:
        A Keras model.

    Raises:
        ValueError: An argument is out of range, a layer of the body has the name already, the model has no readable
            graph, or it has several outputs.

    Example:

    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, "relu", name="body"), keras.layers.Dense(2, "softmax")]
    >>> model = replace_head(keras.Sequential(layers), num_classes=7)
    >>> [layer.name for layer in model.layers[1:]], model.output_shape
    (['body', 'head'], (None, 7))
    """
    # More outputs than that fit in no memory.
    check_integer("num_classes", num_classes, 1, 10**8)
    check_choice("pooling", pooling, ("average", "max", "flatten"))
    check_graph(model)
    if len(model.outputs) != 1:
        raise ValueError(f"`model` must have one output. Received: outputs={len(model.outputs)}")
    copy = rebuilt(model)
    output = _body_output(copy.outputs[0])
    if any(layer.name == name for layer in flat_layers(keras.Model(inputs_of(copy), output))):
        raise ValueError(f"`name` must differ from the names of the body's layers. Received: name={name!r}")
    head = keras.layers.Dense(num_classes, activation, name=name, dtype="float32")
    return keras.Model(inputs_of(copy), head(pooled(output, pooling)), name=model.name)


def _body_output(output):
    """Returns what the head receives, or `output` where there is no head."""
    tensor = output
    while True:
        layer, node_index, _ = keras_internals.keras_history(tensor)
        inputs = keras_internals.inbound_nodes(layer)[node_index].input_tensors
        if isinstance(layer, keras.Model) and len(inputs) == 1:
            inner = _body_output(layer.outputs[0])
            return output if inner is layer.outputs[0] else keras.Model(layer.inputs, inner, name=layer.name)(inputs[0])
        if isinstance(layer, keras.layers.Dense):
            return inputs[0]
        if isinstance(layer, _CONVOLUTIONS) and tensor is not output and _makes_class_maps(layer, output):
            return inputs[0]
        if not isinstance(layer, _TAIL) or len(inputs) != 1:
            return output
        tensor = inputs[0]


def _makes_class_maps(layer, output):
    # A ReLU is what a body ends in; class maps are scores or probabilities.
    return (
        set(layer.kernel_size) == {1}
        and layer.filters == output.shape[-1]
        and layer.activation in (keras.activations.linear, keras.activations.softmax, keras.activations.sigmoid)
    )
