"""The lecture's pictures in numbers, against differences, a simulation and the stationary point of a fit."""

import keras
import numpy as np
import pytest
from keras import layers
from small_models import X

from kregkit.diagnostics import activation_curves, compare_centering, compare_learning_rates, learning_rate_range

pytestmark = pytest.mark.trains


def test_derivatives_against_centred_differences():
    step = 1e-6
    curves = activation_curves(limit=4.0, num=402)  # no point on a kink
    for name, curve in curves.items():
        up, down = (
            np.array([activation_curves(limit=abs(x + sign * step), num=2)[name]["y"][int(x > 0)] for x in curve["x"]])
            for sign in (1, -1)
        )
        numeric = (up - down) / (2 * step)
        kinks = np.abs(np.diff(curve["derivative"], prepend=curve["derivative"][0])) > 0.3
        np.testing.assert_allclose(curve["derivative"][~kinks], numeric[~kinks], atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("sigmoid", keras.ops.sigmoid),
        ("tanh", keras.ops.tanh),
        ("ReLU", keras.ops.relu),
        ("leaky ReLU", lambda x: keras.ops.leaky_relu(x, 0.1)),
        ("ELU", keras.ops.elu),
    ],
)
def test_functions_are_those_of_keras(name, function):
    curve = activation_curves()[name]
    np.testing.assert_allclose(curve["y"], keras.ops.convert_to_numpy(function(curve["x"])), atol=1e-6)


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


def test_centring_changes_nothing_but_the_sensitivity():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 150)
    x = rng.normal(size=(300, 3)) * [1, 1, 0.1] + 1.5 * y[:, None]
    found = compare_centering(x, y, distance=4.0, angles=[-0.2, 0.0, 0.2])
    centred, uncentred = found["centred"], found["uncentred"]
    # The same line through the same cloud, moved along it.
    np.testing.assert_allclose(centred["losses"][1], uncentred["losses"][1], rtol=1e-9)
    moved = uncentred["points"] - centred["points"]
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 4.0)
    np.testing.assert_allclose(moved @ centred["weights"], 0, atol=1e-9)
    np.testing.assert_allclose(centred["points"].mean(0), 0, atol=1e-12)
    # The fitted line is a stationary point of the penalised loss.
    logits = centred["points"] @ centred["weights"] + centred["bias"]
    slope = centred["points"].T @ (1 / (1 + np.exp(-logits)) - y) / 300 + 0.05 * centred["weights"]
    np.testing.assert_allclose(slope, 0, atol=1e-8)
    # A turn by hand.
    turn = np.array([[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]])
    logits = uncentred["points"] @ turn @ uncentred["weights"] + uncentred["bias"]
    by_hand = -np.mean(np.log(np.where(y == 1, 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(logits)))))
    assert uncentred["losses"][2] == pytest.approx(by_hand, rel=1e-9)
    assert max(uncentred["losses"]) - uncentred["losses"][1] > 3 * (max(centred["losses"]) - centred["losses"][1])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: activation_curves(limit=0), "Received: limit=0"),
        (lambda: compare_centering(X, np.arange(128) % 3), "classes 0 and 1"),
        (lambda: compare_centering(X[:, :1], np.arange(128) % 2), "two features"),
        (lambda: compare_centering(X, np.arange(128) % 2, distance=-1), "Received: distance=-1"),
    ],
)
def test_bad_arguments(call, text):
    with pytest.raises(ValueError, match=text):
        call()
