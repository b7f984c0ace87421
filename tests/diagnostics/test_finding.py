"""What a check found."""

import json

import pytest

from kregkit.diagnostics.finding import Finding, Problem


def problem(name, status, where=""):
    return Problem(name, status, "0.3", "0.1", "mend it", where)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [((), "pass"), (("warn",), "warn"), (("warn", "fail", "warn"), "fail"), (("fail", "warn"), "fail")],
)
def test_the_worst_problem_gives_the_verdict(statuses, expected):
    assert Finding("check", "1", "2", tuple(problem("p", status) for status in statuses)).status == expected


def test_faults_are_named_once_in_order():
    names = ["dead ReLUs", "saturation", "dead ReLUs"]
    assert Finding("check", "1", "2", tuple(problem(n, "warn") for n in names)).faults == names[:2]


def test_a_finding_is_plain_data_and_readable():
    finding = Finding("signal_flow", "1", "2", (problem("saturation", "fail", "dense"),), {"rows": [1.5]})
    plain = json.loads(json.dumps(finding.to_dict()))
    assert plain["status"] == "fail" and plain["details"] == {"rows": [1.5]}
    assert plain["problems"][0]["where"] == "dense" and plain["problems"][0]["remedy"] == "mend it"
    assert str(finding).splitlines() == [
        "FAIL  signal_flow: 1 (expected 2)",
        "      saturation in dense: 0.3 (expected 0.1)",
        "        -> mend it",
    ]


def test_a_note_is_shown_and_is_no_warning():
    finding = Finding("gradient_check", "1", "2", note="cut short, to end within 60 seconds: 3 of 9 groups")
    assert finding.status == "pass" and finding.faults == [] and finding.to_dict()["note"] == finding.note
    assert str(finding).splitlines()[-1] == "      note: cut short, to end within 60 seconds: 3 of 9 groups"
