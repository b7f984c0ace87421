"""All variables of a run, read in a moment and put back bit for bit."""

import random

import keras
import numpy as np
import tensorflow as tf

from kregkit._core import keras_internals
from kregkit._core.optimizers import own_optimizers, wrapped_optimizers


class RunVariables:
    """The variables of a model and its optimizers, and those of its metrics.

    Each replica's part of a variable is kept by itself: sums that replicas keep apart must not be added up.

    Args:
        model: A built and compiled model.
    """

    def __init__(self, model):
        self._owner = model
        known = {id(_plain(variable)) for variable in self.metrics}
        optimizers = [*wrapped_optimizers(model.optimizer), *own_optimizers(model)]
        found = [*model.variables, *(variable for one in optimizers for variable in one.variables), *_loose(model)]
        self._strategy = model.distribute_strategy
        self.state = [variable for variable in _unique(found) if id(_plain(variable)) not in known]
        self._specs, self._readers = None, {}

    @property
    def metrics(self):
        """The variables of all metrics; those that were compiled have theirs after a first step only."""
        return _unique(self._owner.metrics_variables)

    def specs(self):
        """Returns the shape and type of each variable of the state, as JSON values."""
        if self._specs is None:
            self._specs = [[[int(size) for size in one.shape], _dtype_name(one)] for one in self.state]
        return self._specs

    def read(self, variables):
        """Returns a list of tensors per variable, one for each replica, which no later step changes.

        One function reads them all: called one by one, hundreds of variables take as long as a step. What it returns
        shares the variables' memory; the step that changes one of them takes new memory for it.
        """
        parts = [self._parts(variable) for variable in variables]
        key = tuple(id(part) for several in parts for part in several)
        if not key:
            return []
        if key not in self._readers:
            traced = tf.function(lambda: [[part.read_value() for part in several] for several in parts])
            # With the variables, so that none of these numbers is given to another object.
            self._readers[key] = traced.get_concrete_function(), parts
        return self._readers[key][0]()

    def assign(self, variables, values):
        """Puts back what `read` returned, as arrays."""
        for variable, parts in zip(variables, values):
            for part, value in zip(self._parts(variable), parts):
                part.assign(value)

    def _parts(self, variable):
        variable = _plain(variable)
        if self._strategy.num_replicas_in_sync == 1:
            return [variable]
        return list(self._strategy.experimental_local_results(variable))


def as_arrays(tensors):
    """Returns what `RunVariables.read` returned as arrays."""
    return [[part.numpy() for part in parts] for parts in tensors]


def get_seeds():
    """Returns the states of the random numbers that have no seed of their own: of Keras, NumPy and Python."""
    generator = keras_internals.global_state().get("global_seed_generator")
    version, integers, normal = random.getstate()
    return {
        "keras": None if generator is None else keras.ops.convert_to_numpy(generator.state),
        "numpy": np.random.get_state(),
        # Hundreds of integers, which an array writes at once.
        "python": [version, np.array(integers, "uint32"), normal],
    }


def set_seeds(state):
    """Puts back what `get_seeds` returned."""
    if state["keras"] is not None:
        keras_internals.global_seed_generator().state.assign(state["keras"])
    np.random.set_state(state["numpy"])
    version, integers, normal = state["python"]
    random.setstate((version, tuple(integers.tolist()), normal))


def _plain(variable):
    """Returns TensorFlow's own variable behind a Keras variable."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def _dtype_name(variable):
    return variable.dtype if isinstance(variable.dtype, str) else variable.dtype.name


def _unique(variables):
    return list({id(_plain(variable)): variable for variable in variables}.values())


def _loose(model):
    """Returns the variables that layers keep in attributes without telling Keras: TensorFlow's own, and generators'."""
    found = []
    for layer in keras_internals.flatten_layers(model):
        for value in _leaves(vars(layer)):
            if isinstance(value, tf.Variable):
                found.append(value)
            elif isinstance(value, (tf.random.Generator, keras.random.SeedGenerator)):
                found.append(value.state)
    return found


def _leaves(container):
    """Yields what lies in dictionaries, lists and tuples within each other, in their order."""
    seen, waiting = set(), [container]
    while waiting:
        value = waiting.pop()
        if not isinstance(value, (dict, list, tuple)):
            yield value
        elif id(value) not in seen:
            seen.add(id(value))
            waiting += reversed(list(value.values() if isinstance(value, dict) else value))
