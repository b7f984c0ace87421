"""Loss and error over epochs, training beside validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kregkit._core import rules
from kregkit.plots._axes import finish, new_axes, plain_numbers, whole_numbers

if TYPE_CHECKING:
    import keras
    from matplotlib.axes import Axes


def _record(history):
    record = getattr(history, "history", history)
    if not isinstance(record, dict) or not record:
        raise ValueError(f"Expected a History or its dictionary of lists. Received: history={history!r}")
    return record


def _draw(axes, record, name, convert, label, color):
    if name not in record:
        raise ValueError(f"The history holds no {name!r}. Received: history={sorted(record)}, name={name!r}")
    validation = record.get(f"val_{name}")
    x = np.arange(1, len(record[name]) + 1)
    look, names = {"linewidth": 1.6}, [label, None]
    if validation is not None:
        look = {"linewidth": 1.0, "linestyle": "--", "alpha": 0.8}
        # Of several runs only the solid lines are named.
        names = ["training", "validation"] if label is None else [None, label]
    (line,) = axes.plot(x, convert(np.asarray(record[name], float)), label=names[0], color=color, **look)
    if validation is not None:
        # With validation_freq > 1 there are fewer values, one every so many epochs; the last epochs may have none.
        x = len(x) // max(len(validation), 1) * np.arange(1, len(validation) + 1)
        values = convert(np.asarray(validation, float))
        axes.plot(x, values, label=names[1], color=line.get_color(), linewidth=1.6)
    axes.set_xlabel("epoch")
    whole_numbers(axes.xaxis)
    return axes


@rules.checked(axes=rules.axes, name=rules.word(), label=rules.label, log=rules.boolean)
def loss_curves(
    history: keras.callbacks.History | Mapping[str, Sequence[float]],
    axes: Axes | None = None,
    *,
    name: str = "loss",
    label: str | None = None,
    color: str | None = None,
    log: bool = True,
) -> Axes:
    """Draws the loss of a run, training dashed and validation solid, against epochs.

    Args:
        history: What `fit` returned, or its dictionary of lists.
        axes: Matplotlib Axes to draw on; several runs may share them. Defaults to new ones.
        name: String, the logged quantity. Defaults to `"loss"`.
        label: String, the run's name in the legend; without it, training and validation are named.
        color: The run's colour. Defaults to the next one.
        log: Boolean, whether the loss axis is logarithmic. Defaults to `True`.

    Returns:
        The Axes.

    Raises:
        ValueError: The history does not hold the quantity.

    Example:

    >>> axes = loss_curves({"loss": [2.0, 1.0], "val_loss": [2.1, 1.3]})
    >>> [line.get_label() for line in axes.get_lines()]
    ['training', 'validation']
    """
    record = _record(history)
    axes = _draw(new_axes(axes), record, name, lambda values: values, label, color)
    axes.set_ylabel(name.replace("_", " ") + (", dashed: training" if f"val_{name}" in record else ""))
    if log:
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)
    return finish(axes)


@rules.checked(axes=rules.axes, name=rules.word(), label=rules.label, log=rules.boolean)
def error_curves(
    history: keras.callbacks.History | Mapping[str, Sequence[float]],
    axes: Axes | None = None,
    *,
    name: str = "accuracy",
    label: str | None = None,
    color: str | None = None,
    log: bool = True,
) -> Axes:
    """Draws the error, `1 - accuracy` in percent, of a run, training dashed and validation solid, against epochs.

    Args:
        history: What `fit` returned, or its dictionary of lists.
        axes: Matplotlib Axes to draw on; several runs may share them. Defaults to new ones.
        name: String, the logged accuracy. Defaults to `"accuracy"`.
        label: String, the run's name in the legend.
        color: The run's colour. Defaults to the next one.
        log: Boolean, whether the error axis is logarithmic; errors of zero are then left out. Defaults to `True`.

    Returns:
        The Axes.

    Raises:
        ValueError: The history does not hold the quantity.

    Example:

    >>> axes = error_curves({"accuracy": [0.5, 0.75]})
    >>> axes.get_lines()[0].get_ydata().tolist()
    [50.0, 25.0]
    """
    record = _record(history)
    axes = _draw(new_axes(axes), record, name, lambda values: _percent_wrong(values, log), label, color)
    axes.set_ylabel("error (%), dashed: training" if f"val_{name}" in record else "error (%)")
    if log:
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)
    return finish(axes)


def _percent_wrong(accuracy, log):
    error = 100 * (1 - accuracy)
    return np.where(error > 0, error, np.nan) if log else error


@rules.checked(
    values=rules.mapping(rule=rules.number(), empty=False),
    axes=rules.axes,
    intervals=rules.mapping(none=True, rule=rules.array(1)),
    baseline=rules.word(none=True),
)
def errors(
    values: Mapping[str, float],
    axes: Axes | None = None,
    *,
    intervals: Mapping[str, Any] | None = None,
    baseline: str | None = None,
) -> Axes:
    """Draws one number per method as horizontal bars, the first on top.

    Args:
        values: Dictionary from a name to an error in percent.
        axes: Matplotlib Axes to draw on. Defaults to new ones.
        intervals: Dictionary from a name to `(low, high)`, drawn as a thin line over the bar.
        baseline: Name of the method to compare with: a dashed line marks its value.

    Returns:
        The Axes.

    Example:

    >>> axes = errors({"last weights": 3.1, "ensemble": 2.4}, baseline="last weights")
    >>> len(axes.patches)
    2
    """
    if baseline is not None and baseline not in values:
        raise ValueError(f"`baseline` must be one of {list(values)}. Received: baseline={baseline!r}")
    axes = new_axes(axes, size=(6.4, 0.36 * len(values) + 1.1))
    names = list(values)
    positions = np.arange(len(names))
    axes.barh(positions, list(values.values()), height=0.66, alpha=0.85)
    right = max(values.values(), default=1.0)
    for position, name in zip(positions, names):
        end = values[name]
        if intervals and name in intervals:
            low, high = intervals[name]
            axes.plot([low, high], [position, position], color="0.25", linewidth=1.2)
            end = max(end, high)
        right = max(right, end)
        axes.annotate(
            f"{values[name]:.2f}",
            (end, position),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            # The baseline's line may run through it.
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    if baseline is not None:
        axes.axvline(values[baseline], color="0.4", linestyle="--", linewidth=1, zorder=0)
    axes.set_yticks(positions, names)
    axes.invert_yaxis()
    axes.set_xlim(0, right * 1.12)
    axes.set_xlabel("error (%)")
    finish(axes, legend=False)
    axes.grid(visible=False, axis="y")
    return axes
