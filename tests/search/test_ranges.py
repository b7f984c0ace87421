import math

import numpy as np
import pytest

from kregkit.search import choice, integer, log_uniform, uniform


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
        assert parameter.place(value) == pytest.approx(place, abs=1e-12)
        assert parameter.value(place) == pytest.approx(value)
        assert isinstance(parameter.value(place), int if parameter.whole else float)
    # Exactly the ends, so that Optuna takes them for members.
    assert (parameter.value(0), parameter.value(1)) == (parameter.low, parameter.high)


def test_points_are_equally_distant_and_distinct():
    np.testing.assert_allclose(log_uniform(1e-4, 1e0).points(5), [1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert uniform(0, 1).points(1) == [0.5]
    assert integer(1, 3).points(7) == [1, 2, 3]
    assert choice(["a", None, True]).points(2) == ["a", None, True]


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
        (log_uniform(1e-4, 1e-2), 9e-3, (1e-4, 1e-1), "upper"),
        (log_uniform(1e-4, 1e-2), 1.1e-4, (1e-5, 1e-2), "lower"),
        (uniform(-1.0, 1.0), 0.95, (-1.0, 2.0), "upper"),
        (integer(10, 20), 10, (5, 20), "lower"),
        (integer(1, 4), 4, (1, 6), "upper"),
        # As far as the limits allow: fractions stay fractions, what is positive stays so.
        (uniform(0.5, 0.9), 0.89, (0.5, 1.0), "upper"),
        (integer(1, 9), 9, (1, 13), "upper"),
        (uniform(0.0, 0.5, limits=(0, 0.6)), 0.5, (0.0, 0.6), "upper"),
    ],
)
def test_best_at_the_edge_widens(parameter, best, ends, side):
    middle = parameter.value(0.5)
    wide, remark = parameter.around([best, middle, middle], best)
    assert (wide.low, wide.high) == pytest.approx(ends)
    assert wide.low <= parameter.low and wide.high >= parameter.high
    assert remark.startswith("widened") and side in remark
    # Just inside, it does not.
    inside = {"upper": 0.94, "lower": 0.06}[side]
    if not parameter.whole:
        assert parameter.around([parameter.value(inside), middle], parameter.value(inside))[1] == ""


def test_no_growth_beyond_limits():
    narrow, remark = uniform(0.0, 0.5).around([0.0, 0.1, 0.2], best=0.0)
    assert remark == "" and narrow.low == 0.0 and narrow.high == pytest.approx(0.3)


def test_choice_keeps_what_is_among_the_best():
    parameter = choice({"none": None, "small": (1, 2), "large": (3,)})
    kept, remark = parameter.around(["large", "none", "large"], best="large")
    assert kept.options == {"none": None, "large": (3,)} and remark == ""


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: uniform(1, 1), "high"),
        (lambda: uniform(0, math.inf), "high"),
        (lambda: uniform(0, 1, limits=(0.5, 1)), "limits"),
        (lambda: log_uniform(0, 1), "low"),
        (lambda: integer(0, 4, log=True), "low"),
        (lambda: integer(1.5, 4), "low"),
        (lambda: choice([]), "options"),
        (lambda: choice([(1, 2)]), "options"),
        (lambda: uniform(0, 1).when(), "when"),
    ],
)
def test_bad_ranges_are_refused(make, text):
    with pytest.raises(ValueError, match="Received: ") as error:
        make()
    assert text in str(error.value)
