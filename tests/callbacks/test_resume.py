"""Killed runs end in the bits of runs that weren't; what can't is refused before anything is changed."""

import contextlib
import errno
import functools
import os
import pathlib

import keras
import pytest
import tensorflow as tf
from bits import same_bits
from callbacks import resume_runs

from kregkit import resume_check
from kregkit._core.directory_lock import DirectoryLock
from kregkit.callbacks import CosineDecay, Resume, SnapshotEnsemble
from kregkit.optimizers import LayerwiseLearningRate
from kregkit.resume_check import Verification, main, verify

pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def server():
    server = resume_runs.Server()
    yield server
    server.close()


# One of each way in which data are put in order again, with kills by SIGKILL from outside.
@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ["cycles", "augmented"])
def test_killed_runs_end_in_the_same_bits(server, name):
    found = verify(name, kills=4, seed=3, start=server.starter(name))
    assert found.identical, str(found)
    assert found.kills >= 1


@pytest.mark.slow
@pytest.mark.endurance
def test_a_hundred_kills_in_seven_configurations(server):
    kills, seed = dict.fromkeys(resume_runs.RUNS, 0), 0
    while min(kills.values()) < 15:
        seed += 1
        for name in resume_runs.RUNS:
            if kills[name] < 15:
                found = verify(name, kills=15 - kills[name], seed=seed, start=server.starter(name))
                assert found.identical, f"{name}, seed {seed}: {found}"
                kills[name] += found.kills
    assert sum(kills.values()) >= 100


class Die(keras.callbacks.Callback):
    """Ends the fit after so many batches."""

    def __init__(self, after=None):
        super().__init__()
        self.after, self.count = after, 0

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1
        if self.count == self.after:
            raise KeyboardInterrupt


