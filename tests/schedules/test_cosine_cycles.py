"""Cosine cycles against the snapshot paper's equation, as printed."""

import math

import keras
import numpy as np
import pytest

from kregkit.schedules import CosineCycles


def rates(schedule, steps):
    return np.array([float(schedule(step)) for step in steps])


@pytest.mark.parametrize(("total", "cycles"), [(20, 5), (23, 4), (1, 1), (7, 1), (5, 5), (301, 6)])
def test_equals_the_paper_whose_steps_count_from_one(total, cycles):
    length = math.ceil(total / cycles)
    expected = [0.2 / 2 * (math.cos(math.pi * ((t - 1) % length) / length) + 1) for t in range(1, total + 1)]
    schedule = CosineCycles(0.2, total, cycles)
    np.testing.assert_allclose(rates(schedule, range(total)), expected, rtol=2e-6, atol=1e-8)
    assert schedule.ends == [min((k + 1) * length, total) for k in range(cycles)]


@pytest.mark.parametrize(("total", "cycles", "ratio"), [(21, 3, 2.0), (100, 4, 1.5), (1000, 6, 1.3), (63, 6, 2.0)])
def test_growing_cycles_fill_the_run_and_start_at_the_maximum(total, cycles, ratio):
    schedule = CosineCycles(1.0, total, cycles, 0.25, ratio)
    # First length l with l (1 + r + ... + r^(M-1)) = T, summed term by term.
    first = total / sum(ratio**k for k in range(cycles))
    bounds = [sum(first * ratio**k for k in range(n)) for n in range(cycles + 1)]
    ends = [math.ceil(bound - 1e-9) for bound in bounds[1:]]
    assert schedule.ends == ends
    assert ends[-1] == total
    starts = [0, *ends[:-1]]
    expected = []
    for step in range(total):
        k = max(k for k in range(cycles) if starts[k] <= step)
        phase = (step - starts[k]) / (ends[k] - starts[k])
        expected.append(0.25 + 0.75 * (1 + math.cos(math.pi * phase)) / 2)
    np.testing.assert_allclose(rates(schedule, range(total)), expected, rtol=2e-6)
    np.testing.assert_array_equal(rates(schedule, starts), 1.0)


def test_exact_doubling_is_not_rounded_up():
    assert CosineCycles(1.0, 21, 3, restart_multiplier=2.0).ends == [3, 9, 21]
    assert CosineCycles(1.0, 63, 6, restart_multiplier=2.0).ends == [1, 3, 7, 15, 31, 63]


def test_stays_at_the_last_value():
    schedule = CosineCycles(0.1, 10, 2, 0.01)
    last = float(schedule(9))
    assert 0.01 < last < 0.1
    np.testing.assert_array_equal(rates(schedule, [10, 11, 10**9]), last)


def test_takes_tensors_of_any_integer_type():
    schedule = CosineCycles(0.1, 10, 3, 0.0, 1.5)
    for dtype in ("int32", "int64", "uint32"):
        assert float(schedule(keras.ops.convert_to_tensor(6, dtype=dtype))) == float(schedule(6))


def test_cycles_that_don_t_fit_are_refused_with_their_length():
    # Five cycles of ceil(16 / 7) = 3 steps use up 15 steps, so the seventh would be empty.
    with pytest.raises(ValueError, match=r"7 cycles of whole steps, 3 each.*Received: total_steps=16, cycles=7"):
        CosineCycles(0.1, 16, 7)
    with pytest.raises(ValueError, match="Received: total_steps=5, cycles=4, restart_multiplier=3"):
        CosineCycles(0.1, 5, 4, restart_multiplier=3)
