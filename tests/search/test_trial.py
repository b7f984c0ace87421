import os
import pathlib
import subprocess
import sys

import keras
import optuna
import pytest

from kregkit import search
from kregkit._core.seeds import derived_seed
from kregkit.search import Space, choice, log_uniform
from kregkit.search._trial import Monitor, best_epoch, run_trial
from kregkit.search._workers import open_storage

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import _trains

pytestmark = pytest.mark.trains


def run(train, rate=0.1, epochs=4, seeds=(1,), report=lambda epoch, value: False, ratio=3.0):
    return run_trial(train, {"rate": rate}, epochs, list(seeds), "val_loss", "min", ratio, report)


def test_outcome_is_that_of_the_best_epoch():
    reported = []
    outcome = run(_trains.fit, seeds=[1, 2], report=lambda epoch, value: reported.append((epoch, value)))
    keras.utils.set_random_seed(1)
    first = _trains.fit({"rate": 0.1}, 4, []).history
    assert outcome["values"][0] == min(first["val_loss"]) != outcome["values"][1]
    # Repeats report once: the first speaks for all.
    assert reported == list(enumerate(first["val_loss"]))
    assert outcome["state"] == "complete" and outcome["epochs"] == 8
    assert set(outcome["metrics"]) == {"loss", "val_loss"}


