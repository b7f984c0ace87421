"""Initial losses against their closed forms."""

import keras
import numpy as np
import pytest
from keras import layers
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
    model = keras.Sequential([keras.Input((5,)), layers.Dense(5, kernel_initializer="identity")])
    model.compile("sgd", "mse")
    assert room.initial_loss(model, (X, X)).faults == ["initial loss too low"]
    model = dense(1, kernel_regularizer=keras.regularizers.L2(1e4))
    assert "penalty outweighs the loss" in room.initial_loss(model, (X, X[:, :1])).faults


def test_head_of_he_normal_values_is_no_fault():
    # The offset of a head is normal with a variance below 2: its square is above 20 with a probability below 0.002.
    found = []
    for seed in range(30):
        keras.utils.set_random_seed(seed)
        sizes = [layers.Dense(16, "relu", kernel_initializer="he_normal") for _ in range(2)]
        model = keras.Sequential([keras.Input((5,)), *sizes, layers.Dense(1, kernel_initializer="he_normal")])
        model.compile("sgd", "mse")
        finding = room.initial_loss(model, (X, X[:, :1]))
        found.append(finding.details["loss"] / finding.details["expected"])
        assert "initial loss too high" not in finding.faults
    assert max(found) > 3.3


def test_values_far_too_high():
    model = dense(1, kernel_initializer=keras.initializers.RandomNormal(stddev=30.0))
    assert room.initial_loss(model, (X, X[:, :1])).faults == ["initial loss too high"]


@pytest.mark.parametrize(("activation", "guess"), [("softplus", np.log(2)), ("exponential", 1.0), ("sigmoid", 0.5)])
def test_values_start_from_what_the_last_activation_makes_of_zero(activation, guess):
    y = np.arange(128.0)[:, None] % 3
    model = dense(1, activation, "poisson", kernel_initializer="zeros")
    finding = room.initial_loss(model, (X, y))
    assert finding.details["expected"] == pytest.approx(np.mean(guess - y * np.log(guess)), rel=1e-5)
    assert finding.status == "pass"


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis -1 of a tensor of shape")
def test_softmax_of_one_unit():
    finding = room.initial_loss(dense(1, "softmax", "binary_crossentropy"), (X, np.arange(128)[:, None] % 2))
    assert finding.faults == ["softmax of one unit"] and finding.status == "fail"


class Subclass(keras.Model):
    """Gives `call` whatever its head makes of a Dense layer; Keras knows no graph of it."""

    def __init__(self, head):
        super().__init__()
        self.dense, self.head = layers.Dense(2), head

    def call(self, inputs):
        return self.head(self.dense(inputs))


@pytest.mark.parametrize(
    ("head", "faults"),
    [
        (lambda x: 0.1 + 0.001 * x, []),
        (keras.ops.sigmoid, ["probabilities into a from_logits=True loss"]),
    ],
)
@pytest.mark.parametrize("graph", [True, False])
def test_small_logits_within_zero_and_one_are_no_probabilities(graph, head, faults):
    keras.utils.set_random_seed(0)
    if graph:
        inputs = keras.Input((5,))
        top = layers.Activation(head) if faults else layers.Dense(2, bias_initializer=keras.initializers.Constant(0.1))
        hidden = layers.Dense(2)(inputs) if faults else layers.Rescaling(0.001)(inputs)
        model = keras.Model(inputs, top(hidden))
    else:
        model = Subclass(head)
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    y = (X[:, :2] > 0).astype("float32")
    finding = room.initial_loss(model, (X, y))
    assert np.asarray(model(X)).min() >= 0 and np.asarray(model(X)).max() <= 1
    assert finding.faults == faults
