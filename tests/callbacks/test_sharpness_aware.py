"""SAM and ASAM against float64 NumPy, in every mode, and what a second run of the step may leave behind."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kregkit.callbacks import PolyakAveraging, SharpnessAware

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]
RATE, BATCH, EPOCHS, PENALTY = 0.1, 4, 2, 0.01
rng = np.random.default_rng(0)
X = rng.normal(size=(24, 5)).astype("float32")
Y = (X @ rng.normal(size=(5, 1))).astype("float32")


def network(optimizer=None, dtype=None, kind=keras.Sequential, **compile_arguments):
    keras.utils.set_random_seed(0)
    penalty = keras.regularizers.L2(PENALTY)
    hidden = keras.layers.Dense(4, activation="tanh", kernel_regularizer=penalty, dtype=dtype)
    model = kind([keras.Input((5,)), hidden, keras.layers.Dense(1, dtype=dtype)])
    model.compile(optimizer or keras.optimizers.SGD(RATE), "mse", **{"jit_compile": False, **compile_arguments})
    return model


def gradients(weights, x, y):
    kernel, bias, top, top_bias = weights
    hidden = np.tanh(x @ kernel + bias)
    error = 2 * (hidden @ top + top_bias - y) / len(x)
    inner = (error @ top.T) * (1 - hidden**2)
    return [x.T @ inner + 2 * PENALTY * kernel, inner.sum(0), hidden.T @ error, error.sum(0)]


def sharp_gradients(weights, x, y, rho, adaptive):
    first = gradients(weights, x, y)
    sizes = [np.abs(weight) + 0.01 if adaptive else np.ones_like(weight) for weight in weights]
    norm = np.sqrt(sum(((size * gradient) ** 2).sum() for size, gradient in zip(sizes, first)))
    moved = [weight + rho * size**2 * gradient / norm for weight, size, gradient in zip(weights, sizes, first)]
    return gradients(moved, x, y)


def expected_weights(weights, rho, adaptive, every, replicas=1):
    weights = [weight.astype("float64") for weight in weights]
    for step in range(EPOCHS * len(X) // BATCH):
        start = step * BATCH % len(X)
        parts = []
        for x, y in zip(*(np.split(array[start : start + BATCH].astype("float64"), replicas) for array in (X, Y))):
            sharp = step % every == 0
            parts.append(sharp_gradients(weights, x, y, rho, adaptive) if sharp else gradients(weights, x, y))
        weights = [weight - RATE * np.mean(each, axis=0) for weight, each in zip(weights, zip(*parts))]
    return weights


def fit(model, *callbacks):
    return model.fit(X, Y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=list(callbacks))


@pytest.mark.parametrize(("adaptive", "every"), [(False, 1), (True, 3)])
@pytest.mark.parametrize("mode", [{}, {"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 4}])
def test_weights_are_those_of_the_formula(mode, adaptive, every):
    model = network(**mode)
    expected = expected_weights(model.get_weights(), 0.3, adaptive, every)
    fit(model, SharpnessAware(0.3, adaptive, every))
    for value, reference in zip(model.get_weights(), expected):
        np.testing.assert_allclose(value, reference, atol=2e-6)


def test_a_batch_without_gradients_is_a_plain_step():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(RATE), "mse")
    model.fit(X, np.zeros_like(Y), batch_size=BATCH, verbose=0, callbacks=[SharpnessAware(0.3)])
    for value in model.get_weights():
        np.testing.assert_array_equal(value, np.zeros_like(value))


@pytest.mark.parametrize("every", [1, 3])
def test_each_replica_looks_around_by_its_own_batch(every):
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = network()
    # The penalty counts once per replica in the loss of each and once in their mean.
    expected = expected_weights(model.get_weights(), 0.3, False, every, replicas=2)
    fit(model, SharpnessAware(0.3, every=every))
    for value, reference in zip(model.get_weights(), expected):
        np.testing.assert_allclose(value, reference, atol=3e-6)


def test_loss_scaling_neither_changes_nor_breaks_it():
    model = network(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE), initial_scale=2.0**8))
    expected = expected_weights(model.get_weights(), 0.3, True, 1)
    fit(model, SharpnessAware(0.3, adaptive=True))
    for value, reference in zip(model.get_weights(), expected):
        np.testing.assert_allclose(value, reference, atol=2e-6)
    # A scale that overflows: the batch is skipped, and nothing stays moved.
    model = network(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE), initial_scale=2.0**40))
    model.loss = None
    model.compile(model.optimizer, lambda y, prediction: 1e30 * prediction, jit_compile=False)
    before = model.get_weights()
    model.fit(X[:BATCH], Y[:BATCH], batch_size=BATCH, verbose=0, callbacks=[SharpnessAware(0.3)])
    assert int(model.optimizer.inner_optimizer.iterations) == 0
    for value, old in zip(model.get_weights(), before):
        np.testing.assert_array_equal(value, old)


def test_every_accumulated_batch_looks_around_by_itself():
    model = network(keras.optimizers.SGD(RATE, gradient_accumulation_steps=3))
    weights = [weight.astype("float64") for weight in model.get_weights()]
    parts = [sharp_gradients(weights, X[i : i + 4].astype(float), Y[i : i + 4], 0.3, False) for i in (0, 4, 8)]
    expected = [weight - RATE * np.mean(each, axis=0) for weight, each in zip(weights, zip(*parts))]
    model.fit(X[:12], Y[:12], batch_size=4, shuffle=False, verbose=0, callbacks=[SharpnessAware(0.3)])
    for value, reference in zip(model.get_weights(), expected):
        np.testing.assert_allclose(value, reference, atol=1e-6)


class Kept(keras.layers.Layer):
    """Passes its input on and sums up what it was given in training."""

    def build(self, shape):
        self.sum = self.add_weight(shape=shape[1:], trainable=False, initializer="zeros")

    def call(self, inputs):
        self.sum.assign_add(keras.ops.sum(inputs, 0))
        return inputs


def noisy_network(**compile_arguments):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dropout(0.5), Kept(), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((5,)), *layers])
    arguments = {"metrics": ["mae"], "jit_compile": False, **compile_arguments}
    model.compile(keras.optimizers.SGD(0.0), "mse", **arguments)
    return model


@pytest.mark.parametrize("every", [1, 2])
def test_the_second_run_leaves_nothing_and_draws_the_same_noise(every):
    plain, sharp = noisy_network(), noisy_network()
    histories = [fit(plain).history, fit(sharp, SharpnessAware(5.0, every=every)).history]
    assert histories[0] == histories[1]
    for variable, other in zip(plain.variables, sharp.variables):
        np.testing.assert_array_equal(variable.numpy(), other.numpy())


def test_at_a_tiny_distance_the_gradient_is_that_of_the_same_noise():
    """With other masks in the second run, the weights would differ by far more."""
    plain, sharp = noisy_network(), noisy_network()
    for model in (plain, sharp):
        model.optimizer.learning_rate = 0.1
    fit(plain)
    fit(sharp, SharpnessAware(1e-6))
    for weight, other in zip(plain.trainable_variables, sharp.trainable_variables):
        np.testing.assert_allclose(weight.numpy(), other.numpy(), atol=1e-4)


class OwnStep(keras.Sequential):
    """A step of its own with a weight that follows the others after each update."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self(x, training=True) - y) ** 2) + sum(self.losses)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
        self.seen.assign(self.trainable_weights[0])
        return {"loss": loss}


