"""Snapshots against the weights that a probe saw at the stated steps, and runs that are killed and started again."""

import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import probes
import pytest
import tensorflow as tf

from kregkit._core.files import file_digest
from kregkit._core.snapshot_directory import SnapshotDirectory
from kregkit.callbacks import LearningRate, PlateauDecay, PolyakAveraging, SnapshotEnsemble, StepDecay, Warmup

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]


def fit(model, callbacks, num=14, **arguments):
    x, y = probes.regression(num)
    return model.fit(
        x, y, callbacks=callbacks, **{"batch_size": 2, "epochs": 3, "verbose": 0, "shuffle": False, **arguments}
    )


def flat(model):
    return np.concatenate([np.ravel(weight) for weight in model.get_weights()]).astype("float64")


def members(directory):
    return json.loads((directory / "manifest.json").read_text())["members"]


def member_weights(directory, model):
    rows = []
    for member in members(directory):
        model.load_weights(directory / member["file"])
        rows.append(flat(model))
    return np.array(rows)


# Per case: cycles, restart multiplier, steps per execution, and the steps at which cycles of 21 steps end.
LAYOUTS = {
    "with the epochs": (3, 1.0, 1, [7, 14, 21]),
    "within epochs": (2, 1.0, 1, [11, 21]),
    "within executions": (2, 1.0, 3, [11, 21]),
    "growing slowly, within executions": (3, 1.3, 3, [6, 13, 21]),
    "growing": (3, 2.0, 1, [3, 9, 21]),
    "growing, within executions": (3, 2.0, 2, [3, 9, 21]),
    "one": (1, 1.0, 4, [21]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_members_are_the_weights_at_each_cycle_s_end(name, tmp_path):
    cycles, multiplier, execution, ends = LAYOUTS[name]
    model = probes.small_model(batch_normalization=True, steps_per_execution=execution)
    record = probes.Record(lambda model: [model.optimizer.learning_rate, *model.weights])
    callback = SnapshotEnsemble(tmp_path, cycles, 0.2, 0.01, multiplier)
    history = fit(model, [callback, record], validation_data=probes.regression(4))
    found = members(tmp_path)
    assert float(model.optimizer.learning_rate) == np.float32(0.05)
    assert [member["step"] for member in found] == ends
    np.testing.assert_array_equal(member_weights(tmp_path, model), record.rows[np.array(ends) - 1, 1:])
    # Rates at every step, from the equation.
    expected, starts = [], [0, *ends[:-1]]
    for step in range(21):
        k = max(k for k in range(cycles) if starts[k] <= step)
        length = math.ceil(21 / cycles) if multiplier == 1 else ends[k] - starts[k]
        expected.append(0.01 + 0.19 * (1 + math.cos(math.pi * (step - starts[k]) / length)) / 2)
    np.testing.assert_allclose(record.rows[:, 0], expected, rtol=3e-6)
    assert [member["learning_rate"] for member in found] == list(record.rows[np.array(ends) - 1, 0])
    assert [member["cycle"] for member in found] == list(range(1, cycles + 1))
    assert [member["epoch"] for member in found] == [(end - 1) // 7 for end in ends]
    for member in found:
        assert file_digest(tmp_path / member["file"]) == member["sha256"]
        if member["step"] % 7 == 0:
            epoch = member["epoch"]
            assert member["logs"] == {key: pytest.approx(values[epoch]) for key, values in history.history.items()}
        else:
            assert set(member["logs"]) == {"loss", "learning_rate"}
    assert json.loads((tmp_path / "manifest.json").read_text())["finished"] is True
    # What stays: the manifest, the architecture, the members, and the last one's state.
    assert len(os.listdir(tmp_path)) == cycles + 3


def test_an_execution_that_passes_the_epoch_s_end_saves_nothing_early(tmp_path):
    # Cycles of 6 and 9 steps, executions of three: Keras counts the first epoch's last one, of 2 steps, up to 6.
    record = probes.Record(lambda model: [*model.weights])
    model = probes.small_model(steps_per_execution=3)
    callback = SnapshotEnsemble(tmp_path, 2, restart_multiplier=1.5)
    x, y = probes.regression(10)
    model.fit(x, y, batch_size=2, epochs=3, verbose=0, shuffle=False, callbacks=[callback, record])
    assert [member["step"] for member in members(tmp_path)] == [6, 15]
    np.testing.assert_array_equal(member_weights(tmp_path, model), record.rows[[5, 14]])
    assert members(tmp_path)[0]["epoch"] == 1


def test_the_compiled_rate_is_the_maximum_and_warm_up_multiplies(tmp_path):
    model, record = probes.small_model(keras.optimizers.SGD(0.25)), probes.record_rate()
    fit(model, [Warmup(1), SnapshotEnsemble(tmp_path, 3), record])
    expected = [0.25 * (1 + math.cos(math.pi * (s % 7) / 7)) / 2 * min((s + 1) / 7, 1) for s in range(21)]
    np.testing.assert_allclose(record.rows[:, 0], expected, rtol=3e-6)
    assert members(tmp_path)[0]["learning_rate"] == record.rows[6, 0]


def test_skipped_updates_lose_no_member(tmp_path):
    model = probes.slope_model(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=4.0))
    record, data = probes.record_weights(), probes.ones(6)
    data[[2, 5]] = np.inf  # the very steps at which cycles end
    model.fit(data, data, batch_size=1, verbose=0, shuffle=False, callbacks=[SnapshotEnsemble(tmp_path, 2), record])
    assert [member["step"] for member in members(tmp_path)] == [3, 6]
    assert members(tmp_path)[0]["logs"]["loss"] is None  # JSON knows no NaN
    np.testing.assert_array_equal(member_weights(tmp_path, model), record.rows[[2, 5], 1:])
    assert int(model.optimizer.iterations) == 4


def test_members_under_accumulation(tmp_path):
    model = probes.small_model(keras.optimizers.SGD(0.05, gradient_accumulation_steps=4))
    record = probes.record_weights()
    fit(model, [SnapshotEnsemble(tmp_path, 3), record])
    np.testing.assert_array_equal(member_weights(tmp_path, model), record.rows[[6, 13, 20], 1:])


@pytest.mark.parametrize("others", [StepDecay(0.5, 1), LearningRate(keras.optimizers.schedules.CosineDecay(0.1, 9)),
                                    PlateauDecay("loss"), "another"])  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_other_rates_are_refused_and_nothing_on_disk_is_touched(others, first, tmp_path):
    model = probes.small_model()
    fit(model, [SnapshotEnsemble(tmp_path, 2)], epochs=2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = SnapshotEnsemble(tmp_path / "other", 2) if others == "another" else others
    callbacks = [SnapshotEnsemble(tmp_path, 3, overwrite=True), other]
    with pytest.raises(ValueError, match=r"can't share one learning rate. Received: callbacks=\["):
        fit(model, callbacks if first else callbacks[::-1])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_finished_and_different_runs_are_refused_unless_overwritten(tmp_path):
    fit(probes.small_model(), [SnapshotEnsemble(tmp_path, 3)])
    for kind, callback, arguments in (
        ("a finished", SnapshotEnsemble(tmp_path, 3), {}),
        ("a finished", SnapshotEnsemble(tmp_path, 2), {}),
    ):
        with pytest.raises(ValueError, match=rf"holds {kind} run.*overwrite=True. Received: directory='.*'"):
            fit(probes.small_model(), [callback], **arguments)
    directory = SnapshotDirectory(tmp_path)
    manifest = directory.read()
    directory.write(manifest["settings"], manifest["members"][:1], finished=False)
    for callback, arguments in (
        (SnapshotEnsemble(tmp_path, 2), {}),
        (SnapshotEnsemble(tmp_path, 3, 0.5), {}),
        (SnapshotEnsemble(tmp_path, 3), {"epochs": 4}),
        (SnapshotEnsemble(tmp_path, 3), {"num": 12}),
    ):
        with pytest.raises(ValueError, match="holds a different run"):
            fit(probes.small_model(), [callback], **arguments)
    with pytest.raises(ValueError, match="holds a different run"):
        fit(probes.small_model(batch_normalization=True), [SnapshotEnsemble(tmp_path, 3)])
    model, record = probes.small_model(), probes.record_weights()
    fit(model, [SnapshotEnsemble(tmp_path, 2, overwrite=True), record])
    assert [member["step"] for member in members(tmp_path)] == [11, 21]
    assert not (tmp_path / "cycle-03.weights.h5").exists()
    np.testing.assert_array_equal(member_weights(tmp_path, model), record.rows[[10, 20], 1:])


def test_logs_of_any_kind_are_recorded(tmp_path):
    class Remark(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["remark"] = "good"

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="softmax")])
    model.compile("sgd", "categorical_crossentropy", metrics=[keras.metrics.F1Score()], jit_compile=False)
    x, _ = probes.regression(6)
    y = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    # One number per class.
    history = model.fit(
        x, y, batch_size=2, epochs=2, verbose=0, shuffle=False, callbacks=[Remark(), SnapshotEnsemble(tmp_path, 2)]
    )
    for member, scores in zip(members(tmp_path), history.history["f1_score"]):
        assert member["logs"]["f1_score"] == pytest.approx(list(scores))
        assert member["logs"]["remark"] == "good"


CHANGES = {
    "rate": (["max_learning_rate"], lambda: (keras.optimizers.SGD(0.01, 0.9), "tanh")),
    "momentum": (["optimizer"], lambda: (keras.optimizers.SGD(0.1, 0.5), "tanh")),
    "optimizer": (["optimizer"], lambda: (keras.optimizers.Adam(0.1), "tanh")),
    "activation": (["architecture"], lambda: (keras.optimizers.SGD(0.1, 0.9), "relu")),
    "nothing but names": (None, lambda: (keras.optimizers.SGD(0.1, 0.9, name="another"), "tanh")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_makes_another_run_is_told_and_nothing_is_changed(change, tmp_path):
    def compiled(optimizer, activation):
        layer = keras.layers.Dense(1, activation, kernel_initializer=keras.initializers.GlorotUniform())
        model = keras.Sequential([keras.Input((2,)), layer])
        model.compile(optimizer, "mse", jit_compile=False)
        return model

    with pytest.raises(OSError, match="killed"):
        fit(compiled(keras.optimizers.SGD(0.1, 0.9), "tanh"), [SnapshotEnsemble(tmp_path, 3), Crash(10)])
    names, make = CHANGES[change]
    model = compiled(*make())
    before = flat(model)
    (tmp_path / ".cycle-02-half.weights.h5").write_bytes(b"half")
    if names is None:
        fit(model, [SnapshotEnsemble(tmp_path, 3)])
        assert [member["step"] for member in members(tmp_path)] == [7, 14, 21]
        assert not list(tmp_path.glob(".*"))
        return
    with pytest.raises(ValueError, match=rf"holds a different run \(in {', '.join(names)}\)"):
        fit(model, [SnapshotEnsemble(tmp_path, 3)])
    np.testing.assert_array_equal(flat(model), before)
    assert list(tmp_path.glob(".*"))


def test_a_backup_and_a_cycle_may_end_together(tmp_path):
    def run(others=()):
        model = dropout_model(keras.optimizers.SGD(0.1, momentum=0.9))
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        return fit(model, [backup, SnapshotEnsemble(tmp_path / "members", 3, 0.2), *others]).epoch

    with pytest.raises(OSError, match="killed"):
        run([Crash(10)])
    assert run() == [1, 2]
    assert [member["step"] for member in members(tmp_path / "members")] == [7, 14, 21]


@pytest.mark.parametrize(("killed_after", "complete"), [(5, 0), (10, 1), (25, 2)])
def test_beside_a_backup_the_run_goes_on_from_its_place(killed_after, complete, tmp_path):
    # Four epochs of seven steps in three cycles, which end after 10, 20 and 28 steps.
    def run(directory, others=()):
        model = dropout_model(keras.optimizers.SGD(0.1, momentum=0.9))
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        record = probes.Record(lambda model: [model.optimizer.learning_rate])
        fit(model, [backup, SnapshotEnsemble(directory, 3, 0.2), record, *others], epochs=4)
        return record.rows[:, 0]

    rates = run(tmp_path / "whole")
    with pytest.raises(OSError, match="killed"):
        run(tmp_path / "parts", [Crash(killed_after)])
    assert SnapshotDirectory(tmp_path / "parts").exists() == (complete > 0)
    assert not complete or len(members(tmp_path / "parts")) == complete
    first = killed_after // 7 * 7
    np.testing.assert_allclose(run(tmp_path / "parts"), rates[first:], rtol=1e-6)
    assert [member["step"] for member in members(tmp_path / "parts")] == [10, 20, 28]
    # A backup without its members can't be told from a run of another directory.
    with pytest.raises(OSError, match="killed"):
        run(tmp_path / "lost", [Crash(25)])
    with pytest.raises(ValueError, match=r"after 2 complete cycles, but the directory holds 0. Received: directory="):
        run(tmp_path / "empty")
    backup = keras.callbacks.BackupAndRestore(tmp_path / "late")
    with pytest.raises(ValueError, match=r"place it before SnapshotEnsemble. Received: callbacks="):
        fit(probes.small_model(), [SnapshotEnsemble(tmp_path / "order", 3), backup])


class Crash(keras.callbacks.Callback):
    """Fails after so many executions, or at an epoch's begin."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise OSError("killed")


def dropout_model(optimizer, **arguments):
    model = keras.Sequential([
        keras.Input((2,)),
        keras.layers.Dense(4, activation="tanh", kernel_initializer=keras.initializers.GlorotUniform(seed=1)),
        keras.layers.Dropout(0.5, seed=3),
        keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=2)),
    ])  # fmt: skip
    model.compile(optimizer, "mse", jit_compile=False, **arguments)
    return model


OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam, loss scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
}
if probes.HAS_MULTI_OPTIMIZER:
    OPTIMIZERS["several"] = lambda: keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            keras.optimizers.Adam(0.01), {".*kernel": keras.optimizers.SGD(0.1, momentum=0.9)}
        )
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("execution", [1, 3])
def test_a_run_that_goes_on_is_bit_identical(name, execution, tmp_path):
    whole = dropout_model(OPTIMIZERS[name](), steps_per_execution=execution)
    fit(whole, [SnapshotEnsemble(tmp_path / "whole", 3)])
    first = dropout_model(OPTIMIZERS[name](), steps_per_execution=execution)
    with pytest.raises(OSError, match="killed"):
        fit(first, [SnapshotEnsemble(tmp_path / "parts", 3), Crash(12 if execution == 1 else 5)])
    assert len(members(tmp_path / "parts")) == 1
    second, record = (
        dropout_model(OPTIMIZERS[name](), steps_per_execution=execution),
        probes.Record(lambda m: [m.weights[0]]),
    )
    fit(second, [SnapshotEnsemble(tmp_path / "parts", 3), record])
    assert len(record.rows) == 14
    np.testing.assert_array_equal(member_weights(tmp_path / "whole", whole), member_weights(tmp_path / "parts", second))
    rates = [[member["learning_rate"] for member in members(tmp_path / part)] for part in ("whole", "parts")]
    assert rates[0] == rates[1]


def test_half_precision_state_comes_back(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    whole = dropout_model(keras.optimizers.SGD(0.1, momentum=0.9))
    fit(whole, [SnapshotEnsemble(tmp_path / "whole", 3)])
    with pytest.raises(OSError, match="killed"):
        fit(
            dropout_model(keras.optimizers.SGD(0.1, momentum=0.9)), [SnapshotEnsemble(tmp_path / "parts", 3), Crash(10)]
        )
    again = dropout_model(keras.optimizers.SGD(0.1, momentum=0.9))
    fit(again, [SnapshotEnsemble(tmp_path / "parts", 3)])
    np.testing.assert_array_equal(member_weights(tmp_path / "whole", whole), member_weights(tmp_path / "parts", again))


def test_a_cycle_that_ended_within_an_epoch_begins_it_again(tmp_path):
    with pytest.raises(OSError, match="killed"):
        fit(probes.small_model(), [SnapshotEnsemble(tmp_path, 2), Crash(13)])
    assert [member["step"] for member in members(tmp_path)] == [11]
    model = probes.small_model()
    record = probes.Record(lambda model: [model.optimizer.learning_rate, *model.weights])
    fit(model, [SnapshotEnsemble(tmp_path, 2), record])
    # From epoch 1, whose 4 steps before the cycle's end are added: 14 steps, the second cycle in the first ten.
    assert len(record.rows) == 14
    rates = [0.05 * (1 + math.cos(math.pi * (s - 11) / 11)) / 2 for s in range(11, 21)]
    np.testing.assert_allclose(record.rows[:10, 0], rates, rtol=3e-6)
    assert [member["step"] for member in members(tmp_path)] == [11, 21]
    np.testing.assert_array_equal(member_weights(tmp_path, model)[1], record.rows[9, 1:])


@pytest.mark.parametrize("harm", ["weights", "state", "missing", "earlier"])
def test_a_corrupt_member_is_named_before_anything_changes(harm, tmp_path):
    with pytest.raises(OSError, match="killed"):
        fit(probes.small_model(), [SnapshotEnsemble(tmp_path, 3), Crash(16)])
    name = {"weights": "cycle-02.weights.h5", "state": "cycle-02.state.npz", "missing": "cycle-02.weights.h5"}.get(
        harm, "cycle-01.weights.h5"
    )
    content = (tmp_path / name).read_bytes()
    if harm == "missing":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    model = probes.small_model()
    before = flat(model)
    with pytest.raises(ValueError, match=f"Snapshot .*{name} is (corrupt|missing)"):
        fit(model, [SnapshotEnsemble(tmp_path, 3)])
    np.testing.assert_array_equal(flat(model), before)
    # The next fit, without it, starts at its own beginning.
    assert len(fit(model, [], epochs=1).history["loss"]) == 1


def test_an_error_before_the_first_epoch_leaves_no_place_behind(tmp_path):
    class Refuse(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise OSError("refused")

    with pytest.raises(OSError, match="killed"):
        fit(probes.small_model(), [SnapshotEnsemble(tmp_path, 3), Crash(16)])
    model = probes.small_model()
    with pytest.raises(OSError, match="refused"):
        fit(model, [SnapshotEnsemble(tmp_path, 3), Refuse()])
    assert len(fit(model, []).history["loss"]) == 3


def test_state_of_others_decides_where_to_go_on(tmp_path):
    model = probes.small_model()
    first = SnapshotEnsemble(tmp_path, 3)
    with pytest.raises(OSError, match="killed"):
        fit(model, [first, Crash(16)])
    assert first.get_state()["members"] == 2
    second = SnapshotEnsemble(tmp_path, 3)
    second.set_state({"members": 1})
    fit(model, [second], initial_epoch=1)
    assert [member["step"] for member in members(tmp_path)] == [7, 14, 21]


def test_what_can_t_work_is_an_error_before_the_first_step(tmp_path):
    data = tf.data.Dataset.from_tensor_slices(probes.regression(6)).batch(2)
    unknown = data.filter(lambda x, y: True)
    model = probes.small_model()
    start = flat(model)
    with pytest.raises(ValueError, match=r"SnapshotEnsemble needs the number of steps per epoch.*`steps_per_epoch`"):
        model.fit(unknown, epochs=2, verbose=0, callbacks=[SnapshotEnsemble(tmp_path, 2)])
    with pytest.raises(ValueError, match="must be enough for 5 cycles"):
        model.fit(data, verbose=0, callbacks=[SnapshotEnsemble(tmp_path, 5)])
    with pytest.raises(ValueError, match=r"begins at epoch 0. Received: initial_epoch=1"):
        model.fit(data, verbose=0, epochs=3, initial_epoch=1, callbacks=[SnapshotEnsemble(tmp_path, 2)])
    fast = probes.small_model(steps_per_execution=4)
    with pytest.raises(ValueError, match=r"longer than `steps_per_execution`. Received: cycles=6"):
        fast.fit(*probes.regression(6), batch_size=1, epochs=3, verbose=0, callbacks=[SnapshotEnsemble(tmp_path, 6)])
    np.testing.assert_array_equal(flat(model), start)
    assert list(tmp_path.iterdir()) == []
    model.fit(unknown.repeat(), epochs=2, steps_per_epoch=3, verbose=0, callbacks=[SnapshotEnsemble(tmp_path, 2)])
    assert [member["step"] for member in members(tmp_path)] == [3, 6]


def test_a_model_that_fit_builds_has_members_and_is_taken_up(tmp_path):
    def lazy():
        layers = [keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", jit_compile=False)
        return model

    with pytest.raises(OSError, match="killed"):
        fit(lazy(), [SnapshotEnsemble(tmp_path, 3), Crash(10)])
    assert len(fit(lazy(), [SnapshotEnsemble(tmp_path, 3)]).epoch) == 2
    assert [member["step"] for member in members(tmp_path)] == [7, 14, 21]


def test_a_model_without_a_call_is_refused_before_its_first_step(tmp_path):
    class Step(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self.inner(data[0]) - data[1]))
            weights = self.inner.trainable_weights
            self.optimizer.apply(tape.gradient(loss, weights), weights)
            return {"loss": loss}

    model = Step()
    model.compile(keras.optimizers.SGD(0.05), jit_compile=False)
    with pytest.raises(ValueError, match=r"no `call`.*Received: model="):
        fit(model, [SnapshotEnsemble(tmp_path, 3)])
    assert int(model.optimizer.iterations) == 0
    fit(model, [StepDecay(0.5, 1)])


@pytest.mark.parametrize("average_first", [True, False])
def test_a_run_that_is_taken_up_is_averaged_from_its_member(average_first, tmp_path):
    with pytest.raises(OSError, match="killed"):
        fit(probes.small_model(), [SnapshotEnsemble(tmp_path, 3), Crash(10)])
    model, average, record = probes.small_model(), PolyakAveraging("uniform"), probes.record_weights()
    pair = [average, SnapshotEnsemble(tmp_path, 3)]
    fit(model, [*(pair if average_first else pair[::-1]), record])
    expected = record.rows[:, 1:].mean(axis=0)
    np.testing.assert_allclose(flat(model), expected, rtol=1e-5)


def test_the_architecture_is_recorded(tmp_path):
    model = probes.small_model()
    fit(model, [SnapshotEnsemble(tmp_path, 2)])
    again = SnapshotDirectory(tmp_path).load_architecture()
    again.load_weights(tmp_path / "cycle-02.weights.h5")
    x, _ = probes.regression(4)
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


PROGRAM = """
import os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np
sys.path.insert(0, {tests!r})
import probes
from kregkit.callbacks import SnapshotEnsemble
class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.02)
keras.utils.set_random_seed(0)
model = keras.Sequential([
    keras.Input((2,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dropout(0.5), keras.layers.Dense(1)
])
model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
x, y = probes.regression(14)
model.fit(x, y, batch_size=2, epochs=8, shuffle=False, verbose=0,
          callbacks=[SnapshotEnsemble({directory!r}, 4), *([Slow()] if {slow} else [])])
print("trained to the end")
"""


@pytest.mark.slow
def test_a_killed_run_that_is_started_again_ends_with_the_same_members(tmp_path):
    def program(name, slow):
        text = PROGRAM.format(
            tests=str(pathlib.Path(probes.__file__).parent), directory=str(tmp_path / name), slow=slow
        )
        return subprocess.Popen([sys.executable, "-W", "ignore", "-c", text], stdout=subprocess.PIPE, text=True)

    killed = program("killed", True)
    whole = program("whole", False)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (tmp_path / "killed" / "cycle-02.state.npz").exists():
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert 1 <= len(members(tmp_path / "killed")) < 4
    again = program("killed", False)
    for process in (whole, again):
        output, _ = process.communicate(timeout=120)
        assert "trained to the end" in output
    one, other = (members(tmp_path / name) for name in ("whole", "killed"))
    assert [member["step"] for member in one] == [member["step"] for member in other] == [14, 28, 42, 56]
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    weights = {}
    for name in ("whole", "killed"):
        architecture = SnapshotDirectory(tmp_path / name).load_architecture()
        weights[name] = member_weights(tmp_path / name, architecture)
    np.testing.assert_array_equal(weights["whole"], weights["killed"])
    assert weights["whole"].shape == (4, flat(model).size)
    assert not list((tmp_path / "killed").glob(".*"))


@pytest.mark.parametrize("change", ["step", "state", "learning_rate", "array"])
def test_a_manifest_that_contradicts_its_own_settings_is_refused(change, tmp_path):
    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(probes.small_model(), [SnapshotEnsemble(tmp_path, 3), Kill()])
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    # As older versions wrote it.
    del manifest["sha256"]
    member = manifest["members"][-1]
    if change == "step":
        member["step"] += 1
    elif change == "array":
        with np.load(tmp_path / member["state"]["file"]) as arrays:
            np.savez(tmp_path / "cycle-09.state.npz", *[arrays[name] for name in arrays.files[:-1]])
        member["state"] = {"file": "cycle-09.state.npz", "sha256": file_digest(tmp_path / "cycle-09.state.npz")}
    else:
        del member[change]
    path.write_text(json.dumps(manifest))
    model = probes.small_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"(?s)Delete the directory to train anew. Received: "):
        fit(model, [SnapshotEnsemble(tmp_path, 3)])
    for weight, value in zip(model.get_weights(), before):
        np.testing.assert_array_equal(weight, value)
