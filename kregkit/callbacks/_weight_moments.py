"""Moments of the weights that training passes through, from which a posterior is made (SWAG)."""

import numpy as np
from keras import ops

from kregkit._core.weights import copy_values
from kregkit.callbacks._kept_functions import assign_row


class WeightMoments:
    """Running mean and sum of squared deviations of some weights, and their last deviations from the mean.

    Args:
        variable: Callable `(name, value, dtype)` that returns a variable to write in the train step.
        weights: List of Keras variables.
        rank: Integer, how many deviations are kept.
        state: What `state` returned, to go on from; `None` for a new start, also used where the shapes differ.
    """

    def __init__(self, variable, weights, rank, state=None):
        self.weights, self.rank = weights, rank
        shapes = [tuple(weight.shape) for weight in weights]
        if state is None or [np.shape(mean) for mean in state["mean"]] != shapes or len(state["deviations"][0]) != rank:
            state = {"gathered": 0, "mean": [np.zeros(shape) for shape in shapes]}
            state |= {"squares": state["mean"], "deviations": [np.zeros((rank, *shape)) for shape in shapes]}
        self.gathered = variable("gathered", state["gathered"], "int64")

        def variables(name):
            types = ["float64" if weight.dtype == "float64" else "float32" for weight in weights]
            return [variable(f"{name}_{i}", value, dtype) for i, (value, dtype) in enumerate(zip(state[name], types))]

        self.mean, self.squares, self.deviations = map(variables, ("mean", "squares", "deviations"))

    def gather(self):
        """Takes in the present weights."""
        slot = self.gathered % self.rank
        self.gathered.assign(self.gathered + 1)
        for weight, mean, squares, deviations in zip(self.weights, self.mean, self.squares, self.deviations):
            value = ops.cast(weight, mean.dtype)
            # Welford's form: the mean of squares less the square of the mean would round a small variance away.
            before = value - mean
            mean.assign_add(before / ops.cast(self.gathered, mean.dtype))
            after = value - mean
            squares.assign_add(before * after)
            assign_row(deviations, slot, after)

    def state(self):
        """Returns everything as arrays that no training changes."""
        return {
            "gathered": int(ops.convert_to_numpy(self.gathered)),
            **{name: copy_values(getattr(self, name)) for name in ("mean", "squares", "deviations")},
        }


def gaussian(state):
    """Returns `(mean, diagonal, deviations)` of a Gaussian over the flat weights: half diagonal, half low rank.

    Args:
        state: What `WeightMoments.state` returned, of at least two times.
    """
    gathered = state["gathered"]
    flat = {name: np.concatenate([array.reshape(-1) for array in state[name]]) for name in ("mean", "squares")}
    deviations = np.concatenate([array.reshape(len(array), -1) for array in state["deviations"]], axis=1)
    deviations = deviations[: min(gathered, len(deviations))]
    return flat["mean"], flat["squares"] / gathered / 2, deviations / np.sqrt(2 * (len(deviations) - 1))
