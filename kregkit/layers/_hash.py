"""Uniform noise by hashing integers, for many numbers at once: the masks of weights.

XLA on CPUs takes half a microsecond for each number of `keras.random`, and draws other numbers than a plain graph does.
These numbers are the same in every mode and on every backend, and cost a nanosecond each.
"""

import math

from keras import ops

from kregkit.layers._backend import compile_apart


def hashed_uniform(key, shape):
    """Returns float32 noise: the multiples of `2 ** -24` in [0, 1), each equally likely.

    Args:
        key: Integer tensor `(2,)`, such as `keras.random.SeedGenerator.next` returns.
        shape: Tuple of integers and scalar tensors.
    """
    return _hashed(key, shape, lambda numbers: numbers)


def hashed_choice(key, shape, rate, below, above, dtype):
    """Returns `below` with probability `rate`, else `above`: the result of comparing `hashed_uniform` with `rate`."""
    return _hashed(key, shape, lambda numbers: ops.cast(ops.where(numbers < rate, below, above), dtype))


def mixed_key(key, number):
    """Returns the key of a numbered example or replica, int32 `(2,)`.

    Adding the number to the key would give the neighbours' noise to neighbouring seeds. For one counter, two pairs of
    seed and number never have the same key: the first word gives the seed once the second has given the number.
    """
    key, number = ops.cast(key, "int32"), ops.cast(number, "int32")
    return ops.stack([_mix(_mix(key[0]) + number), _mix(_mix(number + 0x3C6EF372) + key[1])])


def _hashed(key, shape, transform):
    """Returns `transform(numbers)` of float32 noise, in the shape given."""
    key = ops.cast(key, "int32")
    size = math.prod(shape)
    static = isinstance(size, int)

    def function(key, index=None):
        return transform(_numbers(key, ops.arange(size, dtype="int32") if static else index))

    # A small graph runs as fast without XLA, and is traced faster.
    compile = None if static and size <= 4096 else compile_apart()
    arguments = (key,) if static else (key, ops.arange(size, dtype="int32"))
    return ops.reshape((function if compile is None else compile(function))(*arguments), shape)


def _numbers(key, index):
    # Both words of the key in both words of the state, or seeds 0 and 1 would give the same numbers in another order.
    first = _mix(_mix(key[0]) + key[1])
    second = _mix(_mix(key[1] + 0x3C6EF372) + key[0])
    bits = _mix(_mix(ops.bitwise_xor(index, first)) + second)
    return ops.cast(_shift(bits, 8), "float32") * 2.0**-24


def _mix(x):
    """Returns a bijection of int32 in which every bit of the result depends on all bits of `x`.

    Its constants were found by search: [Wellons, 2018](https://nullprogram.com/blog/2018/07/31/).
    """
    x = ops.bitwise_xor(x, _shift(x, 16)) * 0x7FEB352D
    x = ops.bitwise_xor(x, _shift(x, 15)) * (0x846CA68B - 2**32)
    return ops.bitwise_xor(x, _shift(x, 16))


def _shift(x, bits):
    """Returns `x` shifted to the right, zeros filled in from the left."""
    return ops.bitwise_and(ops.right_shift(x, bits), 2 ** (32 - bits) - 1)
