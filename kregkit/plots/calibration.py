"""Whether probabilities mean what they say: accuracy against confidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kregkit._core import rules
from kregkit._core.checks import check_array, check_axes, check_integer
from kregkit._core.types import ArrayLike
from kregkit.plots._axes import finish, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The normal quantile of a 95% interval.
_Z = 1.959964


def reliability_bins(probabilities: ArrayLike, labels: ArrayLike, num_bins: int = 15) -> dict[str, Any]:
    """Returns a dictionary of arrays, one entry per bin of equally many decisions, by rising confidence.

    Args:
        probabilities: Array `(..., classes)`, whose largest entry is the confidence, or `(examples,)` or
            `(examples, 1)`, the probability of a yes.
        labels: Array of class indices, or of yes/no numbers.
        num_bins: Integer, at most how many bins.

    Returns:
        `"confidence"` and `"accuracy"`, the means; `"low"` and `"high"`, the accuracy's 95% interval (Wilson 1927);
        `"count"`.

    >>> bins = reliability_bins([0.1, 0.3, 0.8, 1.0], [0, 1, 1, 1], num_bins=2)
    >>> bins["confidence"].round(2).tolist(), bins["accuracy"].tolist(), bins["count"].tolist()
    ([0.2, 0.9], [0.5, 1.0], [2, 2])
    """
    p = np.asarray(check_array("probabilities", probabilities, least=1), "float64")
    labels = np.asarray(check_array("labels", labels)).reshape(-1)
    check_integer("num_bins", num_bins, 1)
    if p.ndim == 1 or p.shape[-1] == 1:
        confidence, right = p.reshape(-1), labels
    else:
        p = p.reshape(-1, p.shape[-1])
        confidence, right = p.max(axis=-1), p.argmax(axis=-1) == labels
    if len(confidence) != len(labels) or confidence.min() < 0 or confidence.max() > 1 + 1e-6:
        raise ValueError(
            "`probabilities` must lie in [0, 1], with one decision per label; of logits take the softmax first. "
            f"Received: probabilities from {confidence.min():.4g} to {confidence.max():.4g} of {len(confidence)} "
            f"decisions, and {len(labels)} labels"
        )
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(num_bins, len(labels)))
    count = np.array([len(part) for part in parts])
    accuracy = np.array([right[part].mean() for part in parts])
    middle = (accuracy + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z * np.sqrt(accuracy * (1 - accuracy) / count + (_Z / (2 * count)) ** 2) / (1 + _Z**2 / count)
    return {
        "confidence": np.array([confidence[part].mean() for part in parts]),
        "accuracy": accuracy,
        "low": middle - half,
        "high": middle + half,
        "count": count,
    }


@rules.checked(
    probabilities=rules.any_of(rules.mapping(rule=rules.array(least=1), empty=False), rules.array(least=1)),
    label=rules.label,
)
def reliability(
    probabilities: ArrayLike,
    labels: ArrayLike,
    axes: Axes | None = None,
    *,
    num_bins: int = 15,
    label: str = "accuracy",
) -> Axes:
    """Draws accuracy against confidence over bins of equally many decisions, with 95% intervals.

    Probabilities that mean what they say lie on the diagonal; below it they are surer than they are right.

    Args:
        probabilities: Array `(..., classes)` or, of a binary output, `(examples,)` or `(examples, 1)`, the probability
            of a yes, which is then drawn against how often it is one. Or a dictionary from names to such arrays, one
            line each.
        labels: Array of class indices, or of yes/no numbers.
        axes: Matplotlib Axes to draw on. Defaults to new ones.
        num_bins: Integer, at most how many bins. Defaults to 15.
        label: String, the line's name in the legend. Defaults to `"accuracy"`.

    Returns:
        The Axes.

    Raises:
        ValueError: Probabilities are outside of [0, 1], or the labels aren't as many.

    Example:

    >>> import numpy as np
    >>> p = np.random.default_rng(0).dirichlet([1, 1, 1], 60)
    >>> reliability({"plain": p, "sharper": p**2 / np.sum(p**2, axis=-1, keepdims=True)}, p.argmax(-1)).get_xlabel()
    'confidence'

    Reference: [Niculescu-Mizil and Caruana, 2005](https://doi.org/10.1145/1102351.1102430)
    """
    several = probabilities if isinstance(probabilities, dict) else {label: probabilities}
    bins_by_name = {name: reliability_bins(p, labels, num_bins) for name, p in several.items()}
    axes = new_axes(check_axes("axes", axes))
    lowest = min(float(bins["confidence"].min()) for bins in bins_by_name.values())
    axes.plot([lowest, 1], [lowest, 1], color="0.6", linestyle="--", linewidth=1, label="as sure as right")
    for name, bins in bins_by_name.items():
        reach = [np.maximum(bins["accuracy"] - bins["low"], 0), np.maximum(bins["high"] - bins["accuracy"], 0)]
        axes.errorbar(
            bins["confidence"], bins["accuracy"], reach, marker="o", markersize=4, capsize=2, linewidth=1.2, label=name
        )
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    return finish(axes)
