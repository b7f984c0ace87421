import keras
import numpy as np
import pytest
import tensorflow as tf

from kregkit.layers._hash import hashed_choice, hashed_uniform


def by_hand(key, size):
    """The same hash in Python's own integers."""

    def mix(x):
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        return x ^ x >> 16

    first, second = key
    one = mix((mix(first) + second) % 2**32)
    two = mix((mix((second + 0x3C6EF372) % 2**32) + first) % 2**32)
    return np.array([(mix((mix(index ^ one) + two) % 2**32) >> 8) / 2**24 for index in range(size)])


@pytest.mark.parametrize("how", ["graph", "jit", "eager", "unknown size"])
@pytest.mark.parametrize("size", [30, 6000])
def test_same_numbers_in_every_mode(size, how):
    key = tf.constant([7, 4_000_000_000], tf.uint32)
    expected = by_hand([7, 4_000_000_000], size).reshape(-1, 3)
    run = hashed_uniform
    if how in ("graph", "jit"):
        run = tf.function(hashed_uniform, jit_compile=how == "jit")
    if how == "unknown size":
        whole = tf.function(
            lambda key, x: hashed_uniform(key, (tf.shape(x)[0], 3)),
            input_signature=[tf.TensorSpec((2,), tf.uint32), tf.TensorSpec((None,))],
        )
        np.testing.assert_array_equal(whole(key, tf.zeros(size // 3)), expected)
    else:
        np.testing.assert_array_equal(run(key, (size // 3, 3)), expected)


def test_numbers_are_uniform_and_independent():
    num = 200_000
    keys = [(seed, counter) for seed in (0, 1, 2**31 + 5) for counter in (0, 1, 2)]
    found = np.stack([np.asarray(hashed_uniform(np.array(key, "int64"), (num,))) for key in keys]).astype("float64")
    assert found.min() >= 0
    assert found.max() < 1
    # Bounds of five deviations and more: 256 cells, neighbours at several distances, all pairs of keys.
    for numbers in found:
        counts = np.bincount((numbers * 256).astype(int), minlength=256)
        chi_square = ((counts - num / 256) ** 2 / (num / 256)).sum()
        assert abs(chi_square - 255) < 6 * np.sqrt(2 * 255)
        for lag in (1, 2, 32, 1024):
            assert abs(np.corrcoef(numbers[:-lag], numbers[lag:])[0, 1]) < 5.5 / np.sqrt(num)
    correlations = np.corrcoef(found) - np.eye(len(keys))
    assert np.abs(correlations).max() < 5.5 / np.sqrt(num)
    # None is another's in a different order.
    assert len({tuple(np.sort(numbers)[:5]) for numbers in found}) == len(keys)


def test_first_numbers_of_successive_keys_are_independent():
    firsts = np.array([by_hand((3, counter), 1)[0] for counter in range(20_000)])
    counts = np.bincount((firsts * 64).astype(int), minlength=64)
    assert abs(((counts - 312.5) ** 2 / 312.5).sum() - 63) < 6 * np.sqrt(2 * 63)
    assert abs(np.corrcoef(firsts[:-1], firsts[1:])[0, 1]) < 5.5 / np.sqrt(20_000)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_choice_compares_the_numbers(dtype):
    key = keras.ops.convert_to_tensor([1, 2], "int32")
    expected = np.where(np.asarray(hashed_uniform(key, (5000,))) < 0.3, -1, 4)
    chosen = hashed_choice(key, (5000,), 0.3, -1.0, 4.0, dtype)
    assert keras.backend.standardize_dtype(chosen.dtype) == dtype
    np.testing.assert_array_equal(chosen, expected)
