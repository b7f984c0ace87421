"""Layers whose settings contradict what they are for."""

import keras
import numpy as np

from kregkit._core import keras_internals
from kregkit._core.graph import all_layers, flat_layers, last_activation, nested_models
from kregkit._core.types import Data
from kregkit._core.weights import is_kernel
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem

_DROPOUT = tuple(
    getattr(keras.layers, name)
    for name in (
        "Dropout",
        "SpatialDropout1D",
        "SpatialDropout2D",
        "SpatialDropout3D",
        "AlphaDropout",
        "GaussianDropout",
        "GaussianNoise",
    )
)
# Layers through which an output goes on as it is, apart from its shape or its scale.
_PASSING = (
    keras.layers.Activation,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.Permute,
    keras.layers.Rescaling,
    keras.layers.Reshape,
    keras.layers.Softmax,
)
_LINEAR = (
    *_PASSING[1:-1],
    keras.layers.BatchNormalization,
    keras.layers.Dropout,
    keras.layers.InputLayer,
    keras.layers.Normalization,
)
_KERNELS = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_SQUASHING = ("relu", "relu6", "tanh", "elu", "selu", "gelu", "silu", "swish", "softplus", "hard_tanh", "softsign")
_HIGHEST_RATE = 0.65
# The part of a BatchNormalization's first statistics that may be left, and after how many epochs.
_LEFT, _EPOCHS = 0.1, 20


def layer_settings(model: keras.Model, data: Data) -> Finding:
    """Checks settings of layers that are legal, and seldom meant.

    - Dropout rates above 0.65: Keras takes the part to drop, not the part to keep.
    - Dropout or noise behind the last weights: it changes the prediction itself.
    - `BatchNormalization` whose moving statistics hold more than 10% of their first values after 20 epochs of these
      data, `momentum ** (20 * batches)`, if the momentum is above the 0.99 of Keras; and a momentum of 0.3 or less,
      which other libraries mean as `1 - momentum`. Architectures of `keras.applications` are left as they are.
    - A softmax of a softmax; an activation between the last weights and a loss that takes logits.
    - Weights behind weights with no activation in the whole model: it computes what a single layer could.
    - A kernel whose units all have the same weights, which warns if they aren't zeros; and if they have the same
      gradient too it fails: they remain one unit for ever.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`. The number of batches in an epoch is taken from it, if it is known.

    Returns:
        A `Finding`. Its problems are named `"dropout rate too high"`, `"dropout behind the output"`,
        `"BatchNormalization momentum too slow"`, `"BatchNormalization momentum too fast"`, `"softmax twice"`,
        `"activation on logits"`, `"no nonlinearity"` and `"units start equal"`.

    Raises:
        ValueError: The model is not compiled or built, or `data` is an iterator.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1), keras.layers.Dropout(0.9)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> layer_settings(model, (x, x[:, :1])).faults
    ['dropout rate too high', 'dropout behind the output']
    """
    with probing(model, data) as probe:
        layers = all_layers(model)
        problems = [
            *_rates(layers),
            *_behind_outputs(probe),
            *_momenta(layers, probe.batches_per_epoch),
            *_output_activations(probe),
            *_linear(model),
            *_equal_units(probe),
        ]
    return Finding("layer_settings", f"{len(layers)} layers", "settings that fit their layers", tuple(problems))


def _rates(layers):
    remedy = "Keras's rate is the part that is dropped: to keep 80%, write 0.2"
    for layer in layers:
        for name in ("rate", "dropout", "recurrent_dropout"):
            rate = getattr(layer, name, None)
            # A GaussianDropout's rate sets a variance, rate / (1 - rate).
            known = isinstance(layer, (*_DROPOUT, keras.layers.RNN, keras.layers.MultiHeadAttention))
            if known and isinstance(rate, (int, float)) and rate > _HIGHEST_RATE:
                yield Problem(
                    "dropout rate too high", "warn", f"{name}={rate:g}", f"at most {_HIGHEST_RATE}", remedy, layer.name
                )


def _behind_outputs(probe):
    remedy = "move it before the last layer with weights, or drop it: in training it changes the prediction itself"
    expected = "no noise between the last weights and the loss"
    for layer in _tail(probe):
        if isinstance(layer, _DROPOUT) and getattr(layer, "rate", getattr(layer, "stddev", 0)):
            yield Problem("dropout behind the output", "fail", type(layer).__name__, expected, remedy, layer.name)


def _tail(probe):
    """Returns the layers between the last weights and the outputs, from the outputs on."""
    outputs = getattr(probe.model, "outputs", None) or []
    if outputs:
        tail = [layer for output in outputs for layer in _tail_of(output)]
        return list({id(layer): layer for layer in tail}.values())
    tail = []
    for record in reversed(probe.observation.records):
        if not isinstance(record.layer, (*_PASSING, *_DROPOUT)):
            break
        tail.append(record.layer)
    return tail


def _tail_of(tensor):
    history = keras_internals.keras_history(tensor)
    if history is None:
        return
    layer, node_index, tensor_index = history
    if isinstance(layer, keras.Model):
        inner = getattr(layer, "outputs", None)
        if inner:
            yield from _tail_of(inner[tensor_index])
        return
    passes = isinstance(layer, (*_PASSING, *_DROPOUT)) or type(layer).__name__ in ("Softmax", "Sigmoid")
    if passes:
        yield layer
        yield from _tail_of(keras_internals.inbound_nodes(layer)[node_index].input_tensors[0])


