"""The transfer room's rows of the contract table."""

import numpy as np
from contracts import Case

from kregkit.transfer import GradualUnfreeze


def weights_and_rates(callback, model, history):
    return [np.asarray(history.history["learning_rate"]), *model.get_weights()]


CASES = [
    Case(
        GradualUnfreeze,
        lambda directory: GradualUnfreeze([(0, 1), (1, 2)], learning_rate_factor=0.5),
        observe=weights_and_rates,
        bad=[
            ({"stages": []}, "pairs"),
            ({"stages": [(1, "head")]}, "increase from 0"),
            ({"stages": [(0, 1), (0, 2)]}, "increase from 0"),
            ({"stages": [(0, 1)], "learning_rate_factor": 0}, "learning_rate_factor"),
        ],
    ),
]
