"""Settings of layers, one wrong at a time."""

import keras
import numpy as np
import pytest
from keras import layers
from small_models import X, dense

from kregkit import diagnostics as room

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
KINDS = np.arange(128) % 3


def network(*parts, loss="mse", outputs=3):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), *parts])
    model.compile("sgd", loss)
    return model


def faults(*parts, loss="sparse_categorical_crossentropy", y=KINDS):
    return room.layer_settings(network(*parts, loss=loss), (X, y)).faults


def hidden(units=8, activation="relu", **options):
    return layers.Dense(units, activation, **options)


@pytest.mark.parametrize("rate", [0.5, 0.8])
@pytest.mark.parametrize("kind", [layers.Dropout, layers.AlphaDropout])
def test_dropout_rates(kind, rate):
    expected = ["dropout rate too high"] if rate > 0.65 else []
    assert faults(hidden(), kind(rate), layers.Dense(3, "softmax")) == expected


def test_dropout_rates_within_recurrent_layers():
    model = keras.Sequential([keras.Input((5, 1)), layers.Bidirectional(layers.GRU(2, dropout=0.9)), layers.Dense(1)])
    model.compile("sgd", "mse")
    finding = room.layer_settings(model, (X[..., None], X[:, :1]))
    assert finding.faults == ["dropout rate too high"] and finding.problems[0].figure == "dropout=0.9"


@pytest.mark.parametrize(
    ("parts", "behind"),
    [
        (lambda: [layers.Dropout(0.2), layers.Dense(3, "softmax")], False),
        (lambda: [layers.Dense(3, "softmax"), layers.Dropout(0.2)], True),
        (lambda: [layers.Dense(3), layers.Dropout(0.2), layers.Softmax()], True),
        (lambda: [layers.Dense(3, "softmax"), layers.GaussianNoise(0.1), layers.Reshape((3,))], True),
        (lambda: [layers.Dense(3, "softmax"), layers.Dropout(0.0)], False),
    ],
)
def test_noise_behind_the_output(parts, behind):
    assert faults(hidden(), *parts()) == (["dropout behind the output"] if behind else [])


def test_noise_behind_the_output_of_a_subclass():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.body, self.top, self.noise = hidden(), layers.Dense(1), layers.Dropout(0.2)

        def call(self, inputs, training=False):
            return self.noise(self.top(self.body(inputs)), training=training)

    model = Model()
    model(X[:2])
    model.compile("sgd", "mse")
    assert room.layer_settings(model, (X, X[:, :1])).faults == ["dropout behind the output"]


@pytest.mark.parametrize(
    ("momentum", "copies", "fault"),
    [
        (0.99, 1, []),
        (0.9, 1, []),
        (0.1, 1, ["BatchNormalization momentum too fast"]),
        # Of 4 batches: 0.999 ** 80 is 92%. Of 128 batches: 8%.
        (0.999, 1, ["BatchNormalization momentum too slow"]),
        (0.999, 32, []),
        (0.99999, 32, ["BatchNormalization momentum too slow"]),
    ],
)
def test_momentum(momentum, copies, fault):
    model = network(hidden(), layers.BatchNormalization(momentum=momentum), layers.Dense(1))
    data = (np.tile(X, (copies, 1)), np.tile(X[:, :1], (copies, 1)))
    assert room.layer_settings(model, data).faults == fault


@pytest.mark.parametrize(
    ("top", "loss", "fault"),
    [
        (lambda: [layers.Dense(3, "softmax"), layers.Softmax()], "sparse_categorical_crossentropy", ["softmax twice"]),
        (lambda: [layers.Dense(3), layers.Softmax()], "sparse_categorical_crossentropy", []),
        (lambda: [layers.Dense(3, "relu")], SPARSE, ["activation on logits"]),
        (lambda: [layers.Dense(3, "relu")], "sparse_categorical_crossentropy", ["activation on probabilities"]),
        (lambda: [layers.Dense(3)], SPARSE, []),
    ],
)
def test_activations_of_outputs(top, loss, fault):
    assert faults(hidden(), *top(), loss=loss) == fault


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        (lambda: [hidden(8, None), layers.BatchNormalization(), hidden(8, None)], True),
        (lambda: [hidden(8, None), layers.ReLU()], False),
        (lambda: [hidden(8, None), layers.LayerNormalization()], False),
        (lambda: [hidden(8), hidden(4, None)], False),
        (lambda: [], False),
    ],
)
def test_nonlinearity(parts, fault):
    assert faults(*parts(), layers.Dense(3, "softmax")) == (["no nonlinearity"] if fault else [])


def test_nonlinearity_may_be_an_operation():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layers.Dense(1)(keras.ops.relu(layers.Dense(8)(inputs))))
    model.compile("sgd", "mse")
    assert room.layer_settings(model, (X, X[:, :1])).status == "pass"


def test_units_that_start_equal():
    same = {"kernel_initializer": keras.initializers.Constant(0.1)}
    assert faults(hidden(8, "tanh", **same), layers.Dense(3, "softmax", **same)) == ["units start equal"]
    # Labels pull the units of a last layer of zeros apart.
    assert faults(hidden(), layers.Dense(3, "softmax", kernel_initializer="zeros")) == []


def test_healthy_model_passes():
    assert room.layer_settings(dense(1), (X, X[:, :1])).status == "pass"


def test_equal_units_whose_gradients_differ_warn_unless_they_are_zeros():
    ones, zeros = (hidden(8, "tanh", kernel_initializer=name) for name in ("ones", "zeros"))
    finding = room.layer_settings(network(ones, layers.Dense(3)), (X, X[:, :3]))
    assert finding.faults == ["units start equal"] and finding.status == "warn"
    assert faults(hidden(8, "tanh"), layers.Dense(3, "softmax", kernel_initializer="zeros")) == []
    # As the last layer of a residual branch.
    assert "units start equal" not in faults(hidden(), zeros, layers.Dense(3, "softmax"))
