"""The compiled rate beside the sweep."""

import keras
import numpy as np
import pytest
from keras import layers
from small_models import X, dense

from kregkit import diagnostics as room

pytestmark = pytest.mark.trains


@pytest.mark.parametrize(
    ("rate", "fault"), [(0.05, []), (50.0, ["learning rate too high"]), (1e-7, ["learning rate too low"])]
)
def test_learning_rate(rate, fault):
    assert room.learning_rate(dense(1, optimizer=keras.optimizers.SGD(rate)), (X, X[:, :1])).faults == fault


def test_no_rate_helps_where_nothing_can_be_learned():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(1, trainable=False)])
    model.compile("sgd", "mse")
    assert room.learning_rate(model, (X, X[:, :1])).faults == ["no learning rate helps"]


CLASSES = (X[:, 0] > 0).astype("int64") + (X[:, 1] > 0)
SOFTMAX = {"outputs": 3, "activation": "softmax", "loss": "sparse_categorical_crossentropy"}


@pytest.mark.parametrize(
    ("arguments", "optimizer"),
    [
        (SOFTMAX, keras.optimizers.SGD(0.5)),
        (SOFTMAX, keras.optimizers.SGD(0.1, momentum=0.9)),
        (SOFTMAX, keras.optimizers.Adam(0.03)),
        ({"outputs": 1, "kernel_initializer": "zeros"}, keras.optimizers.Adam(0.03)),
        ({"outputs": 1, "loss": "mae"}, keras.optimizers.RMSprop(0.01)),
    ],
)
def test_rates_that_are_high_and_healthy_pass(arguments, optimizer):
    y = CLASSES if "activation" in arguments else X[:, :1]
    assert room.learning_rate(dense(optimizer=optimizer, **arguments), (X, y)).status == "pass"


def test_trained_model_may_rise_a_little_at_first():
    # From a loss of almost nothing, the first steps of a new optimizer are many times the start.
    model = keras.Sequential([keras.Input((5,)), layers.Dense(1)])
    model.layers[0].kernel.assign(np.eye(5)[:, :1] + 1e-5)
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    finding = room.learning_rate(model, (X, X[:, :1]))
    trial = finding.details["trial"]
    assert trial is None or max(trial) > 10 * trial[0]  # what this test is about
    assert finding.status == "pass"


def test_jump_to_ten_times_the_start_is_too_high():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), layers.Dense(32, "relu"), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.2), "mse")
    assert room.learning_rate(model, (X, X[:, :1])).faults == ["learning rate too high"]


def test_deep_models_get_half_the_steps():
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(2, "tanh") for _ in range(51)]
    model = keras.Sequential([keras.Input((5,)), *hidden, layers.Dense(1)])
    model.compile("sgd", "mse")
    assert len(room.learning_rate(model, (X, X[:, :1])).details["rates"]) <= 50
    assert len(room.learning_rate(dense(1), (X, X[:, :1])).details["rates"]) > 50


def test_bad_number_of_steps():
    with pytest.raises(ValueError, match="Received: steps=3"):
        room.learning_rate(dense(1), (X, X[:, :1]), steps=3)
