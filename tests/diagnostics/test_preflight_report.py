"""The report on findings made by hand."""

import json

import pytest

from kregkit.diagnostics.finding import Finding, Problem
from kregkit.diagnostics.preflight_report import PreflightReport


def dead(where, figure, status="fail"):
    return Problem("dead ReLUs", status, figure, "below 0.5", "use He initialisation", where)


FINE = Finding("initial_loss", "2.31", "2.30")
FLOW = Finding("signal_flow", "0.9 dead", "< 0.5", tuple(dead(f"relu_{index}", f"{index}/9") for index in range(5)))
SLOW = Finding("update_ratio", "1e-6", "1e-3", (Problem("rate too low", "warn", "1e-6", "1e-3", "raise it"),))
REPORT = PreflightReport((FINE, FLOW, SLOW))


def test_the_worst_check_is_the_status_and_faults_are_named_once():
    assert REPORT.status == "fail" and REPORT.faults == ["dead ReLUs", "rate too low"]
    assert PreflightReport((FINE, SLOW)).status == "warn"
    assert PreflightReport((FINE,)).status == PreflightReport(()).status == "pass"
    assert PreflightReport((FINE,)).faults == []


def test_a_check_is_found_by_its_name():
    assert REPORT["signal_flow"] is FLOW
    with pytest.raises(KeyError, match="gradient_check"):
        REPORT["gradient_check"]


def test_alike_problems_share_a_line_and_columns_line_up():
    lines = str(REPORT).splitlines()
    table = lines[: lines.index("")]
    assert [line.split()[:2] for line in table[2:]] == [
        ["pass", "initial_loss"],
        ["fail", "signal_flow"],
        ["warn", "update_ratio"],
    ]
    assert len({line.index(one.expected) for line, one in zip(table[2:], REPORT.findings)}) == 1
    places = "relu_0: 0/9, relu_1: 1/9, relu_2: 2/9, and 2 more"
    assert f"FAIL dead ReLUs: {places} (expected below 0.5)" in lines
    # A problem without a place is its figure alone.
    assert "WARN rate too low: 1e-6 (expected 1e-3)" in lines
    assert [line.strip() for line in lines].count("use He initialisation") == 1


def test_to_dict_is_plain():
    plain = json.loads(json.dumps(REPORT.to_dict()))
    assert plain["status"] == "fail" and plain["faults"] == REPORT.faults
    assert list(plain["checks"]) == ["initial_loss", "signal_flow", "update_ratio"]
    assert plain["checks"]["update_ratio"]["problems"][0]["remedy"] == "raise it"


def test_it_draws_itself():
    assert REPORT.plot().axes
