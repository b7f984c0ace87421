"""The loss while the learning rate is swept upwards."""

import numpy as np

from kregkit.plots._axes import finish, new_axes


def learning_rate_range(sweep, axes=None):
    """Draws the loss against the swept learning rate, with the suggestion and the rate in use.

    Args:
        sweep: Dictionary with `rates`, `losses`, `smoothed` and, each a number or `None`, `suggestion`, `divergence`
            and `current`; as `kregkit.diagnostics.LearningRateRange.to_dict()` returns it.
        axes: Matplotlib Axes to draw on. Defaults to new ones.

    Returns:
        The Axes.

    Example:

    >>> axes = learning_rate_range({"rates": [1e-3, 1e-2], "losses": [1.0, 0.5], "smoothed": [1.0, 0.7]})
    >>> axes.get_xscale()
    'log'
    """
    axes = new_axes(axes)
    rates, losses, smoothed = (np.asarray(sweep[key], float) for key in ("rates", "losses", "smoothed"))
    axes.plot(rates, losses, color="C0", linewidth=0.8, alpha=0.4, label="batch")
    axes.plot(rates, smoothed, color="C0", linewidth=1.8, label="smoothed")
    for key, color, style in (("suggestion", "#2a8c4a", "-"), ("current", "0.3", ":"), ("divergence", "#c0392b", "--")):
        if sweep.get(key) is not None:
            axes.axvline(sweep[key], color=color, linestyle=style, linewidth=1.5, label=f"{key} {sweep[key]:.1e}")
    known = smoothed[np.isfinite(smoothed)]
    if len(known):
        start = known[: min(5, len(known))].mean()
        axes.set_ylim(min(known.min(), 0) if known.min() < 0 else 0, max(1.6 * start, 1.1 * known[0]))
    axes.set_xscale("log")
    axes.set(xlabel="learning rate", ylabel="loss")
    finish(axes, legend=False)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    return axes