def small_model(units=2, optimizer="adam"):
    layers = [keras.Input((6,)), keras.layers.Dense(units), keras.layers.Dropout(0.3), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


def run(directory, die=None, epochs=3, model=None, data=None, callbacks=(), **settings):
    """Fits with `Resume`, at most until a batch after which it dies; returns the model and the history."""
    x, y = resume_runs.arrays(24)
    model = small_model() if model is None else model
    fit = {"x": x, "y": y, "batch_size": 6} if data is None else {"x": data}
    try:
        with_resume = [*callbacks, Resume(directory, **settings), Die(die)]
        return model, model.fit(**fit, epochs=epochs, verbose=0, callbacks=with_resume).history
    except KeyboardInterrupt:
        return model, None


def dataset(change=lambda data: data):
    return change(tf.data.Dataset.from_tensor_slices(resume_runs.arrays(24))).batch(6)


def of_unknown_length():
    return dataset(lambda data: data.filter(lambda x, y: True))


@pytest.mark.parametrize("make", [of_unknown_length, lambda: dataset().repeat()], ids=["unknown length", "endless"])
def test_data_sets_whose_length_nobody_tells(tmp_path, make):
    settings = {"save_freq": 2}
    if int(make().cardinality()) == tf.data.INFINITE_CARDINALITY:
        # Passes and epochs don't begin together.
        def fit(directory, die):
            keras.utils.set_random_seed(1)
            model = small_model()
            try:
                callbacks = [Resume(directory, **settings), Die(die)]
                return model, model.fit(make(), steps_per_epoch=3, epochs=3, verbose=0, callbacks=callbacks).history
            except KeyboardInterrupt:
                return model, None
    else:

        def fit(directory, die):
            keras.utils.set_random_seed(1)
            return run(directory, die, data=make(), **settings)

    whole, history = fit(tmp_path / "whole", None)
    # The last batch of an epoch, of which nobody knew that it was the last.
    fit(tmp_path / "killed", 5)
    again, resumed = fit(tmp_path / "killed", None)
    assert resumed == history and same_bits(again.get_weights(), whole.get_weights())


def test_a_finished_run_is_not_trained_again_and_a_longer_one_goes_on(tmp_path):
    first, history = run(tmp_path, epochs=2)
    second, again = run(tmp_path, epochs=2)
    assert again == history and same_bits(second.get_weights(), first.get_weights())
    assert int(second.optimizer.iterations) == 8
    third, longer = run(tmp_path, epochs=3)
    assert longer["loss"][:2] == history["loss"] and int(third.optimizer.iterations) == 12
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [path.name for path in newest(tmp_path)]
    assert len(newest(tmp_path)) == 2


def test_a_second_fit_with_the_same_object_is_a_run_of_its_own(tmp_path):
    x, y = resume_runs.arrays(24)

    def program(directory, die=None):
        keras.utils.set_random_seed(1)
        model, callbacks = small_model(), [Resume(directory, save_freq=2), Die(die)]
        try:
            histories = [
                model.fit(x, y, batch_size=6, epochs=2, verbose=0, callbacks=callbacks).history for _ in range(2)
            ]
        except KeyboardInterrupt:
            return model, None
        return model, histories

    whole, histories = program(tmp_path / "whole")
    assert int(whole.optimizer.iterations) == 16
    # Within the second fit; the first one is then not trained again.
    program(tmp_path / "killed", die=13)
    again, resumed = program(tmp_path / "killed")
    assert resumed == histories and same_bits(again.get_weights(), whole.get_weights())
    assert len(newest(tmp_path / "killed" / "fit-2")) == 2


def newest(directory):
    return sorted(directory.glob("checkpoint-*.state"))[-2:]


def test_a_damaged_checkpoint_is_named_and_the_older_one_used(tmp_path):
    keras.utils.set_random_seed(1)
    whole, history = run(tmp_path / "whole")
    keras.utils.set_random_seed(1)
    run(tmp_path / "killed", die=10)
    path = newest(tmp_path / "killed")[-1]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(RuntimeWarning, match=rf"{path.name} is truncated or corrupt.*Received: directory="):
        again, resumed = run(tmp_path / "killed")
    assert resumed == history and same_bits(again.get_weights(), whole.get_weights())


def test_a_full_disk_is_told_and_leaves_the_last_good_one(tmp_path, monkeypatch):
    run(tmp_path, epochs=1)
    good = newest(tmp_path)

    def full(path, state):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kregkit.callbacks._checkpoints.write_state", full)
    with pytest.warns(RuntimeWarning, match=r"could not be written.*No space left"):
        _, history = run(tmp_path, epochs=2)
    assert len(history["loss"]) == 2 and newest(tmp_path) == good


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": lambda: small_model(units=3)}, r"layers\[\d\]\[1\]\[0\]\[1\]: 2, now 3"),
        ({"model": lambda: small_model(optimizer=keras.optimizers.Adam(0.5))}, r"optimizer\[0\]\.learning_rate"),
        ({"model": lambda: small_model(optimizer="sgd")}, r'optimizer\[0\]\.class: "Adam", now "SGD"'),
        ({"data": dataset}, r'data\.kind: "arrays", now "dataset"'),
        ({"callbacks": lambda: [CosineDecay()]}, r'callbacks: \["Resume", "Die"\], now \["CosineDecay'),
    ],
    ids=["model", "rate", "optimizer", "data", "callbacks"],
)
def test_other_runs_are_refused_with_what_differs_and_nothing_is_changed(tmp_path, change, message):
    run(tmp_path / "run", epochs=1)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    made = {name: make() for name, make in change.items()}
    made.setdefault("model", small_model())
    weights = made["model"].get_weights()
    (tmp_path / "log.csv").write_text("kept")
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    callbacks = [logger, *made.pop("callbacks", [])]
    with pytest.raises(ValueError, match=rf"different run.*{'CSVLogger' if 'callbacks' in change else message}"):
        run(tmp_path / "run", callbacks=callbacks, **made)
    assert (tmp_path / "log.csv").read_text() == "kept"
    assert same_bits(made["model"].get_weights(), weights)
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def by_depth(model):
    return LayerwiseLearningRate.by_depth(keras.optimizers.Adam(), model, 0.5)


