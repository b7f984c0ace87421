"""The late decay against float64 formulas."""

import math

import keras
import numpy as np
import pytest

from kregkit.schedules import Cooldown, Warmup

SHAPES = {
    "linear": lambda u: 1 - u,
    "1-sqrt": lambda u: 1 - math.sqrt(u),
    "cosine": lambda u: (1 + math.cos(math.pi * u)) / 2,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("total", "length", "to"), [(20, 5, 0.0), (20, 20, 0.1), (17, 6.5, 0.25), (3, 1, 1.0)])
def test_factor_at_every_step(shape, total, length, to):
    schedule = Cooldown(0.3, total, length, shape, to)
    steps = np.arange(total + 3)
    past = np.clip((steps - (total - length)) / length, 0, 1)
    expected = [0.3 * (to + (1 - to) * SHAPES[shape](u)) for u in past]
    np.testing.assert_allclose([float(schedule(step)) for step in steps], expected, rtol=1e-6, atol=1e-7)


def test_nothing_changes_before_it_starts():
    target = Warmup(0.3, 4)
    schedule = Cooldown(target, 1000, 100)
    for step in (0, 2, 3, 500, 900):
        assert float(schedule(step)) == float(target(step))
    assert float(schedule(901)) < float(target(901))


def test_wraps_and_is_wrapped():
    cosine = keras.optimizers.schedules.CosineDecay(0.1, 40)
    one, other = Cooldown(Warmup(cosine, 4), 30, 10), Warmup(Cooldown(cosine, 30, 10), 4)
    np.testing.assert_allclose([float(one(s)) for s in range(31)], [float(other(s)) for s in range(31)], rtol=1e-6)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(one))
    assert [float(again(s)) for s in range(31)] == [float(one(s)) for s in range(31)]
