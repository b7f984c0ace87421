"""Argument checks whose errors say what was expected and end in `Received: name=value`."""

import inspect
import math
import numbers
import os

import numpy as np

# What TensorFlow's integers hold.
_LARGEST = 2**63 - 1
_LONGEST = 300


def shown(value):
    """Returns a value as a message shows it: what Python would write, but no pages of it.

    >>> shown(2.5), len(shown(list(range(1000))))
    ('2.5', 228)
    """
    try:
        text = repr(value)
    except Exception:
        # Python refuses to write integers of thousands of digits.
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 4 :]}"


def _fail(name, expected, value):
    raise ValueError(f"`{name}` must be {expected}. Received: {name}={shown(value)}")


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
        value: The value to check. Booleans are not numbers here, nor are fractions, which no config can hold.
        low, high: Floats, the ends of the range.
        low_open, high_open: Booleans, whether the end itself is excluded.
    """
    inside = (
        isinstance(value, (numbers.Integral, float, np.floating))
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
    """Returns `value` as an int if it is an integer in `[low, high]`, or raises `ValueError`.

    Whatever the range, an integer of more than 64 bits is refused: no tensor, seed or loop can hold it.
    """
    inside = (
        isinstance(value, numbers.Integral)
        and not isinstance(value, bool)
        and (low is None or value >= low)
        and (high is None or value <= high)
        and -_LARGEST <= value <= _LARGEST
    )
    if not inside:
        expected = "an integer"
        if low is not None and high is not None:
            expected += f" in [{low}, {high}]"
        elif low is not None:
            expected += f" >= {low}"
        elif high is not None:
            expected += f" <= {high}"
        if isinstance(value, numbers.Integral) and abs(int(value)) > _LARGEST:
            expected += " and of 64 bits"
        _fail(name, expected, value)
    return int(value)


def check_seed(name, value, none=True):
    """Returns `value` if it is an integer of at most 64 bits that isn't negative, or `None` where that is allowed."""
    return None if value is None and none else check_integer(name, value, 0)


def check_boolean(name, value):
    """Returns `value` as a bool if it is one, NumPy's included, or raises `ValueError`: a word isn't a yes."""
    if not isinstance(value, (bool, np.bool_)):
        _fail(name, "True or False", value)
    return bool(value)


def check_string(name, value, none=False, empty=False):
    """Returns `value` if it is a string, or `None` where that is allowed; an empty one only where that is."""
    if not (value is None and none) and (not isinstance(value, str) or not (value or empty)):
        _fail(name, "a string" + ("" if empty else " that isn't empty") + (" or None" if none else ""), value)
    return value


def check_path(name, value, none=False):
    """Returns `value` if it is a string or a path that isn't empty, or `None` where that is allowed."""
    good = isinstance(value, (str, os.PathLike)) and str(value) and "\0" not in str(value)
    if not good and not (value is None and none):
        _fail(name, "a path" + (" or None" if none else ""), value)
    return value


def check_instance(name, value, kinds, expected, none=False):
    """Returns `value` if it is an instance of `kinds`, or `None` where that is allowed.

    Args:
        name: String, the argument's name, for the message.
        value: The value to check.
        kinds: Class or tuple of classes.
        expected: String, what it should be, for the message, such as `"a Keras model"`.
        none: Boolean, whether `None` is allowed.
    """
    if not isinstance(value, kinds) and not (value is None and none):
        _fail(name, expected + (" or None" if none else ""), value)
    return value


def check_callable(name, value, none=False, num=None):
    """Returns `value` if it can be called, or `None` where that is allowed.

    Args:
        name: String, the argument's name, for the message.
        value: The value to check.
        none: Boolean, whether `None` is allowed.
        num: Integer, how many arguments it is called with, or `None` where that differs.
    """
    if value is None and none:
        return value
    good = callable(value)
    if good and num is not None:
        try:
            inspect.signature(value).bind(*[None] * num)
        except TypeError:
            good = False
        except ValueError:
            # Some functions written in C don't say what they take.
            pass
    if not good:
        arguments = "" if num is None else f" with {num} argument{'s' if num > 1 else ''}"
        _fail(name, "callable" + arguments + (" or None" if none else ""), value)
    return value


