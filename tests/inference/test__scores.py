"""Bootstrap intervals against the normal approximation, and the ends of bins."""

import numpy as np
import pytest

from kregkit._core.output_kinds import Task
from kregkit.inference._calibration_error import equal_width_bins
from kregkit.inference._scores import intervals, scores


@pytest.mark.parametrize("weighted", [False, True])
def test_intervals_are_those_of_a_weighted_mean(weighted):
    random = np.random.default_rng(0)
    error = 1 + 0.2 * random.normal(size=3000)
    weight = random.integers(0, 5, 3000).astype("float64") if weighted else None
    y = random.normal(size=(3000, 1))
    given = y[:, 0], y + error[:, None], Task("values"), weight
    w = np.ones(3000) if weight is None else weight
    mean = (w * error).sum() / w.sum()
    half = 1.96 * np.sqrt((w**2 * (error - mean) ** 2).sum()) / w.sum()
    low, high = intervals(*given)["mean absolute error"]
    assert scores(*given)["mean absolute error"] == pytest.approx(mean)
    np.testing.assert_allclose([(mean - low) / half, (high - mean) / half], 1.0, atol=0.12)


def test_a_fifteenth_belongs_to_the_bin_below_and_1_to_the_last():
    assert equal_width_bins(np.array([0.2, 0.2 + 1e-9, 0.6, 1.0, 0.0])).tolist() == [2, 3, 8, 14, 0]
