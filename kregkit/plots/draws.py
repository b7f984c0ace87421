"""An error against the number of draws that were averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kregkit._core import rules
from kregkit._core.optional import import_optional
from kregkit._core.types import ArrayLike
from kregkit.plots._axes import finish, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@rules.checked(
    draws=rules.array(1),
    errors=rules.array(),
    axes=rules.axes,
    label=rules.label,
    baseline=rules.array(none=True),
    baseline_label=rules.label,
)
def error_against_draws(
    draws: Sequence[int],
    errors: ArrayLike,
    axes: Axes | None = None,
    *,
    label: str | None = None,
    baseline: ArrayLike | None = None,
    baseline_label: str = "plain prediction",
) -> Axes:
    """Draws an error against the number of draws averaged, as mean and range over repetitions.

    Args:
        draws: Sequence of integers, the numbers of draws.
        errors: Array `(repetitions, len(draws))`, or one row of it, in percent.
        axes: Matplotlib Axes to draw on; several methods may share them. Defaults to new ones.
        label: String, the method's name in the legend.
        baseline: Float, an error to compare with, drawn as a dashed line; or an array, whose mean is drawn.
        baseline_label: String, its name in the legend.

    Returns:
        The Axes.

    Raises:
        ValueError: The errors don't match the draws.

    Example:

    >>> axes = error_against_draws([1, 4, 16], [[5.0, 4.0, 3.5], [5.4, 4.1, 3.4]], label="dropout", baseline=3.9)
    >>> [line.get_label() for line in axes.get_lines()]
    ['dropout', 'plain prediction']
    """
    errors = np.atleast_2d(np.asarray(errors, float))
    if errors.ndim != 2 or errors.shape[1] != len(draws):
        raise ValueError(
            f"`errors` must have one column for each of {len(draws)} numbers of draws. "
            f"Received: errors of shape {errors.shape}"
        )
    axes = new_axes(axes)
    (line,) = axes.plot(draws, errors.mean(axis=0), marker="o", markersize=4, label=label)
    if len(errors) > 1:
        axes.fill_between(
            draws, errors.min(axis=0), errors.max(axis=0), color=line.get_color(), alpha=0.15, linewidth=0
        )
    if baseline is not None:
        axes.axhline(
            float(np.mean(np.asarray(baseline))),
            color=line.get_color(),
            linestyle="--",
            linewidth=1,
            label=baseline_label,
        )
    axes.set_xscale("log", base=2)
    ticker = import_optional("matplotlib.ticker", "kregkit.plots")
    axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.set_xticks(list(draws))
    axes.minorticks_off()
    axes.set_xlabel("draws averaged")
    axes.set_ylabel("error (%)")
    return finish(axes)
