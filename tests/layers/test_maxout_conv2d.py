import keras
import numpy as np
import pytest
import tensorflow as tf

from kregkit.layers import MaxoutConv2D


@pytest.mark.parametrize("strides", [1, 2])
def test_is_the_largest_of_separate_convolutions(strides):
    x = np.random.default_rng(0).normal(size=(2, 6, 7, 3)).astype("float32")
    layer = MaxoutConv2D(4, 3, 3, strides, "same", bias_initializer="random_normal", data_format="channels_last")
    y = np.asarray(layer(x))
    kernel, bias = (weight.numpy() for weight in layer.weights)
    functions = []
    for k in range(3):
        one = keras.layers.Conv2D(4, 3, strides=strides, padding="same", data_format="channels_last")
        one.build(x.shape)
        one.set_weights([kernel[..., 4 * k : 4 * k + 4], bias[4 * k : 4 * k + 4]])
        functions.append(np.asarray(one(x)))
    np.testing.assert_allclose(y, np.max(functions, axis=0), rtol=1e-5, atol=1e-5)
    assert layer.compute_output_shape(x.shape) == y.shape


def test_channels_first_shape_and_default_initializer():
    layer = MaxoutConv2D(4, (3, 5), 2, data_format="channels_first")
    assert layer.compute_output_shape((None, 3, 8, 9)) == (None, 4, 6, 5)
    layer = MaxoutConv2D(256, 3, 2, data_format="channels_last")
    layer.build((None, 8, 8, 64))
    assert np.std(layer.weights[0].numpy()) == pytest.approx(1 / np.sqrt(9 * 64), rel=0.02)


def test_both_data_formats_compute_the_same():
    x = np.random.default_rng(0).normal(size=(2, 6, 7, 3)).astype("float32")
    last = MaxoutConv2D(4, 2, 3, padding="same", dilation_rate=2, data_format="channels_last")
    first = MaxoutConv2D(4, 2, 3, padding="same", dilation_rate=2, data_format="channels_first")
    expected = np.asarray(last(x))
    first.build((None, 3, 6, 7))
    first.set_weights(last.get_weights())
    # TensorFlow on CPUs has channels first nowhere but under XLA.
    y = tf.function(first, jit_compile=True)(tf.constant(np.moveaxis(x, -1, 1)))
    np.testing.assert_allclose(np.moveaxis(y, 1, -1), expected, rtol=1e-5, atol=1e-5)
    one = keras.layers.Conv2D(12, 2, padding="same", dilation_rate=2, data_format="channels_last")
    one.build(x.shape)
    one.set_weights(last.get_weights())
    np.testing.assert_allclose(expected, np.asarray(one(x)).reshape(2, 6, 7, 3, 4).max(axis=3), rtol=1e-5, atol=1e-5)
