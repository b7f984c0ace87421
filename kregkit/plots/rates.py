"""The learning rate over a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kregkit._core import rules
from kregkit.plots._axes import finish, new_axes, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@rules.checked(
    rates=rules.any_of(rules.function(num=1), rules.history, rules.array(1)),
    axes=rules.axes,
    steps=rules.whole(1, 10**7, none=True),
    steps_per_epoch=rules.whole(1, none=True),
    label=rules.label,
    log=rules.boolean,
)
def learning_rate_curve(
    rates: Any,
    axes: Axes | None = None,
    *,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    label: str | None = None,
    log: bool = False,
) -> Axes:
    """Draws a learning rate against steps or epochs.

    Args:
        rates: What a `fit` recorded, as its `History` or the list `history["learning_rate"]` (one value per epoch);
            an array with one value per step, as `kregkit.callbacks.simulate` gives, where `steps_per_epoch` is given;
            or a `LearningRateSchedule` or any function of the step, drawn over `steps` steps.
        axes: Matplotlib Axes to draw on. Defaults to new ones.
        steps: Integer, how many steps of a schedule to draw.
        steps_per_epoch: Integer; if given, the axis of a schedule or of an array is in epochs.
        label: String, the line's name in the legend.
        log: Boolean, whether the rate's axis is logarithmic.

    Returns:
        The Axes.

    Raises:
        ValueError: A schedule comes without `steps`, or a History without learning rates.

    Example:

    >>> import keras
    >>> axes = learning_rate_curve(keras.optimizers.schedules.CosineDecay(0.1, 100), steps=100)
    >>> axes.get_xlabel()
    'step'
    """
    if callable(rates):
        if steps is None:
            raise ValueError(f"A schedule is drawn over a number of steps: pass `steps`. Received: steps={steps}")
        x: Any = np.arange(steps)
        values = [float(rates(step)) for step in range(steps)]
        unit = "step"
        if steps_per_epoch is not None:
            x, unit = x / steps_per_epoch, "epoch"
    else:
        record = getattr(rates, "history", rates)
        if isinstance(record, dict):
            if "learning_rate" not in record:
                raise ValueError(
                    "The history holds no learning rates: train with one of kregkit's rate callbacks. "
                    f"Received: history={sorted(record)}"
                )
            record = record["learning_rate"]
        if steps_per_epoch is not None and record is rates:
            x = np.arange(len(record)) / steps_per_epoch
        else:
            # The value at an epoch's end stands at the end.
            x = np.arange(1, len(record) + 1)
        values, unit = record, "epoch"
    axes = new_axes(axes)
    axes.plot(x, values, label=label, linewidth=1.6)
    axes.set_xlabel(unit)
    axes.set_ylabel("learning rate")
    if log:
        axes.set_yscale("log")
    elif axes.get_yscale() == "linear":
        highest = max(np.max(np.asarray(line.get_ydata())) for line in axes.get_lines())
        axes.set_ylim(0, 1.05 * highest if highest > 0 else 1)
    if unit == "epoch":
        whole_numbers(axes.xaxis)
    return finish(axes)


@rules.checked(curves=rules.mapping(rule=rules.mapping("rate", "losses"), empty=False), axes=rules.axes)
def learning_rates(curves: Mapping[str, Any], axes: Axes | None = None) -> Axes:
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
        (line,) = axes.plot(smooth, linewidth=1.7, label=f"{name} ({curve['rate']:.2g})")
        axes.plot(losses, linewidth=0.6, alpha=0.25, color=line.get_color())
        starts.append(losses[0])
    axes.set_ylim(0, 2.2 * max(start for start in starts if np.isfinite(start)))
    axes.set(xlabel="step", ylabel="loss")
    return finish(axes)


@rules.checked(sweep=rules.mapping("rates", "losses", "smoothed"), axes=rules.axes)
def learning_rate_sweep(sweep: Any, axes: Axes | None = None) -> Axes:
    """Draws the loss against the swept learning rate, with the suggestion and the rate in use.

    Args:
        sweep: Dictionary with `rates`, `losses`, `smoothed` and, each a number or `None`, `suggestion`, `divergence`
            and `current`; as `kregkit.diagnostics.LearningRateRange.to_dict()` returns it.
        axes: Matplotlib Axes to draw on. Defaults to new ones.

    Returns:
        The Axes.

    Example:

    >>> axes = learning_rate_sweep({"rates": [1e-3, 1e-2], "losses": [1.0, 0.5], "smoothed": [1.0, 0.7]})
    >>> axes.get_xscale()
    'log'
    """
    axes = new_axes(axes)
    rates, losses, smoothed = (np.asarray(sweep[key], float) for key in ("rates", "losses", "smoothed"))
    axes.plot(rates, losses, color="C0", linewidth=0.8, alpha=0.4, label="batch")
    axes.plot(rates, smoothed, color="C0", linewidth=1.8, label="smoothed")
    for key, color, style in (("suggestion", "#2a8c4a", "-"), ("current", "0.3", ":"), ("divergence", "#c0392b", "--")):
        if sweep.get(key) is not None:
            axes.axvline(sweep[key], color=color, linestyle=style, linewidth=1.5, label=f"{key} {sweep[key]:.2g}")
    known = smoothed[np.isfinite(smoothed)]
    if len(known):
        start = known[: min(5, len(known))].mean()
        axes.set_ylim(min(known.min(), 0) if known.min() < 0 else 0, max(1.6 * start, 1.1 * known[0]))
    axes.set_xscale("log")
    axes.set(xlabel="learning rate", ylabel="loss")
    finish(axes, legend=False)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    return axes
