"""Step decay against exact rational arithmetic."""

import fractions
import math

import keras
import numpy as np
import pytest

from kregkit.schedules import StepDecay


def rates(schedule, steps):
    return np.array([float(schedule(step)) for step in steps])


@pytest.mark.parametrize(
    ("every", "exact"),
    [
        (1, fractions.Fraction(1)),
        (7, fractions.Fraction(7)),
        (2.5, fractions.Fraction(5, 2)),
        (0.1 * 7, fractions.Fraction(7, 10)),
        (1 / 3 * 10, fractions.Fraction(10, 3)),
        (0.3 * 10, fractions.Fraction(3)),
        (1000 / 7, fractions.Fraction(1000, 7)),
    ],
)
def test_decays_at_the_first_step_at_or_after_each_multiple(every, exact):
    # No rounding in the reference, and a factor whose powers are exact.
    schedule = StepDecay(1.0, 0.5, every=every)
    steps = sorted({*range(12), *(max(0, math.ceil(exact * k) + shift) for k in range(1, 20) for shift in (-1, 0))})
    expected = [2.0 ** -math.floor(step / exact) for step in steps]
    np.testing.assert_array_equal(rates(schedule, steps), expected)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_late_steps_and_long_intervals_don_t_overflow(dtype):
    late = keras.ops.convert_to_tensor(2_000_000_001, dtype=dtype)
    assert float(StepDecay(1.0, 0.5, every=1e9)(late)) == 0.25
    assert float(StepDecay(1.0, 0.5, every=666_666_669.5)(late)) == 0.25
    assert float(StepDecay(1.0, 0.5, every=1e15)(late)) == 1.0
    assert float(StepDecay(1.0, 0.5, at=[2_000_000_001, 3e9, 1e15])(late)) == 0.5
    assert float(StepDecay(1.0, 0.5, at=[2_000_000_100])(late)) == 1.0


def test_given_steps_may_be_fractions_of_rounding():
    schedule = StepDecay(0.8, 0.5, at=[0, 0.1 * 30, 4.2, 7])
    np.testing.assert_allclose(rates(schedule, range(9)), [0.4, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05], rtol=1e-6)


@pytest.mark.parametrize(("every", "at"), [(0.1, None), (None, [0.1, 0.2, 0.3, 1.7])])
def test_times_as_floats_decay_on_the_boundary(every, at):
    schedule = StepDecay(1.0, 0.5, every=every, at=at)
    tenths = [np.float32(step) / np.float32(10) for step in range(20)]
    boundaries = at or [0.1 * k for k in range(1, 30)]
    expected = [0.5 ** sum(round(10 * boundary) <= step for boundary in boundaries) for step in range(20)]
    np.testing.assert_array_equal(rates(schedule, tenths), expected)


def test_times_as_floats_don_t_decay_a_step_early():
    # Epoch 300 less one of 5000 steps.
    before = np.float32((300 * 5000 - 1) / 5000)
    assert float(StepDecay(1.0, 0.5, every=300)(before)) == 1.0
    assert float(StepDecay(1.0, 0.9, every=1)(before)) == pytest.approx(0.9**299, rel=1e-4)
    assert float(StepDecay(1.0, 0.5, at=[300])(before)) == 1.0
    assert float(StepDecay(1.0, 0.5, at=[300])(np.float32(300))) == 0.5


def test_factor_above_one_and_nothing_lost_in_many_decays():
    assert float(StepDecay(1e-3, 10.0, every=1)(3)) == pytest.approx(1.0, rel=1e-6)
    assert float(StepDecay(1.0, 0.999, every=1)(5000)) == pytest.approx(math.exp(5000 * math.log(0.999)), rel=1e-4)


def test_too_short_an_interval_is_refused():
    with pytest.raises(ValueError, match=r"`every` must be .*Received: every=1e-08"):
        StepDecay(0.1, 0.5, every=1e-8)
