"""The loss on the straight line between two models: whether they lie in one basin."""

from typing import Any

import keras
import numpy as np

from kregkit._core import rules
from kregkit._core.backends import require_tensorflow
from kregkit._core.checks import check_data, check_integer
from kregkit._core.notebook import Notebook
from kregkit.inference._weight_evaluator import WeightEvaluator, between, check_same_architecture, warn_of_statistics

# Characters of the longest bar.
_BAR = 40


@rules.checked(normalization_data=rules.optional(rules.data))
def loss_along(
    a: keras.Model,
    b: keras.Model,
    data: object,
    points: int = 11,
    normalization_data: object = None,
    batch_size: int | None = None,
) -> "LossAlong":
    """Measures the loss of `(1 - t) W_a + t W_b` for `t` from 0 to 1.

    Where the loss stays low all the way, the two models lie in one basin and their weights can be averaged. Models that
    were trained independently are separated by a wall, however alike their predictions are.

    Args:
        a, b: Built Keras models of the same architecture. They aren't changed.
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, or a data set of such batches that can be read again.
        points: Integer >= 3, how many positions, both ends included. Defaults to 11.
        normalization_data: Training inputs, on which BatchNormalization's statistics are measured anew at each
            position: those of the ends don't fit in between, which alone can look like a wall (Jordan et al. 2022).
        batch_size: Integer, for arrays. Defaults to 32.

    Returns:
        A `LossAlong`. Its losses are log losses, or mean squared errors for values, summed over several outputs.

    Raises:
        ValueError: The models differ in architecture, an argument is none of these, or `data` differs from pass to
            pass.

    Example:

    >>> import keras, numpy as np
    >>> def line(slope):
    ...     model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    ...     model.compile(loss="mse")
    ...     model.layers[0].kernel.assign([[slope]])
    ...     return model
    >>> x = np.ones((4, 1))
    >>> print(loss_along(line(0.0), line(2.0), (x, x), points=3))
    position     loss
        0.00        1 ########################################
        0.50        0
        1.00        1 ########################################

    Reference: [Frankle et al., 2020](https://arxiv.org/abs/1912.05671)
    """
    require_tensorflow("loss_along")
    for name, model in (("a", a), ("b", b)):
        if not isinstance(model, keras.Model) or not model.built:
            raise ValueError(f"`{name}` must be a built Keras model. Received: {name}={model!r}")
    check_data("data", data)
    check_integer("points", points, 3, 10**6)
    check_same_architecture([a, b])
    evaluator = WeightEvaluator(a, data, normalization_data, batch_size)
    warn_of_statistics(evaluator, "normalization_data")
    one, other = (lambda model=model: [weight.value for weight in model.weights] for model in (a, b))
    return walked(evaluator, one, other, np.linspace(0.0, 1.0, points))


def walked(evaluator: Any, one: Any, other: Any, positions: Any) -> Any:
    """Returns the `LossAlong` of a `WeightEvaluator` between the weights that two callables give."""
    measured = [evaluator(between(one(), other(), position)) for position in positions]
    losses, errors = (list(one) for one in zip(*measured))
    return LossAlong(positions, losses, None if errors[0] is None else errors)


class LossAlong(Notebook):
    """Losses on the straight line between two models' weights, which print as a picture; `loss_along` makes it.

    Args:
        positions: Sequence of floats from 0 to 1.
        losses: Sequence of floats, the loss at each.
        errors: Sequence of floats, the fraction of wrong classes at each, or `None`.

    Attributes:
        positions, losses, errors: As arrays.

    Example:

    >>> LossAlong([0.0, 0.5, 1.0], [0.5, 2.0, 1.0]).rise
    1.0
    """

    def __init__(self, positions: list[float], losses: list[float], errors: list[float] | None = None) -> None:
        self.positions, self.losses = np.asarray(positions, "float64"), np.asarray(losses, "float64")
        self.errors = None if errors is None else np.asarray(errors, "float64")
        if not 3 <= len(self.positions) == len(self.losses):
            raise ValueError(
                "There must be one loss for each of at least 3 positions. "
                f"Received: {len(self.positions)} positions, {len(self.losses)} losses"
            )

    @property
    def rise(self) -> float:
        """Float, how far the loss in between rises above the worse end; at least 0, and infinite where it is NaN."""
        inner = self.losses[1:-1]
        return (
            float(max(inner.max() - max(self.losses[0], self.losses[-1]), 0.0)) if np.isfinite(inner).all() else np.inf
        )

    def __str__(self):
        finite = self.losses[np.isfinite(self.losses)]
        most = max(finite.max(), 1e-30) if len(finite) else 1.0
        lines = ["position     loss"]
        for position, loss in zip(self.positions, self.losses):
            bar = "#" * round(_BAR * max(loss, 0.0) / most) if np.isfinite(loss) else "not finite"
            lines.append(f"{position:8.2f} {loss:8.4g} {bar}".rstrip())
        return "\n".join(lines)

    def __repr__(self):
        return str(self)

    def plot(self, axes: Any = None) -> Any:
        """Draws it, by `kregkit.plots.loss_line`, and returns the Axes."""
        from kregkit import plots

        return plots.loss_line(self.positions, self.losses, self.errors, axes=axes)