@pytest.mark.parametrize(
    "make",
    [
        lambda model: keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW()),
        lambda model: LayerwiseLearningRate(keras.optimizers.Adam(), {".*kernel": 0.1}),
        lambda model: keras.optimizers.LossScaleOptimizer(by_depth(model)),
        by_depth,
    ],
    ids=["loss scaling", "patterns", "both", "depth"],
)
def test_a_run_goes_on_in_the_same_process_where_names_are_numbered_on(tmp_path, make):
    def program(directory, die=None):
        keras.utils.set_random_seed(1)
        model = small_model()
        model.compile(make(model), "mse", metrics=["mae"])
        return run(directory, die, model=model, save_freq=2)

    whole, history = program(tmp_path / "whole")
    program(tmp_path / "killed", die=6)
    again, resumed = program(tmp_path / "killed")
    assert resumed == history and same_bits(again.get_weights(), whole.get_weights())


def test_other_factors_are_another_run(tmp_path):
    def program(decay, die=None):
        model = small_model()
        model.compile(LayerwiseLearningRate.by_depth(keras.optimizers.Adam(), model, decay), "mse")
        return run(tmp_path, die, model=model, save_freq=2)

    program(0.5, die=6)
    with pytest.raises(ValueError, match=r"different run.*factors\[0\]: 0.5, now 0.25"):
        program(0.25)


def test_a_directory_in_use_is_refused(tmp_path):
    for callback in (Resume(tmp_path), SnapshotEnsemble(tmp_path, 1)):
        lock = DirectoryLock(tmp_path, "Other")
        lock.acquire()
        with pytest.raises(ValueError, match=rf"{type(callback).__name__}'s directory is in use by"):
            small_model().fit(*resume_runs.arrays(24), verbose=0, callbacks=[callback])
        lock.release()
        small_model().fit(*resume_runs.arrays(24), verbose=0, callbacks=[callback])
        assert not (tmp_path / "lock").exists()
        for path in tmp_path.iterdir():
            path.unlink()


def noisy(x, y):
    return x + tf.random.normal(tf.shape(x)), y


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: dataset(lambda data: data.shuffle(24)), "shuffled without a seed"),
        (lambda: dataset(lambda data: data.map(noisy)), "random numbers without a seed"),
        (
            lambda: dataset(
                lambda data: data.map(
                    lambda x, y: (tf.numpy_function(lambda a: a, [x], tf.float32) + tf.zeros((6,)), y)
                )
            ),
            "Python code",
        ),
        (lambda: (resume_runs.arrays(6) for _ in range(40)), "generator"),
    ],
    ids=["shuffle", "noise", "python", "generator"],
)
def test_data_that_can_t_be_repeated_are_refused_or_begun_anew(tmp_path, make, reason):
    # Without a global seed, as in a program that sets none.
    tf.random.set_seed(None)
    with pytest.raises(ValueError, match=rf"`x` .*{reason}.*data='restart'"):
        run(tmp_path, data=make())


def test_restart_takes_them_with_a_warning(tmp_path):
    tf.random.set_seed(None)
    data = dataset(lambda data: data.shuffle(24))
    settings = {"save_freq": 1}

    def fit(die):
        model = small_model()
        try:
            callbacks = [Resume(tmp_path, data="restart", **settings), Die(die)]
            return model, model.fit(data, epochs=3, verbose=0, callbacks=callbacks).history
        except KeyboardInterrupt:
            return model, None

    fit(6)
    with pytest.warns(UserWarning, match="begin anew"):
        model, history = fit(None)
    assert len(history["loss"]) == 3 and int(model.optimizer.iterations) == 12


def test_data_sets_with_seeds_are_not_refused(tmp_path):
    run(tmp_path, data=dataset(lambda data: data.shuffle(24, seed=1)), epochs=1)


class OwnStep(keras.Model):
    """Has a `train_step` of its own, in which its layers are built."""

    def __init__(self):
        super().__init__()
        self.layer = keras.layers.Dense(1)

    def call(self, inputs):
        return self.layer(inputs)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(self(x, training=True)[:, 0] - keras.ops.cast(y, "float32")))
        weights = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        return {"loss": loss}


