import collections
import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from kregkit.layers import FractionalMaxPooling1D, FractionalMaxPooling2D, fractional_max_pool
from kregkit.layers.fractional_max_pooling import num_draws, pseudorandom_boundaries, random_boundaries

pytestmark = pytest.mark.one_in(2)

SIZES = [(8, 5), (64, 45), (36, 25), (25, 18), (7, 7), (9, 1), (10, 3), (16, 8), (100, 37)]


@pytest.mark.parametrize(("size", "outputs"), SIZES)
def test_pseudorandom_is_grahams_sequence_in_floats(size, outputs):
    # Every admissible u lies strictly inside the slice of draw t = ceil(size u); try the slice's middle.
    alpha = size / outputs
    for draw in range(1, num_draws(size, outputs) + 1):
        u = (draw - 0.5) / size
        expected = [0, *[math.ceil(alpha * (i + u)) - 1 for i in range(1, outputs)], size]
        assert pseudorandom_boundaries(size, outputs, draw).tolist() == expected
        assert set(np.diff(expected)) <= {size // outputs, -(-size // outputs)}


@pytest.mark.parametrize(("size", "outputs"), SIZES)
def test_cap_is_the_largest_that_keeps_the_increments(size, outputs):
    if size % outputs == 0:
        assert num_draws(size, outputs) == outputs
        return
    beyond = pseudorandom_boundaries(size, outputs, num_draws(size, outputs) + 1)
    if outputs > 1:
        assert not set(np.diff(beyond)) <= {size // outputs, size // outputs + 1}


def test_same_sequences_as_tensorflow_draws():
    mine = {tuple(pseudorandom_boundaries(8, 5, draw)) for draw in range(1, num_draws(8, 5) + 1)}
    x = tf.zeros((1, 8, 8, 1))
    theirs = {
        tuple(
            tf.nn.fractional_max_pool(x, (1, 1.6, 1.6, 1), pseudo_random=True, seed=seed).row_pooling_sequence.numpy()
        )
        for seed in range(1, 120)
    }
    assert mine == theirs


@pytest.mark.parametrize(("size", "outputs"), [(8, 5), (10, 4), (6, 6), (11, 3)])
def test_random_shuffles_the_increments_uniformly(size, outputs):
    noise = np.random.default_rng(0).random((6000, outputs)).astype("float32")
    drawn = np.asarray(random_boundaries(size, outputs, noise))
    assert (drawn[:, 0] == 0).all()
    assert (drawn[:, -1] == size).all()
    small, rest = divmod(size, outputs)
    counts = collections.Counter(map(tuple, np.diff(drawn, axis=1).tolist()))
    every = set(itertools.permutations([small + 1] * rest + [small] * (outputs - rest)))
    assert set(counts) == every
    expected = 6000 / len(every)
    assert all(abs(count - expected) < 5 * np.sqrt(expected) + 1 for count in counts.values())


def numbered(shape):
    """An image whose maxima tell where a window ends: rows count up."""
    return np.broadcast_to(np.arange(shape[1], dtype="float32")[:, None, None], shape[1:])[None].repeat(shape[0], 0)


@pytest.mark.parametrize("regions", ["pseudorandom", "random"])
@pytest.mark.parametrize("share", ["batch", "example", "channel"])
def test_shares_regions_as_said(share, regions):
    layer = FractionalMaxPooling2D(1.6, regions, False, share, data_format="channels_last", seed=0)
    x = numbered((12, 16, 16, 3))
    # Each output row holds its window's last row: s_{i+1} - 1.
    ends = np.asarray(layer(x, training=True))[:, :, 0, :]
    assert (ends[:, -1] == 15).all()
    by_example = {tuple(end) for end in ends[:, :, 0]}
    by_channel = {tuple(end) for end in ends.transpose(0, 2, 1).reshape(-1, 10)}
    assert (len(by_example) > 1) == (share != "batch")
    assert (len(by_channel) > len(by_example)) == (share == "channel")
    again = np.asarray(layer(x, training=True))[:, :, 0, :]
    assert not np.array_equal(ends, again)


def test_axes_are_independent():
    layer = FractionalMaxPooling2D(1.6, "random", False, "example", data_format="channels_last", seed=0)
    x = numbered((400, 8, 8, 1))
    both = np.concatenate([x, x.transpose(0, 2, 1, 3)], axis=-1)
    pooled = np.asarray(layer(both, training=True))
    # Whether the first window is 2 long, of rows and of columns.
    rows, columns = pooled[:, 0, 0, 0] == 1, pooled[:, 0, 0, 1] == 1
    assert abs(rows.mean() - 0.6) < 5 * np.sqrt(0.24 / 400)
    assert abs((rows & columns).mean() - 0.36) < 5 * np.sqrt(0.25 / 400)


def test_every_draw_comes_equally_often():
    layer = FractionalMaxPooling1D(1.6, overlapping=False, share="example", data_format="channels_last", seed=0)
    x = np.broadcast_to(np.arange(8, dtype="float32")[None, :, None], (8000, 8, 1))
    ends = np.asarray(layer(x, training=True))[:, :, 0]
    counts = collections.Counter(map(tuple, ends.astype(int).tolist()))
    draws = num_draws(8, 5)
    expected = collections.Counter(tuple(pseudorandom_boundaries(8, 5, t)[1:] - 1) for t in range(1, draws + 1))
    assert set(counts) == set(expected)
    for key, share in expected.items():
        mean = 8000 * share / draws
        assert abs(counts[key] - mean) < 5 * np.sqrt(mean)


@pytest.mark.parametrize("regions", ["pseudorandom", "random"])
def test_inference_is_fixed_and_survives_a_file(regions, tmp_path):
    x = np.random.default_rng(0).normal(size=(2, 11, 11, 3)).astype("float32")
    inputs = keras.Input((11, 11, 3))
    model = keras.Model(inputs, FractionalMaxPooling2D(1.4, regions, data_format="channels_last")(inputs))
    assert model.output_shape == (None, 7, 7, 3)
    first = model.predict(x, verbose=0)
    model.layers[-1](x, training=True)
    np.testing.assert_array_equal(model.predict(x, verbose=0), first)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras").predict(x, verbose=0), first)
    middle = pseudorandom_boundaries(11, 7, (num_draws(11, 7) + 1) // 2)
    np.testing.assert_array_equal(first, fractional_max_pool(x, [middle, middle], True, "channels_last"))


def test_draw_call_draws_at_inference():
    x = np.random.default_rng(0).normal(size=(2, 11, 11, 3)).astype("float32")
    layer = FractionalMaxPooling2D(1.4, data_format="channels_last", seed=1)
    state = layer.seed_generator.state.numpy()
    one = np.asarray(layer.draw_call(x, training=False))
    other = np.asarray(layer.draw_call(x, training=False))
    assert not np.array_equal(one, other)
    layer.seed_generator.state.assign(state)
    np.testing.assert_array_equal(layer.draw_call(x), one)


def test_sizes():
    layer = FractionalMaxPooling2D(64 / 45, data_format="channels_last")
    assert layer.compute_output_shape((None, 64, 65, 3)) == (None, 45, 45, 3)
    assert layer.compute_output_shape((None, None, 64, 3)) == (None, None, 45, 3)
    # In floats, 9 / (9 / 7) and its like come out a little below the integer.
    for size, outputs in [(9, 7), (18, 7), (18, 14)]:
        layer = FractionalMaxPooling1D(size / outputs, data_format="channels_last")
        assert layer.compute_output_shape((None, size, 3)) == (None, outputs, 3)
    layer = FractionalMaxPooling2D(output_size=(3, 4), data_format="channels_first")
    assert layer.compute_output_shape((None, 2, 9, 9)) == (None, 2, 3, 4)
    with pytest.raises(ValueError, match=r"must not exceed.*Received: output_size=\(3, 4\)"):
        layer.compute_output_shape((None, 2, 2, 9))
    with pytest.raises(ValueError, match=r"known length.*Received: shape="):
        tf.function(FractionalMaxPooling1D(1.5, data_format="channels_last")).get_concrete_function(
            tf.TensorSpec((2, None, 3))
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("jit", [False, True])
def test_trains_in_half_precision(jit, dtype):
    layer = FractionalMaxPooling2D(1.5, data_format="channels_last", dtype=dtype, seed=0)

    @tf.function(jit_compile=jit)
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, x)

    y, gradient = run(ops.cast(np.random.default_rng(0).normal(size=(2, 9, 9, 3)), dtype))
    assert y.dtype == dtype
    assert float(ops.sum(ops.cast(gradient, "float32"))) == 2 * 6 * 6 * 3
