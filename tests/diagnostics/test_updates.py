"""Update ratios by hand."""

import keras
import numpy as np
import pytest
from keras import layers
from small_models import X, dense

from kregkit import diagnostics as room


def test_update_ratio_by_hand():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    finding = room.update_ratio(model, (X, X[:, :1]), steps=1)
    order = np.random.default_rng(0).permutation(128)[:32]
    gradient = 2 * X[order].T @ (X[order].sum(1, keepdims=True) - X[order, :1]) / 32
    expected = 0.01 * np.linalg.norm(gradient) / np.sqrt(5)
    assert next(iter(finding.details["ratios"].values())) == pytest.approx(expected, rel=1e-4)
    assert finding.status == "pass"


def test_accumulation_is_left_out():
    found = []
    for steps in (None, 4):
        model = dense(1, optimizer=keras.optimizers.Adam(1e-3, gradient_accumulation_steps=steps))
        found.append(room.update_ratio(model, (X, X[:, :1])))
    ratios = [list(finding.details["ratios"].values()) for finding in found]
    assert ratios[0] == ratios[1] and found[1].status == "pass"


def test_biases_that_are_matrices_are_left_out():
    inputs = keras.Input((5, 1))
    x = layers.GRU(4, return_sequences=True)(inputs)
    x = layers.Flatten()(layers.MultiHeadAttention(2, 3)(x, x))
    model = keras.Model(inputs, layers.Dense(1)(x))
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    ratios = room.update_ratio(model, (X[:, :, None], X[:, :1]), steps=2).details["ratios"]
    assert len(ratios) == 2 + 4 + 1 and not any("bias" in path for path in ratios)
