"""What a hyperparameter search looked at and found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kregkit._core import rules
from kregkit._core.checks import check_choice
from kregkit._core.optional import import_optional
from kregkit.plots._axes import finish, new_axes, plain_numbers, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@rules.checked(
    trials=rules.entries(rules.mapping("parameters", "value")),
    x=rules.word(),
    y=rules.word(),
    axes=rules.axes,
    log_x=rules.boolean,
    log_y=rules.boolean,
    color=rules.word(),
)
def search_scatter(
    trials: Sequence[Mapping[str, Any]],
    x: str,
    y: str,
    axes: Axes | None = None,
    *,
    color: str = "value",
    log_x: bool = True,
    log_y: bool = True,
    direction: Literal["min", "max"] = "min",
) -> Axes:
    """Draws trials as points over two parameters, coloured by how good they are, the best with a ring around it.

    Args:
        trials: List of dictionaries with the keys `parameters` (a dictionary), `value` (a float, or None for a trial
            that was ended early: a small cross) and, for another `color`, `metrics` (a dictionary).
        x, y: Strings, the parameters, such as the learning rate and the regularisation.
        axes: Matplotlib Axes to draw on. Defaults to new ones.
        color: String, `"value"` or one of the metrics, such as `"val_accuracy"`. Defaults to `"value"`.
        log_x, log_y: Booleans, whether the axes are logarithmic. Default to `True`.
        direction: `"min"` or `"max"`, which colours are good.

    Returns:
        The Axes.

    Raises:
        ValueError: No trial has both parameters.

    Example:

    >>> trials = [{"parameters": {"rate": 0.1, "decay": 1e-4}, "value": 0.9},
    ...           {"parameters": {"rate": 0.01, "decay": 1e-5}, "value": 0.5}]
    >>> search_scatter(trials, "rate", "decay", direction="max").get_xlabel()
    'rate'
    """
    check_choice("direction", direction, ("min", "max"))
    placed = [trial for trial in trials if {x, y} <= trial["parameters"].keys()]
    if not placed:
        raise ValueError(f"No trial has both parameters. Received: x={x!r}, y={y!r}")

    def shade(trial):
        value = trial["value"] if color == "value" else (trial.get("metrics") or {}).get(color)
        return math.nan if value is None else value

    axes = new_axes(axes)
    points = np.array([[trial["parameters"][x], trial["parameters"][y], shade(trial)] for trial in placed], float)
    ended = np.isnan(points[:, 2])
    if ended.any():
        axes.scatter(
            points[ended, 0], points[ended, 1], marker="x", s=18, linewidths=1, color="0.6", label="ended early"
        )
    good = points[~ended]
    if len(good):
        # A handful of trials that went astray would leave one colour to all others.
        low, high = good[:, 2].min(), good[:, 2].max()
        spread = np.quantile(good[:, 2], [0.1, 0.9])
        low, high = (low, max(spread[1], low)) if direction == "min" else (min(spread[0], high), high)
        shades = "viridis_r" if direction == "min" else "viridis"
        drawn = axes.scatter(good[:, 0], good[:, 1], c=good[:, 2], cmap=shades, vmin=low, vmax=high, s=34, linewidths=0)
        best = good[good[:, 2].argmin() if direction == "min" else good[:, 2].argmax()]
        axes.scatter(best[0], best[1], s=110, facecolors="none", edgecolors="C3", linewidths=1.6, label="best")
        bar = axes.figure.colorbar(drawn, ax=axes, extend="max" if direction == "min" else "min")
        bar.outline.set_visible(False)
        bar.set_label("value" if color == "value" else color.replace("_", " "))
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    for axis, log, values in ((axes.xaxis, log_x, points[:, 0]), (axes.yaxis, log_y, points[:, 1])):
        # Integers and short ranges are read as plain numbers, wide ranges as powers of ten.
        whole = bool(np.all(values == np.round(values)))
        if log and (whole or values.max() < 300 * values.min()):
            plain_numbers(axis)
        elif whole and not log:
            whole_numbers(axis)
    axes.set_xlabel(x.replace("_", " "))
    axes.set_ylabel(y.replace("_", " "))
    return finish(axes)


@rules.checked(importance=rules.mapping(rule=rules.number(), empty=False), axes=rules.axes)
def search_importance(importance: Mapping[str, float], axes: Axes | None = None) -> Axes:
    """Draws how much each parameter matters, as horizontal bars, the most important on top.

    Args:
        importance: Dictionary from names to shares.
        axes: Matplotlib Axes to draw on. Defaults to new ones.

    Returns:
        The Axes.

    Example:

    >>> axes = search_importance({"rate": 0.9, "dropout": 0.1})
    >>> [text.get_text() for text in axes.get_yticklabels()]
    ['rate', 'dropout']
    """
    axes = new_axes(axes, size=(6.4, 0.36 * len(importance) + 1.1))
    ranked = sorted(importance.items(), key=lambda item: -item[1])
    positions = np.arange(len(ranked))
    fractions = [fraction for _, fraction in ranked]
    axes.barh(positions, fractions, height=0.66, alpha=0.85)
    for position, fraction in zip(positions, fractions):
        axes.annotate(
            f"{fraction:.0%}", (fraction, position), (5, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_yticks(positions, [name.replace("_", " ") for name, _ in ranked])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(fractions, default=1.0) or 1.0)
    axes.set_xlabel("importance in the first round")
    finish(axes, legend=False)
    axes.grid(visible=False, axis="y")
    return axes


@rules.checked(
    rounds=rules.entries(rules.mapping(rule=rules.mapping())), axes=rules.axes, best=rules.mapping(none=True)
)
def search_ranges(rounds: Sequence[Any], axes: Axes | None = None, *, best: Any = None) -> Axes:
    """Draws the range of each parameter in each round, on the scale of the first round's range.

    Args:
        rounds: List of dictionaries, one per round, from names to `{"low": ..., "high": ..., "log": ...}`; parameters
            without these keys, such as choices, are left out.
        axes: Matplotlib Axes to draw on. Defaults to new ones.
        best: Dictionary from names to the best values, which get a mark.

    Returns:
        The Axes.

    Raises:
        ValueError: No parameter has a range.

    Example:

    >>> first, second = ({"rate": {"low": low, "high": 1.0, "log": True}} for low in (1e-4, 1e-2))
    >>> [float(patch.get_width()) for patch in search_ranges([first, second]).patches]
    [1.0, 0.5]
    """
    names = [name for name, ranges in rounds[0].items() if "low" in ranges] if rounds else []
    if not names:
        raise ValueError(f"No parameter has a range. Received: rounds={rounds}")
    axes = new_axes(axes, size=(6.4, (0.2 * len(rounds) + 0.25) * len(names) + 1.2))
    shades = import_optional("matplotlib", "kregkit.plots").colormaps["Blues"]
    height = 0.8 / len(rounds)
    for row, name in enumerate(names):
        first = rounds[0][name]

        def on_first_scale(value, first=first):
            scale = math.log if first.get("log") else float
            return (scale(value) - scale(first["low"])) / (scale(first["high"]) - scale(first["low"]))

        for number, ranges in enumerate(rounds):
            if name in ranges:
                low, high = on_first_scale(ranges[name]["low"]), on_first_scale(ranges[name]["high"])
                top = row - 0.4 + number * height
                color = shades(0.35 + 0.55 * number / max(len(rounds) - 1, 1))
                label = f"round {number + 1}" if row == 0 else None
                axes.barh(top, high - low, left=low, height=0.85 * height, align="edge", color=color, label=label)
                for end, side, value in ((low, "left", ranges[name]["low"]), (high, "right", ranges[name]["high"])):
                    axes.annotate(
                        f"{value:.3g}",
                        (end, top + 0.42 * height),
                        xytext=(3 if side == "right" else -3, 0),
                        textcoords="offset points",
                        ha="left" if side == "right" else "right",
                        va="center",
                        fontsize=7,
                    )
        if best and name in best:
            label = "best" if row == 0 else None
            axes.plot([on_first_scale(best[name])] * 2, [row - 0.45, row + 0.4], color="C3", linewidth=1.6, label=label)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.invert_yaxis()
    # Room for the numbers; bars would otherwise touch the frame.
    axes.use_sticky_edges = False
    axes.margins(x=0.16)
    axes.set_xticks([0, 1], ["first low", "first high"])
    finish(axes)
    axes.grid(visible=False, axis="y")
    return axes


@rules.checked(
    trials=rules.entries(rules.mapping("parameters", "value")),
    rounds=rules.entries(rules.mapping(rule=rules.mapping())),
    importance=rules.mapping(rule=rules.number()),
    x=rules.word(none=True),
    y=rules.word(none=True),
    title=rules.label,
    color=rules.word(),
)
def search_results(
    trials: Sequence[Mapping[str, Any]],
    rounds: Sequence[Any],
    importance: Mapping[str, float] | None,
    *,
    x: str | None = None,
    y: str | None = None,
    color: str = "value",
    direction: Literal["min", "max"] = "min",
    title: str | None = None,
) -> Any:
    """Draws a search on one figure: trials over two parameters, importance per parameter, the range of each round.

    Args:
        trials: List of dictionaries, as in `search_scatter`.
        rounds: List of dictionaries, as in `search_ranges`.
        importance: Dictionary from names to shares, as in `search_importance`; the panel is left out where it is empty.
        x, y: Strings, the parameters of the scatter. Default to the first two with logarithmic ranges, or
            if there are none, with any ranges.
        color, direction: As in `search_scatter`.
        title: String over the figure.

    Returns:
        Array of the panels' Axes.

    Raises:
        ValueError: There are no two parameters with ranges.

    Example:

    >>> trials = [{"parameters": {"rate": 0.1, "decay": 1e-4}, "value": 0.9}]
    >>> ranges = {name: {"low": 1e-5, "high": 1.0, "log": True} for name in ("rate", "decay")}
    >>> len(search_results(trials, [ranges], {"rate": 0.8, "decay": 0.2}))
    3
    """
    ranged = {name: one for name, one in rounds[0].items() if "low" in one}
    # A stable sort: logarithmic ones first, else as they stand.
    defaults = [name for name in sorted(ranged, key=lambda name: not ranged[name].get("log")) if name not in (x, y)]
    x = x or (defaults.pop(0) if defaults else None)
    y = y or (defaults.pop(0) if defaults else None)
    if x is None or y is None:
        raise ValueError(f"A scatter needs two parameters with ranges. Received: rounds={rounds}")
    pyplot = import_optional("matplotlib.pyplot", "kregkit.plots")
    panels = 3 if importance else 2
    figure = pyplot.figure(figsize=(5.2 * panels, 4.4), layout="constrained")
    axes = figure.subplots(1, panels)
    logs = {name: bool(ranged.get(name, {}).get("log")) for name in (x, y)}
    search_scatter(trials, x, y, axes[0], color=color, log_x=logs[x], log_y=logs[y], direction=direction)
    if importance:
        search_importance(importance, axes[1])
    finished = [trial for trial in trials if trial["value"] is not None]
    pick = min if direction == "min" else max
    best = pick(finished, key=lambda trial: trial["value"])["parameters"] if finished else None
    search_ranges(rounds, axes[-1], best=best)
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", color="0.2")
    return axes


@rules.checked(
    curves=rules.mapping(rule=rules.array(2, finite=False), empty=False),
    axes=rules.axes,
    budget=rules.word(empty=True),
    value=rules.word(empty=True),
    log=rules.boolean,
    marks=rules.mapping(none=True, rule=rules.number()),
)
def best_so_far(
    curves: Mapping[str, Any],
    axes: Axes | None = None,
    *,
    budget: str = "epochs",
    value: str = "best value so far",
    log: bool = False,
    marks: Any = None,
) -> Axes:
    """Draws the best value found against what was spent, as means over runs with their 95% intervals.

    Args:
        curves: Dictionary from a method's name to an array `(runs, budget)`; NaN before the first value.
        axes: Matplotlib Axes to draw on. Defaults to new ones.
        budget, value: Strings, the axes' labels.
        log: Boolean, whether the value's axis is logarithmic.
        marks: Dictionary from names to values at which a dashed horizontal line stands.

    Returns:
        The Axes.

    Example:

    >>> axes = best_so_far({"random": [[3.0, 2.0, 2.0], [4.0, 2.5, 1.5]]})
    >>> axes.get_lines()[0].get_ydata().tolist()
    [3.5, 2.25, 1.75]
    """
    axes = new_axes(axes)
    for name, runs in curves.items():
        runs = np.asarray(runs, "float64")
        spent = np.arange(1, runs.shape[1] + 1)
        # Only where every run has found something: a mean over some of them would jump.
        known = ~np.isnan(runs).any(axis=0)
        mean = runs[:, known].mean(axis=0)
        (line,) = axes.plot(spent[known], mean, label=name, linewidth=1.6)
        if len(runs) > 1:
            half = 1.96 * runs[:, known].std(axis=0, ddof=1) / math.sqrt(len(runs))
            axes.fill_between(spent[known], mean - half, mean + half, color=line.get_color(), alpha=0.2, linewidth=0)
    for name, level in (marks or {}).items():
        axes.axhline(level, color="0.4", linestyle="--", linewidth=1, label=name)
    if log:
        axes.set_yscale("log")
    axes.set_xlabel(budget)
    axes.set_ylabel(value)
    whole_numbers(axes.xaxis)
    return finish(axes)
