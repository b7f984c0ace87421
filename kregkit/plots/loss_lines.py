"""The loss on the straight line between two models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kregkit._core import rules
from kregkit._core.checks import check_array, check_axes
from kregkit._core.types import ArrayLike
from kregkit.plots._axes import finish, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@rules.checked(label=rules.label)
def loss_line(
    positions: ArrayLike,
    losses: ArrayLike,
    errors: ArrayLike | None = None,
    axes: Axes | None = None,
    *,
    label: str = "loss",
) -> Axes:
    """Draws the loss at positions between two models, and above what it rises.

    Args:
        positions: Sequence of floats, 0 at the one model and 1 at the other.
        losses: Sequence of floats, the loss at each.
        errors: Sequence of floats, the fraction of wrong classes at each, drawn against an axis on the right.
        axes: Matplotlib Axes to draw on. Defaults to new ones.
        label: String, the line's name in the legend. Defaults to `"loss"`.

    Returns:
        The Axes.

    Raises:
        ValueError: The sequences differ in length.

    Example:

    >>> loss_line([0.0, 0.5, 1.0], [0.2, 1.5, 0.3], errors=[0.05, 0.6, 0.07]).get_ylabel()
    'loss'

    Reference: [Frankle et al., 2020](https://arxiv.org/abs/1912.05671)
    """
    positions = np.asarray(check_array("positions", positions, ndim=1))
    losses = np.asarray(check_array("losses", losses, ndim=1, finite=False))
    errors = None if errors is None else np.asarray(check_array("errors", errors, ndim=1))
    if len(positions) != len(losses) or (errors is not None and len(errors) != len(losses)):
        raise ValueError(
            f"There must be one loss, and one error if any, per position. Received: positions={len(positions)}, "
            f"losses={len(losses)}, errors={None if errors is None else len(errors)}"
        )
    axes = new_axes(check_axes("axes", axes))
    (line,) = axes.plot(positions, losses, marker="o", markersize=4, label=label)
    worse = float(np.nanmax([losses[0], losses[-1]]))
    axes.axhline(worse, color="0.6", linestyle="--", linewidth=1, label="the worse end")
    above = np.asarray(losses, "float64") > worse
    axes.fill_between(positions, worse, losses, where=above, interpolate=True, color=line.get_color(), alpha=0.18)
    axes.set_xlabel("position between the models")
    axes.set_ylabel("loss")
    if errors is not None:
        (second,) = axes.plot([], [], color="C1", linestyle=":", label="error")
        right = axes.twinx()
        right.plot(positions, 100.0 * np.asarray(errors), color=second.get_color(), linestyle=":")
        right.set_ylabel("error (%)")
        right.spines["top"].set_visible(False)
    return finish(axes)
