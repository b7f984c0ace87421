"""The loss of labels as outputs against that of their opposite."""

import keras
import numpy as np
import pytest
from keras import ops
from small_models import X, dense

from kregkit import diagnostics as room

KINDS = np.arange(128) % 3
YES = (np.arange(128)[:, None] % 2).astype("float32")


def contrastive(y_true, y_pred):
    return ops.mean(y_true * y_pred**2 + (1 - y_true) * ops.maximum(1 - y_pred, 0) ** 2, -1)


def likelihood(y_true, y_pred):
    y_pred = ops.clip(y_pred, 1e-6, 1 - 1e-6)
    return ops.mean(y_true * ops.log(y_pred) + (1 - y_true) * ops.log(1 - y_pred), -1)


@pytest.mark.parametrize(
    ("loss", "outputs", "activation", "y", "negated"),
    [
        ("mse", 1, None, X[:, :1], False),
        (lambda a, b: -ops.mean((a - b) ** 2, -1), 1, None, X[:, :1], True),
        ("cosine_similarity", 5, None, X, False),
        (lambda a, b: -keras.losses.cosine_similarity(a, b), 5, None, X, True),
        ("sparse_categorical_crossentropy", 3, "softmax", KINDS, False),
        (lambda a, b: -keras.losses.sparse_categorical_crossentropy(a, b), 3, "softmax", KINDS, True),
        (lambda a, b: -keras.losses.sparse_categorical_crossentropy(a, b, True), 3, None, KINDS, True),
        ("binary_crossentropy", 1, "sigmoid", YES, False),
        (likelihood, 1, "sigmoid", YES, True),
        # Small for a label of 1: a distance, and no mistake.
        (contrastive, 1, None, YES, False),
    ],
)
def test_sign(loss, outputs, activation, y, negated):
    finding = room.loss_sign(dense(outputs, activation, loss), (X, y))
    assert finding.faults == (["negated loss"] if negated else [])
    details = finding.details["label"]
    if loss == "mse":
        # The mean of 64 examples' squares of twice the distance to their mean.
        order = np.random.default_rng(0).permutation(128)[:64]
        y = y[order].astype("float64")
        assert details["agreeing"] == pytest.approx(0, abs=1e-12)
        assert details["contradicting"] == pytest.approx(np.mean((2 * (y - y.mean())) ** 2), rel=1e-5)


def test_negative_loss_weight_of_one_output():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, [keras.layers.Dense(1, name="a")(inputs), keras.layers.Dense(1, name="b")(inputs)])
    model.compile("sgd", ["mse", "mse"], loss_weights=[1.0, -1.0])
    finding = room.loss_sign(model, (X, [X[:, :1], X[:, 1:2]]))
    assert [problem.where for problem in finding.problems] == ["label 1"]


def test_labels_of_another_shape_and_no_loss_are_left_out():
    quantiles = dense(3, loss=lambda a, b: ops.mean(ops.maximum(0.9 * (a - b), -0.1 * (a - b)), -1))
    assert room.loss_sign(quantiles, (X, X[:, :1])).figure == "not comparable"


class Penalized(keras.layers.Layer):
    """Adds its inputs' mean square to the loss."""

    def call(self, inputs):
        self.add_loss(ops.mean(inputs**2))
        return inputs


def test_model_whose_loss_is_its_own():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2), Penalized()])
    model.compile("sgd")
    checks = ["input_statistics", "label_distribution", "label_signal", "loss_sign", "initial_loss", "signal_flow"]
    report = room.preflight(model, (X, None), checks=[*checks, "layer_settings", "optimizer_settings"])
    assert report.faults == [] and report["loss_sign"].figure == "not comparable"
    with pytest.raises(ValueError, match="Received: y=None"):
        room.preflight(dense(1), (X, None))
