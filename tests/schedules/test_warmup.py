"""Warm-up as a factor of whatever it wraps."""

import keras
import numpy as np
import pytest

from kregkit.schedules import StepDecay, Warmup

pytestmark = pytest.mark.trains


@pytest.mark.parametrize(("steps", "start"), [(5, 0.0), (4, 0.2), (2.5, 0.0), (1, 0.0), (0.5, 0.3), (7, 1.0)])
def test_line_reaches_one_at_the_last_warm_up_step(steps, start):
    schedule = Warmup(0.8, steps, start)
    expected = [0.8 * np.interp(step + 1, [0, steps], [start, 1.0]) for step in range(10)]
    np.testing.assert_allclose([float(schedule(step)) for step in range(10)], expected, rtol=1e-6)


def test_target_keeps_its_own_clock():
    target = keras.optimizers.schedules.CosineDecay(0.1, 20)
    schedule = Warmup(target, 4)
    expected = [float(target(step)) * min((step + 1) / 4, 1) for step in range(20)]
    np.testing.assert_allclose([float(schedule(step)) for step in range(20)], expected, rtol=1e-6, atol=1e-9)


def test_nested_schedules_survive_serialization():
    schedule = Warmup(Warmup(StepDecay(0.1, 0.5, at=[3, 5]), 2), 6, 0.25)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert [float(again(step)) for step in range(9)] == [float(schedule(step)) for step in range(9)]
    by_config = Warmup.from_config(schedule.get_config())
    assert [float(by_config(step)) for step in range(9)] == [float(schedule(step)) for step in range(9)]


def test_drives_compile():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    # The loss is the mean output, so each step moves the weight by the rate itself.
    model.compile(keras.optimizers.SGD(Warmup(0.4, 4)), lambda y, prediction: prediction, jit_compile=False)
    ones = np.ones((6, 1), "float32")
    model.fit(ones, ones, batch_size=1, verbose=0)
    assert float(model.get_weights()[0][0, 0]) == pytest.approx(-(0.1 + 0.2 + 0.3 + 0.4 * 3), rel=1e-6)
