"""Rules: what they let pass, what they refuse, and what becomes of a function that has some."""

import inspect
import pickle

import keras
import numpy as np
import pytest

from kregkit._core import rules


@rules.checked(num=rules.whole(1), factor=rules.number(0, none=True))
def product(num, factor=None):
    """Multiplies."""
    return num * (1 if factor is None else factor)


def test_a_checked_function_stays_itself():
    assert product(3, factor=2) == 6
    assert list(inspect.signature(product).parameters) == ["num", "factor"]
    assert product.__doc__ == "Multiplies." and pickle.loads(pickle.dumps(product)) is product
    with pytest.raises(TypeError, match=r"product\(\) missing 1 required positional argument: 'num'"):
        product()


def test_a_rule_is_refused_for_a_parameter_that_is_not_there():
    with pytest.raises(TypeError, match="product has no parameters"):
        rules.checked(size=rules.whole(1))(product)


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (rules.whole(1), [1, np.int64(5)], [0, True, 1.5, "1", None, 10**400]),
        (rules.whole(1, none=True), [None, 1], [0]),
        (rules.number(0), [0, 2.5], [-1, float("nan"), "a", True]),
        (rules.real, [float("inf"), 1], [float("nan"), True, None]),
        (rules.count, [1, 10**6], [0, 10**12]),
        (rules.counts, [3, [1, 2]], [[], [0], "3"]),
        (rules.word(), ["a"], ["", b"a", None, 3]),
        (rules.choice("auto", True, False), ["auto", True], ["true", 1, None]),
        (rules.verbose, [True, 0, 2], [3, "1", None]),
        (rules.entries(rules.word()), [["a"], ("a", "b")], [[], "a", ["a", 3]]),
        (rules.pair(rules.whole(1)), [(1, 2), np.array([1, 2])], [(1,), (1, 0), 3]),
        (rules.mapping("a", rule=rules.whole(), empty=False), [{"a": 1}], [{}, {"b": 1}, {"a": "1"}, [("a", 1)]]),
        (rules.any_of(rules.whole(1), rules.word()), [1, "a"], [0, None]),
        (rules.optional(rules.array(1)), [None, [1.0]], [[[1.0]], [float("nan")], "a"]),
        (rules.tensor(1, 2), [[1.0], np.zeros((2, 2))], [np.zeros((1, 1, 1)), "a"]),
        (rules.rows, [["a", "b"], np.zeros(3)], ["ab", {"a": 1}, 3]),
        (
            rules.learning_rate,
            [0.1, keras.Variable(0.1), np.float32(0.1), lambda: 0.1],
            [float("nan"), -1, "0.1", True],
        ),
        (rules.keras_object("initializers"), [None, "zeros", keras.initializers.Zeros()], ["", "zero_ish", 3, True]),
        (rules.history, [{"loss": [1.0]}], [{}, {"loss": 1.0}, [1.0]]),
    ],
)
def test_what_a_rule_lets_pass(rule, good, bad):
    for value in good:
        rule("argument", value)
    for value in bad:
        with pytest.raises(ValueError, match=r"^`argument` must .* Received: argument"):
            rule("argument", value)
