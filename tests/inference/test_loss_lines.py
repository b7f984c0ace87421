"""The loss on the straight line between two models."""

import keras
import numpy as np
import pytest
from inference import models as zoo

from kregkit.inference import loss_along

X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")


def linear(slope):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.full((6, 1), slope, "float32")])
    model.compile("sgd", "mse")
    return model


def test_a_line_from_low_to_high_has_no_rise_in_between():
    line = loss_along(linear(0.5), linear(1.5), (X, 0.5 * X.sum(axis=1)), points=4)
    assert (np.diff(line.losses) > 0).all() and line.rise == 0


def test_line_against_explicit_models():
    models = zoo.permuted(1)
    labels = models[0].predict(X, verbose=0).argmax(-1)
    line = loss_along(*models, (X, labels), points=4)
    probe = zoo.permuted(2)[0]
    for position, loss, error in zip(line.positions, line.losses, line.errors, strict=True):
        weights = zip(models[0].get_weights(), models[1].get_weights())
        probe.set_weights([(1 - position) * a + position * b for a, b in weights])
        assert loss == pytest.approx(probe.evaluate(X, labels, verbose=0), rel=1e-4, abs=1e-6)
        assert error == np.mean(probe.predict(X, verbose=0).argmax(-1) != labels)
    assert line.rise == pytest.approx(line.losses[1:-1].max() - max(line.losses[[0, -1]]))
    assert str(line).splitlines()[2].startswith("    0.33")
