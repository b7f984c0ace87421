"""Copies and exact swaps of a model's weights."""

import contextlib

import keras


def copy_values(variables):
    """Returns the variables' values as NumPy arrays that no later training changes."""
    # np.array copies; convert_to_numpy may return a view of the variable's memory.
    return [keras.ops.convert_to_numpy(variable).copy() for variable in variables]


def assign_values(variables, values):
    """Assigns `values` one to one; checks every shape before it changes anything."""
    variables, values = list(variables), list(values)
    if len(variables) != len(values):
        raise ValueError(f"Expected {len(variables)} arrays, one per variable. Received: {len(values)} arrays")
    for variable, value in zip(variables, values):
        if tuple(variable.shape) != tuple(value.shape):
            raise ValueError(
                f"Variable {variable.path!r} has shape {tuple(variable.shape)}. Received: shape={tuple(value.shape)}"
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
        assign_values(variables, before)
