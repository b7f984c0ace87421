import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from kregkit.layers import DropBlock2D


def drops_by_hand(seeds, block):
    """Which values lie under a drawn square, one square after the other; `seeds` are `(rows, columns)`."""
    height, width = seeds.shape[0] - block + 1, seeds.shape[1] - block + 1
    dropped = np.zeros((height, width), bool)
    for row, column in zip(*np.nonzero(seeds)):
        top, left = row - block + 1, column - block + 1
        dropped[max(top, 0) : top + block, max(left, 0) : left + block] = True
    return dropped


@pytest.mark.parametrize(("size", "block"), [((2, 2), 2), ((1, 3), 2), ((2, 1), 3)])
def test_keep_rate_is_exact_by_enumeration(size, block):
    rate = 0.3
    layer = DropBlock2D(rate, block)
    gamma = float(layer._seed_probability())
    assert gamma == pytest.approx(1 - (1 - rate) ** (1 / block**2), rel=1e-6)
    places = (size[0] + block - 1, size[1] + block - 1)
    kept = np.zeros(size)
    for drawn in itertools.product([False, True], repeat=math.prod(places)):
        probability = gamma ** sum(drawn) * (1 - gamma) ** (len(drawn) - sum(drawn))
        kept += probability * ~drops_by_hand(np.reshape(drawn, places), block)
    np.testing.assert_allclose(kept, 1 - rate, rtol=1e-6)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(("height", "width", "block"), [(7, 9, 3), (4, 2, 5), (5, 5, 1)])
def test_drops_the_squares_of_its_own_numbers(height, width, block, data_format):
    x = np.random.default_rng(0).normal(size=(3, height, width, 2)).astype("float32")
    layer = DropBlock2D(0.4, block, data_format, seed=1)
    state = layer.seed_generator.state.numpy()
    inputs = x if data_format == "channels_last" else x.transpose(0, 3, 1, 2)
    outputs = np.asarray(layer(inputs, training=True))
    outputs = outputs if data_format == "channels_last" else outputs.transpose(0, 2, 3, 1)
    layer.seed_generator.state.assign(state)
    noise = np.asarray(layer.uniform((3, height + block - 1, width + block - 1, 2)))
    gamma = 1 - 0.6 ** (1 / block**2)
    for example, channel in itertools.product(range(3), range(2)):
        dropped = drops_by_hand(noise[example, ..., channel] < gamma, block)
        expected = np.where(dropped, 0, x[example, ..., channel] / 0.6)
        np.testing.assert_allclose(outputs[example, ..., channel], expected, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(layer(inputs)), inputs)


@pytest.mark.parametrize("jit", [False, True])
def test_every_value_is_kept_at_the_rate_on_sizes_known_late(jit):
    layer = DropBlock2D(0.25, 3, "channels_last", seed=2)
    signature = [tf.TensorSpec((None, None if not jit else 6, 5, 8))]
    run = tf.function(lambda x: layer(x, training=True), jit_compile=jit, input_signature=signature)
    kept = np.asarray(run(np.ones((512, 6, 5, 8), "float32"))) > 0
    # 4096 maps, independent of each other; values of one map are not.
    shares = kept.mean(axis=(0, 3))
    np.testing.assert_array_less(np.abs(shares - 0.75), 5 * np.sqrt(0.25 * 0.75 / 4096))
    # Neighbours share 6 of their 9 squares: both are kept with probability (3/4) ** (12 / 9).
    both = (kept[:, :, 1:] & kept[:, :, :-1]).mean(axis=(0, 3))
    np.testing.assert_array_less(np.abs(both - 0.75 ** (12 / 9)), 5 * np.sqrt(0.25 / 4096))


def test_rate_zero_and_what_is_no_image():
    x = np.ones((2, 4, 4, 1), "float32")
    np.testing.assert_array_equal(np.asarray(DropBlock2D(0.0)(x, training=True)), x)
    with pytest.raises(ValueError, match="ndim=4"):
        DropBlock2D(0.1)(keras.Input((4, 4)))
