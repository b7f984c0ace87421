"""Error against the number of target examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kregkit._core import rules
from kregkit.plots._axes import finish, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Factor between the positions of neighbouring ways to train.
_BESIDE = 1.04


@rules.checked(
    errors=rules.mapping(rule=rules.mapping(rule=rules.array(1)), empty=False),
    axes=rules.axes,
    labels=rules.mapping(none=True),
)
def transfer_curves(
    errors: Mapping[str, Mapping[int, Sequence[float]]],
    axes: Axes | None = None,
    *,
    labels: Mapping[int, str] | None = None,
) -> Axes:
    """Draws the error of several ways to train against the number of examples, with intervals over seeds.

    Args:
        errors: Dictionary from a way's name to a dictionary from a number of examples to a list of errors in percent,
            one per seed.
        axes: Matplotlib Axes to draw on. Defaults to new ones.
        labels: Dictionary from a number of examples to its label, such as `{144: "all"}`.

    Returns:
        The Axes. Lines join the means; bars reach from the lowest to the highest, those of one number of examples side
        by side. Both axes are logarithmic: a bar down to no error at all ends at the bottom.

    Raises:
        ValueError: There is nothing to draw.

    Example:

    >>> axes = transfer_curves({"from scratch": {1: [40.0, 50.0], 10: [10.0, 12.0]}})
    >>> axes.get_lines()[0].get_ydata().tolist()
    [45.0, 11.0]
    """
    if not errors or not all(errors.values()):
        raise ValueError(f"`errors` must hold numbers for every name. Received: errors={errors!r}")
    axes = new_axes(axes, size=(7.0, 4.6))
    sizes = sorted({size for by_size in errors.values() for size in by_size})
    axes.set_xscale("log")
    if any(value > 0 for by_size in errors.values() for values in by_size.values() for value in values):
        axes.set_yscale("log", nonpositive="clip")
    for index, (name, by_size) in enumerate(errors.items()):
        known = sorted(by_size)
        beside = [size * _BESIDE ** (index - (len(errors) - 1) / 2) for size in known]
        low, mean, high = ([float(reduce(by_size[size])) for size in known] for reduce in (min, np.mean, max))
        (line,) = axes.plot(beside, mean, marker="o", markersize=4.5, linewidth=1.5, label=name)
        axes.vlines(beside, low, high, color=line.get_color(), linewidth=1.5, alpha=0.6)
    if len(sizes) == 1:
        axes.set_xlim(sizes[0] / 2, sizes[0] * 2)
    axes.set_xticks(sizes, [(labels or {}).get(size, str(size)) for size in sizes])
    axes.minorticks_off()
    highest = max(max(values) for by_size in errors.values() for values in by_size.values())
    lowest = min(
        (v for by_size in errors.values() for values in by_size.values() for v in values if v > 0), default=1.0
    )
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if lowest / 1.5 <= tick <= highest * 1.5]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    if axes.get_yscale() == "log":
        axes.set_ylim(bottom=lowest / 1.5)
    axes.set(xlabel="examples per class", ylabel="test error (%), mean and range over seeds")
    return finish(axes)
