"""Curves that real runs left, and others by hand: the verdict hangs on no processor's rounding.

`recorded_curves.json` holds networks on digits: `SGD(30, momentum=0.95)` for "divergence"; five tanh layers of weights
near 0 for "flat start"; a convex model at a rate of 3 that jumps about above its minimum for "plateau"; two hidden
units for "underfitting"; 150 examples for "overfitting"; 100 examples of which half is noise, and 128 units, for "noise
by heart"; inputs ten times too large for "died"; Adam at 0.1 for "climbs". The last and "divergence" are there twice:
with and without oneDNN, after which they took different ways.
"""

import json
import pathlib

import numpy as np
import pytest

from kregkit.diagnostics import diagnose_curves

pytestmark = pytest.mark.trains

NAN, INFINITY = float("nan"), float("inf")
RECORDED = json.loads(pathlib.Path(__file__).with_name("recorded_curves.json").read_text(encoding="utf-8"))
VERDICTS = {
    "healthy": [],
    "flat start": ["flat start"],
    "rate too low": ["rate too low"],
    "divergence": ["divergence"],
    "divergence elsewhere": ["divergence"],
    "plateau": ["plateau"],
    "overfitting": ["overfitting"],
    "underfitting": ["plateau"],
    "died": ["plateau"],
    "climbs": ["plateau"],
    "climbs elsewhere": ["plateau"],
    "decayed": [],
    "noise by heart": ["overfitting"],
    "cosine similarity": [],
    "dead units": ["stuck"],
    "floor of noise": ["plateau"],
}


def curves(loss, validation=None, **logs):
    return {"loss": loss, **({} if validation is None else {"val_loss": validation}), **logs}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_run_has_its_fault_and_no_other(name):
    finding = diagnose_curves(RECORDED[name])
    assert finding.faults == VERDICTS[name], str(finding)
    assert all(problem.figure and problem.expected and problem.remedy for problem in finding.problems)


@pytest.mark.parametrize("name", RECORDED)
def test_verdict_bears_a_percent_of_noise(name):
    rng = np.random.default_rng(0)

    def shaken(values):
        values = np.array(values)
        return values + 0.01 * np.minimum(np.abs(values), np.ptp(values[1:])) * rng.normal(size=len(values))

    for _ in range(20):
        record = {key: shaken(v) if "loss" in key else v for key, v in RECORDED[name].items()}
        assert diagnose_curves(record).faults == VERDICTS[name], record


@pytest.mark.parametrize(
    ("record", "faults"),
    [
        (curves([2.0, 1.0, NAN, NAN]), ["divergence"]),
        (curves([2.0, 1.0, 0.5, INFINITY]), ["divergence"]),
        (curves([2.3, 1.0, 0.4, 0.3, 0.2, 0.2, 3.0]), ["divergence"]),  # above its start
        (curves([2.3, 1.5, 1.0, 0.6, 0.4, 1.9, 2.0]), ["divergence"]),  # climbs back by most of its fall
        (curves([2.3, 1.5, 1.0, 0.6, 0.4, 0.9, 1.0]), ["plateau"]),  # by a third
        (curves([2.3, 1.5, 1.0, 0.6, 0.4, 0.3, 0.2, 0.6]), []),  # one jump
        (curves([1.0, 1.08, 1.2, 1.5]), ["divergence"]),
        (curves([7.9406, *[7.9712] * 9], [7.97] * 10), ["stuck"]),
        (curves([2.31, 2.304, 2.303, 2.3028, 2.3027, 2.3026, 2.3027]), ["stuck"]),  # chance among ten
        (curves([0.693] * 5), ["stuck"]),
        (curves([-0.01, 0.02, -0.015, 0.005, 0.01, -0.01]), ["stuck"]),  # a cosine similarity that learns nothing
        (curves([1.9, 0.1] * 15), ["stuck"]),  # jumps between two levels
        (curves([1.9, 0.3, 1.6, 0.1, 1.8, 0.4, 1.7, 0.2, 1.5, 0.35, 1.75]), ["stuck"]),
        (curves([2.45, 2.1, 2.5, 2.3, 2.15, 2.4, 2.1, 2.45, 2.2, 2.35, 2.3, 2.2]), ["stuck"]),  # its start was high
        (curves([2.3, 2.0, 2.1, 1.7, 1.8, 1.4, 1.5, 1.1, 1.2, 0.8]), []),  # falls more than it bounces
        (curves([2.0, 1.5, 1.2, 1.0, 0.9], [2.0, NAN, NAN, NAN, NAN]), ["validation not finite"]),
        (curves([2.0, 1.5, 1.2, 1.0, 0.9], [2.0, 1.6, INFINITY, 1.2, 1.0]), ["validation not finite"]),
        (curves([2.0, 1.5, NAN, NAN, NAN], [2.0, 1.6, NAN, NAN, NAN]), ["divergence"]),
        (curves([1.0, 0.5, 0.3, 0.25, 0.22, 0.2, 0.19], [1.0, 0.55, 0.35, 0.3, 0.285, 0.284, 0.2855]), []),
        (curves([2.3, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02], [1.8, 1.0, 0.6, 0.3, 0.15, 0.08, 0.084]), []),
        (curves([2.3, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02], [1.8, 1.0, 0.7, 0.6, 0.7, 0.85, 1.0]), ["overfitting"]),
    ],
)
def test_curves_by_hand(record, faults):
    assert diagnose_curves(record).faults == faults, str(diagnose_curves(record))


