"""Rules for the arguments of public functions: checked before the function runs, with errors that name the argument.

A rule is a function `(name, value)` that raises `ValueError` for a value which the argument can't have. `checked` puts
rules before a function. Constructors of Keras objects call rules in their first lines instead: Keras reads the
signature of an `__init__` itself, so no decorator can stand before it.
"""

import functools
import inspect
import numbers
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from kregkit._core import checks
from kregkit._core.checks import shown
from kregkit._core.words import refuse_foreign

F = TypeVar("F", bound=Callable[..., Any])


def checked(**rules: Callable[[str, Any], Any]) -> Callable[[F], F]:
    """Returns a decorator that applies rules to the arguments that a call gives; defaults aren't looked at.

    Args:
        **rules: From the name of an argument to its rule.

    >>> @checked(num=whole(1))
    ... def twice(num=1):
    ...     return 2 * num
    >>> twice(3)
    6
    >>> twice("3")
    Traceback (most recent call last):
    ValueError: `num` must be an integer >= 1. Received: num='3'
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        unknown = set(rules) - set(signature.parameters)
        if unknown:
            raise TypeError(f"{function.__name__} has no parameters {sorted(unknown)}")

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            # First, as a function that passes arguments on would have another one complain.
            refuse_foreign(function, kwargs.keys() - signature.parameters.keys())
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:
                # Python's own error, which names the function.
                return function(*args, **kwargs)
            check(rules, **given)
            return function(*args, **kwargs)

        return cast(F, wrapper)

    return decorate


def check(table, /, **arguments):
    """Applies the rules of a table `{name: rule}` to the arguments that it names; returns all arguments."""
    for name, value in arguments.items():
        if name in table:
            table[name](name, value)
    return arguments


def whole(low=None, high=None, none=False):
    """A rule: an integer in a range."""
    return lambda name, value: None if value is None and none else checks.check_integer(name, value, low, high)


def number(low=-np.inf, high=np.inf, none=False, **ends):
    """A rule: a finite number in a range; `ends` as in `check_number`."""
    return lambda name, value: None if value is None and none else checks.check_number(name, value, low, high, **ends)


def real(name, value):
    """A rule: a number, infinities included."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or value != value:
        raise ValueError(f"`{name}` must be a number. Received: {name}={shown(value)}")


def word(none=False, empty=False):
    """A rule: a string."""
    return lambda name, value: checks.check_string(name, value, none, empty)


def choice(*choices):
    """A rule: one of some values."""
    return lambda name, value: checks.check_choice(name, value, choices)


def function(none=False, num=None):
    """A rule: something that can be called, with so many arguments."""
    return lambda name, value: checks.check_callable(name, value, none, num)


def array(ndim=None, none=False, finite=True, least=0):
    """A rule: an array of numbers, of so many axes."""
    return lambda name, value: checks.check_array(name, value, ndim, none, finite, least)


def entries(rule=None, none=False, empty=False):
    """A rule: a list, each of whose entries keeps a rule."""
    return lambda name, value: checks.check_list(name, value, rule, none, empty)


def pair(rule, none=False):
    """A rule: two values that each keep a rule, or a tensor of two numbers."""

    def check(name, value):
        if value is None and none:
            return
        if len(value) != 2 if isinstance(value, (list, tuple)) else getattr(value, "shape", None) != (2,):
            raise ValueError(f"`{name}` must be a pair{' or None' * none}. Received: {name}={shown(value)}")
        if isinstance(value, (list, tuple, np.ndarray)):
            for one in value:
                rule(name, one)

    return check


def mapping(*keys, rule=None, none=False, empty=True):
    """A rule: a dictionary that has some keys, and whose values keep a rule."""

    def check(name, value):
        if value is None and none:
            return
        if not isinstance(value, dict) or not (value or empty):
            expected = "a dictionary" + ("" if empty else " that isn't empty") + (" or None" if none else "")
            raise ValueError(f"`{name}` must be {expected}. Received: {name}={shown(value)}")
        missing = [key for key in keys if key not in value]
        if missing:
            raise ValueError(f"`{name}` must have the keys {missing}. Received: {name}={shown(value)}")
        if rule is not None:
            for one in value.values():
                rule(name, one)

    return check


def instance(kinds, expected, none=False):
    """A rule: an instance of some classes, described for the message."""
    return lambda name, value: checks.check_instance(name, value, kinds, expected, none)


def any_of(*rules):
    """A rule: a value that one of several rules allows. The error is the last rule's."""

    def check(name, value):
        for rule in rules[:-1]:
            try:
                return rule(name, value)
            except ValueError:
                pass
        return rules[-1](name, value)

    return check


def optional(rule):
    """A rule: `None`, or a value that another rule allows."""
    return lambda name, value: None if value is None else rule(name, value)


