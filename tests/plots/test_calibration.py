import numpy as np
import pytest

from kregkit.plots import reliability
from kregkit.plots.calibration import reliability_bins


def test_bins_of_equal_mass_and_their_intervals_against_scipy():
    from scipy.stats import binomtest

    rng = np.random.default_rng(0)
    p, labels = rng.dirichlet([1, 1, 1], 100), rng.integers(0, 3, 100)
    bins = reliability_bins(p, labels, num_bins=7)
    order = np.argsort(p.max(-1))
    start = 0
    for index, count in enumerate(bins["count"]):
        part = order[start : start + count]
        start += count
        right = (p[part].argmax(-1) == labels[part]).sum()
        assert bins["confidence"][index] == pytest.approx(p[part].max(-1).mean())
        interval = binomtest(right, count).proportion_ci(method="wilson")
        assert (bins["low"][index], bins["high"][index]) == pytest.approx((interval.low, interval.high), abs=1e-6)
    assert start == 100 and max(bins["count"]) - min(bins["count"]) <= 1


def test_binary_pixels_and_refusals():
    bins = reliability_bins(np.full((4, 2, 2, 1), 0.25), np.array([1, 0, 0, 0] * 4).reshape(4, 2, 2), num_bins=1)
    assert bins["confidence"] == 0.25 and bins["accuracy"] == 0.25 and bins["count"] == 16
    axes = reliability({"one": [0.2, 0.9], "other": [0.4, 0.6]}, [0, 1])
    assert axes.get_ylabel() == "accuracy" and len(axes.containers) == 2
    for wrong in ([2.0, 0.5], [0.5]):
        with pytest.raises(ValueError, match=r"softmax first\. Received: probabilities from .* and 2 labels"):
            reliability(wrong, [0, 1])
