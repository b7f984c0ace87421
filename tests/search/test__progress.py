"""What a search shows, where a terminal is and where none is."""

import sys
import types

import pytest

from kregkit.search._progress import Progress


class Trial:
    state, value, reason = "complete", 0.25, None
    parameters = types.MappingProxyType({"rate": 0.1})


@pytest.mark.parametrize(("verbose", "kernel"), [(1, True), (2, False)])
def test_lines_without_control_characters(verbose, kernel, monkeypatch, capsys):
    shell = types.SimpleNamespace(kernel=object()) if kernel else None
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    with Progress(2, "loss", "min", verbose) as progress:
        progress.show([Trial()])
        progress.finish({}, [Trial()])
    shown = capsys.readouterr().out
    assert shown.splitlines() == ["trial 1 of 2: loss 0.25 (rate 0.1); best loss 0.25", "best loss 0.25: rate 0.1"]
