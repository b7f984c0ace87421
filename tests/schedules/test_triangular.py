"""The triangular rate against interpolation between its corners."""

import numpy as np
import pytest

from kregkit.schedules import Triangular


@pytest.mark.parametrize(("period", "decay"), [(8, 1.0), (5, 1.0), (7, 0.5), (2.5, 0.9), (200, 0.5)])
def test_is_a_line_between_corners(period, decay):
    schedule = Triangular(0.3, 0.1, period, decay)
    steps = np.arange(int(4 * period))
    corners = np.arange(10) * period / 2
    peaks = [0.1 + 0.2 * decay ** (corner // 2) if corner % 2 else 0.1 for corner in range(10)]
    expected = np.interp(steps, corners, peaks)
    np.testing.assert_allclose([float(schedule(step)) for step in steps], expected, rtol=1e-5)


def test_peak_and_floor_are_exact():
    schedule = Triangular(1.0, 0.25, 8)
    assert [float(schedule(step)) for step in (0, 4, 8, 12, 800_004)] == [0.25, 1.0, 0.25, 1.0, 1.0]


def test_minimum_may_equal_the_maximum():
    assert float(Triangular(0.5, 0.5, 3)(1)) == 0.5
