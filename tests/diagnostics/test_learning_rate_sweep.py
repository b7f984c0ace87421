"""Sweeps against a model whose limit is known."""

import keras
import numpy as np
import pytest
from keras import layers
from small_models import X, dense

from kregkit import diagnostics as room
from kregkit.diagnostics._optimizers import fresh_optimizer, learning_rates
from kregkit.diagnostics.learning_rate_sweep import _smooth as smooth

pytestmark = pytest.mark.trains


def test_range_of_a_quadratic_against_numpy():
    # mse of y = w x with x = 1 or -1: SGD diverges beyond a rate of 1.
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = np.sign(X[:, :1])
    y = 2 * x + 0.3 * X[:, 1:2]
    found = room.learning_rate_range(model, (x, y), low=1e-4, high=100, steps=120)
    order = np.random.default_rng(0).permutation(128).reshape(4, 32)
    weight, losses = 0.0, []
    for step, rate in enumerate(1e-4 * 10 ** (6 * np.arange(120) / 119)):
        error = weight * x[order[step % 4], 0].astype("float64") - y[order[step % 4], 0]
        losses.append(np.mean(error**2))
        weight -= rate * 2 * np.mean(error * x[order[step % 4], 0])
    count = len(found.losses)
    np.testing.assert_allclose(found.losses, losses[:count], rtol=2e-3)
    assert 1.0 < found.divergence < 10 and found.divergence == found.rates[-1] and count < 120
    assert found.lowest < 1.0 and found.suggestion == pytest.approx(found.lowest / 10)
    assert found.reason.startswith("Start from") and "diverged" in found.reason
    assert found.to_dict()["current"] == pytest.approx(0.01)


def test_sweep_ends_once_the_smoothed_loss_has_tripled():
    # At zero weights and huge targets the loss only rises, once the rate is beyond 1.
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile("sgd", "mse")
    x = np.sign(X[:, :1])
    found = room.learning_rate_range(model, (x, 2 * x), low=0.99, high=1.2, steps=400)
    start = found.smoothed[:5].mean()
    assert len(found.losses) < 400 and found.divergence == found.rates[-1]
    assert found.smoothed[-2] <= 3 * start < found.smoothed[-1]


def test_smoothed_loss_is_a_weighted_mean_of_what_came_before():
    losses = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    expected = [np.average(losses[: end + 1], weights=0.8 ** np.arange(end, -1, -1.0)) for end in range(5)]
    np.testing.assert_allclose(smooth(losses), expected, rtol=1e-12)


def test_further_optimizers_keep_their_ratio():
    groups = keras.optimizers.OptimizerMap(keras.optimizers.Adam(0.1))
    groups["top.*"] = keras.optimizers.SGD(0.02)
    several = keras.optimizers.MultiOptimizer(groups)
    fresh = fresh_optimizer(several, 0.01)
    ratio = learning_rates(several)[1] / learning_rates(several)[0]
    assert sorted(learning_rates(several)) == pytest.approx([0.02, 0.1])
    assert learning_rates(fresh) == pytest.approx([0.01, 0.01 * ratio])
    assert {type(leaf) for leaf in fresh.optimizers} == {keras.optimizers.Adam, keras.optimizers.SGD}


def test_rate_of_a_schedule_is_its_highest():
    schedule = keras.optimizers.schedules.CosineDecay(0.0, 500, warmup_target=0.3, warmup_steps=100)
    model = dense(1, optimizer=keras.optimizers.SGD(schedule))
    assert room.learning_rate_range(model, (X, X[:, :1]), steps=10).current == pytest.approx(0.3, rel=0.2)


def test_what_is_learnt_by_heart_within_the_sweep_bears_any_rate_and_says_nothing():
    keras.utils.set_random_seed(0)
    tokens = np.random.default_rng(0).integers(0, 40, (512, 5))
    model = keras.Sequential(
        [keras.Input((5,), dtype="int32"), layers.Embedding(40, 8), layers.Flatten(), layers.Dense(2)]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found = room.learning_rate_range(model, (tokens, tokens[:, 0] % 2))
    assert found.rates[np.argmin(found.smoothed)] > 3
    start = found.smoothed[:5].mean()
    reached = found.smoothed <= found.smoothed.min() + 0.02 * (start - found.smoothed.min())
    assert found.lowest == found.rates[reached][0] < 1
    assert found.suggestion == pytest.approx(found.lowest / 10)