def check_list(name, value, check=None, none=False, empty=False):
    """Returns `value` as a list if it is a list, a tuple or an array whose entries pass `check(name, entry)`.

    Args:
        name: String, the argument's name, for the message.
        value: The value to check.
        check: Callable `(name, entry)` that raises for what no entry may be, or `None`.
        none, empty: Booleans, whether `None`, and an empty list, are allowed.
    """
    if value is None and none:
        return None
    if not (isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim)):
        _fail(name, "a list" + (" or None" if none else ""), value)
    if not len(value) and not empty:
        _fail(name, "a list that isn't empty", value)
    return [entry if check is None else check(name, entry) for entry in value]


def check_array(name, value, ndim=None, none=False, finite=True, least=0):
    """Returns `value` as an array of numbers that aren't all missing, or raises `ValueError`.

    Args:
        name: String, the argument's name, for the message.
        value: Nested lists, an array or a tensor.
        ndim: Integer, how many axes it must have, or `None` for any.
        none: Boolean, whether `None` is allowed.
        finite: Boolean, whether NaN and infinities are refused.
        least: Integer, how many axes it must have at least: 1 for an array that must not be a number.
    """
    if value is None and none:
        return None
    expected = "an array of " + ("finite " if finite else "") + "numbers"
    expected += "" if ndim is None else f" with {ndim} ax{'i' if ndim == 1 else 'e'}s"
    expected += f" with {least} ax{'i' if least == 1 else 'e'}s or more" if least else ""
    if isinstance(value, (str, bytes, bool, np.bool_, dict)) or (
        isinstance(value, int) and not -_LARGEST <= value <= _LARGEST
    ):
        _fail(name, expected, value)
    try:
        array = np.asarray(value)
    except Exception:
        _fail(name, expected, value)
    good = array.dtype.kind in "biuf" or array.dtype.name == "bfloat16"
    good = good and (ndim is None or array.ndim == ndim) and array.ndim >= least and array.size
    if not good or (finite and not np.isfinite(array.astype("float64")).all()):
        _fail(name, expected, value)
    return array


def check_data(name, value, none=False):
    """Returns `value` if it can be what `fit` takes: arrays, or something that gives batches; no number, no word."""
    if value is None and none:
        return None
    batches = hasattr(value, "__getitem__") or hasattr(value, "__iter__") or hasattr(value, "__next__")
    # A NumPy number has `__getitem__` too; a set has no order.
    other = isinstance(value, (str, bytes, set, frozenset, np.generic))
    if not batches or other or _is_empty(value) or _is_flat(value):
        _fail(name, "arrays, a data set, or a generator of batches", value)
    return value


def _is_empty(value):
    """Returns whether this is an array of no example or no axis, or lists of such and of nothing."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return all(one is None or _is_empty(one) for one in value)
    return isinstance(value, np.ndarray) and (not value.ndim or not len(value))


def _is_flat(value):
    """Returns whether this is a list of plain numbers, or a dictionary of these: no examples."""
    if isinstance(value, dict):
        value = list(value.values())
    plain = (numbers.Number, np.generic, str, bytes, type(None))
    return isinstance(value, (list, tuple)) and all(isinstance(one, plain) for one in value)


def check_axes(name, value, kind="Axes", none=True):
    """Returns `value` if it can be drawn on: Matplotlib Axes, or a Figure, which have other methods."""
    # A pandas Series has `plot`.
    method = {"Axes": "set_xlabel", "Figure": "add_subplot"}[kind]
    if not (value is None and none) and not callable(getattr(value, method, None)):
        _fail(name, f"Matplotlib {kind}" + (" or None" if none else ""), value)
    return value


def check_choice(name, value, choices):
    """Returns `value` if it is one of `choices`, or raises `ValueError` that lists them."""
    # `in` would compare arrays element by element.
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        _fail(name, "one of " + ", ".join(repr(choice) for choice in choices), value)
    return value