class Counter(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.batches, self.ended = 0, False

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    def on_train_end(self, logs=None):
        self.ended = True


def counted(rate, counter, batch_size=16, steps_per_execution=1):
    def train(parameters, epochs, callbacks):
        model = _trains.build({"rate": rate})
        model.compile(model.optimizer, "mse", steps_per_execution=steps_per_execution, jit_compile=False)
        x, y = _trains.data()
        return model.fit(
            x,
            y,
            batch_size=batch_size,
            validation_data=(x, y),
            epochs=epochs,
            callbacks=[*callbacks, counter],
            verbose=0,
        )

    return train


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_exploding_loss_ends_a_trial_at_once(steps_per_execution):
    counter = Counter()
    outcome = run(counted(5.0, counter, steps_per_execution=steps_per_execution), seeds=[1, 2])
    assert outcome["state"] == "pruned" and outcome["value"] is None and "loss" in outcome["reason"]
    # It ended before its first four batches were over, without a second repeat, and other callbacks ended.
    assert counter.batches < 4 and outcome["epochs"] == 1 and counter.ended
    counter = Counter()
    assert run(counted(5.0, counter), ratio=None)["epochs"] == 4
    assert counter.batches == 16
    # A learning rate that merely makes it rise somewhat is let be.
    assert run(counted(0.1, Counter()))["state"] == "complete"


def test_threshold_is_three_times_the_first_batch():
    class Model:
        stop_training = compiled = False
        metrics = ()

    def stops(losses, ratio=3.0):
        monitor = Monitor("val_loss", "min", None, 1, ratio)
        monitor.set_model(Model())
        monitor.on_train_begin()
        for batch, loss in enumerate(losses):
            monitor.on_train_batch_end(batch, {"loss": loss})
        return monitor.model.stop_training

    assert stops([2.0, 6.01]) and not stops([2.0, 5.99, 1.0])
    assert stops([2.0, float("nan")]) and stops([float("inf")])
    assert not stops([-2.0, 5.0]) and stops([2.0, 3.0, 2.5], ratio=1.4)


def test_pruner_ends_trials_but_not_at_the_last_epoch():
    outcome = run(_trains.fit, report=lambda epoch, value: epoch == 1)
    assert outcome["state"] == "pruned" and outcome["epochs"] == 2 and "after epoch 2" in outcome["reason"]
    assert run(_trains.fit, report=lambda epoch, value: epoch == 3)["state"] == "complete"


def test_train_that_fits_again_is_ended_too():
    counters = [Counter(), Counter()]

    def train(parameters, epochs, callbacks):
        for counter in counters:
            history = counted(0.1, counter)(parameters, epochs, callbacks)
        return history

    outcome = run(train, report=lambda epoch, value: True)
    assert outcome["state"] == "pruned" and [counter.batches for counter in counters] == [4, 1]


def test_median_pruner_through_a_search():
    result = search.search(
        _trains.fit,
        Space(rate=log_uniform(1e-5, 1e-1)),
        [10],
        epochs=[3],
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
        verbose=0,
    )
    pruned = [trial for trial in result.trials if trial.state == "pruned"]
    # What is pruned is slow, and was ended before its time; what is best is not.
    assert pruned and all(trial.epochs < 3 and "pruned after" in trial.reason for trial in pruned)
    assert max(trial.parameters["rate"] for trial in pruned) < result.best.parameters["rate"]
    assert result.studies[0].trials[pruned[0].index].state == optuna.trial.TrialState.PRUNED


@pytest.mark.slow
def test_each_trial_in_a_process_of_its_own():
    kinds = Space(kind=choice(["good", "hopeless", "raise", "peculiar", "die"]))
    arguments = {"epochs": 2, "fresh_process": True, "catch": (ArithmeticError, _trains.Peculiar), "verbose": 0}
    result = search.grid(_trains.by_kind, kinds, 1, **arguments)
    found = {trial.parameters["kind"]: trial for trial in result.trials}
    assert {kind: trial.state for kind, trial in found.items()} == {
        "good": "complete",
        "hopeless": "pruned",
        "raise": "failed",
        "peculiar": "failed",
        "die": "failed",
    }
    assert "no such thing" in found["raise"].reason and "code 9" in found["die"].reason
    assert found["peculiar"].reason == "Peculiar: 1 and 2"
    # The same as here, since a trial's seeds depend on its index only.
    slot = found["good"].index
    seed = derived_seed(0, 1, slot, 1)
    here = run_trial(_trains.by_kind, {"kind": "good"}, 2, [seed], "val_loss", "min", 3.0, lambda *_: False)
    assert found["good"].value == pytest.approx(here["value"], rel=1e-5)
    with pytest.raises(ValueError, match="top of a module.*tf.data.Dataset"):
        search.grid(lambda *_: {}, kinds, 1, fresh_process=True, verbose=0)


@pytest.mark.slow
def test_script_without_a_guard_ends_with_a_message(tmp_path):
    """It neither waits for itself nor leaves failed trials behind."""
    here = pathlib.Path(__file__).parent
    storage = str(tmp_path / "trials.journal")
    environment = {**os.environ, "PYTHONPATH": str(here.parents[1]), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(here / "_unguarded.py"), storage]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1 and "before the trial began" in ended.stderr
    assert "come to the search again" in ended.stderr
    study = optuna.load_study(study_name="search-1", storage=open_storage(storage))
    assert all("outcome" not in trial.user_attrs for trial in study.trials)


def resident():
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_memory_does_not_grow_over_trials():
    def grown(trials, fresh_process):
        sizes = []

        def report(*_):
            sizes.append(resident())

        rates = Space(rate=log_uniform(1e-3, 1.0))
        search.search(_trains.leak, rates, [1], epochs=[1], fresh_process=fresh_process, verbose=0)
        report()
        result = search.search(_trains.leak, rates, [trials], epochs=[1], fresh_process=fresh_process, verbose=0)
        report()
        processes = {trial.metrics["process"] for trial in result.trials}
        assert len(processes) == (trials if fresh_process else 1)
        return sizes[1] - sizes[0]

    # Each trial leaves 16 MiB behind in its process: 160 MiB where that is this one.
    assert grown(10, fresh_process=False) > 100
    assert grown(10, fresh_process=True) < 16
    _trains.kept.clear()


def test_best_epoch_of_a_history():
    history = {"val_loss": [3.0, float("nan"), 1.0, 2.0], "loss": [1.0, 2.0, 3.0, 4.0], "val_rare": [1.0]}
    assert best_epoch(history, "val_loss", "min") == {"val_loss": 1.0, "loss": 3.0}
    assert best_epoch(history, "val_loss", "max")["loss"] == 1.0
    # What has a value per class says nothing of one trial; another metric is read beside it.
    per_class = {"val_loss": [2.0, 1.0], "val_f1_score": [[0.1, 0.2], [0.3, 0.4]]}
    assert best_epoch(per_class, "val_loss", "min") == {"val_loss": 1.0}
    with pytest.raises(ValueError, match="'val_f1_score' has several values"):
        best_epoch(per_class, "val_f1_score", "max")
    with pytest.raises(ValueError, match=r"'val_f1'.*Received"):
        best_epoch(history, "val_f1", "max")
