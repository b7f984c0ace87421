"""Update rules and solvers that Keras lacks.

- `Momentum`: momentum whose velocity is in gradient units, so that a decaying learning rate acts at once.
- `Adam`: Keras's Adam with a switch for its bias correction.
- `SOAP`: Adam in Shampoo's eigenbasis, for rotated ill-conditioned valleys.
- `LayerwiseLearningRate`: one optimizer and one learning rate, multiplied per variable.
- `minimize`, `minimize_function`: full-batch L-BFGS, BFGS and Newton methods for a model or a tensor.
- `curvature`: the ends of the Hessian's spectrum at a model's weights.
"""

from kregkit._core.words import missing_names
from kregkit.optimizers.adam import Adam
from kregkit.optimizers.hessian_spectrum import Curvature, curvature
from kregkit.optimizers.layerwise import LayerwiseLearningRate
from kregkit.optimizers.minimization import minimize, minimize_function
from kregkit.optimizers.momentum import Momentum
from kregkit.optimizers.soap import SOAP

__all__ = [
    "SOAP",
    "Adam",
    "Curvature",
    "LayerwiseLearningRate",
    "Momentum",
    "curvature",
    "minimize",
    "minimize_function",
]

__getattr__ = missing_names(__name__)
