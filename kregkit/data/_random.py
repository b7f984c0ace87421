"""Random numbers as a pure function of integers: no state, no order, the same eagerly, in a graph and under jit."""

import zlib
from typing import Any

import numpy as np
import tensorflow as tf

from kregkit._core.checks import check_array, shown

_GOLDEN = 0x9E3779B97F4A7C15


def _constant(value):
    return tf.constant(np.uint64(value & 0xFFFFFFFFFFFFFFFF))


def _mix(z):
    # The finalizer of SplitMix64 (Steele, Lea, Flood, 2014): every input bit moves every output bit.
    z = tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, _constant(30))) * _constant(0xBF58476D1CE4E5B9)
    z = tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, _constant(27))) * _constant(0x94D049BB133111EB)
    return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, _constant(31)))


def _uint64(value):
    # Through int64, so that negative seeds wrap instead of being undefined.
    return tf.bitcast(tf.cast(value, tf.int64), tf.uint64)


def fold(key, value):
    """Returns `mix(key + golden * (value + 1))`, uint64: a new key from a key and an integer, broadcast."""
    return _mix(key + _constant(_GOLDEN) * (_uint64(value) + _constant(1)))


def make_keys(seed: Any, epoch: Any, index: Any) -> Any:
    """Returns the key of each example: the only thing its randomness depends on.

    `key = mix(mix(mix(seed), epoch), index)`, a hash of 64 bits.

    Args:
        seed: Integer, or integer tensor.
        epoch: Integer, or integer tensor.
        index: Integer tensor of any shape, the examples' numbers in the source.

    Returns:
        int64 tensor of the shape of `index`.

    Example:

    >>> from kregkit.data import make_keys
    >>> keys = make_keys(seed=0, epoch=3, index=[5, 9])
    >>> bool((keys == make_keys(0, 3, [5, 9])).numpy().all()), tuple(keys.shape)
    (True, (2,))

    Reference: [Steele, Lea and Flood, 2014](https://doi.org/10.1145/2660193.2660195)
    """
    for name, value in (("seed", seed), ("epoch", epoch), ("index", index)):
        _check_whole(name, value)
    key = fold(fold(_constant(0), seed), epoch)
    return tf.bitcast(fold(key, index), tf.int64)


def _check_whole(name, value):
    """Raises an error for what holds no whole numbers; what a tensor or a variable holds isn't looked at."""
    if not hasattr(value, "dtype"):
        value = check_array(name, value)
    if not tf.as_dtype(value.dtype).is_integer:
        raise ValueError(f"`{name}` must be of whole numbers. Received: {name}={shown(value)}")


def uniform(keys, name, num):
    """Returns `num` numbers in [0, 1) for each key, float32 `(batch, num)`. `name` tells one use from another."""
    key = fold(tf.bitcast(keys, tf.uint64), zlib.crc32(name.encode()))
    bits = fold(key[:, None], tf.range(num, dtype=tf.int64))
    # 24 bits are what a float32 holds exactly.
    return tf.cast(tf.bitcast(tf.bitwise.right_shift(bits, _constant(40)), tf.int64), tf.float32) * 2.0**-24


def noise(words, shape):
    """Returns numbers in [0, 1) for each pixel of images, from two integers below 2^24 of each image.

    They are hashed in 32 bits (the finalizer of MurmurHash3, twice), which processors do for several at once.

    Args:
        words: int32 `(batch, 2)`.
        shape: Sequence of three sizes: height, width and channels.
    """
    words = tf.cast(words, tf.uint32)[:, :, None]
    z = _scramble(tf.range(shape[0] * shape[1] * shape[2], dtype=tf.int32)[None], words[:, 0])
    z = _scramble(z, words[:, 1])
    numbers = tf.cast(tf.bitcast(tf.bitwise.right_shift(z, tf.constant(8, tf.uint32)), tf.int32), tf.float32) * 2.0**-24
    return tf.reshape(numbers, (-1, *shape))


def _scramble(z, word):
    z = (tf.cast(z, tf.uint32) + word) * tf.constant(0x9E3779B1, tf.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        z = tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, tf.constant(shift, tf.uint32)))
        z = z * tf.constant(factor, tf.uint32)
    return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, tf.constant(16, tf.uint32)))


def normal(u):
    """Turns pairs of uniform numbers `(batch, 2 n)` into `n` normal ones, by Box and Muller."""
    first, second = tf.split(u, 2, axis=-1)
    return tf.sqrt(-2.0 * tf.math.log1p(-first)) * tf.cos(2.0 * np.pi * second)


def batch_keys(key, num):
    """Returns `num` keys from a single one, int64."""
    return tf.bitcast(fold(tf.bitcast(key, tf.uint64), tf.range(tf.cast(num, tf.int64))), tf.int64)


def keys_from_pair(pair, batch):
    """Returns keys for a batch from the two numbers of a Keras seed generator."""
    return batch_keys(tf.bitcast(fold(fold(_constant(0), pair[0]), pair[1]), tf.int64), batch)