def _momenta(layers, batches):
    normalizations = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    normalizations = [layer for layer in normalizations if layer.trainable]
    slow = [layer for layer in normalizations if layer.momentum > 0.995 and not _is_of_an_application(layers)]
    fast = [layer for layer in normalizations if layer.momentum <= 0.3]
    for layer in slow:
        steps = None if batches is None else _EPOCHS * batches
        left = layer.momentum ** (10000 if steps is None else steps)
        if left > _LEFT:
            figure = f"momentum={layer.momentum:g}: {left:.0%} of the first statistics are left after " + (
                "10,000 steps" if steps is None else f"{_EPOCHS} epochs of {batches} batches"
            )
            remedy = (
                "predictions and validation use the moving statistics: lower the momentum to 0.9 or 0.99, or call "
                "kregkit.inference.recompute_batch_normalization after training"
            )
            name = "BatchNormalization momentum too slow"
            yield Problem(name, "warn", figure, f"at most {_LEFT:.0%}", remedy, layer.name)
    for layer in fast:
        remedy = (
            "Keras keeps `momentum` of the old statistics (0.99), where others mean the part of the new ones (0.01)"
        )
        figure = f"momentum={layer.momentum:g}: the moving statistics are the last batch's"
        yield Problem("BatchNormalization momentum too fast", "warn", figure, "0.9 to 0.99", remedy, layer.name)


def _is_of_an_application(layers):
    """Returns whether these are the layers of one of the architectures that use a momentum of 0.999 or more."""
    names = {layer.name for layer in layers}
    known = ("bn_Conv1", "stem_bn1", "conv_bn", "Conv_1_bn", "stem_bn", "expanded_conv_project_bn", "conv1_bn")
    return len(names & set(known)) > 0 and len(names) > 50


def _output_activations(probe):
    model = probe.model
    for output in getattr(model, "outputs", None) or []:
        tail = list(_tail_of(output))
        softmaxes = [layer for layer in tail if _makes_softmax(layer)]
        before = _before_tail(output)
        if before is not None and last_activation(before) == "softmax" and softmaxes:
            remedy = "drop one of them: the second one makes nearly equal probabilities of any"
            yield Problem("softmax twice", "fail", "a softmax of a softmax", "one", remedy, softmaxes[0].name)
    for task, activation, name in zip(probe.loss_tasks, probe.activations, _output_names(probe)):
        if task is not None and task.kind == "logits" and activation in _SQUASHING:
            remedy = f"logits are any number: end the model without an activation, for {activation} hides some of them"
            yield Problem("activation on logits", "fail", activation, "none", remedy, name)
        elif task is not None and task.kind == "probabilities" and activation in ("relu", "relu6", "elu", "selu"):
            remedy = f"end the model in a {task.link}: {activation} gives no probabilities"
            yield Problem("activation on probabilities", "fail", activation, task.link, remedy, name)


def _output_names(probe):
    names = getattr(probe.model, "output_names", None) or []
    count = len(probe.losses)
    return [f"output {name!r}" for name in (names if len(names) == count else range(count))]


def _makes_softmax(layer):
    name = getattr(getattr(layer, "activation", None), "__name__", type(layer).__name__.lower())
    return name == "softmax"


def _before_tail(output):
    """Returns the tensor before the last softmax of an output, None if there is no such softmax."""
    history = keras_internals.keras_history(output)
    while history is not None:
        layer, node_index, tensor_index = history
        if isinstance(layer, keras.Model):
            inner = getattr(layer, "outputs", None)
            history = keras_internals.keras_history(inner[tensor_index]) if inner else None
            continue
        if not isinstance(layer, (*_PASSING, *_DROPOUT)) and type(layer).__name__ != "Softmax":
            return None
        tensor = keras_internals.inbound_nodes(layer)[node_index].input_tensors[0]
        if _makes_softmax(layer):
            return tensor
        history = keras_internals.keras_history(tensor)
    return None


def _linear(model):
    models = [model, *nested_models(model)]
    graphs = [keras_internals.functional_of(one) for one in models]
    if None in graphs:
        # What a subclass does between its layers isn't known.
        return
    operations = [node.operation for graph in graphs for node in keras_internals.nodes_in_order(graph)]
    layers = flat_layers(model)
    kernels = [layer for layer in layers if isinstance(layer, _KERNELS)]
    plain = all(isinstance(one, (*_LINEAR, *_KERNELS, keras.Model)) for one in [*operations, *layers])
    if len(kernels) > 1 and plain and all(_activation_name(layer) == "linear" for layer in kernels[:-1]):
        remedy = 'give hidden layers an activation ("relu"): without any, the layers compute what a single one could'
        figure = f"{len(kernels)} layers of weights, no activation between them"
        yield Problem("no nonlinearity", "warn", figure, "an activation behind hidden layers", remedy, kernels[0].name)


def _activation_name(layer):
    """Returns the name of a layer's activation, an empty string where it has none."""
    return getattr(getattr(layer, "activation", None), "__name__", "")


def _equal_units(probe):
    owners = {
        id(variable): layer
        for layer in all_layers(probe.model)
        for variable in keras_internals.own_trainable_variables(layer)
    }
    remedy = "initialise kernels with random numbers (glorot_uniform, he_normal); constants are for biases"
    for variable, gradient in zip(probe.model.trainable_variables, probe.observation.gradients):
        if not is_kernel(variable) or variable.shape[-1] < 2 or id(variable) not in owners:
            continue
        values = keras.ops.convert_to_numpy(variable.value)
        if np.ptp(values, axis=-1).any() or gradient is None:
            continue
        same = np.ptp(gradient, axis=-1).max() <= 1e-5 * np.abs(gradient).max()
        if same or np.any(values):
            # Kernels of zeros whose gradients differ are how residual branches and heads may begin.
            figure = f"{variable.shape[-1]} units with the same weights" + (" and the same gradient" if same else "")
            where, status = owners[id(variable)].name, "fail" if same else "warn"
            yield Problem("units start equal", status, figure, "units that differ", remedy, where)
