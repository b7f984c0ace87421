"""The learning rate over a run."""

import numpy as np

from kregkit._core.optional import import_optional
from kregkit.plots._axes import finish, new_axes


def learning_rate(rates, axes=None, *, steps=None, steps_per_epoch=None, label=None, log=False):
    """Draws a learning rate against steps or epochs.

    Args:
        rates: What a `fit` recorded, as its `History` or the list `history["learning_rate"]` (one value per epoch);
            or a `LearningRateSchedule` or any function of the step, drawn over `steps` steps.
        axes: Matplotlib Axes to draw on. Defaults to new ones.
        steps: Integer, how many steps of a schedule to draw.
        steps_per_epoch: Integer; if given, a schedule's axis is in epochs.
        label: String, the line's name in the legend.
        log: Boolean, whether the rate's axis is logarithmic.

    Returns:
        The Axes.

    Raises:
        ValueError: A schedule comes without `steps`, or a History without learning rates.

    Example:

    >>> import keras
    >>> axes = learning_rate(keras.optimizers.schedules.CosineDecay(0.1, 100), steps=100)
    >>> axes.get_xlabel()
    'step'
    """
    if callable(rates):
        if steps is None:
            raise ValueError(f"A schedule is drawn over a number of steps: pass `steps`. Received: steps={steps}")
        x, values = np.arange(steps), [float(rates(step)) for step in range(steps)]
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
        # The value at an epoch's end stands at the end.
        x, values, unit = np.arange(1, len(record) + 1), record, "epoch"
    axes = new_axes(axes)
    axes.plot(x, values, label=label, linewidth=1.6)
    axes.set_xlabel(unit)
    axes.set_ylabel("learning rate")
    if log:
        axes.set_yscale("log")
    elif axes.get_yscale() == "linear":
        highest = max(max(line.get_ydata()) for line in axes.get_lines())
        axes.set_ylim(0, 1.05 * highest if highest > 0 else 1)
    if unit == "epoch":
        axes.xaxis.set_major_locator(import_optional("matplotlib.ticker", "kregkit.plots").MaxNLocator(integer=True))
    return finish(axes)
