"""Short runs at several learning rates, against a simulation."""

import keras
import numpy as np
import pytest
from keras import layers
from small_models import X

from kregkit.diagnostics import compare_learning_rates, learning_rate_range

pytestmark = pytest.mark.trains


def regression():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(0.3), "mse")
    return model


def test_rates_against_a_simulation():
    model = regression()
    curves = compare_learning_rates(model, (X, X[:, :1]), {"slow": 0.01, "good": 0.1, "too high": 5.0}, steps=40)
    order = np.random.default_rng(0).permutation(128).reshape(4, 32)
    for name, rate in (("slow", 0.01), ("good", 0.1), ("too high", 5.0)):
        weights, losses = np.zeros((5, 1)), []
        for step in range(40):
            x = X[order[step % 4]].astype("float64")
            error = x @ weights - x[:, :1]
            losses.append(np.mean(error**2))
            weights = weights - rate * 2 * x.T @ error / 32
        found = curves[name]["losses"]
        np.testing.assert_allclose(found[:12], losses[:12], rtol=1e-3, atol=1e-7)
    assert curves["good"]["losses"][-1] < curves["slow"]["losses"][-1]
    assert not curves["too high"]["losses"][-1] < curves["too high"]["losses"][0]
    assert np.array_equal(model.get_weights()[0], np.zeros((5, 1)))


def test_default_rates_are_around_the_suggestion():
    y = np.tanh(X[:, :1] - X[:, 1:2]) + 0.1 * X[:, 2:3]
    curves = compare_learning_rates(regression(), (X, y), steps=80)
    assert list(curves) == ["too low", "good", "high", "too high"]
    found = learning_rate_range(regression(), (X, y))
    assert curves["good"]["rate"] == pytest.approx(found.suggestion)
    assert curves["too low"]["rate"] == pytest.approx(0.003 * found.suggestion)
    assert curves["too high"]["rate"] == pytest.approx(found.divergence)
    assert found.suggestion < curves["high"]["rate"] < curves["too high"]["rate"]
    ends = {name: curve["losses"][-5:].mean() for name, curve in curves.items()}
    starts = curves["good"]["losses"][0]
    assert ends["good"] < ends["too low"] < 1.01 * starts
    # What is called high falls, if less far.
    assert ends["high"] < starts - 0.2 * (starts - ends["good"])
    assert not ends["too high"] < starts


def test_no_default_rate_where_none_helps():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(1, trainable=False)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Received: rates=None"):
        compare_learning_rates(model, (X, X[:, :1]))


def test_a_run_that_leaps_up_and_settles_there_has_not_fallen():
    from kregkit.diagnostics.learning_rate_comparison import _fall

    leaps = np.concatenate([[2.3], np.linspace(90.0, 8.0, 99)])
    assert _fall({"losses": leaps}) < 0
    falls = np.linspace(2.0, 1.0, 100)
    assert _fall({"losses": falls}) == pytest.approx(falls[:10].mean() - falls[-10:].mean())
