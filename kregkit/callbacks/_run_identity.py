"""What tells one run from another: the model, the optimizer, the data and the callbacks, as JSON values."""

import hashlib
import json

import keras

from kregkit._core.architecture import architecture_text
from kregkit._core.graph import all_layers
from kregkit._core.keras_internals import compile_arguments
from kregkit._core.optimizers import wrapped_optimizers
from kregkit._core.workers import worker

# Callbacks that Keras adds by itself, by `verbose` for one.
_ADDED = (keras.callbacks.History, keras.callbacks.ProgbarLogger)
# They change the rate that the optimizer was compiled with.
_SETTERS = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)


def counted_callbacks(callbacks, leaving_out=()):
    """Returns the callbacks that belong to a run, in their order, without those that Keras adds."""
    return [one for one in callbacks if not isinstance(one, _ADDED) and all(one is not other for other in leaving_out)]


def run_identity(model, callbacks):
    """Returns the identity of a run, less that of its data.

    Args:
        model: A compiled model.
        callbacks: List of all callbacks of the fit.
    """
    layers = all_layers(model)
    text = architecture_text(model)
    identity = {
        "callbacks": [type(callback).__name__ for callback in counted_callbacks(callbacks)],
        "loss": _json((compile_arguments(model) or {}).get("loss")),
        "workers": worker(model).count,
        "replicas": model.distribute_strategy.num_replicas_in_sync,
        "optimizer": [_optimizer(one, callbacks) for one in wrapped_optimizers(model.optimizer)],
    }
    if model.built and all(layer.built for layer in layers):
        identity["layers"] = [
            [type(layer).__name__, [list(weight.shape) for weight in layer.weights]] for layer in layers
        ]
        # Layers that are called once may have been made by the first step.
        identity["architecture"] = None if text is None else hashlib.sha256(text.encode()).hexdigest()[:16]
    return identity


def differences(old, new, name=""):
    """Returns lines that say where two identities differ; what only one of them has isn't compared.

    >>> differences({"data": {"batches": 3}, "loss": "mse"}, {"data": {"batches": 4}, "optimizer": []})
    ['data.batches: 3, now 4']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        names = [key for key in old if key in new]
        return [line for key in names for line in differences(old[key], new[key], f"{name}.{key}".strip("."))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and name != "callbacks":
        lines = [differences(*pair, f"{name}[{index}]") for index, pair in enumerate(zip(old, new))]
        return [line for part in lines for line in part]
    return [] if old == new else [f"{name}: {_short(old)}, now {_short(new)}"]


def _optimizer(optimizer, callbacks):
    try:
        config = optimizer.get_config()
    except NotImplementedError:
        config = {}
    # Keras numbers the optimizers and layers of a process, and the factors of LayerwiseLearningRate go by such names.
    left_out = {"name", "known_factors"}
    factors = [factor for _, factor in config.get("known_factors", ())]
    if any(isinstance(one, _SETTERS) for one in callbacks):
        left_out.add("learning_rate")
    return {"class": type(optimizer).__name__, **_without(_json(config), left_out), "factors": factors}


def _without(value, names):
    """Returns a config without these names, nor those in the configs that are in it."""
    if isinstance(value, dict):
        return {key: _without(item, names) for key, item in value.items() if key not in names}
    return [_without(item, names) for item in value] if isinstance(value, list) else value


def _json(value):
    """Returns a value as JSON gives it back; objects as the names of their classes."""
    return json.loads(json.dumps(value, default=lambda thing: getattr(thing, "__name__", type(thing).__name__)))


def _short(value):
    text = json.dumps(value)
    return text if len(text) <= 160 else f"{text[:150]}... ({len(text)} characters)"
