import sys
import threading
import types

import keras
import numpy as np
import optuna
import pytest

from kregkit import search
from kregkit.search import Space, choice, integer, log_uniform, uniform
from kregkit.search._workers import Round

pytestmark = pytest.mark.trains


def valley(parameters, epochs, callbacks):
    """A made-up training: best at a rate of 0.01, and better with more epochs."""
    loss = (np.log10(parameters["rate"]) + 2) ** 2
    return {"val_loss": [loss + 1 / (epoch + 1) for epoch in range(epochs)], "val_accuracy": [0.5] * epochs}


def space():
    return Space(rate=log_uniform(1e-6, 1.0), decay=uniform(0.0, 0.5))


def test_rounds_narrow_around_the_best():
    result = search.search(valley, space(), 28, verbose=0)
    assert [one["trials"] for one in result.rounds] == [16, 8, 4]
    assert [one["epochs"] for one in result.rounds] == [1, 3, 9]
    widths = [one["space"].parameters["rate"].high / one["space"].parameters["rate"].low for one in result.rounds]
    assert widths[0] > 10 * widths[1] > 10 * widths[2] ** 0.5
    for trial in result.trials:
        inside = result.rounds[trial.round - 1]["space"].parameters["rate"]
        assert inside.low <= trial.parameters["rate"] <= inside.high
        assert trial.epochs == result.rounds[trial.round - 1]["epochs"] and trial.state == "complete"
    assert result.best.round == 3 and 0.002 < result.best_parameters["rate"] < 0.05
    assert result.best.value == min(trial.value for trial in result.trials)
    assert result.best.metrics == {"val_loss": result.best.value, "val_accuracy": 0.5}


def test_best_at_the_edge_widens_and_says_so(capsys):
    narrow = Space(rate=log_uniform(1e-6, 1e-3))
    result = search.search(valley, narrow, [30, 3], epochs=[1, 1])
    second = result.rounds[1]
    assert second["space"].parameters["rate"].high == pytest.approx((1 + 1e-3) / 2)
    assert second["space"].parameters["rate"].low == 1e-6
    assert "upper edge" in second["remarks"]["rate"]
    assert "widened" in capsys.readouterr().out


def test_draws_depend_on_seed_round_and_index_only():
    def drawn(**arguments):
        result = search.search(valley, space(), [5, 3], epochs=[1, 2], verbose=0, **arguments)
        return [tuple(trial.parameters.values()) for trial in result.trials]

    assert drawn() == drawn() == drawn(storage=optuna.storages.InMemoryStorage())
    assert len(set(drawn())) == 8
    assert not set(drawn()) & set(drawn(seed=1))


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_study_resumes_where_it_stopped(kind, tmp_path):
    storage = str(tmp_path / "x" / "trials.journal") if kind == "journal" else f"sqlite:///{tmp_path}/trials.db"
    calls = []

    def interrupted(parameters, epochs, callbacks):
        calls.append(parameters)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return valley(parameters, epochs, callbacks)

    arguments = {"epochs": [1, 2], "storage": storage, "verbose": 0}
    part = search.search(interrupted, space(), [5, 3], **arguments)
    assert part.interrupted and [len(one["space"].parameters) for one in part.rounds] == [2, 2]
    assert len(part.trials) == 6 and "(interrupted), best val_loss" in str(part)
    result = search.search(interrupted, space(), [5, 3], **arguments)
    # The seventh was begun twice, with the same parameters.
    assert len(calls) == 9 and calls[6] == calls[7]
    straight = search.search(valley, space(), [5, 3], epochs=[1, 2], verbose=0)
    assert [trial.parameters for trial in result.trials] == [trial.parameters for trial in straight.trials]
    assert result.trials[:6] == part.trials and not result.interrupted
    # More rounds go on from there; other settings are refused.
    longer = search.search(interrupted, space(), [5, 3, 2], **{**arguments, "epochs": [1, 2, 4]})
    assert len(calls) == 11 and longer.trials[:8] == result.trials
    with pytest.raises(ValueError, match="seed") as error:
        search.search(interrupted, space(), [5, 3], seed=3, **arguments)
    assert "Received: seed=3" in str(error.value)
    with pytest.raises(ValueError, match="space"):
        search.search(interrupted, Space(rate=log_uniform(1e-3, 1)), [5, 3], **arguments)


