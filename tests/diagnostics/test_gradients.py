"""Right, wrong and kinked gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from small_models import RNG, X, dense

from kregkit import diagnostics as room

pytestmark = pytest.mark.one_in(2)


@pytest.mark.parametrize("kind", ["dense", "convolution", "recurrent", "normalized", "embedding", "attention"])
def test_gradients_of_keras_layers_are_right(kind):
    keras.utils.set_random_seed(0)
    x = X.reshape(128, 5, 1)
    inputs = keras.Input((5, 1))
    if kind == "embedding":
        x, inputs = RNG.integers(0, 9, (128, 5)), keras.Input((5,), dtype="int32")
    body = {
        "dense": lambda z: layers.Dense(6, "elu")(layers.Flatten()(z)),
        "convolution": lambda z: layers.Flatten()(layers.MaxPooling1D()(layers.Conv1D(4, 3, activation="relu")(z))),
        "recurrent": lambda z: layers.LSTM(4)(z),
        "normalized": lambda z: layers.LayerNormalization()(layers.BatchNormalization()(layers.Dense(4)(layers.Flatten()(z)))),  # noqa: E501
        "embedding": lambda z: layers.Flatten()(layers.Embedding(9, 3)(z)),
        "attention": lambda z: layers.Flatten()(layers.MultiHeadAttention(2, 3)(layers.Dense(4)(z), layers.Dense(4)(z))),  # noqa: E501
    }[kind]  # fmt: skip
    model = keras.Model(inputs, layers.Dense(1)(body(inputs)))
    model.compile("sgd", "mse")
    finding = room.gradient_check(model, (x, X[:, :1]))
    assert finding.status == "pass", str(finding)
    assert finding.details["largest_error"] < 1e-6 and finding.details["checked"] > 5


def test_kinks_are_counted_and_no_errors():
    model = dense(1)
    # Zero inputs and zero biases: every unit stands exactly on its kink.
    finding = room.gradient_check(model, (np.zeros((32, 5), "float32"), X[:32, :1]))
    assert finding.status == "pass" and finding.details["kinks"] > 0


@keras.saving.register_keras_serializable(package="tests")
class Single(layers.Layer):
    """Multiplies in float32, whatever its policy says."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]))

    def call(self, inputs):
        return tf.matmul(tf.cast(inputs, "float32"), self.kernel.value)


def test_layers_with_low_rank_additions_compute_in_float64():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4, "tanh"), layers.Dense(1)])
    for layer in model.layers:
        layer.enable_lora(2)
        layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
    model.compile("sgd", "mse")
    finding = room.gradient_check(model, (X, X[:, :1]))
    assert finding.status == "pass" and finding.details["checked"] > 0
    assert {variable.dtype for variable in model.variables} == {"float32"}


def test_layer_in_fixed_precision_is_said_so():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(5), Single()])
    model.compile("sgd", "mse")
    finding = room.gradient_check(model, (X, X))
    assert finding.faults == ["no float64"] and finding.status == "warn" and finding.figure == "not checked"
    assert keras.config.floatx() == "float32" and {layer.dtype_policy.name for layer in model.layers} == {"float32"}


@pytest.mark.parametrize("factor", [2.0, -1.0, 1.01, 0.5])
def test_error_of_a_wrong_gradient_is_its_size(factor):
    @tf.custom_gradient
    def wrong(x):
        return x, lambda upstream: factor * upstream

    inputs = keras.Input((5,))
    hidden = layers.Dense(4, "tanh", name="before")(layers.Dense(6, "tanh", name="first")(inputs))
    hidden = layers.Lambda(wrong)(hidden)
    model = keras.Model(inputs, layers.Dense(1, name="after")(hidden))
    model.compile("sgd", "mse")
    finding = room.gradient_check(model, (X, X[:, :1]))
    assert finding.faults == ["wrong gradient"] and "before" in finding.problems[0].where
    assert finding.details["largest_error"] == pytest.approx(abs(factor - 1) / max(abs(factor), 1), rel=1e-2)
    after = [row["error"] for path, row in finding.details["variables"].items() if "after" in path]
    assert len(after) == 2 and max(after) < 1e-6


