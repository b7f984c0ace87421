"""Paths of update rules over a loss landscape."""

from __future__ import annotations

from typing import Any

import numpy as np

from kregkit._core import rules
from kregkit._core.optional import import_optional
from kregkit.plots._axes import plain_numbers, whole_numbers

_INK = "0.25"


@rules.checked(
    landscapes=rules.mapping(rule=rules.mapping("function", "paths", "limits"), empty=False),
    groups=rules.entries(rules.entries(rules.word()), none=True),
    colors=rules.mapping(none=True, rule=rules.color),
    below=rules.word(empty=True),
)
def trajectories(
    landscapes: Any, groups: Any = None, colors: Any = None, axes: Any = None, *, below: str = "loss above the lowest"
) -> np.ndarray:
    """Draws what paths rules take over two-dimensional landscapes, and their losses against steps.

    One column per landscape. Above, one map per group of rules: filled contours evenly spaced in the logarithm of the
    loss, a dot per step, a ring at the start and a star at the minima. Below, the loss above the lowest against steps.

    Args:
        landscapes: Dictionary from a title to a dictionary with

            - `"function"`: callable `(x, y)`, vectorised, the loss;
            - `"paths"`: dictionary from a rule's name to an array `(steps + 1, 2)`;
            - `"limits"`: `((left, right), (bottom, top))` of the map;
            - `"minima"`: optional list of points, marked with stars;
            - `"lowest"`: optional float, the lowest loss. Defaults to 0;
            - `"labels"`: optional dictionary from a rule's name to a note, such as its rate;
            - `"faint"`: optional dictionary from a rule's name to further losses, an array, drawn thin and dashed;
            - `"below"`: optional dictionary from a rule's name to an array `(steps + 1,)` of positive numbers, drawn
              against steps in place of the losses;
            - `"note"`: optional string below the title.
        groups: List of lists of names, the rules of each row of maps. Defaults to one row with all.
        colors: Dictionary from a rule's name to a colour. Defaults to matplotlib's cycle.
        axes: Array of matplotlib Axes `(number of groups + 1, number of landscapes)`. Defaults to a new figure's.
        below: String, what the lowest row shows. Defaults to `"loss above the lowest"`.

    Returns:
        The array of Axes.

    Raises:
        ValueError: A path's shape is wrong, or `axes` has another shape than the landscapes and groups need.

    Example:

    >>> path = np.array([[2.0, 1.0], [1.0, 0.2], [0.5, 0.0]])
    >>> bowl = {
    ...     "function": lambda x, y: x**2 + y**2, "paths": {"SGD": path}, "limits": ((-3, 3), (-2, 2)),
    ... }
    >>> trajectories({"bowl": bowl}).shape
    (2, 1)
    """
    plt = import_optional("matplotlib.pyplot", "kregkit.plots")
    names = list(dict.fromkeys(name for landscape in landscapes.values() for name in landscape["paths"]))
    groups = [names] if groups is None else groups
    cycle = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    colors = {name: (colors or {}).get(name, cycle[index % len(cycle)]) for index, name in enumerate(names)}
    shape = (len(groups) + 1, len(landscapes))
    for title, landscape in landscapes.items():
        for name, path in landscape["paths"].items():
            if np.ndim(path) != 2 or np.shape(path)[1] != 2:
                raise ValueError(
                    f"The path of {name!r} on {title!r} must have the shape (steps + 1, 2). "
                    f"Received: shape={np.shape(path)}"
                )
    if axes is None:
        notes = [len(landscape.get("labels", {})) for landscape in landscapes.values()]
        size = (3.5 * shape[1] + 1.3, 2.6 * shape[0] + 1.5 + 0.08 * max(notes, default=0))
        _, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
    axes = np.asarray(axes)
    if axes.shape != shape:
        raise ValueError(f"`axes` must have the shape {shape}. Received: shape={axes.shape}")

    for column, (title, landscape) in enumerate(landscapes.items()):
        for row, group in enumerate(groups):
            _map(axes[row, column], landscape, [name for name in group if name in landscape["paths"]], colors)
        note = landscape.get("note")
        axes[0, column].set_title(title, fontsize=13, fontweight="bold", color=_INK, pad=21 if note else 6)
        if note:
            axes[0, column].annotate(
                note, (0.5, 1), (0, 6), "axes fraction", textcoords="offset points", ha="center", va="bottom",
                fontsize=9, color="0.45",
            )  # fmt: skip
        _losses(axes[-1, column], landscape, colors)
    for row, group in enumerate(groups):
        handles = [plt.Line2D([], [], color=colors[name], marker=".", linewidth=2.2) for name in group]
        axes[row, -1].legend(
            handles, group, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=10, labelcolor=_INK
        )
    axes[-1, 0].set_ylabel(below, color=_INK)
    return axes


