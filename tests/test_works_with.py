"""Loggers and kinds of models and data that need nothing but the test extra; the rest is in docs/works_with.md."""

import importlib.util
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def checks():
    spec = importlib.util.spec_from_file_location("works_with", ROOT / "benchmarks" / "works_with.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["csv_logger", "tensorboard", "nested_models", "keras_hub_models", "data_frames"])
def test_runs(checks, name, tmp_path, monkeypatch):
    (entry,) = [entry for entry in checks.CHECKS.values() if entry[0].__name__ == name]
    for module in entry[2]:
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    entry[0]()


def test_what_fails_is_said_and_what_is_not_installed_left_out(checks, monkeypatch):
    def fails():
        raise RuntimeError("no such column")

    entries = {"bad": (fails, ("keras",), ("keras",)), "absent": (fails, ("absent",), ("absent_package",))}
    monkeypatch.setattr(checks, "CHECKS", entries)
    rows, absent = checks.run()
    assert [(what, outcome) for what, _, outcome in rows] == [("bad", "doesn't: RuntimeError: no such column")]
    assert absent == ["absent: absent_package isn't installed"]
    assert "| bad | keras " in checks.page(rows)


def test_the_page_holds_every_check(checks):
    page = (ROOT / "docs" / "works_with.md").read_text(encoding="utf-8")
    assert all(f"| {what} |" in page for what in checks.CHECKS)
