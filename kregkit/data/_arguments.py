"""Arguments of operations and views: checks that several share, and what Keras saves of them."""

import inspect
import math

import keras

from kregkit._core.checks import check_integer
from kregkit._core.written import Written

register = keras.saving.register_keras_serializable(package="kregkit")


class Configured(Written):
    """A class whose config is the arguments of its `__init__`, each stored under its own name."""

    def get_config(self):
        parameters = list(inspect.signature(type(self).__init__).parameters.values())[1:]
        # A class without `__init__` has that of `object`, with `*args` and `**kwargs`.
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return {parameter.name: getattr(self, parameter.name) for parameter in parameters if parameter.kind in named}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


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


def check_pair(name, pair, high=math.inf):
    """Returns a pair of floats in order, > 0 and at most `high`."""
    if not (
        isinstance(pair, (tuple, list))
        and len(pair) == 2
        and all(isinstance(end, (int, float)) for end in pair)
        and 0 < pair[0] <= pair[1] <= high
        and pair[1] < math.inf
    ):
        most = "" if high == math.inf else f" and <= {high:g}"
        raise ValueError(f"`{name}` must be a pair of numbers in order, > 0{most}. Received: {name}={pair!r}")
    return float(pair[0]), float(pair[1])


def check_size(size):
    """Returns a size as `(height, width)`."""
    pair = size if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2:
        raise ValueError(f"`size` must be an integer or a pair (height, width). Received: size={size!r}")
    return check_integer("size", pair[0], 1), check_integer("size", pair[1], 1)
