"""One cycle against interpolation in the angle of the half cosines."""

import numpy as np
import pytest

from kregkit.schedules import OneCycle


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize(("total", "warmup"), [(20, 0.3), (101, 0.25), (10, 0.5), (3, 0.5)])
def test_rises_and_falls_between_three_rates(shape, total, warmup):
    schedule = OneCycle(0.4, total, warmup, 8.0, 100.0, shape)
    corners, heights = [0.0, warmup, 1.0], np.array([0.4 / 8, 0.4, 0.4 / 800])
    time = np.arange(total) / (total - 1)
    if shape == "linear":
        expected = np.interp(time, corners, heights)
    else:
        # 0, pi, 2 pi at the corners: between them the rate is the mean of both ends, leaning by the cosine.
        angle = np.interp(time, corners, [0.0, np.pi, 2 * np.pi])
        low = np.where(time < warmup, heights[0], heights[2])
        expected = low + (heights[1] - low) * (1 - np.cos(angle)) / 2
    actual = np.array([float(schedule(step)) for step in range(total)])
    np.testing.assert_allclose(actual, expected, rtol=5e-5)


def test_ends_are_exact_and_stay():
    schedule = OneCycle(1.0, total_steps=1000)
    assert float(schedule(0)) == pytest.approx(1 / 25, rel=1e-6)
    assert float(schedule(999)) == pytest.approx(1 / 25e4, rel=1e-5)
    assert float(schedule(10**6)) == float(schedule(999))


def test_nothing_grows_after_the_peak():
    rates = [float(OneCycle(1.0, 50, 0.4)(step)) for step in range(50)]
    peak = int(np.argmax(rates))
    assert all(np.diff(rates[: peak + 1]) > 0)
    assert all(np.diff(rates[peak:]) < 0)
