"""Several processes, one search."""

import collections
import contextlib
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import time

import optuna
import pytest

from kregkit import search
from kregkit.search._workers import MOST_LOSSES, Round, is_gone, open_storage, this_worker

ROOT = pathlib.Path(__file__).parents[2]


def start(storage, log, name, hang_at=0, foreign=""):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(pathlib.Path(__file__).parent / "_worker.py")]
    return subprocess.Popen([*command, storage, log, name, str(hang_at), foreign], env=environment)


def read(log):
    if not os.path.exists(log):
        return []
    with open(log, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "foreign"), [("journal", ""), ("sqlite", "foreign")])
def test_killed_worker_loses_no_trial_and_none_runs_twice(kind, foreign, tmp_path):
    storage = str(tmp_path / "trials.journal") if kind == "journal" else f"sqlite:///{tmp_path / 'trials.db'}"
    log = str(tmp_path / "log")
    killed, other = start(storage, log, "a", 3, foreign), start(storage, log, "b", 0, foreign)
    try:
        wait_for(lambda: any(event == "hang" for event, *_ in read(log)))
        os.kill(killed.pid, signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        assert other.wait(timeout=120) == 0
    finally:
        for process in (killed, other):
            process.kill()
            process.wait()
    with open(f"{log}.b.result", encoding="utf-8") as file:
        result = json.load(file)
    # Every slot has one trial, and every trial was trained to its end once.
    assert [(r, i) for r, i, *_ in result["trials"]] == [*((1, i) for i in range(10)), *((2, i) for i in range(4))]
    assert {state for _, _, state, _ in result["trials"]} == {"complete"}
    events = read(log)
    ended = collections.Counter(rate for event, _, rate in events if event == "end")
    assert ended == collections.Counter(rate for *_, rate in result["trials"])
    assert set(ended.values()) == {1}
    # Both took part; the killed worker's third trial, and no other, was begun twice: once by each.
    assert {name for event, name, _ in events if event == "end"} == {"a", "b"}
    (hung,) = (rate for event, _, rate in events if event == "hang")
    begun = collections.Counter(rate for event, _, rate in events if event == "start")
    assert {rate for rate, count in begun.items() if count == 2} == {hung} and max(begun.values()) == 2
    # Another process, with what is now complete, resumes without training, and finds what one worker alone would.
    again = search.search(
        lambda *_: pytest.fail("trained again"),
        search.Space(rate=search.log_uniform(1e-4, 1.0)),
        [10, 4],
        epochs=[1, 2],
        storage=storage,
        verbose=0,
    )
    alone = search.search(
        lambda parameters, epochs, callbacks: {"val_loss": [abs(parameters["rate"] - 0.01)] * epochs},
        search.Space(rate=search.log_uniform(1e-4, 1.0)),
        [10, 4],
        epochs=[1, 2],
        verbose=0,
    )
    for found in (again, result):
        rates = found.trials if found is again else found["trials"]
        rates = [one.parameters["rate"] if found is again else one[3] for one in rates]
        assert rates == [one.parameters["rate"] for one in alone.trials]


def a_round(storage, num_slots=3, timeout=60.0, name="one"):
    return Round(storage, name, "min", num_slots, {}, optuna.pruners.NopPruner(), timeout)


def random_sampler(slot):
    return optuna.samplers.RandomSampler(seed=slot)


def test_slots_are_taken_once_and_come_back_when_released():
    storage = open_storage(None)
    one, other = a_round(storage), a_round(storage)
    taken = [worker.take(random_sampler) for worker in (one, other, one)]
    assert sorted(slot for slot, _ in taken) == [0, 1, 2]
    assert other.take(random_sampler) is None and not other.is_finished()
    one.release(taken[0][1])
    again = other.take(random_sampler)
    assert again[0] == taken[0][0] and again[1].number != taken[0][1].number
    for worker, (_, trial) in zip((other, one, other), [again, *taken[1:]]):
        assert worker.record(trial, {"state": "complete", "value": 1.0})
    assert one.is_finished() and list(one.trials()) == [0, 1, 2]


def test_outbid_worker_withdraws(monkeypatch):
    """Two workers reach for the same slot at the same moment: the one whose trial is stored first has it."""
    storage = open_storage(None)
    one, other = a_round(storage, num_slots=2), a_round(storage, num_slots=2)
    add_trial = one.study.add_trial
    first = []

    def overtaken(trial):
        # Between the look at what is free and the bid, the other worker takes the same slot.
        if not first:
            first.append(other.take(random_sampler))
        add_trial(trial)

    monkeypatch.setattr(one.study, "add_trial", overtaken)
    slot, _ = one.take(random_sampler)
    assert first[0][0] == 0 and slot == 1
    states = [trial.state.name for trial in one.study.get_trials()]
    assert states == ["RUNNING", "FAIL", "RUNNING"]


def test_late_result_of_a_trial_given_up_is_void(monkeypatch):
    storage = open_storage(None)
    slow, other = a_round(storage, 1, timeout=0.05), a_round(storage, 1, timeout=0.05)
    _, trial = slow.take(random_sampler)
    other.give_up_dead()
    time.sleep(0.1)
    other.give_up_dead()
    slot, again = other.take(random_sampler)
    assert slot == 0
    assert slow.record(trial, {"state": "complete", "value": 0.0}) is False
    assert other.record(again, {"state": "complete", "value": 1.0})
    assert [one.value for one in slow.trials().values()] == [1.0]


def test_beating_keeps_a_trial_and_a_deadly_setting_is_given_up_for_good():
    storage = open_storage(None)
    one, other = a_round(storage, 1, timeout=0.6), a_round(storage, 1, timeout=0.6)
    _, trial = one.take(random_sampler)
    with one.beating(trial):
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            other.give_up_dead()
            time.sleep(0.02)
    assert one.record(trial, {"state": "complete", "value": 0.0})
    deadly = a_round(storage, 1, timeout=0.02, name="deadly")
    for _ in range(MOST_LOSSES):
        assert deadly.take(random_sampler) is not None
        deadly.give_up_dead()
        time.sleep(0.05)
        deadly.give_up_dead()
    assert deadly.take(random_sampler) is None and deadly.is_finished()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked up in /proc")
def test_processes_that_ended_are_known_to_be_gone():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    from kregkit.search._workers import _process_started

    worker = {**this_worker(), "pid": child.pid, "started": _process_started(child.pid)}
    assert not is_gone(this_worker()) and not is_gone(worker)
    # A later process with the same number is another one.
    assert is_gone({**worker, "started": "1"})
    child.communicate(b"\n")
    assert is_gone(worker)
    assert not is_gone({**worker, "machine": "elsewhere"})


def find(storage):
    """Runs a search of three trials of no training; returns how many it trained."""
    trained = []

    def train(parameters, epochs, callbacks):
        trained.append(parameters)
        return {"val_loss": [parameters["x"]]}

    space = search.Space(x=search.uniform(0.0, 1.0))
    result = search.search(train, space, trials=3, rounds=1, epochs=1, storage=storage, verbose=0)
    assert len(result.trials) == 3
    return len(trained)


@pytest.mark.slow  # it waits until a lost trial is given up
def test_a_journal_cut_in_its_last_line_is_read_up_to_there(tmp_path, caplog):
    path = tmp_path / "trials.journal"
    assert find(path) == 3
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for tail, again in ((lines[-1][:10], 0), (b"{", 0), (bytes(99), 0), (b"\xff", 0)):
        path.write_bytes(whole + tail)
        assert find(path) == again
        assert path.read_bytes().startswith(whole)
        assert all(json.loads(line) for line in path.read_bytes().splitlines())
    assert "Cut off the last line" in caplog.text
    # The outcome of the last trial, and what came after it, is lost: the trial is run again.
    position = next(index for index in range(len(lines) - 1, 0, -1) if b'"outcome"' in lines[index])
    path.write_bytes(b"".join(lines[:position]) + lines[position][:20])
    assert find(path) >= 1
    # And what was written behind it can be read.
    assert find(path) == 0


@pytest.mark.parametrize("line", [b"{}\n", b"[]\n", b"half\n", b"[" * 5000 + b"\n", b"\xff\n", b'{"op_code": "1"}\n'])
def test_damage_in_a_journal_is_named(line, tmp_path):
    path = tmp_path / "trials.journal"
    find(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + line + b"".join(lines[1:]))
    with pytest.raises(ValueError, match=r"line 2 is no entry .*delete it.*starts anew. Received: storage='.*journal'"):
        open_storage(path)
    # Lines of the right form that make no sense.
    path.write_bytes(b'{"op_code": 4}\n')
    with pytest.raises(ValueError, match=r"can't be read: KeyError.*delete it"):
        open_storage(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="no ordinary file"):
        open_storage(path)


@pytest.mark.parametrize("content", [b"no database, but long enough for a header" * 100, None])
def test_a_damaged_database_is_named(content, tmp_path):
    path = tmp_path / "trials.db"
    if content is None:
        find(f"sqlite:///{path}")
        content = bytearray(path.read_bytes())
        content[4096 : len(content) // 2] = bytes(len(content) // 2 - 4096)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"delete the database, and the search starts anew. Received: storage='sqlite"):
        open_storage(f"sqlite:///{path}")


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_changed_number_in_a_storage_is_named(kind, tmp_path):
    """No line, and no page of the database, looks damaged; the value would be taken for the best."""
    path = tmp_path / f"trials.{kind}"
    storage = str(path) if kind == "journal" else f"sqlite:///{path}"

    def again():
        space = search.Space(x=search.uniform(0.25, 0.75))
        return search.grid(lambda *_: {"val_loss": [0.625]}, space, 1, storage=storage, verbose=0).trials

    trials = again()
    assert again() == trials
    content = path.read_bytes()
    space = b"" if kind == "journal" else b" "
    for old in (b'"value":' + space + b"0.625", b'"values":' + space + b"[0.625]"):
        assert old in content
        path.write_bytes(content.replace(old, old.replace(b"0.625", b"0.125")))
        with pytest.raises(ValueError, match=r"A trial in the storage is damaged.*trial=0, slot=0, storage='.*trials"):
            again()
    if kind == "journal":
        # Nobody's trial: the setting is run again.
        path.write_bytes(content.replace(b'"slot"', b'"slou"'))
        assert [trial.value for trial in again()] == [0.625]


@pytest.mark.parametrize("name", ["settings", "outcome"])
def test_entries_of_a_database_that_can_t_be_read_are_named(name, tmp_path):
    path = tmp_path / "trials.db"
    find(f"sqlite:///{path}")
    with contextlib.closing(sqlite3.connect(path)) as database:
        table = "study_user_attributes" if name == "settings" else "trial_user_attributes"
        assert database.execute(f"UPDATE {table} SET value_json = '{{' WHERE key = ?", (name,)).rowcount
        database.commit()
    with pytest.raises(ValueError, match=r"can't be read: JSONDecodeError.*delete it.*Received: storage='sqlite"):
        find(f"sqlite:///{path}")


def test_a_database_of_no_kind_is_named():
    with pytest.raises(ValueError, match=r"can't be read: .*Received: storage='nothing://x'"):
        open_storage("nothing://x")
