"""A mean and how far it can be trusted."""

import numpy as np

from kregkit._core.checks import check_number


def mean_interval(values, confidence=0.95):
    """Returns `(mean, low, high)`: the mean of repeated measurements and Student's confidence interval of it.

    `mean ± t(confidence, n - 1) s / sqrt(n)`, where `s` is the sample's standard deviation; one value alone says
    nothing of its spread, and its interval is NaN.

    Args:
        values: Sequence of numbers.
        confidence: Float in (0, 1).

    Raises:
        ValueError: There are no values.

    Example:

    >>> [round(x, 3) for x in mean_interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]

    Reference: Student, The probable error of a mean, [Biometrika 1908](https://doi.org/10.1093/biomet/6.1.1)
    """
    confidence = check_number("confidence", confidence, 0, 1, low_open=True, high_open=True)
    values = np.asarray(values, "float64")
    if values.ndim != 1 or not len(values):
        raise ValueError(f"`values` must be a sequence of at least one number. Received: values={values}")
    mean = float(values.mean())
    if len(values) == 1:
        return mean, float("nan"), float("nan")
    from scipy import stats

    half = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return mean, float(mean - half), float(mean + half)
