"""Update ratios by hand."""

import keras
import numpy as np
import pytest
from keras import layers
from small_models import X

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
