"""How deep a network with stochastic depth is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kregkit._core import rules
from kregkit._core.checks import check_number
from kregkit.plots._axes import finish, new_axes, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@rules.checked(probabilities=rules.entries(rules.number(0, 1)), axes=rules.axes, label=rules.label)
def survival_probabilities(
    probabilities: Sequence[float], axes: Axes | None = None, *, label: str | None = None
) -> Axes:
    """Draws each block's survival probability, and says how many blocks survive on average.

    Args:
        probabilities: Sequence of floats in [0, 1], first block first.
        axes: Matplotlib Axes to draw on. Defaults to new ones.
        label: String for the legend. Defaults to the expected depth.

    Returns:
        The Axes.

    Example:

    >>> axes = survival_probabilities([0.875, 0.75, 0.625, 0.5])
    >>> axes.get_legend().get_texts()[0].get_text()
    'expected depth 2.75 of 4 blocks'
    """
    probabilities = [check_number("probabilities", one, 0, 1) for one in probabilities]
    if not len(probabilities):
        raise ValueError("`probabilities` must not be empty. Received: probabilities=[]")
    axes = new_axes(axes)
    depth = f"expected depth {sum(probabilities):.4g} of {len(probabilities)} blocks"
    blocks = np.arange(1, len(probabilities) + 1)
    axes.plot(blocks, probabilities, marker="o", markersize=4, label=f"{label}: {depth}" if label else depth)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("block")
    axes.set_ylabel("survival probability")
    whole_numbers(axes.xaxis)
    return finish(axes)
