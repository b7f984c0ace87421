"""Where activation functions are flat."""

import numpy as np

# A test of the outputs, by the activation's name.
_FLAT = {
    "sigmoid": lambda y: (y < 0.01) | (y > 0.99),
    "hard_sigmoid": lambda y: (y <= 0) | (y >= 1),
    "tanh": lambda y: np.abs(y) > 0.99,
    "hard_tanh": lambda y: np.abs(y) >= 1,
    "softsign": lambda y: np.abs(y) > 0.99,
}


def saturated_part(activation, outputs):
    """Returns the part of an activation's outputs that lie where it is flat; 0 for activations without such ends."""
    return float(np.mean(_FLAT[activation](outputs))) if activation in _FLAT else 0.0
