"""The preflight picture shows what the report says."""

import matplotlib
import numpy as np
import pytest

from kregkit import plots

matplotlib.use("Agg")


def check(status="pass", problems=(), details=None):
    return {"status": status, "figure": "2.3", "expected": "3", "problems": list(problems), "details": details or {}}


def report(**checks):
    return {"status": "fail", "faults": [], "checks": checks}


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_verdicts_and_problems_are_written_in_their_colours():
    problem = {
        "name": "dead ReLUs",
        "status": "fail",
        "figure": "80%",
        "expected": "20%",
        "remedy": "-",
        "where": "one",
    }
    figure = plots.findings(report(initial_loss=check(), signal_flow=check("fail", [problem])))
    assert figure.get_suptitle() == "Preflight fails"
    written = texts(figure)
    assert written.count("PASS") == 1 and written.count("FAIL") == 1
    assert "dead ReLUs in one: 80%" in written and "initial loss" in written
    colors = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
    assert colors["FAIL"] == colors["dead ReLUs in one: 80%"] != colors["PASS"]


def test_every_measured_check_has_its_panel():
    layers = [
        {"layer": name, "std": std, "gradient": slope, "weights": True, "activation": ""}
        for name, std, slope in (("a", 1.0, 0.1), ("b", 0.5, float("nan")))
    ]
    sweep = {"rates": [0.1, 1.0], "losses": [2.0, 1.0], "smoothed": [2.0, 1.5]}
    figure = plots.findings(
        report(
            signal_flow=check(details={"layers": layers}),
            overfit_small_batch=check(details={"losses": [2.0, 0.1], "target": 0.1, "num": 20}),
            learning_rate=check(details=sweep),
            update_ratio=check(details={"ratios": {"a/kernel": 1e-3, "b/kernel": 0.0}}),
        )
    )
    _, signal, overfit, rate, ratios = figure.axes
    np.testing.assert_array_equal(signal.lines[0].get_ydata(), [1.0, 0.5])
    assert [label.get_text() for label in signal.get_xticklabels()] == ["a", "b"]
    np.testing.assert_array_equal(overfit.lines[0].get_ydata(), [2.0, 0.1])
    assert "20 examples" in overfit.get_ylabel()
    assert overfit.get_ylim()[0] < 0.1 and overfit.get_ylim()[1] > 2.0
    np.testing.assert_array_equal(rate.lines[1].get_ydata(), [2.0, 1.5])
    assert [label.get_text() for label in ratios.get_yticklabels()] == ["a/kernel", "b/kernel"]


def test_peak_of_a_small_batch_does_not_hide_its_goal():
    details = {"losses": [2.0, 1e6, 0.5], "target": 0.1, "num": 20}
    axes = plots.findings(report(overfit_small_batch=check(details=details))).axes[1]
    assert axes.get_ylim()[0] < 0.1 and axes.get_ylim()[1] < 10


@pytest.mark.parametrize("bad", [None, {}, {"checks": {}}])
def test_bad_report(bad):
    with pytest.raises(ValueError, match="Received: report="):
        plots.findings(bad)
