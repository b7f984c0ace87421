"""Argument checks: what passes, what doesn't, and what the message says."""

import re

import numpy as np
import pytest

from kregkit._core.checks import check_choice, check_integer, check_number


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5), np.float64(0.25), np.int64(1)])
def test_numbers_become_floats(value):
    result = check_number("rate", value, 0, 1)
    assert type(result) is float
    assert result == value


@pytest.mark.parametrize(
    "value", [True, "0.5", None, float("nan"), float("inf"), 10**400, -0.1, 1.1, [0.5], np.ones(2), 1j]
)
def test_what_is_no_number_in_the_range_is_refused(value):
    with pytest.raises(ValueError, match=re.escape("`rate` must be a number in [0, 1]. Received: rate=")):
        check_number("rate", value, 0, 1)


@pytest.mark.parametrize(
    ("limits", "outside", "text"),
    [
        ({"low": 0, "low_open": True}, 0, "a finite number > 0"),
        ({"low": 0}, -1e-9, "a finite number >= 0"),
        ({"high": 2}, 3, "a finite number <= 2"),
        ({"high": 2, "high_open": True}, 2, "a finite number < 2"),
        ({"low": 0, "high": 1, "high_open": True}, 1, "a number in [0, 1)"),
        ({"low": 0, "high": 1, "low_open": True, "high_open": True}, 0, "a number in (0, 1)"),
        ({}, float("inf"), "a finite number."),
    ],
)
def test_open_and_closed_ends(limits, outside, text):
    with pytest.raises(ValueError, match=re.escape(f"`x` must be {text}")) as error:
        check_number("x", outside, **limits)
    assert str(error.value).endswith(f"Received: x={outside!r}")
    assert check_number("x", 0.5, **limits) == 0.5


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers(value):
    result = check_integer("count", value, 1, 5)
    assert type(result) is int
    assert result == 3


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (3.0, None, None, "an integer. Received: count=3.0"),
        (True, None, None, "an integer. Received: count=True"),
        (0, 1, None, "an integer >= 1. Received: count=0"),
        (9, None, 8, "an integer <= 8. Received: count=9"),
        (9, 1, 8, "an integer in [1, 8]. Received: count=9"),
    ],
)
def test_what_is_no_integer_in_the_range_is_refused(value, low, high, text):
    with pytest.raises(ValueError, match=re.escape(f"`count` must be {text}")):
        check_integer("count", value, low, high)


def test_choices():
    assert check_choice("unit", "step", ("epoch", "step")) == "step"
    assert check_choice("axis", None, (None, "channel")) is None
    for value in ("day", np.ones(3), 1, None):
        with pytest.raises(ValueError, match=r"one of 'epoch', 'step'. Received: unit="):
            check_choice("unit", value, ("epoch", "step"))
