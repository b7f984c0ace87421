"""Copies and exact swaps of a model's weights."""

import contextlib

import keras
import numpy as np

from kregkit._core.interrupts import uninterrupted


def training_state(model):
    """Returns all variables that training changes from step to step and that decide how it goes on.

    These are the model's weights, the seeds of its random layers (which Keras's own files leave out) and the
    optimizer's variables; metrics, which every epoch resets, are not among them.
    """
    metrics = {id(variable) for variable in model.metrics_variables}
    own = [variable for variable in model.variables if id(variable) not in metrics]
    optimizer = getattr(model, "optimizer", None)
    return own if optimizer is None else [*own, *optimizer.variables]


def copy_values(variables):
    """Returns the variables' values as NumPy arrays that no later training changes."""
    # The tensor first: NumPy warns of TensorFlow variables. And a copy, since the array may be a view of the variable.
    return [np.array(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))) for variable in variables]


def variable_path(variable):
    """Returns the path of a Keras variable, or the name of a TensorFlow variable, which has no path."""
    return getattr(variable, "path", None) or variable.name.partition(":")[0]


def is_kernel(variable):
    """Returns whether a weight is a matrix, or more, and no bias: those of attention and `GRU` are matrices too."""
    return len(variable.shape) > 1 and "bias" not in variable.name


def assign_values(variables, values):
    """Assigns `values` one to one; checks every shape before it changes anything.

    Raises:
        ValueError: The number of values or a shape differs; nothing has been assigned.
    """
    variables, values = list(variables), list(values)
    if len(variables) != len(values):
        raise ValueError(f"Expected {len(variables)} arrays, one per variable. Received: {len(values)} arrays")
    for variable, value in zip(variables, values):
        if tuple(variable.shape) != tuple(value.shape):
            name = getattr(variable, "path", variable.name)
            raise ValueError(
                f"Variable {name!r} has shape {tuple(variable.shape)}. Received: shape={tuple(value.shape)}"
            )
    for variable, value in zip(variables, values):
        variable.assign(value)


@contextlib.contextmanager
def swapped(variables, values):
    """Holds `values` in `variables` for a block; afterwards every variable has its old bits back."""
    before = copy_values(variables)
    assign_values(variables, values)
    try:
        yield
    finally:
        with uninterrupted():
            assign_values(variables, before)
