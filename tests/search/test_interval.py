import math

import numpy as np
import pytest
from scipy import stats

from kregkit.search import mean_interval
from kregkit.search.interval import metric_interval


def test_interval_by_hand_and_by_scipy():
    # Student's t at 0.975 with four degrees of freedom, from a table: 2.7764.
    mean, low, high = mean_interval([1, 2, 3, 4, 5])
    half = 2.7764 * math.sqrt(2.5 / 5)
    assert (mean, low, high) == pytest.approx((3, 3 - half, 3 + half), rel=1e-4)
    values = np.random.default_rng(0).normal(size=9)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert mean_interval(values, 0.9)[1:] == pytest.approx(tuple(reference))


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = sum(low < 0 < high for _, low, high in (mean_interval(rng.normal(size=4)) for _ in range(2000)))
    # Binomial: standard deviation 9.7; five of them.
    assert abs(covered - 1900) < 50


def test_one_value_and_none():
    mean, low, high = mean_interval([2.0])
    assert mean == 2.0 and math.isnan(low) and math.isnan(high)
    for bad in ({"values": []}, {"values": [1.0], "confidence": 1.0}, {"values": [97.0], "bounds": (0, 1)}):
        with pytest.raises(ValueError, match="Received: "):
            mean_interval(**bad)


def test_bounds_cut_the_interval_and_nothing_else():
    values = [0.9, 0.95, 1.0]
    mean, low, high = mean_interval(values)
    assert high > 1 and mean_interval(values, bounds=(0, 1)) == (mean, low, 1.0)
    assert mean_interval([0.4, 0.5, 0.6], bounds=(0, 1)) == mean_interval([0.4, 0.5, 0.6])
    assert mean_interval([1.0, 1.0], bounds=(0, 1)) == (1.0, 1.0, 1.0)
    # Percent under the name of a fraction: nothing is cut.
    assert metric_interval([97.0, 99.0], (0.0, 1.0)) == mean_interval([97.0, 99.0])
