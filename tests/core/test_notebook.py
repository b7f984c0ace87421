"""Reports as a notebook shows them."""

import re

import numpy as np
import pytest

from kregkit import diagnostics, inference, search
from kregkit._core.notebook import as_html


def rows(shown):
    """Returns the cells of the tables in a text of HTML, row by row."""

    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", shown)]
    return cells


def test_columns_become_cells_and_other_lines_stay():
    table = "      check    measured\n--------------------\npass  loss <1  2.3 of 4\nfail  rate     30"
    text = f"{table}\n\nFAIL rate: 30\n     lower it"
    shown = as_html(text)
    assert rows(shown) == [["", "check", "measured"], ["pass", "loss &lt;1", "2.3 of 4"], ["fail", "rate", "30"]]
    assert "<p>FAIL rate: 30<br>&nbsp;&nbsp;&nbsp;&nbsp;&nbsp;lower it</p>" in shown
    assert "#c62828" in shown and "<script" not in as_html("<script>alert(1)</script>")


def test_reports():
    members = [{"name": "a", "weight": 0.5, "error": 0.25}, {"name": "b", "weight": 0.5, "error": 0.125}]
    report = inference.Report(members, {"error": 0.0}, None, np.array([[0.0, 0.375], [0.375, 0.0]]))
    assert ["a", "0.5", "0.25"] in rows(report._repr_html_())
    problem = diagnostics.Problem("high <rate>", "fail", "30", "0.1", "lower it")
    finding = diagnostics.Finding("learning_rate", "30", "0.1", (problem,))
    for thing in (finding, diagnostics.PreflightReport((finding,))):
        assert "high &lt;rate&gt;" in thing._repr_html_() and "lower it" in thing._repr_html_()
    assert ["fail", "learning_rate", "30", "0.1"] in rows(diagnostics.PreflightReport((finding,))._repr_html_())


def test_a_space_shows_a_row_per_parameter():
    space = search.Space(rate=search.log_uniform(1e-4, 1.0), units=search.integer(8, 64, log=True))
    assert [row[0] for row in rows(space._repr_html_())] == ["parameter", "rate", "units"]


@pytest.mark.parametrize("kind", [search.SearchResult, search.CrossValidation, diagnostics.LearningRateRange])
def test_results_have_it(kind):
    assert callable(kind._repr_html_)
