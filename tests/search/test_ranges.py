import math

import numpy as np
import pytest

from kregkit.search import integer, log_uniform, uniform


@pytest.mark.parametrize(
    ("parameter", "places"),
    [
        (uniform(-2.0, 6.0), {-2.0: 0, 0.0: 0.25, 6.0: 1}),
        (log_uniform(1e-4, 1.0), {1e-4: 0, 1e-3: 0.25, 1.0: 1}),
        (integer(0, 10), {0: 0, 5: 0.5, 10: 1}),
        (integer(1, 16, log=True), {1: 0, 2: 0.25, 16: 1}),
    ],
)
def test_values_stand_on_the_ranges_own_scale(parameter, places):
    for value, place in places.items():
        assert parameter.to_unit(value) == pytest.approx(place, abs=1e-12)
        assert parameter.from_unit(place) == pytest.approx(value)
        assert isinstance(parameter.from_unit(place), int if parameter.whole else float)
    # Exactly the ends, so that Optuna takes them for members.
    assert (parameter.from_unit(0), parameter.from_unit(1)) == (parameter.low, parameter.high)


def test_points_are_equally_distant_and_distinct():
    np.testing.assert_allclose(log_uniform(1e-4, 1e0).points(5), [1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert uniform(0, 1).points(1) == [0.5]
    assert integer(1, 3).points(7) == [1, 2, 3]


def test_narrowing_by_hand():
    # Places 0.4, 0.5, 0.6: margins of 0.2 / 2.
    narrow, remark = uniform(0.0, 10.0, limits=(-99, 99)).around([5.0, 4.0, 6.0], best=5.0)
    assert (narrow.low, narrow.high, remark) == (3.0, 7.0, "")
    assert narrow.limits == (-99, 99)
    # Decades -3, -2.5 and -2 of -4 ... 0.
    narrow, _ = log_uniform(1e-4, 1.0).around([1e-3, 10**-2.5, 1e-2], best=1e-3)
    assert narrow.low == pytest.approx(10**-3.5) and narrow.high == pytest.approx(10**-1.5)
    # Cut at the old end; integers round outwards.
    assert integer(0, 10).around([2, 3, 6], best=3)[0] == integer(0, 8)


def test_narrowing_is_unbiased_for_uniform_draws():
    """The best third of [0, 3] being where all is equally good, the estimates of its ends are right on average."""
    rng = np.random.default_rng(0)
    ends = []
    for _ in range(4000):
        values = rng.uniform(1.2, 1.8, 4)
        narrow, _ = uniform(0.0, 3.0).around(values.tolist(), best=values[0])
        ends.append((narrow.low, narrow.high))
    # Standard error 0.003; five of them.
    np.testing.assert_allclose(np.mean(ends, axis=0), [1.2, 1.8], atol=0.015)


def test_range_never_collapses():
    narrow, _ = uniform(0.0, 1.0).around([0.5, 0.5, 0.5], best=0.5)
    assert (narrow.low, narrow.high) == (0.45, 0.55)
    # In a corner, where limits forbid to widen, the interval moves inwards.
    narrow, _ = uniform(0.0, 1.0).around([1.0, 1.0], best=1.0)
    assert (narrow.low, narrow.high) == (0.9, 1.0)
    assert uniform(0.0, 1.0).around([0.5], best=0.5)[0] == uniform(0.0, 1.0)


@pytest.mark.parametrize(
    ("parameter", "best", "ends", "side"),
    [
        (log_uniform(0.1, 10.0), 0.12, (1e-3, 10.0), "lower"),
        (log_uniform(0.1, 10.0), 9.0, (0.1, 1e3), "upper"),
        (log_uniform(1e-6, 1e-4), 9e-5, (1e-6, 1e-2), "upper"),
        # What may be a fraction stays below 1.
        (log_uniform(1e-4, 1e-2), 9e-3, (1e-4, 0.505), "upper"),
        (log_uniform(1e-4, 1e-1, limits=(0, 10)), 9e-2, (1e-4, 10), "upper"),
        (uniform(-1.0, 1.0), 0.75, (-1.0, 3.0), "upper"),
        (uniform(2.0, 3.0), 2.1, (1.0, 3.0), "lower"),
        (uniform(2.0, 6.0), 2.1, (0.0, 6.0), "lower"),
        (uniform(0.0, 0.5, limits=(0, 0.6)), 0.5, (0.0, 0.6), "upper"),
        (uniform(0.6, 0.7), 0.61, (0.5, 0.7), "lower"),
        (integer(10, 20), 10, (1, 20), "lower"),
        (integer(1, 4), 4, (1, 7), "upper"),
        (integer(0, 4), 4, (0, 8), "upper"),
        (integer(-4, 4), -4, (-12, 4), "lower"),
        (integer(4, 64, log=True), 64, (4, 1024), "upper"),
        (integer(16, 64, step=16), 64, (16, 112), "upper"),
        (integer(32, 64, step=16), 32, (16, 64), "lower"),
        (integer(32, 64, step=16, limits=(0, 90)), 64, (32, 80), "upper"),
    ],
)
def test_best_at_the_edge_widens(parameter, best, ends, side):
    middle = parameter.from_unit(0.5)
    wide, remark = parameter.around([best, middle, middle], best)
    assert (wide.low, wide.high) == pytest.approx(ends)
    assert remark.startswith("widened") and f"at the {side} edge" in remark
    # Just inside, it does not; nor where the best trial has no such parameter, nor by two trials.
    inside = parameter.from_unit({"upper": 0.84, "lower": 0.16}[side])
    for values, of_best in (([inside] + [middle] * 2, inside), ([best] * 3, None), ([best, middle], best)):
        if not parameter.whole or of_best is not inside:
            assert parameter.around(values, of_best)[1] == ""


def test_most_of_the_good_ones_near_an_edge_widen_too():
    values = [2.0, 1.6, 8.0, 0.5, 2.4]
    wide, remark = uniform(0.0, 10.0, limits=(-99, 99)).around(values, 2.0)
    assert wide.low == -10.0 and "most good values are near the lower edge" in remark
    assert uniform(0.0, 10.0, limits=(-99, 99)).around([2.0, 1.6, 8.0, 5.0, 3.0], 2.0)[1] == ""
    assert uniform(0.0, 10.0, limits=(-99, 99)).around([8.0, 7.6, 9.0], 8.0)[0].high == 20.0


@pytest.mark.parametrize("high", [0.3, 0.5, 0.7, 0.9])
def test_fractions_leave_the_usual_only_on_two_trials_word(high):
    dropout = uniform(0.0, high)
    one, _ = dropout.around([0.97 * high, 0.5 * high, 0.4 * high], 0.97 * high)
    assert one.high <= max(0.8, high)
    two, _ = dropout.around([0.97 * high, 0.9 * high, 0.4 * high], 0.97 * high)
    assert two.high == pytest.approx(min(2 * high, (1 + high) / 2))
    # However often: never a rate of 1.
    for _ in range(60):
        two, _ = two.around([two.high] * 3, two.high)
    assert 0.8 < two.high < 1.0
    assert uniform(0.0, 1.0).around([1.0] * 3, 1.0)[0].high == 1.0


def test_no_end_of_a_logarithmic_range_is_zero_or_infinite():
    for best in ("low", "high"):
        parameter = log_uniform(0.1, 10.0)
        for _ in range(12):
            parameter, _ = parameter.around([getattr(parameter, best)] * 3, getattr(parameter, best))
            assert 0 < parameter.low < parameter.high < math.inf


def test_steps_stay_on_their_grid():
    parameter = integer(16, 128, step=16)
    assert {parameter.from_unit(unit) for unit in np.linspace(0, 1, 50)} == set(range(16, 129, 16))
    assert parameter.points(3) == [16, 80, 128] or parameter.points(3) == [16, 64, 128]
    narrow, _ = parameter.around([64, 80, 80], 64)
    assert (narrow.low - 16) % 16 == (narrow.high - 16) % 16 == 0 and narrow.low <= 64 and narrow.high >= 80
    assert parameter.holds(48) and not parameter.holds(50) and not parameter.holds(144)
    assert repr(parameter) == "integer(16, 128, step=16)" and parameter.distribution().step == 16


def test_no_growth_beyond_limits():
    narrow, remark = uniform(0.0, 0.5).around([0.0, 0.1, 0.2], best=0.0)
    assert remark == "" and narrow.low == 0.0 and narrow.high == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: uniform(1, 1), "high"),
        (lambda: uniform(0, math.inf), "high"),
        (lambda: uniform(0, 1, limits=(0.5, 1)), "limits"),
        (lambda: log_uniform(0, 1), "low"),
        (lambda: integer(0, 4, log=True), "low"),
        (lambda: integer(1.5, 4), "low"),
        (lambda: integer(0, 10, step=3), "step"),
        (lambda: integer(1, 10, log=True, step=3), "step"),
        (lambda: integer(0, 10, step=0), "step"),
        (lambda: uniform(0, 1).when(), "when"),
    ],
)
def test_bad_ranges_are_refused(make, text):
    with pytest.raises(ValueError, match="Received: ") as error:
        make()
    assert text in str(error.value)