def model(name, value):
    """A rule: a Keras model."""
    import keras

    checks.check_instance(name, value, keras.Model, "a Keras model")


def keras_object(kind):
    """A rule: whatever `keras.initializers.get`, `keras.regularizers.get` or alike takes; `kind` names the module."""

    def check(name, value):
        import keras

        try:
            # Keras takes any array for a constant, also one number that is none.
            if isinstance(value, (bool, bytes, np.generic)):
                raise ValueError(value)
            found = getattr(keras, kind).get(value)
        except Exception:
            found = value
        # Keras lets pass whatever can be called, and returns no object for an empty name.
        if (found is None and value is not None) or not (found is None or callable(found)):
            raise ValueError(f"`{name}` must be one of keras.{kind}, or its name. Received: {name}={shown(value)}")

    return check


def tensor(*ranks):
    """A rule: an array or a tensor of numbers, symbolic ones included, of one of some ranks, or of any."""

    def check(name, value):
        given = value
        if not hasattr(value, "dtype") or not hasattr(value, "shape"):
            given = checks.check_array(name, value, finite=False)
        rank = given.shape.rank if hasattr(given.shape, "rank") else len(given.shape)
        if ranks and rank is not None and rank not in ranks:
            axes = " or ".join(map(str, ranks))
            raise ValueError(f"`{name}` must have {axes} axes. Received: {name} of shape={tuple(given.shape)}")

    return check


def finite_tensor(name, value):
    """A rule: an array or a tensor of finite numbers."""
    tensor()(name, value)
    array = np.asarray(value)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be an array of finite numbers. Received: {name}={shown(value)}")


def points(size):
    """A rule: rows of so many numbers, such as the corners of boxes, or no row at all."""

    def check(name, value):
        if isinstance(value, (list, tuple, np.ndarray)) and not len(value):
            return
        if checks.check_array(name, value, finite=False).shape[1:] != (size,):
            raise ValueError(f"`{name}` must hold rows of {size} numbers. Received: {name}={shown(value)}")

    return check


def callback(name, value):
    """A rule: a Keras callback."""
    import keras

    checks.check_instance(name, value, keras.callbacks.Callback, "Keras callbacks")


def rows(name, value):
    """A rule: an array or a list with one entry per example, of any type."""
    entries = value if hasattr(value, "shape") else np.asarray(value, object)
    if isinstance(value, (dict, str, bytes)) or not len(entries.shape):
        raise ValueError(f"`{name}` must have one entry per example. Received: {name}={shown(value)}")


def learning_rate(name, value):
    """A rule: a learning rate as Keras's optimizers take it: a number >= 0, a schedule, a function or a variable."""
    other = callable(value) or hasattr(value, "dtype") or isinstance(value, dict)
    if isinstance(value, numbers.Number) or not other:
        checks.check_number(name, value, 0)


def label(name, value):
    """A rule: a text in a picture, or `None`."""
    checks.check_string(name, value, none=True, empty=True)


def color(name, value):
    """A rule: a colour as Matplotlib takes it, or `None`."""
    from matplotlib.colors import is_color_like

    if value is not None and not is_color_like(value):
        raise ValueError(f"`{name}` must be a colour or None. Received: {name}={shown(value)}")


def figure(name, value):
    """A rule: a Matplotlib Figure, or `None` for a new one."""
    checks.check_axes(name, value, "Figure")


def history(name, value):
    """A rule: the `History` that `fit` returns, or its dictionary of lists."""
    record = getattr(value, "history", value)
    good = isinstance(record, dict) and record and all(isinstance(key, str) for key in record)
    if not good or not all(isinstance(one, (list, tuple, np.ndarray)) for one in record.values()):
        raise ValueError(f"`{name}` must be a History or its dictionary of lists. Received: {name}={shown(value)}")


def count(name, value):
    """A rule: how often something is done, from 1 to a million: no run of more comes to an end."""
    checks.check_integer(name, value, 1, 10**6)


def counts(name, value):
    """A rule: one count, or a list of them."""
    checks.check_list(name, value, count) if isinstance(value, (list, tuple)) else count(name, value)


def key(name, value):
    """A rule: the key of an entry of a dictionary, the index of one of a tuple, or `None`."""
    whole_number = isinstance(value, numbers.Integral) and not isinstance(value, bool) and 0 <= value < 2**31
    if value is not None and not whole_number and not (isinstance(value, str) and value):
        raise ValueError(f"`{name}` must be a key, an index >= 0 or None. Received: {name}={shown(value)}")


boolean = checks.check_boolean
verbose = any_of(checks.check_boolean, whole(0, 2))
axes = checks.check_axes
data = checks.check_data
path = checks.check_path
seed = checks.check_seed
batch_size = whole(1, none=True)
