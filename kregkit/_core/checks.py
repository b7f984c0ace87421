"""Argument checks whose errors say what was expected and end in `Received: name=value`."""

import math
import numbers


def _fail(name, expected, value):
    raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def _is_finite(value):
    try:
        return math.isfinite(value)
    except OverflowError:
        # An integer such as 10**400, which is larger than any float.
        return False


def check_number(name, value, low=-math.inf, high=math.inf, *, low_open=False, high_open=False):
    """Returns `value` as a float if it is a finite number in the range, or raises `ValueError`.

    Args:
        name: String, the argument's name, for the message.
        value: The value to check. Booleans are not numbers here.
        low, high: Floats, the ends of the range.
        low_open, high_open: Booleans, whether the end itself is excluded.
    """
    inside = (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and _is_finite(value)
        and (value > low if low_open else value >= low)
        and (value < high if high_open else value <= high)
    )
    if not inside:
        if low == -math.inf and high == math.inf:
            expected = "a finite number"
        elif high == math.inf:
            expected = f"a finite number {'>' if low_open else '>='} {low:g}"
        elif low == -math.inf:
            expected = f"a finite number {'<' if high_open else '<='} {high:g}"
        else:
            expected = f"a number in {'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
        _fail(name, expected, value)
    return float(value)


def check_integer(name, value, low=None, high=None):
    """Returns `value` as an int if it is an integer in `[low, high]`, or raises `ValueError`."""
    inside = (
        isinstance(value, numbers.Integral)
        and not isinstance(value, bool)
        and (low is None or value >= low)
        and (high is None or value <= high)
    )
    if not inside:
        expected = "an integer"
        if low is not None and high is not None:
            expected += f" in [{low}, {high}]"
        elif low is not None:
            expected += f" >= {low}"
        elif high is not None:
            expected += f" <= {high}"
        _fail(name, expected, value)
    return int(value)


def check_choice(name, value, choices):
    """Returns `value` if it is one of `choices`, or raises `ValueError` that lists them."""
    # `in` would compare arrays element by element.
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        _fail(name, "one of " + ", ".join(repr(choice) for choice in choices), value)
    return value
