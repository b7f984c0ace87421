import csv
import sys
import types

import numpy as np
import pytest

from kregkit.search import Space, choice, log_uniform, search, uniform


def train(parameters, epochs, callbacks):
    if parameters["rate"] > 0.1:
        return {"val_loss": [float("nan")] * epochs, "val_accuracy": [0.0] * epochs}
    loss = (np.log10(parameters["rate"]) + 3) ** 2 + 0.01 * parameters["decay"]
    return {"val_loss": [loss] * epochs, "val_accuracy": [1 / (1 + loss)] * epochs}


@pytest.fixture(scope="module")
def result():
    space = Space(
        rate=log_uniform(1e-6, 1.0),
        decay=log_uniform(1e-2, 1.0),
        rule=choice(["a", "b"]),
        momentum=uniform(0, 1).when(rule="b"),
    )
    return search(train, space, 60, repeats=2, verbose=0)


def test_csv_holds_every_trial(result, tmp_path):
    path = tmp_path / "new" / "trials.csv"
    result.to_csv(path)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.trials) == 60
    for row, trial in zip(rows, result.trials):
        assert (int(row["round"]), int(row["index"]), row["state"]) == (trial.round, trial.index, trial.state)
        assert row["val_loss"] == ("" if trial.value is None else repr(trial.value))
        assert float(row["params_rate"]) == trial.parameters["rate"]
        assert (row["params_momentum"] == "") == (trial.parameters["rule"] == "a")
        assert (row["val_accuracy"] == "") == (trial.state == "pruned")
    assert {row["state"] for row in rows} == {"complete", "pruned"}


def test_dataframe_is_made_of_the_rows(result, monkeypatch):
    # pandas may be missing here: what it would be given is what counts.
    given = []
    monkeypatch.setitem(
        sys.modules, "pandas", types.SimpleNamespace(DataFrame=lambda rows: given.append(rows) or "frame")
    )
    assert result.to_dataframe() == "frame" and given == [result.rows()]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        result.to_dataframe()


def test_real_dataframe(result):
    pandas = pytest.importorskip("pandas")
    frame = result.to_dataframe()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 60 and frame["val_loss"].min() == result.best.value


def test_importance_finds_what_matters(result):
    importance = result.importance()
    assert sum(importance.values()) == pytest.approx(1)
    assert "momentum" not in importance and "momentum" in result.importance(dependent=True)
    assert max(importance, key=importance.get) == "rate" and importance["rate"] > 0.5
    with pytest.raises(ValueError, match="Received: "):
        result.importance(round=4)


def test_plot_and_repr(result):
    axes = result.plot(color="val_accuracy")
    assert len(axes) == 3 and (axes[0].get_xlabel(), axes[0].get_ylabel()) == ("rate", "decay")
    title = axes[0].figure.get_suptitle()
    assert title == f"Search: 60 trials in 3 rounds; best val loss: {result.best.value:.4g}"
    assert "60 trials in 3 rounds, best val_loss" in repr(result)


@pytest.mark.parametrize(
    ("ranges", "optimum"),
    [
        ({"a": log_uniform(0.1, 10.0)}, {"a": 1e-3}),
        ({"a": log_uniform(1e-6, 1e-4)}, {"a": 1e-2}),
        ({"a": uniform(2.0, 3.0)}, {"a": 7.0}),
        ({"a": uniform(2.0, 3.0)}, {"a": -1.0}),
        ({"a": log_uniform(1e-6, 1e-4), "b": uniform(2.0, 3.0)}, {"a": 1e-1, "b": 6.0}),
        ({"a": uniform(-3.0, -2.0), "b": uniform(0.0, 0.5)}, {"a": 0.0, "b": 0.9}),
    ],
)
def test_an_optimum_out_of_range_is_walked_to_or_said(ranges, optimum):
    def distance(name, value):
        ends = [optimum[name], value, ranges[name].low, ranges[name].high]
        target, value, low, high = np.log10(ends) if ranges[name].log else ends
        return (value - target) / (high - low)

    def train(parameters, epochs, callbacks):
        return {"val_loss": [sum(distance(name, value) ** 2 for name, value in parameters.items())]}

    for seed in range(2):
        result = search(train, Space(**ranges), 42, epochs=1, seed=seed, verbose=0)
        for name in ranges:
            nearest = min(abs(distance(name, trial.parameters[name])) for trial in result.trials)
            assert nearest < 0.25 or (f"- {name}: " in str(result) and "edge" in result.edges[name]), str(result)


def test_an_optimum_at_a_limit_is_said():
    result = search(
        lambda parameters, *_: {"val_loss": [parameters["drop"]]}, Space(drop=uniform(0.0, 0.5)), [60], epochs=[1],
        verbose=0,
    )  # fmt: skip
    assert "its limit is 0" in result.edges["drop"] and "lower edge" in repr(result)
