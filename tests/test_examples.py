"""The numbers behind the examples' pictures, against differences and the stationary point of a fit."""

import keras
import numpy as np
import pytest

pytest.importorskip("matplotlib")
from examples._babysit_pictures import activation_curves, compare_centering


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
