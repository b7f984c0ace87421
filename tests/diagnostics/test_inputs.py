"""Input and label statistics on data with one thing wrong."""

import keras
import numpy as np
import pytest
from keras import layers
from small_models import RNG, X, dense

from kregkit import diagnostics as room


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda x: x, None),
        (lambda x: np.where(np.arange(128)[:, None] == 3, np.nan, x), "NaN in inputs"),
        (lambda x: x + 2, "inputs not centred"),
        (lambda x: 100 * x, "unscaled inputs"),
        (lambda x: 1e-4 * x, "unscaled inputs"),
        (lambda x: x * (np.arange(5) < 2), "constant features"),
        (lambda x: x * np.where(np.arange(5) == 0, 5000, 1e-3), "unscaled inputs"),
    ],
)
def test_input_statistics(change, fault):
    finding = room.input_statistics(dense(1), (change(X).astype("float32"), X[:, :1]))
    assert finding.faults == ([] if fault is None else [fault])


@pytest.mark.parametrize(
    ("loss", "outputs", "activation", "y", "fault"),
    [
        ("sparse_categorical_crossentropy", 3, "softmax", np.arange(128) % 3, None),
        ("sparse_categorical_crossentropy", 3, "softmax", np.arange(128) % 4, "labels out of range"),
        ("sparse_categorical_crossentropy", 3, "softmax", np.arange(128) % 3 - 1, "labels out of range"),
        ("categorical_crossentropy", 3, "softmax", np.eye(3)[np.arange(128) % 3], None),
        ("categorical_crossentropy", 3, "softmax", np.ones((128, 3)), "labels out of range"),
        ("binary_crossentropy", 1, "sigmoid", np.arange(128)[:, None] % 2, None),
        ("binary_crossentropy", 1, "sigmoid", np.arange(128)[:, None] % 2 + 1, "labels out of range"),
        ("mse", 1, None, 1000 + X[:, :1], "unscaled targets"),
        ("mse", 1, None, np.full((128, 1), np.nan), "NaN in labels"),
    ],
)
def test_labels(loss, outputs, activation, y, fault):
    finding = room.input_statistics(dense(outputs, activation, loss), (X, y))
    assert finding.faults == ([] if fault is None else [fault])


def test_preprocessing_inside_of_the_model_counts():
    model = keras.Sequential([keras.Input((5,)), layers.Rescaling(0.01), layers.Dense(1)])
    model.compile("sgd", "mse")
    assert room.input_statistics(model, (100 * X, X[:, :1])).status == "pass"


def test_preprocessing_of_several_inputs_counts_for_each():
    inputs = [keras.Input((5,), name="a"), keras.Input((3,), name="b")]
    scaled = [layers.Rescaling(0.01)(inputs[0]), inputs[1]]
    model = keras.Model(inputs, layers.Dense(1)(layers.Concatenate()(scaled)))
    model.compile("sgd", "mse")
    assert room.input_statistics(model, ([100 * X, X[:, :3]], X[:, :1])).status == "pass"
    finding = room.input_statistics(model, ([100 * X, 100 * X[:, :3]], X[:, :1]))
    assert [problem.where for problem in finding.problems] == ["input 1"]


def test_statistics_are_those_of_the_data():
    details = room.input_statistics(dense(1), (X, X[:, :1])).details["input"]
    assert details["mean"] == pytest.approx(X.mean(dtype="float64"), rel=1e-6)
    assert details["std"] == pytest.approx(X.std(dtype="float64"), rel=1e-6)
    assert (details["low"], details["high"], details["constant_features"]) == (X.min(), X.max(), 0)


def test_tokens():
    model = keras.Sequential(
        [keras.Input((6,), dtype="int32"), layers.Embedding(50, 4), layers.Flatten(), layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    tokens = RNG.integers(0, 50, (128, 6))
    assert room.input_statistics(model, (tokens, X[:, :1])).status == "pass"
    assert room.input_statistics(model, (tokens + 1, X[:, :1])).faults == ["tokens out of range"]
