"""Objects that print as the call that makes them, and arguments typed by people who come from another library."""

import inspect
import os
from typing import Any, Self

import keras
import numpy as np

from kregkit._core.checks import shown
from kregkit._core.words import foreign_argument

_MISSING = object()
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Words:
    """A class whose constructor answers an argument's name of another library by ours.

    The check runs in `__new__`, so that `__init__` keeps its signature, which Keras reads.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        accepted = inspect.signature(cls.__init__).parameters
        for name, value in kwargs.items():
            ours = None if name in accepted else foreign_argument(cls, name)
            if ours is not None:
                raise TypeError(f"`{cls.__name__}` has no argument `{name}`: {ours}. Received: {name}={shown(value)}")
        make = super().__new__
        return make(cls) if make is object.__new__ else make(cls, *args, **kwargs)


class Written(Words):
    """A class that prints as the call that makes it: `Warmup(2.0, unit='step')`."""

    def __repr__(self) -> str:
        return as_typed(self)


def as_typed(thing: Any) -> str:
    """Returns the call of its class that makes `thing`, without the arguments that are the defaults.

    The arguments' values are those in `get_config()`, or attributes of the same names. Of an object that holds one of
    its arguments under no such name, only `<Name>` is known.

    >>> as_typed(keras.optimizers.schedules.ExponentialDecay(0.1, 100, 0.9))
    'keras.optimizers.schedules.ExponentialDecay(0.1, 100, 0.9)'
    """
    config = thing.get_config() if hasattr(thing, "get_config") else {}
    written: list[str] = []
    given: set[str] = set()
    for kind in type(thing).__mro__:
        if "__init__" not in vars(kind):
            continue
        parameters = list(inspect.signature(vars(kind)["__init__"]).parameters.values())[1:]
        for parameter in parameters:
            # The name of an optimizer or a schedule says nothing of what it does.
            if parameter.kind not in _NAMED or parameter.name in {"name", *given}:
                continue
            value = config.get(parameter.name, _MISSING)
            value = getattr(thing, parameter.name, _MISSING) if value is _MISSING else value
            if value is _MISSING and not given.isdisjoint(config):
                continue
            if value is _MISSING:
                return f"<{type(thing).__name__}>"
            given.add(parameter.name)
            value = _alive(value)
            if parameter.default is inspect.Parameter.empty and parameter.kind is _NAMED[0]:
                written.append(_value(value))
            elif not _same(value, parameter.default):
                written.append(f"{parameter.name}={_value(value)}")
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return f"{_name(type(thing))}({', '.join(written)})"


class Name(str):
    """The name of an object that isn't at hand, as code would write it."""

    def __repr__(self) -> str:
        return str(self)


def call_of(function: Any, values: dict[str, Any]) -> str:
    """Returns a call with these values of its arguments, without those that are the defaults.

    >>> call_of(round, {"number": 2.5, "ndigits": None})
    'round(2.5)'
    """
    parameters = [one for one in inspect.signature(function).parameters.values() if one.name in values]
    written = [
        _value(values[one.name]) if one.default is inspect.Parameter.empty else f"{one.name}={_value(values[one.name])}"
        for one in parameters
        if one.default is inspect.Parameter.empty or not _same(values[one.name], one.default)
    ]
    return f"{function.__name__}({', '.join(written)})"


def _alive(value):
    """Returns the object that a config describes."""
    if isinstance(value, dict) and {"class_name", "config"} <= value.keys():
        return keras.saving.deserialize_keras_object(value)
    return [_alive(one) for one in value] if isinstance(value, list) else value


def _same(value, default):
    if isinstance(value, float) and isinstance(default, float):
        # A learning rate has gone through float32.
        return value in (default, float(np.float32(default)))
    try:
        return (type(value) is not bool and bool(value == default)) or value is default
    except (TypeError, ValueError):
        # Arrays compare entry by entry.
        return False


def _value(value):
    if isinstance(value, (list, tuple)):
        inside = ", ".join(map(_value, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name!r}: {_value(one)}" for name, one in value.items()) + "}"
    if isinstance(value, keras.Layer):
        # A model or a layer stands by its name.
        return str(value.name)
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    if isinstance(value, (float, np.floating)):
        # A learning rate has gone through float32: the shortest number that becomes it.
        short = np.float32(value)
        return str(float(str(short))) if float(short) == value else repr(float(value))
    if isinstance(value, (keras.optimizers.Optimizer, keras.optimizers.schedules.LearningRateSchedule)):
        call = as_typed(value)
        # Callbacks and schedules share names: a schedule inside another object says that it is one.
        room = type(value).__module__.split(".")[1] if type(value).__module__.startswith("kregkit.") else ""
        return f"{room}.{call}" if room else call
    return shown(value)


def _name(kind):
    if not kind.__module__.startswith("keras."):
        return kind.__name__
    schedule = issubclass(kind, keras.optimizers.schedules.LearningRateSchedule)
    return f"keras.optimizers.{'schedules.' if schedule else ''}{kind.__name__}"