@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_ctrl_c_ends_a_search_with_what_there_is(verbose, capsys):
    def interrupted(parameters, epochs, callbacks):
        calls.append(parameters)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return valley(parameters, epochs, callbacks)

    for function, more in ((search.search, {"trials": [4, 2], "epochs": [1, 2]}), (search.grid, {"points": 3})):
        calls, stop, storage = [], 3, optuna.storages.InMemoryStorage()
        result = function(interrupted, space(), storage=storage, verbose=verbose, **more)
        said = " ".join(capsys.readouterr().out.split())
        assert result.interrupted and len(result.trials) == 2
        assert result.best.value == min(trial.value for trial in result.trials)
        assert result.space is result.rounds[-1]["space"]
        assert ("interrupted: 2 of" in said and "the same call goes on from here" in said) == bool(verbose)
        # Nothing is left that another worker would wait for.
        states = [trial.state for study in result.studies for trial in study.get_trials()]
        assert all(state.is_finished() for state in states)
        # Nothing to return: the interrupt goes on.
        calls, stop = [], 1
        with pytest.raises(KeyboardInterrupt):
            function(interrupted, space(), verbose=verbose, **more)
        assert "kregkit.search" not in [thread.name for thread in threading.enumerate()]


def test_ctrl_c_between_two_steps_frees_the_slot(monkeypatch):
    """As when it comes while the storage is written to, before the trial has begun."""
    storage, take, taken = optuna.storages.InMemoryStorage(), Round.take, []

    def interrupted(self, *arguments):
        taken.append(take(self, *arguments))
        if len(taken) == 3:
            raise KeyboardInterrupt
        return taken[-1]

    monkeypatch.setattr(Round, "take", interrupted)
    result = search.search(valley, space(), [4], epochs=[1], storage=storage, verbose=0)
    assert result.interrupted and len(result.trials) == 2
    assert [trial.state.name for trial in result.studies[0].get_trials()] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert len(search.search(valley, space(), [4], epochs=[1], storage=storage, verbose=0).trials) == 4


@pytest.mark.parametrize(
    "other",
    [
        {"rate": integer(1, 10), "drop": uniform(1.0, 2.0).when(rule="a")},
        {"rate": uniform(1.0, 10.0), "drop": uniform(1.0, 2.0).when(rule="b")},
        {"rate": uniform(1.0, 10.0), "drop": uniform(1.0, 2.0)},
        {"rate": uniform(1.0, 10.0, limits=(1, 20)), "drop": uniform(1.0, 2.0).when(rule="a")},
    ],
)
def test_a_space_is_known_by_kinds_limits_and_conditions_too(other):
    storage = optuna.storages.InMemoryStorage()
    rule = choice(["a", "b"])
    first = Space(rule=rule, rate=uniform(1.0, 10.0), drop=uniform(1.0, 2.0).when(rule="a"))
    for _ in range(2):
        assert len(search.search(valley, first, [2], epochs=[1], storage=storage, verbose=0).trials) == 2
    with pytest.raises(ValueError, match="The storage holds study 'search-1' with {'space'"):
        search.search(valley, Space(rule=rule, **other), [3], epochs=[1], storage=storage, verbose=0)


def test_parameters_reach_train_as_what_options_stand_for():
    seen = []

    def train(parameters, epochs, callbacks):
        seen.append(parameters["units"])
        return {"val_loss": [float(sum(parameters["units"]))]}

    options = Space(units=choice({"small": (1,), "large": (5, 5)}))
    result = search.search(train, options, [6], epochs=[1], verbose=0)
    assert set(seen) == {(1,), (5, 5)} and result.best_parameters == {"units": (1,)}
    assert result.best.parameters == {"units": "small"}


