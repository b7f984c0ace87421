import keras
import numpy as np
import pytest

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
