"""What a model computes of its weights, as text that can be compared."""

import json

import keras

from kregkit._core.keras_internals import flatten_layers


def architecture_text(model, modules=None):
    """Returns a model's config as text, without the layers' names and the seeds; `None` where it has no such config.

    Args:
        model: A Keras model.
        modules: Set, to which the modules of all classes in the config are added.
    """
    names, modules = {}, set() if modules is None else modules
    for layer in flatten_layers(model):
        names.setdefault(layer.name, f"#{len(names)}")
    try:
        serialized = keras.saving.serialize_keras_object(model)
        modules.add(serialized["module"])
        config = _anonymous(serialized["config"], names, modules)
        return json.dumps([serialized["class_name"], serialized["module"], config], sort_keys=True)
    except (KeyError, NotImplementedError, TypeError, ValueError):
        return None


def _anonymous(value, names, modules):
    if isinstance(value, dict):
        if "module" in value and "class_name" in value:
            modules.add(value["module"])
        return {key: None if key == "seed" else _anonymous(item, names, modules) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_anonymous(item, names, modules) for item in value]
    return names.get(value, value) if isinstance(value, str) else value
