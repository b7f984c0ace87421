"""The error of an ensemble against its number of members."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from kregkit._core import rules
from kregkit._core.checks import check_integer
from kregkit.plots._axes import finish, new_axes, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def classification_error(labels: Any, probabilities: Any) -> float:
    """Returns the fraction of rows whose largest entry isn't at the label."""
    return float(np.mean(probabilities.argmax(axis=-1) != labels))


def subset_errors(
    predictions: Any,
    labels: Any,
    error: Callable[..., float] = classification_error,
    num_subsets: int = 200,
    seed: int = 0,
) -> list[Any]:
    """Returns, for each size `1 ... members`, an array with the errors of ensembles of that size.

    All subsets of a size are tried where there are at most `num_subsets`, else that many random ones.

    >>> predictions = [[[0.9, 0.1], [0.6, 0.4]], [[0.4, 0.6], [0.2, 0.8]], [[0.8, 0.2], [0.3, 0.7]]]
    >>> [errors.tolist() for errors in subset_errors(predictions, [0, 1])]
    [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0]]
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    check_integer("num_subsets", num_subsets, 1)
    members = len(predictions)
    random = np.random.default_rng(seed)
    errors_by_size = []
    for size in range(1, members + 1):
        if math.comb(members, size) <= num_subsets:
            subsets: list[Any] = [list(subset) for subset in itertools.combinations(range(members), size)]
        else:
            subsets = [random.permutation(members)[:size] for _ in range(num_subsets)]
        errors_by_size.append(np.array([error(labels, predictions[subset].mean(axis=0)) for subset in subsets]))
    return errors_by_size


@rules.checked(
    predictions=rules.entries(rules.array()),
    labels=rules.array(),
    axes=rules.axes,
    error=rules.function(),
    seed=rules.seed,
    label=rules.label,
)
def ensemble_size(
    predictions: Any,
    labels: Any,
    axes: Axes | None = None,
    *,
    error: Callable[..., float] = classification_error,
    num_subsets: int = 200,
    seed: int = 0,
    label: str | None = "ensemble",
) -> Axes:
    """Draws the error of ensembles against their number of members: the mean over subsets, and their whole range.

    Args:
        predictions: Array `(members, examples, classes)` of probabilities, or what `error` takes.
        labels: Array `(examples,)` of class indices, or what `error` takes.
        axes: Matplotlib Axes to draw on; several ensembles may share them. Defaults to new ones.
        error: Callable `(labels, averaged predictions)` to a float. Defaults to the fraction of wrong classes, which
            is drawn in percent.
        num_subsets: Integer, at most how many subsets of each size are tried. Defaults to 200.
        seed: Integer, for the choice of subsets where there are more.
        label: String, the line's name in the legend, such as the seed of the ensemble's run.

    Returns:
        The Axes.

    Example:

    >>> import numpy as np
    >>> axes = ensemble_size(np.random.default_rng(0).dirichlet([1, 1, 1], (4, 20)), np.zeros(20, int))
    >>> axes.get_xlabel()
    'members'
    """
    axes = new_axes(axes)
    scale = 100.0 if error is classification_error else 1.0
    errors = [scale * one for one in subset_errors(predictions, labels, error, num_subsets, seed)]
    sizes = np.arange(1, len(errors) + 1)
    # Of several ensembles on the same axes, one band is explained.
    band = "best to worst choice of members"
    explained = band in axes.get_legend_handles_labels()[1]
    (line,) = axes.plot(sizes, [one.mean() for one in errors], marker="o", markersize=4, label=label)
    axes.fill_between(
        sizes,
        [one.min() for one in errors],
        [one.max() for one in errors],
        color=line.get_color(),
        alpha=0.18,
        linewidth=0,
        label=None if explained else band,
    )
    axes.set_xlabel("members")
    axes.set_ylabel("error (%)" if error is classification_error else "error")
    whole_numbers(axes.xaxis)
    return finish(axes)
