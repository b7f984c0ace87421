"""Hyperparameters that are one of several options."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kregkit._core.optional import import_optional
from kregkit.search._parameter import Parameter


@dataclasses.dataclass(frozen=True)
class Choice(Parameter):
    """One of several options. Made by `choice`.

    Args:
        options: Dictionary from an option's name, which is what a storage keeps (a string, a number, a Boolean or
            None), to the value that it stands for.
    """

    options: dict

    def holds(self, name: str) -> bool:
        """Returns whether an option has this name."""
        return name in self.options

    def has(self, option: Any) -> bool:
        """Returns whether there is an option of this name, or a tuple or list that equals one of the values."""
        return self.name_of(option, None) is not None or (option is None and None in self.options)

    def name_of(self, option: Any, default: Any = None) -> Any:
        """Returns the name of an option that is given by its name, or by its value if that is a tuple or a list."""
        if _is_simple(option):
            return option if option in self.options else default
        for name, value in self.options.items():
            if isinstance(option, (tuple, list)) and isinstance(value, (tuple, list)) and list(value) == list(option):
                return name
        return default

    def points(self, num: int) -> list[Any]:
        """Returns all options, whatever `num`."""
        return list(self.options)

    def distribution(self) -> Any:
        """Returns the choice as an Optuna distribution."""
        return import_optional("optuna.distributions", "kregkit.search").CategoricalDistribution(tuple(self.options))

    def suggest(self, trial: Any, name: str) -> Any:
        """Returns the option that an Optuna trial draws."""
        return trial.suggest_categorical(name, tuple(self.options))

    def around(self, values: Any, best: Any) -> tuple[Any, Any]:
        """Returns `(choice, remark)`: the options that are among the best values, in their old order.

        >>> choice(["sgd", "adam", "rmsprop"]).around(["adam", "sgd", "adam"], best="adam")
        (choice(['sgd', 'adam']), '')
        """
        options = {option: value for option, value in self.options.items() if option in values}
        return dataclasses.replace(self, options=options), ""

    def __str__(self):
        return " | ".join(map(str, self.options))

    def __repr__(self):
        return f"choice({list(self.options)})"

    def to_json(self) -> Any:
        """Returns what identifies the choice, as JSON values."""
        return {"options": list(self.options), **self.condition_to_json()}


def choice(options: Sequence[Any] | Mapping[str, Any]) -> Choice:
    """Returns a choice among options.

    Args:
        options: List of strings, numbers, Booleans, None, or tuples and lists of these, which differ; or a dictionary
            from names of these simple kinds to any values. `train` receives the values. Results and storages hold
            names: that of a tuple or a list is its text, `"(64, 32)"`.

    >>> choice([(64,), (64, 32)])
    choice(['(64,)', '(64, 32)'])
    >>> choice({"shallow": (64,), "deep": (64, 64)})
    choice(['shallow', 'deep'])
    """
    if not isinstance(options, dict) and (isinstance(options, (str, bytes)) or not hasattr(options, "__iter__")):
        options = ()
    pairs = (
        list(options.items()) if isinstance(options, dict) else [(_option_name(option), option) for option in options]
    )
    simple = pairs and all(_is_simple(name) for name, _ in pairs)
    if not simple or len(dict(pairs)) < len(pairs):
        raise ValueError(
            "`options` must be a list of strings, numbers, Booleans, None, or tuples of these, which differ; or a "
            f"dictionary from names. Received: options={options!r}"
        )
    return Choice({name: value.item() if isinstance(value, np.generic) else value for name, value in pairs})


def _is_simple(value):
    return value is None or isinstance(value, (str, bool, int, float))


def _option_name(option):
    if isinstance(option, np.generic):
        return option.item()
    parts = keras.tree.flatten(option) if isinstance(option, (tuple, list)) else [option]
    return repr(option) if isinstance(option, (tuple, list)) and all(map(_is_simple, parts)) else option
