"""Activations: their histograms through depth, the functions, and two pictures beside them."""

import numpy as np

from kregkit._core.optional import import_optional
from kregkit.plots._axes import finish, new_axes

_GOOD, _BAD = "#2a8c4a", "#c0392b"
# Wide histograms don't show that all examples share them.
_WORDS = {"no variety": "the same for every example"}


def activation_histograms(runs, figure=None):
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


def activation_functions(curves, axes=None):
    """Draws activation functions and, dashed, their derivatives.

    Args:
        curves: Dictionary from a name to `{"x", "y", "derivative"}`, as
            `kregkit.diagnostics.activation_curves()` gives.
        axes: Array of matplotlib Axes, one per function. Defaults to a new figure's.

    Returns:
        The flat array of Axes.

    Example:

    >>> line = np.linspace(-1, 1, 5)
    >>> len(activation_functions({"linear": {"x": line, "y": line, "derivative": np.ones(5)}}))
    1
    """
    plt = import_optional("matplotlib.pyplot", "kregkit.plots")
    if axes is None:
        columns = min(3, len(curves))
        rows = -(-len(curves) // columns)
        _, axes = plt.subplots(rows, columns, figsize=(3 * columns, 2.5 * rows), squeeze=False, layout="constrained")
    axes = np.asarray(axes, object).ravel()
    for one, (name, curve) in zip(axes, curves.items()):
        one.axhline(0, color="0.8", linewidth=0.8)
        one.axvline(0, color="0.8", linewidth=0.8)
        one.plot(curve["x"], curve["y"], linewidth=1.8, label="function")
        one.plot(curve["x"], curve["derivative"], "--", linewidth=1.4, label="derivative")
        one.set_ylim(max(-2.0, np.min(curve["y"]) - 0.3), min(3.0, np.max(curve["y"]) + 0.3))
        finish(one, legend=False)
        one.set_title(name, fontsize=11, fontweight="bold")
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    for one in axes[len(curves) :]:
        one.axis("off")
    return axes[: len(curves)]


def learning_rates(curves, axes=None):
    """Draws the loss of short runs at several learning rates.

    Args:
        curves: Dictionary from a name to `{"rate", "losses"}`, as `kregkit.diagnostics.compare_learning_rates` gives.
        axes: Matplotlib Axes to draw on. Defaults to new ones.

    Returns:
        The Axes.

    Example:

    >>> learning_rates({"good": {"rate": 0.1, "losses": [2.0, 1.0, 0.5]}}).get_ylabel()
    'loss'
    """
    axes = new_axes(axes)
    starts = []
    for name, curve in curves.items():
        losses = np.asarray(curve["losses"], float)
        window = max(1, len(losses) // 25)
        smooth = np.array([losses[max(0, index - window) : index + 1].mean() for index in range(len(losses))])
        (line,) = axes.plot(smooth, linewidth=1.7, label=f"{name} ({curve['rate']:.1e})")
        axes.plot(losses, linewidth=0.6, alpha=0.25, color=line.get_color())
        starts.append(losses[0])
    axes.set_ylim(0, 2.2 * max(start for start in starts if np.isfinite(start)))
    axes.set(xlabel="step", ylabel="loss")
    return finish(axes)


def centering(found, axes=None):
    """Draws a separating line and its turns on uncentred and centred inputs, and the loss against the turn.

    Args:
        found: What `kregkit.diagnostics.compare_centering` returns.
        axes: Three matplotlib Axes. Defaults to a new figure's.

    Returns:
        The array of Axes.
    """
    plt = import_optional("matplotlib.pyplot", "kregkit.plots")
    if axes is None:
        _, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    axes = np.asarray(axes, object).ravel()
    turned = np.radians(9)
    for one, name, color in zip(axes, ("uncentred", "centred"), ("C1", "C0")):
        case = found[name]
        points = case["points"]
        for label, marker in ((0, "o"), (1, "^")):
            chosen = points[case["labels"] == label]
            one.plot(*chosen.T, marker, markersize=3, alpha=0.5, color="C2" if label else "C4")
        low, high = np.minimum(points.min(0), 0) - 0.6, np.maximum(points.max(0), 0) + 0.6
        for turn, style in ((-turned, "--"), (turned, "--"), (0.0, "-")):
            matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            normal = matrix @ case["weights"]
            size = normal @ normal
            along = np.array([-normal[1], normal[0]]) / np.sqrt(size)
            line = -case["bias"] * normal / size + np.array([[-20], [20]]) * along
            one.plot(*line.T, style, color=color, linewidth=1.8 if turn == 0 else 1.1)
        one.plot(0, 0, "+", color="0.2", markersize=10)
        one.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), title=f"{name} inputs")
        one.set_aspect("equal")
        one.set_xlabel("dashed: weights turned by 9 degrees")
        finish(one, legend=False)
        axes[2].plot(np.degrees(found["angles"]), case["losses"], color=color, linewidth=1.8, label=name)
    axes[2].set(xlabel="turn of the weights (degrees)", ylabel="loss")
    finish(axes[2])
    return axes
