"""What hides behind `model.optimizer`, and beside it."""

import keras

from kregkit._core.keras_internals import flatten_layers

# Whose objects hold no optimizer of the model's: they aren't searched. `types` has Python's own plain namespaces.
_LIBRARIES = ("builtins", "keras", "kregkit", "numpy", "tensorflow")


def leaf_optimizers(optimizer):
    """Returns the optimizers that update weights, behind any wrappers, in a fixed order.

    `LossScaleOptimizer` and kregkit's own wrappers hold an `inner_optimizer`; `MultiOptimizer` holds `optimizers`.

    >>> import keras
    >>> sgd = keras.optimizers.SGD()
    >>> leaf_optimizers(keras.optimizers.LossScaleOptimizer(sgd)) == [sgd]
    True
    """
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        return leaf_optimizers(inner)
    several = getattr(optimizer, "optimizers", None)
    if several is not None:
        return [leaf for one in several for leaf in leaf_optimizers(one)]
    return [optimizer]


def wrapped_optimizers(optimizer):
    """Returns an optimizer and all that it wraps, itself first; an empty list for None."""
    if optimizer is None:
        return []
    inner = [getattr(optimizer, "inner_optimizer", None), *(getattr(optimizer, "optimizers", None) or ())]
    wrapped = [part for one in inner if one is not None for part in wrapped_optimizers(one)]
    return list({id(one): one for one in (optimizer, *wrapped)}.values())


def own_optimizers(model):
    """Returns the optimizers among the attributes of a model and of the models inside it.

    Those in dictionaries, lists and plain objects are among them, at any depth.
    """
    found, seen = [], set()
    for layer in flatten_layers(model):
        for value in vars(layer).values():
            found += _optimizers_in(value, seen)
    return list({id(part): part for one in found for part in wrapped_optimizers(one)}.values())


def _optimizers_in(value, seen):
    # Without recursion: objects may be linked to any depth.
    found, ahead = [], [value]
    while ahead:
        value = ahead.pop()
        if isinstance(value, keras.optimizers.Optimizer):
            found.append(value)
            continue
        if isinstance(value, dict):
            parts = value.values()
        elif isinstance(value, (list, tuple)):
            parts = value
        elif type(value).__module__.partition(".")[0] not in _LIBRARIES and not isinstance(value, keras.Layer):
            parts = getattr(value, "__dict__", {}).values()
        else:
            continue
        if id(value) not in seen:
            seen.add(id(value))
            ahead += reversed(list(parts))
    return found