def test_repeats_have_their_own_seeds_and_an_interval():
    def train(parameters, epochs, callbacks):
        return {"val_loss": [float(keras.random.normal(())) for _ in range(epochs)]}

    result = search.search(train, space(), [3], epochs=[1], repeats=4, verbose=0)
    for trial in result.trials:
        assert len(set(trial.values)) == 4 and trial.epochs == 4
        assert trial.value == pytest.approx(np.mean(trial.values))
        # Student's t at 0.975 with three degrees of freedom, from a table.
        half = 3.18245 * np.std(trial.values, ddof=1) / 2
        assert trial.interval == pytest.approx([trial.value - half, trial.value + half], rel=1e-5)
    again = search.search(train, space(), [3], epochs=[1], repeats=4, verbose=0)
    assert [trial.values for trial in again.trials] == [trial.values for trial in result.trials]
    # A single training says nothing of its spread.
    assert search.search(train, space(), [1], epochs=[1], verbose=0).best.interval is None


def test_value_is_the_best_epochs_and_direction_follows_the_metric():
    def train(parameters, epochs, callbacks):
        return {"val_accuracy": [0.1, 0.7, float("nan"), 0.6], "val_loss": [4.0, 3.0, 2.0, 1.0]}

    result = search.search(train, space(), [2], epochs=[4], metric="val_accuracy", verbose=0)
    assert result.mode == "max" and result.best.value == 0.7 and result.best.metrics["val_loss"] == 3.0
    result = search.search(train, space(), [2], epochs=[4], metric="val_accuracy", direction="min", verbose=0)
    assert result.best.value == 0.1


@pytest.mark.parametrize("metric", ["val_ap", "val_layer2_mae", "val_inaccuracy"])
def test_direction_is_asked_for_where_nothing_tells(metric):
    def train(parameters, epochs, callbacks):
        return {metric: [parameters["decay"]]}

    with pytest.raises(ValueError, match="Pass `direction=\"max\"`.*Received: direction='auto'"):
        search.search(train, space(), [2], epochs=[1], metric=metric, verbose=0)
    for direction, sign in (("min", 1), ("max", -1)):
        result = search.search(train, space(), [4], epochs=[1], metric=metric, direction=direction, verbose=0)
        assert result.best.value == min(result.trials, key=lambda trial: sign * trial.value).value


def test_direction_is_that_of_the_models_metric():
    x = np.ones((4, 2), "float32")

    def build(metric):
        def build(parameters):
            model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, "sigmoid")])
            model.compile("sgd", "mse", metrics=[metric])
            return model

        return search.build_and_fit(build, (x, x[:, :1]), (x, x[:, :1]))

    def found(metric, name, **arguments):
        return search.search(build(metric), space(), [1], epochs=[1], metric=name, verbose=0, **arguments).mode

    assert found(keras.metrics.AUC(name="ap"), "val_ap") == "max"
    assert found(keras.metrics.MeanAbsoluteError(name="ap"), "val_ap") == "min"
    # A name of Keras's for something else.
    with pytest.raises(ValueError, match="smaller values are better"):
        found(keras.metrics.MeanAbsoluteError(name="accuracy"), "val_accuracy")
    assert found(keras.metrics.MeanAbsoluteError(name="accuracy"), "val_accuracy", direction="min") == "min"


