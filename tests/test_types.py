"""Every public function and method says what it takes and what it returns; `mypy` checks in CI that it is so."""

import importlib
import inspect
import pkgutil

import pytest

import kregkit

ROOMS = [room.name for room in pkgutil.iter_modules(kregkit.__path__) if not room.name.startswith("_")]


def public_functions(room):
    """Yields the name and function of everything public in a room: functions, constructors, methods, properties."""
    module = importlib.import_module(f"kregkit.{room}")
    for name in getattr(module, "__all__", ()):
        thing = getattr(module, name)
        if inspect.isfunction(thing):
            yield name, thing
        elif inspect.isclass(thing):
            for attribute, value in vars(thing).items():
                function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
                function = function.fget if isinstance(function, property) else function
                own = inspect.isfunction(function) and function.__module__.startswith("kregkit")
                if own and (attribute in ("__init__", "__call__") or not attribute.startswith("_")):
                    yield f"{name}.{attribute}", function


@pytest.mark.parametrize("room", ROOMS)
def test_public_signatures_are_annotated(room):
    missing = []
    for name, function in public_functions(room):
        signature = inspect.signature(function)
        taken = [parameter for parameter in signature.parameters.values() if parameter.name not in ("self", "cls")]
        missing += [f"{name}({one.name})" for one in taken if one.annotation is one.empty]
        if signature.return_annotation is signature.empty and not name.endswith(".__init__"):
            missing.append(f"{name} -> ?")
    assert not missing