def test_what_is_not_finite_is_named_with_its_epoch():
    finding = diagnose_curves(curves([2.0, 1.5, 1.2, 1.0, 0.9, 0.8], [2.0, 1.5, NAN]))
    assert finding.status == "fail" and "1 of 3 values, the first at epoch 6" in finding.problems[0].figure
    assert "not finite from epoch 3" in diagnose_curves(curves([2.0, 1.0, NAN, NAN])).problems[0].figure


def test_underfitting_needs_a_known_floor():
    assert diagnose_curves(RECORDED["underfitting"], floor=0.0).faults == ["plateau", "underfitting"]
    # The noise has a variance of one: to its floor this run has come close.
    assert diagnose_curves(RECORDED["floor of noise"], floor=1.0).faults == ["plateau"]
    assert "underfitting" in diagnose_curves(RECORDED["floor of noise"], floor=0.0).faults
    assert "floor=" in diagnose_curves(RECORDED["underfitting"]).problems[0].remedy


def test_run_that_died_in_its_first_epoch_is_a_plateau_from_the_second():
    problem = diagnose_curves(RECORDED["died"]).problems[0]
    assert problem.where == "epoch 2" and "start anew" in problem.remedy


def test_numbers_are_the_curves_own():
    history = RECORDED["overfitting"]
    numbers = diagnose_curves(history).details
    assert numbers["start"] == history["loss"][0] and numbers["end"] == history["loss"][-1]
    assert numbers["best_epoch"] == 1 + int(np.argmin(history["val_loss"]))
    assert numbers["gap"] == pytest.approx(history["val_loss"][-1] / history["loss"][-1] - 1)


def test_sparse_validation_is_read_at_its_own_epochs():
    history = RECORDED["overfitting"]
    every = curves(history["loss"], history["val_loss"][4::5])
    assert diagnose_curves(every).details["best_epoch"] == 5 * (1 + int(np.argmin(every["val_loss"])))


def test_loss_below_zero_that_climbs_back():
    risen = {key: [*values, -0.2, -0.2] for key, values in RECORDED["cosine similarity"].items()}
    assert diagnose_curves(risen).faults == ["divergence"]


def test_rate_that_has_been_decayed_is_not_to_be_decayed_again():
    constant = {key: values for key, values in RECORDED["decayed"].items() if key != "learning_rate"}
    assert diagnose_curves(constant).faults == ["plateau"]


def test_decay_counts_where_the_plateau_begins():
    loss = [2.0, 1.0, *[0.9] * 10]
    for rates, faults in (
        ([0.1] * 12, ["plateau"]),
        ([0.1, 0.005, *[0.005] * 10], []),
        ([*[0.1] * 8, *[0.001] * 4], ["plateau"]),
    ):
        assert diagnose_curves({"loss": loss, "learning_rate": rates}).faults == faults


def test_remedy_of_a_plateau_is_a_decay_at_its_epoch():
    problem = diagnose_curves(curves([2.0, 1.0, *[0.5] * 10])).problems[0]
    assert problem.where == "epoch 3" and "StepDecay(0.1, at=[3])" in problem.remedy


def test_gap_is_overfitting_also_once_training_has_stopped_falling():
    history = RECORDED["noise by heart"]
    stopped = {key: [*values, *values[-1:] * 40] for key, values in history.items()}
    assert "overfitting" in diagnose_curves(stopped).faults


@pytest.mark.parametrize(
    ("history", "arguments", "text"),
    [
        ({"accuracy": [0.1]}, {}, "must hold 'loss'"),
        (3, {}, "Received: history=3"),
        ({"loss": [1.0, 0.5]}, {}, "Received: epochs=2"),
        (curves([1.0] * 5), {"floor": NAN}, "Received: floor=nan"),
        ({"accuracy": [0.1, 0.5, 0.7, 0.9]}, {"monitor": "accuracy"}, "must be a loss.*Received: monitor='accuracy'"),
        ({"val_auc": [0.1, 0.5, 0.7, 0.9]}, {"monitor": "val_auc"}, "larger is better"),
        ({"loss": ["NA", "1.0", "0.5", "0.4"]}, {}, "one number for each epoch. Received: loss="),
        ({"loss": [1.0] * 4, "val_loss": [[1.0, 2.0]] * 4}, {}, "one number for each epoch. Received: val_loss="),
    ],
)
def test_bad_arguments(history, arguments, text):
    with pytest.raises(ValueError, match=text):
        diagnose_curves(history, **arguments)
