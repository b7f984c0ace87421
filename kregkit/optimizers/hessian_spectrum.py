"""The ends of the Hessian's spectrum at a model's weights: minimum, saddle or plateau."""

import dataclasses
from typing import Literal

import keras
import numpy as np

from kregkit._core import rules
from kregkit._core.backends import require_tensorflow
from kregkit._core.checks import check_integer
from kregkit._core.notebook import Notebook
from kregkit._core.types import Data, Loss
from kregkit.optimizers._solver import check_constant, objective_of


@dataclasses.dataclass(frozen=True)
class Curvature(Notebook):
    """The ends of the Hessian's spectrum at a point, as numbers; `str(curvature)` says in words what they mean.

    Args:
        loss: Float, the loss at the point.
        gradient_norm: Float, the gradient's Euclidean norm there.
        largest: Float, the largest curvature.
        lowest: Array `(k,)`, the lowest curvatures, ascending.
        resolution: Float; curvatures smaller than this are zero as far as the model's precision can tell.
        stationary: Boolean, whether a gradient step of the best length would lower the loss by less than a thousandth.
    """

    loss: float
    gradient_norm: float
    largest: float
    lowest: np.ndarray
    resolution: float
    stationary: bool

    @property
    def smallest(self) -> float:
        """The smallest (most negative) curvature."""
        return float(self.lowest[0])

    @property
    def condition(self) -> float:
        """Largest over smallest curvature; infinite where the smallest is not positive."""
        return self.largest / self.smallest if self.smallest > self.resolution else float("inf")

    @property
    def negative(self) -> int:
        """How many of the lowest curvatures are negative."""
        return int(np.sum(self.lowest < -self.resolution))

    @property
    def flat(self) -> int:
        """How many of the lowest curvatures are zero."""
        return int(np.sum(np.abs(self.lowest) <= self.resolution))

    @property
    def kind(self) -> str:
        """`"minimum"`, `"saddle"`, `"maximum"` or `"plateau"`, by curvature alone."""
        if self.negative:
            return "saddle" if self.largest > self.resolution else "maximum"
        return "plateau" if self.flat else "minimum"

    def __str__(self):
        lowest = f"of the {len(self.lowest)} lowest curvatures"
        words = {
            "minimum": f"minimum: all curvatures are positive, condition number {self.condition:.3g}",
            "saddle": f"saddle: {self.negative} {lowest} are negative",
            "maximum": "maximum: no curvature is positive",
            "plateau": f"plateau: {self.flat} {lowest} are zero, none is negative",
        }[self.kind]
        slope = "" if self.stationary else f", but the gradient ({self.gradient_norm:.3g}) still leads down from here"
        return f"{words}; curvature from {self.smallest:.3g} to {self.largest:.3g}{slope}"


@rules.checked(model=rules.model, x=rules.data)
def curvature(
    model: keras.Model,
    x: Data,
    y: Data = None,
    loss: Loss = None,
    k: int = 6,
    batch_size: int | None = None,
    *,
    stochastic: str = "refuse",
    batch_normalization: Literal["inference", "training"] = "inference",
    seed: int = 0,
) -> Curvature:
    """Returns the largest and the `k` lowest eigenvalues of the loss's Hessian at the model's weights.

    The Hessian of the full-batch loss is never stored: Lanczos' method (SciPy's `eigsh`) needs only its products with
    vectors, which are exact. The condition number, largest over smallest curvature, is what makes gradient descent
    zigzag; a negative curvature shows a saddle, zero ones a plateau or the floor of a valley.

    Args:
        model, x, y, loss, batch_size, stochastic, batch_normalization, seed: As in `minimize`.
        k: Integer >= 1, how many of the lowest curvatures to look at. Defaults to `6`.

    Returns:
        A `Curvature`, which holds `largest`, `smallest`, `lowest`, `condition`, `negative` and `flat` (how many of the
        lowest are below, or are, zero), `kind`, `loss`, `gradient_norm` and `stationary`.

    Raises:
        ValueError: As in `minimize`.
        RuntimeError: Keras doesn't run on TensorFlow.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.set_weights([np.zeros((2, 1))])
    >>> at_zero = curvature(model, np.array([[2.0, 0.0], [0.0, 1.0]]), np.zeros((2, 1)), "mse")
    >>> print(at_zero)
    minimum: all curvatures are positive, condition number 4; curvature from 1 to 4

    Reference: [Dauphin et al., 2014](https://arxiv.org/abs/1406.2572)
    """
    require_tensorflow("curvature")
    check_integer("k", k, 1)
    with objective_of(model, x, y, loss, batch_size, stochastic, batch_normalization, seed) as objective:
        point = objective.get()
        value, gradient = check_constant(objective, point)

        def product(direction):
            return objective.hessian_product(point, np.asarray(direction, "float64").ravel())

        largest, lowest = _ends(product, objective.size, k, objective.precision)
        objective.set(point)
    scale = max(abs(largest), abs(lowest[0]))
    decrease = float(gradient @ gradient) / (2 * scale) if scale > 0 else 0.0
    return Curvature(
        loss=value,
        gradient_norm=float(np.linalg.norm(gradient)),
        largest=float(largest),
        lowest=lowest,
        # A product of the Hessian carries a few roundings of its largest eigenvalue.
        resolution=float(64 * objective.precision * scale),
        stationary=bool(decrease <= 1e-3 * abs(value)),
    )


def _ends(product, size, k, precision):
    """Returns the largest and the k lowest eigenvalues of a symmetric matrix known by its products."""
    from scipy.sparse import linalg

    if size <= max(2 * k, 20):
        values = np.linalg.eigvalsh(np.stack([product(unit) for unit in np.eye(size)]))
        return values[-1], values[:k]
    start = np.random.default_rng(0).normal(size=size)
    tolerance = 8 * precision
    operator = linalg.LinearOperator((size, size), matvec=product, dtype="float64")
    (largest,) = linalg.eigsh(operator, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
    # Shifted so that the lowest are the largest in size: ARPACK's tolerance is relative to each eigenvalue, and none
    # can be had to a fraction of zero.
    shift = largest if largest > 0 else 1.0
    shifted = linalg.LinearOperator((size, size), matvec=lambda d: product(d) - shift * d.ravel(), dtype="float64")
    basis = min(size, max(4 * k, 40))
    values = linalg.eigsh(
        shifted, k=k, which="SA", v0=start, ncv=basis, tol=tolerance, return_eigenvectors=False, maxiter=200 * k
    )
    return largest, np.sort(values) + shift