def assert_goes_on_in_the_same_bits(fit, tmp_path):
    whole, history = fit(tmp_path / "whole")
    fit(tmp_path / "killed", die=6)
    again, resumed = fit(tmp_path / "killed")
    assert resumed == history and same_bits(again.get_weights(), whole.get_weights())


def test_a_model_that_its_own_step_builds_is_refused_before_it(tmp_path):
    def fit(directory, built, die=None):
        keras.utils.set_random_seed(1)
        model = OwnStep()
        if built:
            model(keras.ops.zeros((1, 6)))
        model.compile("adam")
        return run(directory, die, model=model, epochs=2, save_freq=3)

    with pytest.raises(ValueError, match="call it once on a batch of inputs before `fit`.*Received: model="):
        fit(tmp_path / "unbuilt", built=False)
    assert not list(tmp_path.glob("*/checkpoint-*"))
    assert_goes_on_in_the_same_bits(functools.partial(fit, built=True), tmp_path)


class TwoOptimizers(keras.Model):
    """Trains two layers, each by an optimizer in a dictionary of its own."""

    def __init__(self, built):
        super().__init__()
        self.parts = {"one": keras.layers.Dense(1), "other": keras.layers.Dense(1)}
        self(keras.ops.zeros((1, 6)))
        self.own = {"one": keras.optimizers.Adam(0.1), "other": keras.optimizers.SGD(0.1, momentum=0.9)}
        if built:
            for name, optimizer in self.own.items():
                optimizer.build(self.parts[name].trainable_variables)

    def call(self, inputs):
        return self.parts["one"](inputs) + self.parts["other"](inputs)

    def train_step(self, data):
        x, y = data
        losses = {}
        for name, part in self.parts.items():
            with tf.GradientTape() as tape:
                losses[name] = keras.ops.mean(keras.ops.square(part(x)[:, 0] - keras.ops.cast(y, "float32")))
            gradients = tape.gradient(losses[name], part.trainable_variables)
            self.own[name].apply_gradients(zip(gradients, part.trainable_variables))
        return losses


def test_optimizers_of_the_model_that_its_own_step_builds_are_refused_before_it(tmp_path):
    def fit(directory, built, die=None):
        keras.utils.set_random_seed(1)
        model = TwoOptimizers(built)
        model.compile()
        return run(directory, die, model=model, epochs=3, save_freq=3)

    with pytest.raises(ValueError, match=r"'adam.*makes its slots.*optimizer.build.*Received: model="):
        fit(tmp_path / "unbuilt", built=False)
    assert not list(tmp_path.glob("*/checkpoint-*"))
    assert_goes_on_in_the_same_bits(functools.partial(fit, built=True), tmp_path)


class Distilled(keras.Model):
    """A student that learns a teacher's outputs; both parts were compiled for themselves."""

    def __init__(self, by_student=False):
        super().__init__()
        self.teacher, self.student = (keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)]) for _ in range(2))
        for part in (self.teacher, self.student):
            part.compile("adam", "mse")
        self.by_student = by_student
        self(keras.ops.zeros((1, 6)))

    def call(self, inputs):
        return self.student(inputs)

    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(self.student(x) - self.teacher(x)))
        weights = self.student.trainable_variables
        optimizer = self.student.optimizer if self.by_student else self.optimizer
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        return {"loss": loss}


def test_a_part_that_was_compiled_for_itself_is_no_hindrance(tmp_path):
    def fit(directory, die=None, by_student=False):
        keras.utils.set_random_seed(1)
        model = Distilled(by_student)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
        return run(directory, die, model=model, epochs=3, save_freq=3)

    whole, history = fit(tmp_path / "whole")
    fit(tmp_path / "killed", die=6)
    again, resumed = fit(tmp_path / "killed")
    assert resumed == history and same_bits(again.get_weights(), whole.get_weights())
    with pytest.raises(ValueError, match=r"'adam.*makes its slots.*Received: model="):
        fit(tmp_path / "by its own", by_student=True)


def test_backup_and_restore_is_refused_beside_it(tmp_path):
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(ValueError, match="BackupAndRestore and Resume both"):
        run(tmp_path, callbacks=[backup])


