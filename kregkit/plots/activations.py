"""Histograms of activations through depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kregkit._core import rules
from kregkit._core.optional import import_optional

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GOOD, _BAD = "#2a8c4a", "#c0392b"
# Wide histograms don't show that all examples share them.
_WORDS = {"no variety": "the same for every example"}


@rules.checked(
    runs=rules.entries(rules.mapping("initializer", "activation", "batch_normalization", "verdict", "layers")),
    figure=rules.figure,
)
def activation_histograms(runs: Sequence[Mapping[str, Any]], figure: Figure | None = None) -> Figure:
    """Draws histograms of every layer's outputs: one panel per initialiser and activation, depth from top to bottom.

    Args:
        runs: List of dictionaries with `initializer`, `activation`, `batch_normalization`, `verdict` and `layers`, each
            with `histogram`, `edges` and `std`; as `kregkit.diagnostics.compare_activations(...).runs` is.
        figure: Matplotlib Figure to draw on. Defaults to a new one.

    Returns:
        The Figure.

    Example:

    >>> layer = {"histogram": [0.5, 1.0], "edges": [-1.0, 0.0, 1.0], "std": 0.4}
    >>> run = {"initializer": "He", "activation": "tanh", "batch_normalization": False, "verdict": "healthy",
    ...        "layers": [layer]}
    >>> len(activation_histograms([run]).axes)
    1
    """
    plt = import_optional("matplotlib.pyplot", "kregkit.plots")
    columns = list(dict.fromkeys(run["activation"] for run in runs))
    rows = list(dict.fromkeys((run["initializer"], run["batch_normalization"]) for run in runs))
    rows.sort(key=lambda row: row[1])
    if figure is None:
        figure = plt.figure(figsize=(2.1 * len(columns) + 1, 1.9 * len(rows) + 0.6), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for run in runs:
        row, column = rows.index((run["initializer"], run["batch_normalization"])), columns.index(run["activation"])
        axes = grid[row, column]
        _ridges(axes, run)
        if row == 0:
            axes.set_title(run["activation"], fontsize=11, fontweight="bold", pad=20)
        color = _GOOD if run["verdict"] == "healthy" else _BAD
        verdict = _WORDS.get(run["verdict"], run["verdict"])
        axes.annotate(
            verdict, (0.5, 1), (0, 3), "axes fraction", "offset points", ha="center", fontsize=8.5, color=color
        )  # fmt: skip
        if column == 0:
            axes.set_ylabel(
                run["initializer"] + ("\nwith batch norm" if run["batch_normalization"] else ""), fontsize=9
            )
    return figure


def _ridges(axes, run):
    layers = run["layers"]
    color = _GOOD if run["verdict"] == "healthy" else _BAD
    # One common axis: the widest layer's; a layer that has died out is a spike in it.
    low = min(layer["edges"][0] for layer in layers)
    high = max(layer["edges"][-1] for layer in layers)
    for index, layer in enumerate(layers):
        edges, heights = np.asarray(layer["edges"], float), np.asarray(layer["histogram"], float)
        if high > low and edges[-1] - edges[0] < 1e-2 * (high - low):
            middle, width = (edges[0] + edges[-1]) / 2, 4e-3 * (high - low)
            edges, heights = np.array([middle - width, middle + width]), np.array([1.0])
        if len(heights) > 2 and heights.max() > 3 * (second := np.sort(heights)[-2]) > 0:
            # Where most outputs are zero, the others would not be seen beside them.
            heights = np.minimum(heights / (3 * second), 1.0)
        base = -index
        axes.stairs(0.9 * heights + base, edges, baseline=base, fill=True, color=color, alpha=0.75)
        axes.axhline(base, color="0.85", linewidth=0.5, zorder=0)
    axes.set_ylim(-len(layers) + 0.9, 1.1)
    axes.set_yticks([0.3, -len(layers) + 1.3], ["first", "last"], fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
