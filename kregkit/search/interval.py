"""A mean and how far it can be trusted."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from kregkit._core import rules
from kregkit._core.checks import check_number


@rules.checked(values=rules.array(1), bounds=rules.pair(rules.real, none=True))
def mean_interval(
    values: Sequence[float], confidence: float = 0.95, bounds: tuple[float, float] | None = None
) -> tuple[float, float, float]:
    """Returns `(mean, low, high)`: the mean of repeated measurements and Student's confidence interval of it.

    `mean ± t(confidence, n - 1) s / sqrt(n)`, where `s` is the sample's standard deviation; one value alone says
    nothing of its spread, and its interval is NaN. With `bounds` the interval is cut there: the true mean can't lie
    beyond, so that the rest holds it just as often.

    Args:
        values: Sequence of numbers.
        confidence: Float in (0, 1).
        bounds: Optional `(lowest, highest)` possible values, such as `(0, 1)` for an accuracy.

    Raises:
        ValueError: There are no values, or one lies outside `bounds`.

    Example:

    >>> [round(x, 3) for x in mean_interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    >>> [round(x, 3) for x in mean_interval([0.9, 0.95, 1.0], bounds=(0, 1))]
    [0.95, 0.826, 1.0]

    Reference: Student, The probable error of a mean, [Biometrika 1908](https://doi.org/10.1093/biomet/6.1.1)
    """
    confidence = check_number("confidence", confidence, 0, 1, low_open=True, high_open=True)
    numbers = np.asarray(values, "float64")
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(f"`values` must be a sequence of at least one number. Received: values={numbers}")
    lowest, highest = (-np.inf, np.inf) if bounds is None else bounds
    if (numbers < lowest).any() or (numbers > highest).any():
        raise ValueError(f"`values` must lie within `bounds`. Received: values={numbers.tolist()}, bounds={bounds}")
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf(0.5 + confidence / 2, len(numbers) - 1) * stats.sem(numbers)
    return mean, float(max(mean - half, lowest)), float(min(mean + half, highest))


def metric_interval(values: Sequence[float], bounds: tuple[float, float] | None) -> tuple[float, float, float]:
    """Returns `mean_interval`, cut at a metric's `bounds` if it keeps to them: a user's accuracy may be in percent."""
    kept = bounds is not None and all(bounds[0] <= value <= bounds[1] for value in values)
    return mean_interval(values, bounds=bounds if kept else None)