def test_failures():
    def train(parameters, epochs, callbacks):
        if parameters["rate"] > 1e-3:
            raise MemoryError("too large")
        return valley(parameters, epochs, callbacks)

    result = search.search(train, space(), [12], epochs=[1], catch=MemoryError, verbose=0)
    failed = [trial for trial in result.trials if trial.state == "failed"]
    assert failed and all(trial.parameters["rate"] > 1e-3 and "too large" in trial.reason for trial in failed)
    assert len(result.trials) == 12 and result.best.parameters["rate"] <= 1e-3
    # What isn't expected ends the search.
    with pytest.raises(MemoryError):
        search.search(train, space(), [12], epochs=[1], verbose=0)
    nothing = search.search(lambda *_: {"val_loss": [float("nan")]}, space(), [2, 2], epochs=[1, 1], verbose=0)
    assert nothing.best is None and {trial.state for trial in nothing.trials} == {"pruned"}
    with pytest.raises(ValueError, match="No trial is complete"):
        _ = nothing.best_parameters


def test_any_optuna_sampler_and_pruner():
    result = search.search(
        valley,
        space(),
        [12],
        epochs=[2],
        sampler=optuna.samplers.TPESampler,
        pruner=optuna.pruners.NopPruner(),
        verbose=0,
    )
    assert len(result.trials) == 12 and result.studies[0].study_name == "search-1"


def test_progress_shows_the_best_so_far(capsys):
    search.search(valley, space(), 7, epochs=[1, 2, 3])
    text = capsys.readouterr().out
    assert "round 3 of 3: 1 trials of 3 epochs" in text and "best val_loss" in text and "rate: [" in text
    search.search(valley, space(), 7, epochs=[1, 2, 3], verbose=0)
    assert capsys.readouterr().out == ""
    # Where nothing came of it, it says why.
    search.search(valley, space(), [2], epochs=[1], metric="val_f1", direction="max", catch=ValueError)
    assert "no trial is complete; the first one failed: ValueError: `train` must return" in capsys.readouterr().out


def test_missing_optuna_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match="pip install optuna"):
        search.search(valley, space(), 3, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"train": 3}, "train"),
        ({"space": {"rate": 1}}, "space"),
        ({"trials": 2}, "trials"),
        ({"trials": [1, 2], "epochs": [1, 2, 3]}, "epochs"),
        ({"trials": [1, 0]}, "trials"),
        ({"epochs": 0}, "epochs"),
        ({"rounds": 0}, "rounds"),
        ({"direction": "up"}, "direction"),
        ({"seed": -1}, "seed"),
        ({"repeats": 0}, "repeats"),
        ({"quantile": 0}, "quantile"),
        ({"name": ""}, "name"),
        ({"sampler": 3}, "sampler"),
        ({"max_loss_ratio": 1}, "max_loss_ratio"),
        ({"timeout": 0}, "timeout"),
        ({"verbose": 3}, "verbose"),
        ({"catch": "MemoryError"}, "catch"),
        ({"pruner": optuna.pruners.MedianPruner}, "pruner"),
        ({"storage": 3}, "storage"),
        ({"metric": "val_f1", "direction": "max"}, "val_f1"),
        ({"metric": "val_f1"}, "direction"),
        ({"metric": 3}, "metric"),
    ],
)
def test_bad_arguments_are_refused(arguments, text):
    with pytest.raises(ValueError, match="Received: ") as error:
        search.search(**{"train": valley, "space": space(), "trials": 6, "verbose": 0, **arguments})
    assert text in str(error.value)


def test_history_objects_and_dictionaries_are_alike():
    def train(parameters, epochs, callbacks):
        return types.SimpleNamespace(history=valley(parameters, epochs, callbacks))

    one, other = (search.search(f, space(), [3], epochs=[2], verbose=0) for f in (train, valley))
    assert [trial.value for trial in one.trials] == [trial.value for trial in other.trials]


def test_verbose_2_prints_a_line_per_trial_and_no_control_characters(capsys):
    search.search(valley, space(), trials=[3, 2], epochs=[1, 1], verbose=2)
    printed = capsys.readouterr().out
    assert printed.count("\ntrial ") == 5 and "trial 5 of 5" in printed and "\nbest " in printed
    assert printed.isprintable() or not set(printed) & {"\x1b", "\r", "\b"}
