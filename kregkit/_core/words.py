"""Answers words of other libraries by kregkit's own."""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

from kregkit._core.word_tables import ARGUMENTS, KERAS_ROOMS, NAMES


def foreign_argument(kind: type, name: str) -> str | None:
    """Returns what to type in place of an argument of another library, or `None` if the word isn't known."""
    # Callbacks and schedules share names, not arguments.
    keys = (f"{_room(base.__module__)}.{base.__name__}" for base in kind.__mro__)
    return _looked_up(keys, name)


def refuse_foreign(function: Callable[..., Any], given: Iterable[str]) -> None:
    """Raises a TypeError if a function was given an argument of another library by its name."""
    for name in given:
        ours = _looked_up([f"{_room(function.__module__)}.{function.__qualname__}"], name)
        if ours is not None:
            raise TypeError(f"`{function.__name__}` has no argument `{name}`: {ours}.")


def _room(module: str) -> str:
    return ".".join(module.split(".")[1:2])


def _looked_up(keys: Iterable[str], name: str) -> str | None:
    for key in keys:
        word = ARGUMENTS.get(key, {}).get(name.lower())
        if word is not None:
            return f"here it is {word}" if word.startswith("`") else word
    return None


def missing_names(room: str) -> Callable[[str], Any]:
    """Returns a module-level `__getattr__`, which says where a name of another library or another room is to be had.

    `from kregkit.callbacks import EMA` is then an ImportError that names `PolyakAveraging`. Python would replace the
    text of an AttributeError by its own, so a word of another library raises an ImportError, and so does another
    spelling, or what `from kregkit import PolyakAveraging` asks for. Names of Keras and of other rooms don't, as
    programs ask several modules for those by `hasattr`.
    """

    def __getattr__(name: str) -> Any:
        if not name.startswith("_") and importlib.util.find_spec(f"{room}.{name}") is None:
            rooms = KERAS_ROOMS.get(room.rpartition(".")[2], ())
            ours = [f"kregkit.{place}" for place in _places(name) if f"kregkit.{place}" != f"{room}.{name}"]
            theirs = [f"{place}.{name}" for place in rooms if name in _in(place)]
            if ours or theirs:
                message = f"{room} has no `{name}`: here it is {' or '.join(f'`{place}`' for place in ours + theirs)}."
                known = _plain(name) in NAMES or any(place.startswith(f"{room}.") for place in ours)
                raise ImportError(message, name=room) if known and not theirs else AttributeError(message)
        raise AttributeError(f"module {room!r} has no attribute {name!r}")

    return __getattr__


def _places(name: str) -> Iterator[str]:
    """Yields where kregkit has something of this name, however it is spelled."""
    plain = _plain(name)
    if plain in NAMES:
        yield NAMES[plain]
        return
    for room in importlib.import_module("kregkit").__all__:
        offered = getattr(importlib.import_module(f"kregkit.{room}"), "__all__", ()) if room.isalpha() else ()
        yield from (f"{room}.{ours}" for ours in offered if _plain(ours) == plain)


def _in(place: str) -> list[str]:
    """Returns the names of a module of Keras, which may be loaded late."""
    return dir(functools.reduce(getattr, place.split(".")[1:], keras))


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
