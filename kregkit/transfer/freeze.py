"""Which layers train."""

import keras

from kregkit._core.checks import check_integer
from kregkit.transfer._graph import flat_layers, matching, weighted_layers


def freeze(model, until=None):
    """Stops layers from training, from the input up to and with a layer; changes `model`.

    Frozen BatchNormalization runs in inference mode: it uses its moving statistics and leaves them as they are, which
    is Keras's rule for `trainable=False` and what fine-tuning needs. A compiled model stays compiled: its optimizer
    gets slots for all weights first, so that `unfreeze` can go on with the same optimizer, and the train step is
    made anew at the next `fit`.

    Args:
        model: A built Keras model.
        until: A layer, its name or a regular expression: all layers up to and with the last one that it means. An
            integer: the first that many layers that have kernels, with what follows each (normalisation); if
            negative, all but the last that many. Defaults to `None`, all layers.

    Returns:
        List of the names of the layers with weights that are frozen now.

    Raises:
        ValueError: `until` names no layer or is out of range.

    Example:

    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, name="body"), keras.layers.BatchNormalization(name="norm"),
    ...           keras.layers.Dense(2, name="head")]
    >>> model = keras.Sequential(layers)
    >>> freeze(model, until=-1)
    ['body', 'norm']
    """
    chosen = _up_to(model, until)
    prepare(model)
    set_trainable(model, dict.fromkeys(chosen, False))
    return [layer.name for layer in flat_layers(model) if layer.weights and not layer.trainable]


def unfreeze(model, start=None):
    """Lets layers train, from a layer up to the output; changes `model`.

    Args:
        model: A built Keras model.
        start: A layer, its name or a regular expression: from the first one that it means. An integer: the last that
            many layers that have kernels, with what belongs to them. Defaults to `None`, all layers.

    Returns:
        List of the names of the layers with weights that train now.

    Raises:
        ValueError: `start` names no layer or is out of range.

    Example:

    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, name="body"), keras.layers.Dense(2, name="head")]
    >>> model = keras.Sequential(layers)
    >>> _ = freeze(model)
    >>> unfreeze(model, 1)
    ['head']
    """
    chosen = _from(model, start)
    prepare(model)
    set_trainable(model, dict.fromkeys(chosen, True))
    return [layer.name for layer in flat_layers(model) if layer.weights and layer.trainable]


def _up_to(model, until):
    flat = flat_layers(model)
    if until is None:
        return flat
    if isinstance(until, int) and not isinstance(until, bool):
        weighted = weighted_layers(model)
        check_integer("until", until, -len(weighted), len(weighted))
        kept = weighted[until:] if until else weighted
        return flat[: _place(flat, kept[0])] if kept and until != len(weighted) else flat
    found = matching(model, until, "until")
    return flat[: max(_place(flat, layer) for layer in found) + 1]


def _from(model, start):
    flat = flat_layers(model)
    if start is None:
        return flat
    if isinstance(start, int) and not isinstance(start, bool):
        weighted = weighted_layers(model)
        check_integer("start", start, 1, len(weighted))
        return flat[_place(flat, weighted[-start]) :]
    found = matching(model, start, "start")
    return flat[min(_place(flat, layer) for layer in found) :]


def _place(layers, layer):
    return next(index for index, one in enumerate(layers) if one is layer)


def set_trainable(model, flags):
    """Sets the `trainable` flag of flat layers, and opens the models that hold them, whose own flag would hide it.

    Args:
        model: A Keras model.
        flags: Dictionary from layers to booleans.
    """
    flat = flat_layers(model)
    wanted = {id(layer): layer.trainable for layer in flat} | {id(layer): flag for layer, flag in flags.items()}
    containers = [one for one in model._flatten_layers(include_self=True) if isinstance(one, keras.Model)]
    for container in containers:
        if not container.trainable:
            container.trainable = True
    for layer in flat:
        if layer.trainable != wanted[id(layer)]:
            layer.trainable = wanted[id(layer)]
    if getattr(model, "compiled", False):
        # The compiled step has the list of weights baked in.
        model.train_function = None


def prepare(model):
    """Gives a compiled model's optimizer slots for all weights that any layer could train."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return
    flat = flat_layers(model)
    flags = {layer: layer.trainable for layer in flat}
    function = model.train_function
    set_trainable(model, dict.fromkeys(flat, True))
    try:
        if optimizer.built:
            known = {variable.path for variable in _known(optimizer)}
            missing = [one.path for one in model.trainable_variables if one.path not in known]
            if missing:
                raise ValueError(
                    "The optimizer was built while layers were frozen, and would refuse their weights: compile the "
                    f"model again. Received: missing={missing}"
                )
        else:
            with model.distribute_strategy.scope():
                optimizer.build(model.trainable_variables)
    finally:
        set_trainable(model, flags)
        model.train_function = function


def _known(optimizer):
    from kregkit._core.optimizers import leaf_optimizers

    return [variable for leaf in leaf_optimizers(optimizer) for variable in leaf._trainable_variables]
