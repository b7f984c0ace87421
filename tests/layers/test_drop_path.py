import keras
import numpy as np
import pytest

from kregkit.layers import DropPath, StochasticDepth


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("shape", [(64, 3), (64, 2, 3, 4)])
def test_draws_what_stochastic_depth_draws_by_the_sample(shape):
    x = normal(*shape)
    branch = keras.layers.Rescaling(3.0)
    path, depth = DropPath(0.3, seed=5), StochasticDepth(branch, 0.7, mode="sample", seed=5)
    for _ in range(3):
        outputs = np.asarray(x + path(branch(x), training=True))
        np.testing.assert_allclose(outputs, np.asarray(depth(x, training=True)), rtol=1e-6, atol=1e-6)
    dropped = (outputs == x).reshape(64, -1)
    assert (dropped.all(1) | ~dropped.any(1)).all() and 0 < dropped[:, 0].sum() < 64


def test_rate_and_inference():
    x = np.ones((4000, 2), "float32")
    layer = DropPath(0.25, seed=0)
    outputs = np.asarray(layer(x, training=True))
    assert set(outputs.ravel()) == {np.float32(0), np.float32(4 / 3)}
    assert abs((outputs[:, 0] == 0).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000)
    np.testing.assert_array_equal(np.asarray(layer(x)), x)
    np.testing.assert_array_equal(np.asarray(DropPath(0.0)(x, training=True)), x)


def test_a_dropped_path_gives_zeros_even_where_it_is_not_finite():
    x = np.full((64, 1), np.inf, "float32")
    assert set(np.asarray(DropPath(0.5, seed=0)(x, training=True)).ravel()) == {0.0, np.inf}