def test_activations_smaller_than_any_step_are_no_wrong_gradient():
    # Each step passes the kinks of many examples at once, which start on either side.
    keras.utils.set_random_seed(0)
    small = keras.initializers.RandomNormal(stddev=0.01)
    hidden = [layers.Dense(16, "relu", kernel_initializer=small) for _ in range(6)]
    model = keras.Sequential([keras.Input((5,)), *hidden, layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    finding = room.gradient_check(model, (X, np.arange(128) % 3))
    assert finding.status == "pass" and finding.details["kinks"] > 0


class Vanishing(layers.Layer):
    """The identity, whose gradient is `factor` times the right one."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, inputs):
        @tf.custom_gradient
        def identity(x):
            return tf.identity(x), lambda upstream: self.factor * upstream

        return identity(inputs)


def below_sigmoids(factor, layers_above):
    """Returns a model whose first weights have gradients of about 1e-7 of the loss, after the wrong one."""
    keras.utils.set_random_seed(1)
    above = [layers.Dense(8, "sigmoid") for _ in range(layers_above)]
    below = [layers.Dense(8, "tanh", name="below"), Vanishing(factor)]
    model = keras.Sequential([keras.Input((5,)), *below, *above, layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("factor", [1.0, 1.5, 0.5, -1.0])
def test_gradients_that_vanish_are_checked_all_the_same(factor):
    model, y = below_sigmoids(factor, 8), X[:, :1]
    with tf.GradientTape() as tape:
        loss = model.compute_loss(y=tf.constant(y), y_pred=model(X))
    kernel = model.trainable_variables[0]
    size = float(tf.reduce_max(tf.abs(tape.gradient(loss, kernel.value))) / loss)
    assert 1e-9 < size < 1e-5  # the size that this test is about
    finding = room.gradient_check(model, (X, y))
    row = finding.details["variables"][kernel.path]
    assert row["checked"] > 0
    if factor == 1.0:
        assert finding.status == "pass" and row["error"] < 1e-6
    else:
        assert finding.faults == ["wrong gradient"] and "below" in finding.problems[0].where
        assert row["error"] == pytest.approx(abs(factor - 1) / max(abs(factor), 1), rel=0.05)


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_wrong_gradient_among_many_variables(factor):
    # 48 variables: directions go through many at once.
    keras.utils.set_random_seed(2)
    parts = [layers.Dense(6, "relu" if index % 2 else "tanh", name=f"part_{index}") for index in range(23)]
    inputs = x = keras.Input((5,))
    for index, part in enumerate(parts):
        y = part(x)
        x = Vanishing(factor)(y) if index == 9 else layers.Add()([x, y]) if index else y
    model = keras.Model(inputs, layers.Dense(1)(x))
    model.compile("sgd", "mse")
    finding = room.gradient_check(model, (X, X[:, :1]))
    assert len(finding.details["variables"]) == 48
    assert finding.faults == ([] if factor == 1.0 else ["wrong gradient"])
    if factor != 1.0:
        assert "part_9" in finding.problems[0].where


class WrongPenalty(layers.Layer):
    """Adds the mean square of its inputs to the loss, by a gradient that is `factor` times the right one."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, inputs):
        @tf.custom_gradient
        def penalty(x):
            return tf.reduce_mean(x**2), lambda upstream: upstream * self.factor * 2 * x / tf.cast(tf.size(x), x.dtype)

        self.add_loss(penalty(inputs))
        return inputs


@pytest.mark.parametrize("loss", [None, "mse"])
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_losses_that_layers_add_are_checked_too(loss, factor):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4, "tanh"), WrongPenalty(factor), layers.Dense(1)])
    model.compile("sgd", loss)
    finding = room.gradient_check(model, (X, X[:, :1]))
    assert finding.faults == ([] if factor == 1.0 else ["wrong gradient"])
