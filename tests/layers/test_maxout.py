import keras
import numpy as np
import pytest

from kregkit.layers import Maxout
from kregkit.layers._pieces import second_moment


def test_is_the_largest_of_contiguous_pieces():
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    layer = Maxout(4, pieces=3, bias_initializer="random_normal")
    y = np.asarray(layer(x))
    kernel, bias = (weight.numpy() for weight in layer.weights)
    assert kernel.shape == (3, 12)
    for j in range(4):
        functions = [x @ kernel[:, k * 4 + j] + bias[k * 4 + j] for k in range(3)]
        np.testing.assert_allclose(y[..., j], np.max(functions, axis=0), rtol=1e-5, atol=1e-6)
    assert layer.compute_output_shape((None, 5, 3)) == (None, 5, 4)


def test_second_moments_are_the_exact_ones():
    # Order statistics of the normal law in closed form.
    assert second_moment(1) == pytest.approx(1)
    assert second_moment(2) == pytest.approx(1)
    assert second_moment(3) == pytest.approx(1 + np.sqrt(3) / (2 * np.pi))
    assert second_moment(4) == pytest.approx(1 + np.sqrt(3) / np.pi)


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_activations_keep_their_mean_square_as_he_relu_does(pieces):
    keras.utils.set_random_seed(1)
    x = np.random.default_rng(0).normal(size=(64, 512)).astype("float32")
    relu = x
    for _ in range(8):
        x = np.asarray(Maxout(512, pieces)(x))
        relu = np.asarray(keras.layers.Dense(512, "relu", kernel_initializer="he_normal")(relu))
    assert 0.6 < (x**2).mean() < 1.7
    assert 0.6 < (relu**2).mean() < 1.7


def test_given_initializer_and_regularizer_are_used():
    layer = Maxout(2, use_bias=False, kernel_initializer="ones", kernel_regularizer=keras.regularizers.L2(1.0))
    assert np.asarray(layer(np.ones((1, 3)))).tolist() == [[3.0, 3.0]]
    assert len(layer.weights) == 1
    assert float(layer.losses[0]) == pytest.approx(12)


def test_masks_of_steps_go_on():
    inputs = keras.Input((4,), dtype="int32")
    x = keras.layers.Embedding(5, 3, mask_zero=True)(inputs)
    assert Maxout(2)(x)._keras_mask is not None
