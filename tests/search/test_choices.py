import numpy as np
import pytest

from kregkit.search import choice


def test_points_are_all_options():
    assert choice(["a", None, True]).points(2) == ["a", None, True]


def test_tuples_are_options():
    parameter = choice([(64,), (64, 32), [8, (2, 2)], None, np.int64(3)])
    assert list(parameter.options) == ["(64,)", "(64, 32)", "[8, (2, 2)]", None, 3]
    assert parameter.options["(64, 32)"] == (64, 32) and type(parameter.options[3]) is int
    assert parameter.has((64, 32)) and parameter.has("(64,)") and parameter.has(None) and not parameter.has((1,))


def test_choice_keeps_what_is_among_the_best():
    parameter = choice({"none": None, "small": (1, 2), "large": (3,)})
    kept, remark = parameter.around(["large", "none", "large"], best="large")
    assert kept.options == {"none": None, "large": (3,)} and remark == ""


@pytest.mark.parametrize("options", [[], [(1, object())], "adam", [1, True]])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="`options` must be .* Received: options="):
        choice(options)
