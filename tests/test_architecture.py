"""Who may import whom, read from the source with `ast`."""

import ast
import pathlib
import sys

import pytest

import kregkit

ROOT = pathlib.Path(kregkit.__file__).parent

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


def imports(path):
    """Yields (dotted name, whether it runs when the module is imported)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
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
                yield from visit(child, top and not inside)

    yield from visit(tree, True)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_keep_the_rules(path):
    room = room_of(path)
    assert room in ALLOWED, f"say in ALLOWED what {room} may import"
    for name, top in imports(path):
        parts = name.split(".")
        if parts[0] == "kregkit" and len(parts) > 1 and parts[1] not in ("_version", room):
            # What "draws itself" hands its numbers to plots by a late import.
            late_plots = parts[1] == "plots" and not top
            assert parts[1] in ALLOWED[room] or late_plots, f"{room} must not import {name}"
        if parts[0] in LAZY:
            assert not top, f"import {parts[0]} where it is used"
        if parts[0] == "tensorflow":
            private = path.stem.startswith("_") and path.stem != "__init__"
            assert room == "data" or private, f"{room} imports tensorflow outside a private module"
        assert not name.startswith("keras.src"), "keras.src is private"


def test_import_kregkit_loads_no_optional_library():
    import subprocess

    code = f"import sys, keras; import kregkit; print([m for m in {sorted(LAZY)} if m in sys.modules])"
    before = "import sys, keras; print([m for m in " + str(sorted(LAZY)) + " if m in sys.modules])"
    loaded = [subprocess.check_output([sys.executable, "-c", text], text=True) for text in (before, code)]
    assert loaded[0] == loaded[1]


def test_rooms_say_what_is_public():
    for path in sorted(ROOT.glob("*/__init__.py")):
        if not path.parent.name.startswith("_"):
            assert "__all__" in path.read_text(encoding="utf-8"), path
