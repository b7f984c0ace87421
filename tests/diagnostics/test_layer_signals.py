"""Signals through depth, against NumPy and in networks made to lose them."""

import keras
import numpy as np
import pytest
from keras import layers
from small_models import X, dense

from kregkit import diagnostics as room


def deep(activation, initializer, depth=12, width=40):
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(width, activation, kernel_initializer=initializer, name=f"h{i}") for i in range(depth)]
    model = keras.Sequential([keras.Input((5,)), *hidden, layers.Dense(1, name="top")])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    ("activation", "initializer", "faults"),
    [
        ("relu", "he_normal", set()),
        ("tanh", "glorot_normal", set()),
        ("tanh", keras.initializers.RandomNormal(stddev=0.01), {"vanishing activations", "vanishing gradients"}),
        ("relu", keras.initializers.RandomNormal(stddev=3.0), {"exploding activations", "exploding gradients"}),
        ("tanh", keras.initializers.RandomNormal(stddev=5.0), {"saturation"}),
        ("sigmoid", keras.initializers.RandomNormal(stddev=20.0), {"saturation"}),
    ],
)
def test_signal_flow(activation, initializer, faults):
    found = set(room.signal_flow(deep(activation, initializer), (X, X[:, :1])).faults)
    assert faults <= found
    if not faults:
        assert not found


def test_signal_flow_numbers():
    model = dense(1)
    rows = room.signal_flow(model, (X, X[:, :1])).details["layers"]
    order = np.random.default_rng(0).permutation(128)
    kernel, bias, top, offset = (weight.astype("float64") for weight in model.get_weights())
    hidden = np.maximum(X[order] @ kernel + bias, 0)
    assert rows[0]["std"] == pytest.approx(hidden.std(), rel=1e-5)
    assert rows[0]["dead"] == np.mean((hidden == 0).all(0))
    slope = 2 * (hidden @ top + offset - X[order, :1]) / 128
    assert rows[1]["gradient"] == pytest.approx(np.linalg.norm(slope) / np.sqrt(128), rel=1e-4)
    assert rows[0]["gradient"] == pytest.approx(np.linalg.norm(slope @ top.T) / np.sqrt(128), rel=1e-4)


def test_few_examples_do_not_make_a_unit_dead():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((6,)), keras.layers.Dense(64, "relu", kernel_initializer="he_normal"), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    for num in (1, 2, 64):
        assert "dead ReLUs" not in room.signal_flow(model, (x[:num], x[:num, :1])).faults
