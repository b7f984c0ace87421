import math

import numpy as np
import pytest
from scipy import stats

from kregkit.search import mean_interval


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
    for bad in ({"values": []}, {"values": [1.0], "confidence": 1.0}):
        with pytest.raises(ValueError, match="Received: "):
            mean_interval(**bad)
