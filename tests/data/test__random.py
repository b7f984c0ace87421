import numpy as np
import tensorflow as tf
from data.reference import fold
from scipy import stats

from kregkit.data import _random, make_keys

NUM = 20_000


def test_keys_are_splitmix64():
    keys = make_keys(7, 3, [0, 5, 2**40]).numpy().astype("uint64")
    expected = [fold(fold(fold(0, 7), 3), index) for index in (0, 5, 2**40)]
    assert [int(key) for key in keys] == expected


def test_negative_seeds_and_python_integers():
    assert len(np.unique([make_keys(seed, 0, 0).numpy() for seed in (-2, -1, 0, 1, 2)])) == 5


def test_uniform_numbers_are_uniform_and_independent():
    u = _random.uniform(make_keys(0, 0, tf.range(NUM)), "a", 3).numpy()
    assert u.dtype == np.float32 and u.min() >= 0 and u.max() < 1
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-6
    # Neighbouring indices, draws, epochs, seeds and names: correlations within five standard deviations.
    others = [
        u[1:, 0],
        u[:, 1],
        _random.uniform(make_keys(0, 1, tf.range(NUM)), "a", 1).numpy()[:, 0],
        _random.uniform(make_keys(1, 0, tf.range(NUM)), "a", 1).numpy()[:, 0],
        _random.uniform(make_keys(0, 0, tf.range(NUM)), "b", 1).numpy()[:, 0],
    ]
    for other in others:
        assert abs(np.corrcoef(u[: len(other), 0], other)[0, 1]) < 5 / np.sqrt(NUM)


def test_same_numbers_eagerly_in_graph_under_jit_and_in_any_batch():
    keys = make_keys(0, 0, tf.range(100))
    eager = _random.uniform(keys, "a", 4)
    for jit in (False, True):
        compiled = tf.function(lambda k: _random.uniform(k, "a", 4), jit_compile=jit)
        np.testing.assert_array_equal(eager, compiled(keys))
    np.testing.assert_array_equal(eager[37:38], _random.uniform(keys[37:38], "a", 4))


def test_normal_numbers_are_normal():
    z = _random.normal(_random.uniform(make_keys(0, 0, tf.range(NUM)), "a", 2)).numpy()[:, 0]
    assert stats.kstest(z, "norm").pvalue > 1e-6


def test_noise_is_uniform_and_each_image_has_its_own():
    u = _random.uniform(make_keys(0, 0, tf.range(4)), "a", 2)
    noise = _random.noise(tf.cast(u * 2.0**24, tf.int32), (70, 90, 3)).numpy()
    assert noise.min() >= 0 and noise.max() < 1
    for one in noise:
        assert stats.kstest(one.ravel(), "uniform").pvalue > 1e-6
    pairs = [(noise[0], noise[1]), (noise[0, 1:], noise[0, :-1]), (noise[0, :, 1:], noise[0, :, :-1])]
    for first, second in [*pairs, (noise[..., 0], noise[..., 1])]:
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 5 / np.sqrt(first.size)
