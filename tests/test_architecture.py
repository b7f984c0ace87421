"""Who may import whom, read from the source with `ast`."""

import ast
import functools
import importlib
import inspect
import pathlib
import sys

import keras
import numpy as np
import pytest

import kregkit

ROOT = pathlib.Path(kregkit.__file__).parent
# The one file that may use what Keras, TensorFlow, TFDS and Optuna keep private.
INTERNALS = ROOT / "_core" / "keras_internals.py"

FLOOR = {"_core"}
ABOVE = {"schedules", "optimizers", "layers", "data", "diagnostics"}
ALLOWED = {
    "_core": set(),
    "schedules": FLOOR,
    "optimizers": FLOOR | {"schedules"},
    "layers": FLOOR,
    "data": FLOOR,
    "diagnostics": FLOOR,
    "plots": FLOOR,
    "inference": FLOOR | ABOVE,
    "callbacks": FLOOR | ABOVE | {"inference"},
    "transfer": FLOOR | ABOVE | {"callbacks"},
    "search": FLOOR | ABOVE | {"callbacks"},
    "distribution": FLOOR | ABOVE,
}
# Libraries that no room imports when it is itself imported.
LAZY = {"matplotlib", "sklearn", "tensorflow_datasets", "optuna", "pandas", "rich"}


def room_of(path):
    return path.relative_to(ROOT).parts[0]


def sources():
    return [path for path in sorted(ROOT.rglob("*.py")) if path.parent != ROOT]


def rooms():
    return sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


def public_rooms():
    return [importlib.import_module(f"kregkit.{room}") for room in rooms() if not room.startswith("_")]


@functools.cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    """Yields (dotted name, whether it runs when the module is imported)."""
    package = ["kregkit", *path.relative_to(ROOT).parts[:-1]]

    def visit(node, top):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name, top
            elif isinstance(child, ast.ImportFrom):
                base = ".".join(package[: len(package) - child.level + 1]) if child.level else ""
                module = ".".join(part for part in (base, child.module) if part)
                yield module, top
                for alias in child.names:
                    yield f"{module}.{alias.name}", top
            else:
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                # Only the type checker reads those.
                inside |= isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
                yield from visit(child, top and not inside)

    yield from visit(parsed(path), True)


def module_name(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_room_has_its_rule_and_every_rule_its_room():
    assert set(ALLOWED) == set(rooms())


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_keep_the_rules(path):
    room = room_of(path)
    for name, top in imports(path):
        parts = name.split(".")
        if parts[0] == "kregkit" and len(parts) > 1 and parts[1] not in ("_version", room):
            # What "draws itself" hands its numbers to plots by a late import.
            late_plots = parts[1] == "plots" and not top
            assert parts[1] in ALLOWED[room] or late_plots, f"{room} must not import {name}"
            private = [part for part in parts[2:] if part.startswith("_")]
            assert not private or parts[1] == "_core", f"{name} is private to {parts[1]}"
        if parts[0] in LAZY:
            assert not top, f"import {parts[0]} where it is used"
        if parts[0] == "tensorflow":
            private = any(part.startswith("_") or part == "noise" for part in path.relative_to(ROOT).parts[1:])
            assert room == "data" or private, f"{room} imports tensorflow outside a private module"
        assert not name.startswith("keras.src"), "keras.src is private"


def test_no_imports_run_in_a_circle():
    known = {module_name(path): path for path in sources()}
    edges = {
        name: {other for other, _ in imports(path) if other in known and other != name} for name, path in known.items()
    }
    done, path = set(), []

    def visit(name):
        assert name not in path, "a circle: " + " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for other in sorted(edges[name]):
                # A module names its own package only to import from another module of it.
                if not name.startswith(f"{other}."):
                    visit(other)
            done.add(path.pop())

    for name in sorted(edges):
        visit(name)


@functools.cache
def names_private_to_keras():
    """Returns the private attributes of what users of Keras handle: classes, and objects after a fit."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.ones((2, 3)), np.ones((2, 2)), verbose=0)
    things = [
        model,
        *model.layers,
        *model.layers[0].variables,
        model.optimizer,
        keras.Input((3,)),
        keras.random.SeedGenerator(0),
        keras.losses.MeanSquaredError(),
        keras.callbacks.CallbackList(),
        keras.callbacks.EarlyStopping(),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
        keras.layers.BatchNormalization(),
        keras.layers.Attention(),
    ]
    names = {name for thing in things for name in (*dir(thing), *vars(thing))}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


# What kregkit's own classes may define or override although Keras has the name, each with its reason.
OWN = {
    # (file below kregkit/, name): reason
}


def private_names_used(path):
    """Yields (line, name) of attributes, methods and strings that begin with one underscore."""

    def visit(node, in_class):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Attribute):
                yield child.lineno, child.attr
            elif isinstance(child, ast.Constant) and isinstance(child.value, str):
                yield child.lineno, child.value
            elif in_class and isinstance(child, ast.FunctionDef):
                yield child.lineno, child.name
            elif in_class and isinstance(child, ast.Assign):
                yield from ((child.lineno, target.id) for target in child.targets if isinstance(target, ast.Name))
            yield from visit(child, isinstance(child, ast.ClassDef))

    yield from visit(parsed(path), False)


@pytest.mark.parametrize(
    "path", [path for path in sources() if path != INTERNALS], ids=lambda path: str(path.relative_to(ROOT))
)
def test_private_names_stay_in_one_file(path):
    file = str(path.relative_to(ROOT))
    private = names_private_to_keras() | {"_getframe"}
    used = {(line, name) for line, name in private_names_used(path) if name in private and (file, name) not in OWN}
    assert not used, (
        f"{file} uses names that Keras keeps private, by line: {sorted(used)}. Give each a function in "
        "_core/keras_internals.py, or an attribute of kregkit's own another name"
    )


def test_no_module_is_hidden_by_what_is_public_in_its_room():
    for room in public_rooms():
        folder = pathlib.Path(room.__file__).parent
        hidden = {path.stem for path in folder.glob("*.py")} & set(room.__all__)
        assert not hidden, f"{room.__name__} has modules and public names that are called {sorted(hidden)}"


def test_no_two_rooms_have_a_public_function_of_one_name():
    owners = {}
    for room in public_rooms():
        for name in room.__all__:
            # Classes may go together: a schedule and the callback that follows it.
            if not inspect.isclass(getattr(room, name)):
                owners.setdefault(name, []).append(room.__name__)
    assert not {name: names for name, names in owners.items() if len(names) > 1}


def test_import_kregkit_loads_no_optional_library():
    import subprocess

    # Keras may load some of them itself.
    show = f"print([m for m in {sorted(LAZY)} if m in sys.modules])"
    code = f"import sys, keras; {show}; import kregkit; {show}"
    before, after = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert before == after


def test_rooms_say_what_is_public():
    for path in sorted(ROOT.glob("*/__init__.py")):
        if not path.parent.name.startswith("_"):
            assert "__all__" in path.read_text(encoding="utf-8"), path
