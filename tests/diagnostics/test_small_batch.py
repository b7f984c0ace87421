"""What can and what can't learn a small batch by heart."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import X, dense

from kregkit import diagnostics as room
from kregkit.diagnostics._probe import probing

pytestmark = pytest.mark.trains


def test_overfit_finds_what_can_not_learn():
    model = dense(1, "sigmoid")
    finding = room.overfit_small_batch(model, (X, X[:, :1] * 3))  # values that a sigmoid can't take
    assert finding.faults == ["can't overfit"]
    assert room.overfit_small_batch(dense(1), (X, X[:, :1])).status == "pass"


def test_overfit_knows_the_floor_of_smoothed_labels():
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    finding = room.overfit_small_batch(dense(3, loss=loss), (X, np.eye(3)[(X[:, 0] > 0) * 1].astype("float32")))
    soft = np.array([0.2 / 3 + 0.8, 0.2 / 3, 0.2 / 3])
    assert finding.details["floor"] == pytest.approx(-np.sum(soft * np.log(soft)), rel=1e-6)
    assert finding.status == "pass"


COUNTS = np.arange(128.0)[:, None] % 3 + 1


@pytest.mark.parametrize(
    ("loss", "outputs", "activation", "y", "floor"),
    [
        ("mse", 1, None, X[:, :1], 0.0),
        ("poisson", 1, "softplus", COUNTS, np.mean(COUNTS[:20] - COUNTS[:20] * np.log(COUNTS[:20]))),
        ("cosine_similarity", 5, None, X, -1.0),
        ("kl_divergence", 2, "softmax", np.tile([0.3, 0.7], (128, 1)), 0.0),
        (keras.losses.BinaryCrossentropy(from_logits=True), 1, None, np.full((128, 1), 0.25), 0.562335),
    ],
)
def test_floor_is_the_loss_of_a_perfect_prediction(loss, outputs, activation, y, floor):
    # The first twenty are drawn at random.
    y = y if loss != "poisson" else y[np.argsort(np.random.default_rng(0).permutation(128))]
    finding = room.overfit_small_batch(dense(outputs, activation, loss), (X, y), max_steps=1)
    assert finding.details["floor"] == pytest.approx(floor, abs=1e-5)


def test_floor_of_several_outputs():
    inputs = keras.Input((5,))
    outputs = {name: keras.layers.Dense(1, "softplus", name=name)(inputs) for name in ("two", "one")}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"one": "poisson", "two": "mse"}, loss_weights={"one": 3.0, "two": 1.0})
    y = {"two": X[:, :1], "one": np.ones((128, 1))}
    assert room.overfit_small_batch(model, (X, y), max_steps=1).details["floor"] == pytest.approx(3.0, rel=1e-5)


@pytest.mark.parametrize(
    ("outputs", "activation", "loss", "classes"),
    [
        (4, None, keras.losses.SparseCategoricalCrossentropy(from_logits=True), 4),
        (4, "softmax", "sparse_categorical_crossentropy", 4),
        (1, "sigmoid", "binary_crossentropy", 2),
    ],
)
def test_twenty_examples_are_learnt_to_an_accuracy_of_one(outputs, activation, loss, classes):
    y = np.random.default_rng(3).integers(0, classes, (128, 1))
    finding = room.overfit_small_batch(dense(outputs, activation, loss), (X, y))
    assert finding.status == "pass" and finding.details["num"] == 20
    assert finding.details["accuracy"] == 1.0 and "accuracy 1.00" in finding.figure
    assert finding.expected == "accuracy 1.00"


def test_nineteen_of_twenty_are_not_enough():
    # Two equal inputs with different labels: a low loss is no accuracy of one.
    x = X.copy()
    order = np.random.default_rng(0).permutation(128)[:20]  # the examples that are taken
    x[order[1]] = x[order[0]]
    y = np.random.default_rng(3).integers(0, 2, (128, 1))
    y[order[0]], y[order[1]] = 0, 1
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    finding = room.overfit_small_batch(dense(2, None, loss), (x, y), max_steps=200)
    assert finding.faults == ["can't overfit"] and finding.details["accuracy"] == pytest.approx(0.95)


def test_examples_of_a_dataset_are_evenly_spaced():
    x = np.arange(128.0, dtype="float32")[:, None] * np.ones(5, "float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(16)
    with probing(dense(1), dataset) as probe:
        np.testing.assert_array_equal(probe.spread(3)[0][:, 0], [0, 63, 127])
        assert probe.spread(3)[2] is None and len(probe.spread(500)[0]) == 128
    with probing(dense(1), (x, x[:, :1])) as probe:
        np.testing.assert_array_equal(probe.spread(3)[0], probe.first(3)[0])
