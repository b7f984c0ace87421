"""Dropout inside recurrent cells, whose masks hold for all steps of a sequence."""

import functools

from keras import layers

from kregkit.inference._draws import sizes
from kregkit.inference._keras_noise import keep


def is_noisy_cell(layer):
    """Returns whether the layer is a recurrent cell with dropout."""
    return hasattr(layer, "get_recurrent_dropout_mask") and (layer.dropout > 0 or layer.recurrent_dropout > 0)


def masks_of_cell(cell, every, draws, place):
    """Yields `(layer, attribute, value)`, what to set so that a cell's masks come from `draws`.

    Args:
        cell: A layer for which `is_noisy_cell`.
        every: List of the model's layers, the cell's owners among them.
        draws: `Draws`.
        place: Integer, the cell's.
    """
    made = {}

    def mask(name, rate, step_input):
        # An outer call makes the masks before the loop over time; inside it they must not be made anew.
        if rate > 0 and name not in made:
            count = getattr(cell, "dropout_mask_count", None)
            numbers = [draws.uniform(place, sizes(step_input)) for _ in range(count or 1)]
            several = [keep(one, rate, step_input.dtype) for one in numbers]
            made[name] = several if count else several[0]
        return made.get(name)

    yield cell, "call", functools.partial(_training_call, cell.call)
    yield cell, "get_dropout_mask", functools.partial(mask, "input", cell.dropout)
    yield cell, "get_recurrent_dropout_mask", functools.partial(mask, "state", cell.recurrent_dropout)
    yield cell, "reset_dropout_mask", lambda: made.pop("input", None)
    yield cell, "reset_recurrent_dropout_mask", lambda: made.pop("state", None)
    for owner in every:
        # LSTM and GRU look at `training` themselves, to choose a kernel without dropout.
        if isinstance(owner, layers.RNN) and owner.cell is cell:
            yield owner, "inner_loop", functools.partial(_training_loop, owner.inner_loop)


def _training_call(original, inputs, states, training=None, **options):
    return original(inputs, states, training=True, **options)


def _training_loop(original, sequences, initial_state, mask, training=None):
    return original(sequences, initial_state, mask, training=True)