def test_no_kill_is_no_proof():
    assert "nothing is proved" in str(Verification(0, 0, 3, []))
    assert str(Verification(2, 1, 3, [])).startswith("bit-identical after 2 kills, 1 of them")


def test_the_command_line_hands_on_what_is_behind_two_dashes(tmp_path, capfd):
    script = tmp_path / "script.py"
    script.write_text("import sys; print(sys.argv[1:]); sys.exit(3)")
    with pytest.raises(SystemExit):
        main([str(script), "--kills", "1", "--", "--smoke", "-x"])
    output = capfd.readouterr()
    assert "['--smoke', '-x']\n" in output.out and "exit code 3" in output.err


WORKERS = """
import json, os, subprocess, sys, time
if "WORKER" in os.environ:
    index = int(os.environ["WORKER"])
    if index:
        os.setsid()  # out of the group of the script
    def write(**event):
        with open(os.environ["KREGKIT_RESUME_RECORD"], "ab", buffering=0) as file:
            file.write((json.dumps({**event, "worker": index, "directory": os.path.abspath("run")}) + chr(10)).encode())
    write(event="begin", pid=os.getpid())
    time.sleep(0.2 if index < 2 else 60)
    write(event="end", variables=[["w", str(index)]], history={}, epochs=[])
else:
    workers = range(int(sys.argv[1]))
    command = [sys.executable, "-S", __file__]
    started = [subprocess.Popen(command, env={**os.environ, "WORKER": str(index)}) for index in workers]
    for worker in started[:2]:
        worker.wait()
"""


def is_alive(pid):
    with contextlib.suppress(FileNotFoundError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_the_check_kills_a_script_with_all_its_workers(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text(WORKERS)
    pids, seen = [], resume_check._Run.record

    def record(self):
        events = seen(self)
        pids.extend(event["pid"] for event in events if event["event"] == "begin")
        return events

    monkeypatch.setattr(resume_check._Run, "record", record)
    found = verify(script, ["2"], kills=1, seed=1)
    # One variable of each worker, which differ from each other's and not from their own.
    assert found.identical and (found.kills, found.compared) == (1, 2)
    assert len(set(pids)) >= 5 and not any(is_alive(pid) for pid in pids)
    # It ends before its third worker, and nothing of it stays either.
    monkeypatch.setattr(resume_check, "_GRACE", 0.1)
    with pytest.raises(RuntimeError, match=r"before processes that it started.*let it wait.*Received: processes=\["):
        verify(script, ["3"])
    assert not any(is_alive(pid) for pid in pids)
    with pytest.raises(RuntimeError, match="took longer than timeout=0.1"):
        verify(script, ["2"], timeout=0.1)
    assert not any(is_alive(pid) for pid in pids)


def test_the_check_finds_a_run_that_goes_on_otherwise(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, time, json\n"
        "events = os.environ['KREGKIT_RESUME_RECORD']\n"
        "def write(**event): open(events, 'a').write(json.dumps(event) + chr(10))\n"
        "write(event='begin', directory=os.path.abspath('run'))\n"
        "open('starts', 'a').write('x')\n"
        "time.sleep(0.2)\n"
        # As Keras does, which writes the time and addresses into its files.
        "import zipfile\n"
        "with zipfile.ZipFile('same.keras', 'w') as archive:\n"
        "    archive.writestr('metadata.json', str(time.time()))\n"
        "    archive.writestr('config.json', json.dumps([{'shared_object_id': time.time_ns()}] * 2))\n"
        "write(event='end', directory=os.path.abspath('run'), variables=[['w', 'a']], history={}, epochs=[])\n"
    )
    found = verify(script, kills=1, seed=1)
    assert found.kills == 1 and found.differences == ["file starts"] and not found.identical
    script.write_text("import sys; sys.exit(3)")
    with pytest.raises(RuntimeError, match="exit code 3"):
        verify(script)
    script.write_text("pass")
    with pytest.raises(ValueError, match="no fit with"):
        verify(script)
    with pytest.raises(ValueError, match="`script` must be"):
        verify(tmp_path / "none.py")
