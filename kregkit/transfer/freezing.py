"""Which layers train."""

import contextlib
from typing import Any

import keras

from kregkit._core import keras_internals, rules
from kregkit._core.checks import check_integer
from kregkit._core.graph import all_layers, flat_layers, nested_models
from kregkit._core.optimizers import leaf_optimizers
from kregkit.transfer._graph import matching, weighted_layers


@rules.checked(model=rules.model)
def freeze(model: keras.Model, until: keras.layers.Layer | str | None = None) -> Any:
    """Stops layers from training, from the input up to and including a layer; changes `model`.

    Frozen BatchNormalization runs in inference mode: it uses its moving statistics and leaves them as they are, which
    is Keras's rule for `trainable=False` and what fine-tuning needs. A compiled model stays compiled: an optimizer that
    has not trained yet gets slots for all weights first, so that `unfreeze` can go on with the same one, and the train
    step is made anew at the next `fit`. (When Keras loads a `.keras` file, it builds an optimizer for the weights that
    train, so the slots of frozen weights are lost: unfreeze before saving a model whose training is to go on.)

    Args:
        model: A built Keras model.
        until: A layer, its name or a regular expression: all layers up to and including the last one that it names. An
            integer: the first that many layers that have kernels, with what follows each (normalisation); if
            negative, all but the last that many. Defaults to `None`, all layers.

    Returns:
        List of the names of the layers with weights that are frozen now.

    Raises:
        ValueError: `until` names no layer or is out of range, or the model is compiled and has no weights yet.

    Example:

    >>> import keras
    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, name="body"), keras.layers.BatchNormalization(name="norm"),
    ...           keras.layers.Dense(2, name="head")]
    >>> model = keras.Sequential(layers)
    >>> freeze(model, until=-1)
    ['body', 'norm']
    """
    chosen = layers_up_to(model, until)
    prepare(model)
    set_trainable(model, chosen, False)
    return [layer.name for layer in flat_layers(model) if layer.weights and not layer.trainable]


@rules.checked(model=rules.model)
def unfreeze(model: keras.Model, start: keras.layers.Layer | str | None = None) -> Any:
    """Lets layers train, from a layer up to the output; changes `model`.

    Args:
        model: A built Keras model.
        start: A layer, its name or a regular expression: from the first one that it names. An integer: the last that
            many layers that have kernels, with what belongs to them. Defaults to `None`, all layers.

    Returns:
        List of the names of the layers with weights that train now.

    Raises:
        ValueError: `start` names no layer or is out of range, or the optimizer was built while these layers were
            frozen; the model is as before then.

    Example:

    >>> import keras
    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, name="body"), keras.layers.Dense(2, name="head")]
    >>> model = keras.Sequential(layers)
    >>> _ = freeze(model)
    >>> unfreeze(model, 1)
    ['head']
    """
    chosen = layers_from(model, start)
    prepare(model, chosen)
    set_trainable(model, chosen, True)
    return [layer.name for layer in flat_layers(model) if layer.weights and layer.trainable]


def layers_up_to(model: keras.Model, until: Any):
    """Returns the flat layers that `freeze` means."""
    flat = flat_layers(model)
    if until is None:
        return flat
    if isinstance(until, int) and not isinstance(until, bool):
        weighted = weighted_layers(model)
        check_integer("until", until, -len(weighted), len(weighted))
        training = weighted[until:] if until else weighted
        return flat[: _index(flat, training[0])] if training and until != len(weighted) else flat
    meant = matching(model, until, "until")
    return flat[: max(_index(flat, layer) for layer in meant) + 1]


def layers_from(model: keras.Model, start: Any, name: str = "start"):
    """Returns the flat layers that `unfreeze` means; `name` is the argument's, for messages."""
    flat = flat_layers(model)
    if start is None:
        return flat
    if isinstance(start, int) and not isinstance(start, bool):
        weighted = weighted_layers(model)
        check_integer(name, start, 1, len(weighted))
        return flat[_index(flat, weighted[-start]) :]
    meant = matching(model, start, name)
    return flat[min(_index(flat, layer) for layer in meant) :]


def _index(layers, layer):
    return next(index for index, other in enumerate(layers) if other is layer)


def trainable_flags(model: keras.Model):
    """Returns pairs of each layer and variable in `model`, outer layers first, and whether it is trainable."""
    outer = [model, *nested_models(model), *flat_layers(model)]
    inner = [part for layer in flat_layers(model) for part in all_layers(layer)]
    return [(part, part.trainable) for part in (*outer, *inner, *model.variables)]


def restore_flags(model: keras.Model, flags: Any):
    """Puts back what `trainable_flags` returned; an outer one's flag reaches inner ones, whose own come later."""
    for part, flag in flags:
        if part.trainable != flag:
            part.trainable = flag
    # The compiled step has the list of weights baked in.
    model.train_function = None


def set_trainable(model: keras.Model, layers: Any, flag: bool):
    """Sets the `trainable` flag of flat layers, and opens the models that hold them, whose own flag would hide it."""
    flags = trainable_flags(model)
    holders = [model, *nested_models(model)]
    held = {id(holder) for holder in holders}
    restore_flags(model, [(holder, True) for holder in holders] + [pair for pair in flags if id(pair[0]) not in held])
    for layer in layers:
        _set(layer, flag)


def _set(layer, flag):
    # Keras ignores the assignment of what a layer's flag already is, whatever its parts' flags are.
    layer.trainable = not flag
    layer.trainable = flag


def prepare(model: keras.Model, layers: Any = ()) -> None:
    """Gives a compiled model's optimizer slots for all weights that any layer could train, if it has none yet.

    Raises:
        ValueError: The optimizer was built before, and lacks weights of `layers`; or it was built, on JAX.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return
    if not model.built:
        raise ValueError(
            "The layers have no weights yet: give the model an `Input`, or call it once. "
            f"Received: model={model.name!r}"
        )
    if keras.backend.backend() == "jax":
        # There an optimizer must know the weights that train, and no others: `fit` builds it.
        if optimizer.built:
            raise ValueError(
                "On JAX an optimizer can't go on with other weights than it was built for: compile the model again "
                f"before this. Received: optimizer={optimizer.name!r}, which has trained"
            )
        return
    flags, function = trainable_flags(model), model.train_function
    _set(model, True)
    try:
        if not optimizer.built:
            # Only on TensorFlow does a model have a strategy.
            strategy = getattr(model, "distribute_strategy", None)
            with strategy.scope() if strategy is not None else contextlib.nullcontext():
                optimizer.build(model.trainable_variables)
        known = {
            id(variable)
            for leaf in leaf_optimizers(optimizer)
            for variable in keras_internals.optimizer_variables(leaf)
        }
        missing = [
            variable.path for layer in layers for variable in layer.trainable_variables if id(variable) not in known
        ]
    finally:
        restore_flags(model, flags)
        model.train_function = function
    if missing:
        raise ValueError(
            "The optimizer was built while layers were frozen, and would refuse their weights: compile the model "
            f"again. Received: missing={missing}"
        )