def test_a_step_of_ones_own_goes_on_with_the_updated_weights():
    model = network(kind=OwnStep)
    expected = expected_weights(model.get_weights(), 0.3, False, 1)
    model.seen = keras.Variable(np.zeros((5, 4), "float32"), trainable=False)
    fit(model, SharpnessAware(0.3))
    np.testing.assert_allclose(model.trainable_weights[0].numpy(), expected[0], atol=2e-6)
    np.testing.assert_array_equal(model.seen.numpy(), model.trainable_weights[0].numpy())


class Interrupted(keras.Sequential):
    """Its eager step is interrupted the second time that it runs."""

    runs = 0

    def train_step(self, data):
        self.runs += 1
        if self.runs == 2:
            raise KeyboardInterrupt
        return super().train_step(data)


def test_an_interrupt_leaves_no_moved_weights():
    model = network(kind=Interrupted, run_eagerly=True)
    before = model.get_weights()
    with pytest.raises(KeyboardInterrupt):
        fit(model, SharpnessAware(0.3))
    for value, old in zip(model.get_weights(), before):
        np.testing.assert_array_equal(value, old)


class TwoCalls(keras.Sequential):
    def train_step(self, data):
        logs = super().train_step(data)
        super().train_step(data)
        return logs


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="more than once.*Received: model="):
        fit(network(kind=TwoCalls), SharpnessAware())
    with pytest.raises(ValueError, match="keep one"):
        fit(network(), SharpnessAware(), SharpnessAware(0.1))
    # Nothing of either stays.
    model = network()
    with pytest.raises(ValueError, match="keep one"):
        fit(model, SharpnessAware(), SharpnessAware(0.1))
    expected = network()
    fit(model), fit(expected)
    for value, reference in zip(model.get_weights(), expected.get_weights()):
        np.testing.assert_array_equal(value, reference)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_beside_an_average_and_unused_or_sparse_weights():
    inputs = keras.Input((3,), dtype="int32")
    table = keras.layers.Embedding(7, 2)(inputs)
    keras.utils.set_random_seed(0)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling1D()(table)))
    model.unused = keras.Variable(np.ones(2, "float32"))
    model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=False)
    tokens = np.random.default_rng(0).integers(0, 6, (8, 3))
    average = PolyakAveraging(0.5)
    model.fit(tokens, np.ones((8, 1)), batch_size=4, verbose=0, callbacks=[SharpnessAware(every=2), average])
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
