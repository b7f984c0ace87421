import keras
import numpy as np
import pytest
import tensorflow as tf
from inference import models as zoo
from keras import layers

from kregkit.inference import recompute_batch_normalization

pytestmark = pytest.mark.trains

X = np.random.default_rng(0).normal(2.0, 3.0, size=(50, 6)).astype("float32")


def bits(model):
    state = [np.array(variable.numpy()).tobytes() for variable in model.variables if "moving" not in variable.path]
    optimizer = getattr(model, "optimizer", None)
    return state + [np.array(v.numpy()).tobytes() for v in (optimizer.variables if optimizer is not None else [])]


def statistics(layer):
    return np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)


def assert_moments(layer, values, **tolerance):
    values = np.asarray(values, "float64").reshape(-1, values.shape[-1])
    mean, variance = statistics(layer)
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-4, atol=1e-5, **tolerance)
    np.testing.assert_allclose(variance, values.var(0), rtol=1e-4, atol=1e-6, **tolerance)


@pytest.mark.parametrize("batch_size", [7, 32, 50])
def test_first_layer_has_the_population_s_moments_at_any_batch_size(batch_size):
    model = zoo.classifier(0)
    hidden = np.tanh(X.astype("float64") @ model.layers[0].kernel.numpy() + model.layers[0].bias.numpy())
    assert recompute_batch_normalization(model, X, batch_size=batch_size) is model
    assert_moments(model.layers[1], hidden)


def test_deeper_layers_see_batches_normalised_as_in_training():
    """Against NumPy: two layers, two unequal batches."""
    model = keras.Sequential([
        keras.Input((6,)), layers.BatchNormalization(), layers.Dense(4, activation="relu"), layers.BatchNormalization(),
    ])  # fmt: skip
    first, dense, second = model.layers
    recompute_batch_normalization(model, X, batch_size=30)
    hidden = []
    for batch in (X[:30].astype("float64"), X[30:].astype("float64")):
        normalised = (batch - batch.mean(0)) / np.sqrt(batch.var(0) + first.epsilon)
        hidden.append(np.maximum(normalised @ dense.kernel.numpy() + dense.bias.numpy(), 0))
    assert_moments(first, X)
    assert_moments(second, np.concatenate(hidden))


def nested(seed):
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.BatchNormalization()])
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3)(layers.Dropout(0.5)(inner(inputs))))


@pytest.mark.parametrize("make", [zoo.classifier, nested, zoo.subclassed], ids=["sequential", "nested", "subclassed"])
def test_everything_else_stays_bit_identical(make):
    model = make(0)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(X, np.zeros(50, int), verbose=0)
    before, config = bits(model), [layer.get_config() for layer in model._flatten_layers()]
    recompute_batch_normalization(model, X)
    assert bits(model) == before
    assert [layer.get_config() for layer in model._flatten_layers()] == config
    found = [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    assert "call" not in vars(found[0]) and np.all(np.isfinite(statistics(found[0])))
    dense = next(layer for layer in model._flatten_layers() if isinstance(layer, layers.Dense))
    assert_moments(found[0], keras.ops.convert_to_numpy(dense(X)))
    # The same model trains on as if nothing had happened.
    model.fit(X, np.zeros(50, int), verbose=0)


def test_old_statistics_leave_no_trace():
    model = zoo.classifier(0)
    model.layers[1].moving_mean.assign([np.nan] * 5)
    model.layers[1].moving_variance.assign([np.inf] * 5)
    recompute_batch_normalization(model, X)
    assert np.all(np.isfinite(statistics(model.layers[1])))


def test_shared_layer_pools_its_calls():
    shared = layers.BatchNormalization()
    one, other = keras.Input((6,)), keras.Input((6,))
    model = keras.Model([one, other], shared(one) + shared(other))
    second = 5 * X + 1
    recompute_batch_normalization(model, [X, second], batch_size=20)
    assert_moments(shared, np.concatenate([X, second]))


def test_masked_steps_are_left_out():
    x = np.random.default_rng(1).normal(size=(20, 5, 3)).astype("float32")
    x[:, 3:] = 0.0
    x[:7, 1:] = 0.0
    model = keras.Sequential([keras.Input((5, 3)), layers.Masking(), layers.BatchNormalization()])
    recompute_batch_normalization(model, x, batch_size=6)
    assert_moments(model.layers[1], x[np.any(x != 0, axis=-1)])


def test_images_other_axes_and_half_precision():
    images = np.random.default_rng(1).normal(1.0, 2.0, size=(12, 4, 3, 2)).astype("float32")
    model = keras.Sequential([keras.Input((4, 3, 2)), layers.BatchNormalization(axis=1)])
    recompute_batch_normalization(model, images, batch_size=5)
    assert_moments(model.layers[0], np.moveaxis(images, 1, -1))
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential([keras.Input((4, 3, 2)), layers.BatchNormalization()])
    recompute_batch_normalization(model, images, batch_size=5)
    assert model.layers[0].moving_mean.dtype == "float32"
    np.testing.assert_allclose(statistics(model.layers[0])[1], images.reshape(-1, 2).var(0), rtol=2e-3)


def test_frozen_layers_keep_their_statistics():
    model = zoo.classifier(0)
    model.layers[1].trainable = False
    before = statistics(model.layers[1])
    recompute_batch_normalization(model, X)
    np.testing.assert_array_equal(statistics(model.layers[1]), before)
    assert recompute_batch_normalization(keras.Sequential([keras.Input((6,)), layers.Dense(1)]), X) is not None


def test_data_sets_and_steps():
    model = zoo.classifier(0)
    recompute_batch_normalization(model, X, batch_size=10)
    expected = statistics(model.layers[1])
    dataset = tf.data.Dataset.from_tensor_slices((X, np.zeros(50))).batch(10)
    model.layers[1].moving_mean.assign(np.zeros(5))
    recompute_batch_normalization(model, dataset)
    np.testing.assert_allclose(statistics(model.layers[1]), expected, rtol=1e-5)
    recompute_batch_normalization(model, dataset.repeat(), steps=5)
    np.testing.assert_allclose(statistics(model.layers[1]), expected, rtol=1e-5)


def test_a_failing_pass_changes_nothing():
    model = zoo.classifier(0)
    before = [variable.numpy() for variable in model.variables]

    def broken():
        yield X[:10]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        recompute_batch_normalization(model, broken())
    with pytest.raises(ValueError, match="`data` is empty"):
        recompute_batch_normalization(model, iter(()))
    with pytest.raises(Exception, match=r"shape"):
        recompute_batch_normalization(model, np.ones((4, 7), "float32"))
    for variable, value in zip(model.variables, before):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert "call" not in vars(model.layers[1]) and model.layers[1].momentum == 0.99
    with pytest.raises(ValueError, match="not built"):
        recompute_batch_normalization(keras.Sequential([layers.BatchNormalization()]), X)
