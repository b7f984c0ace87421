"""Checks of arguments that several operations share."""

import keras

from kregkit._core.checks import check_integer

register = keras.saving.register_keras_serializable(package="kregkit")


def check_range(name, value, low, high):
    """Returns `(-value, value)` for a number, or the pair itself, within `[low, high]` and in order."""
    pair = (-value, value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    good = isinstance(pair, (tuple, list)) and len(pair) == 2
    good = good and all(isinstance(end, (int, float)) and low <= end <= high for end in pair) and pair[0] <= pair[1]
    if not good:
        raise ValueError(
            f"`{name}` must be a number, or a pair of numbers in order, in [{low:g}, {high:g}]. "
            f"Received: {name}={value!r}"
        )
    return float(pair[0]), float(pair[1])


def check_size(size):
    """Returns a size as `(height, width)`."""
    pair = size if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2:
        raise ValueError(f"`size` must be an integer or a pair (height, width). Received: size={size!r}")
    return check_integer("size", pair[0], 1), check_integer("size", pair[1], 1)
