"""Initial losses against their closed forms."""

import keras
import numpy as np
import pytest
from small_models import X, dense

from kregkit import diagnostics as room


@pytest.mark.parametrize(
    ("loss", "outputs", "activation", "y", "expected"),
    [
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), 7, None, np.arange(128) % 7, np.log(7)),
        ("categorical_crossentropy", 4, "softmax", np.eye(4)[np.arange(128) % 4], np.log(4)),
        ("binary_crossentropy", 1, "sigmoid", np.arange(128)[:, None] % 2, np.log(2)),
        (keras.losses.BinaryCrossentropy(from_logits=True), 3, None, np.ones((128, 3)), np.log(2)),
        ("mse", 5, None, X, np.mean(X.astype("float64") ** 2)),
        ("mae", 5, None, X, np.mean(np.abs(X.astype("float64")))),
    ],
)
def test_expected_initial_loss(loss, outputs, activation, y, expected):
    finding = room.initial_loss(dense(outputs, activation, loss, kernel_initializer="zeros"), (X, y))
    # Zero weights know nothing: the loss itself is the expectation.
    assert finding.details["expected"] == pytest.approx(expected, rel=1e-5)
    assert finding.details["loss"] == pytest.approx(expected, rel=1e-5)
    assert finding.status == "pass"


@pytest.mark.parametrize(
    ("loss", "outputs", "activation", "fault"),
    [
        ("sparse_categorical_crossentropy", 3, None, "logits into a from_logits=False loss"),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), 3, "softmax", "probabilities into a from_logits=True loss"),  # noqa: E501
        ("binary_crossentropy", 1, None, "logits into a from_logits=False loss"),
        (keras.losses.BinaryCrossentropy(from_logits=True), 1, "sigmoid", "probabilities into a from_logits=True loss"),
    ],
)  # fmt: skip
def test_kind_of_outputs(loss, outputs, activation, fault):
    y = np.arange(128) % (3 if outputs == 3 else 2)
    assert room.initial_loss(dense(outputs, activation, loss), (X, y if outputs == 3 else y[:, None])).faults == [fault]


def test_initial_loss_sizes():
    classes = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = dense(3, loss=classes, kernel_initializer=keras.initializers.RandomNormal(stddev=20.0))
    assert room.initial_loss(model, (X, np.arange(128) % 3)).faults == ["initial loss too high"]
    model = dense(
        3, loss=classes, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant([9.0, 0, 0])
    )
    assert room.initial_loss(model, (X, np.zeros(128, int))).faults == ["initial loss too low"]
    model = dense(1, kernel_regularizer=keras.regularizers.L2(1e4))
    assert "penalty outweighs the loss" in room.initial_loss(model, (X, X[:, :1])).faults
