"""What later fits of a model reuse: the traced train functions, and the variables that they read.

It stands on the train function that Keras caches for the model, and goes with it when `compile` drops that.
"""

import weakref

import numpy as np
import tensorflow as tf

from kregkit._core.workers import worker_of
from kregkit.callbacks._trace_key import is_alive

# The traced functions that a model keeps: one for each stage of `GradualUnfreeze`, and a few settings that take turns.
_MOST_FUNCTIONS = 8


def local_variable(initial_value, dtype, name):
    """Returns a variable that each replica keeps and updates for itself, without any exchange.

    Such a variable may be assigned in a replica's step and inside `cond`, where a mirrored one may not. Reading it
    outside the step gives the first replica's value.
    """
    return tf.Variable(
        initial_value,
        dtype=dtype,
        trainable=False,
        name=name,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


class TracedFunction:
    """One train function with hooks, what it depends on, and the variables that it reads."""

    def __init__(self, key, function, variables):
        self.key, self.function, self.variables = key, function, variables
        self.undriven = []


class KeptFunctions:
    """The traced functions of one model, kept on the train function that Keras caches for it.

    Attributes:
        current: The `TrainStep` of the running fit, whose hooks the functions call while they are traced; or None.
    """

    @classmethod
    def of(cls, model):
        """Returns the functions kept for the model: none yet where Keras has made its train function anew."""
        function = model.train_function
        if function is None:
            return cls()
        # On the function rather than in a WeakKeyDictionary, whose values would keep their own key alive.
        return vars(function).setdefault("_kregkit_functions", cls())

    def __init__(self):
        self.current = None
        self._functions = []
        # A variable lives as long as a traced function or a running fit uses it.
        self._slots = weakref.WeakValueDictionary()

    def run(self, data):
        """The train step that is traced."""
        return self.current.run(data)

    def variable(self, slot, value, dtype):
        """Returns the variable that an earlier fit used for the same purpose, or a new one, with `value` in it."""
        slot = (*slot, tuple(np.shape(value)), tf.as_dtype(dtype))
        variable = self._slots.get(slot)
        if variable is None:
            self._slots[slot] = variable = local_variable(value, dtype, slot[-3])
            if worker_of(tf.distribute.get_strategy()).count == 1:
                return variable
        # New variables begin with the chief's value on all workers, which may have values of their own.
        variable.assign(tf.cast(value, dtype))
        return variable

    def find(self, key):
        """Returns the traced function for `key`, or None."""
        self._functions = [traced for traced in self._functions if is_alive(traced.key)]
        for traced in self._functions:
            if traced.key == key:
                self.forget(traced)
                self._functions.append(traced)
                return traced
        return None

    def keep(self, traced):
        """Keeps a traced function for later fits; the one that wasn't used for longest makes room."""
        self._functions = [*self._functions, traced][-_MOST_FUNCTIONS:]

    def forget(self, traced=None):
        """Drops one traced function, or all."""
        self._functions = [] if traced is None else [other for other in self._functions if other is not traced]
