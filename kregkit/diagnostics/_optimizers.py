"""Copies of a model's optimizer to take real steps with."""

import copy

import keras
import numpy as np

from kregkit._core.keras_internals import learning_rate_schedule
from kregkit._core.optimizers import leaf_optimizers


def learning_rates(optimizer):
    """Returns each leaf optimizer's learning rate; of a schedule, the highest from here on."""
    return [_rate(leaf) for leaf in leaf_optimizers(optimizer)]


def fresh_optimizer(optimizer, learning_rate=None):
    """Returns a copy without slots, whose rates are plain numbers: the original's, or as `set_learning_rate` says.

    Each of its steps is an update, also where the original would go on accumulating gradients.
    """
    fresh = type(optimizer).from_config(_plain(copy.deepcopy(optimizer.get_config())))
    for leaf, rate in zip(leaf_optimizers(fresh), learning_rates(optimizer)):
        leaf.learning_rate = rate
    if learning_rate is not None:
        set_learning_rate(fresh, learning_rate)
    return fresh


def set_learning_rate(optimizer, learning_rate):
    """Sets the first leaf's rate; those of further leaves keep their ratio to it."""
    rates = learning_rates(optimizer)
    for leaf, rate in zip(leaf_optimizers(optimizer), rates):
        leaf.learning_rate = learning_rate * (rate / rates[0] if rates[0] else 1.0)


def _rate(leaf):
    schedule = learning_rate_schedule(leaf)
    if schedule is not None:
        now = int(keras.ops.convert_to_numpy(leaf.iterations))
        steps = now + np.unique(np.geomspace(1, 1e5, 60).astype(int)) - 1
        return max(float(schedule(int(step))) for step in steps)
    return float(keras.ops.convert_to_numpy(leaf.learning_rate))


_PLAIN = {"learning_rate": 1e-3, "gradient_accumulation_steps": None}


def _plain(config):
    """Returns an optimizer's config with a number as each rate and no accumulation, inner optimizers' included."""
    if isinstance(config, dict):
        return {key: _PLAIN[key] if key in _PLAIN else _plain(value) for key, value in config.items()}
    return [_plain(value) for value in config] if isinstance(config, list) else config