def _map(axis, landscape, names, colors):
    (left, right), (bottom, top) = landscape["limits"]
    x, y = np.meshgrid(np.linspace(left, right, 201), np.linspace(bottom, top, 201))
    height = np.asarray(landscape["function"](x, y), float)
    lowest = landscape.get("lowest", 0.0)
    span = height.max() - lowest
    levels = np.log10(np.maximum(height - lowest, 1e-4 * span) / span)
    axis.contourf(x, y, levels, np.linspace(-4, 0, 25), cmap="PuBu_r", alpha=0.45)
    axis.contour(x, y, levels, np.linspace(-4, 0, 13), colors="white", linewidths=0.6, linestyles="solid", alpha=0.9)
    for order, name in enumerate(names):
        path = np.asarray(landscape["paths"][name], float)
        axis.plot(*path.T, "-", color=colors[name], linewidth=1.5, alpha=0.9, zorder=3 + order)
        axis.plot(*path.T, ".", color=colors[name], markersize=3.5, alpha=0.9, zorder=3 + order)
        axis.plot(*path[0], "o", markerfacecolor="white", markeredgecolor=_INK, markersize=7, zorder=30)
    for point in landscape.get("minima", ()):
        axis.plot(*point, "*", color="gold", markeredgecolor=_INK, markersize=13, markeredgewidth=0.8, zorder=29)
    axis.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    _quiet(axis)


def _losses(axis, landscape, colors):
    function, lowest = landscape["function"], landscape.get("lowest", 0.0)
    start = max(float(function(*np.asarray(path, float)[0])) for path in landscape["paths"].values()) - lowest
    floor = 1e-8 * start

    def visible(losses):
        # Below the floor a curve ends: what follows is rounding.
        values = np.maximum(np.asarray(losses, float) - lowest, floor)
        reached = np.flatnonzero(values <= floor)
        return values[: reached[0] + 1] if len(reached) else values

    given = landscape.get("below")
    for name, losses in landscape.get("faint", {}).items():
        axis.plot(visible(losses), "--", color=colors.get(name, _INK), linewidth=0.8, alpha=0.7)
    for name, path in landscape["paths"].items():
        label = f"{name} {landscape['labels'][name]}" if name in landscape.get("labels", {}) else None
        values = visible(function(*np.asarray(path, float).T)) if given is None else np.asarray(given[name], float)
        axis.plot(values, color=colors[name], linewidth=1.6, alpha=0.95, label=label)
    axis.set_yscale("log")
    if given is None:
        axis.set_ylim(floor, 5 * start)
    else:
        plain_numbers(axis.yaxis)
    axis.set_xlabel("step", color=_INK)
    whole_numbers(axis.xaxis)
    axis.grid(True, color="0.92")
    axis.set_axisbelow(True)
    axis.tick_params(colors=_INK, labelsize=8)
    _quiet(axis)
    if landscape.get("labels"):
        # Below the curves, where it hides none.
        longest = max(len(f"{name} {note}") for name, note in landscape["labels"].items())
        axis.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2 if longest < 24 else 1, fontsize=7.5, frameon=False,
            labelcolor="0.4",
            labelspacing=0.2, handlelength=1.2, columnspacing=0.8,
        )  # fmt: skip


def _quiet(axis):
    for spine in axis.spines.values():
        spine.set_color("0.8")
