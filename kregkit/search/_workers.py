"""One round of a search: an Optuna study whose trials any number of workers share.

A round has a fixed number of slots. A worker takes a slot by adding a trial that carries the slot's index and then
looking who holds it: of several trials with one index that have not failed, the first to be stored holds the slot, and
the others withdraw. Storages number trials atomically, so this needs no lock, and a worker may be killed at any moment:
its heartbeat stops, the others give its trial up, and the slot is free again.

Optuna's own heartbeats and `RetryFailedTrialCallback` don't give this. They work in relational databases only, not in
journal files or in memory; they run within `study.optimize`, which has no slots, so that a round would have more or
fewer trials than it should, and other ones with every number of workers; they compare by the clocks of other machines;
and they don't notice at once that a process of this machine has ended.
"""

import contextlib
import json
import logging
import os
import platform
import random
import sqlite3
import threading
import time
import uuid

from kregkit._core import keras_internals
from kregkit._core.files import value_digest
from kregkit._core.optional import import_optional

_LOG = logging.getLogger("kregkit.search")
# A slot whose worker died this often is given up for good: its setting may be what kills them.
MOST_LOSSES = 3
BEATS_PER_TIMEOUT = 6


def open_storage(storage):
    """Returns an Optuna storage for None (memory), a path (a journal file), a URL (a database), or itself."""
    storages = import_optional("optuna.storages", "kregkit.search")
    journal = import_optional("optuna.storages.journal", "kregkit.search")
    if storage is None:
        return storages.InMemoryStorage()
    if not isinstance(storage, (str, os.PathLike)):
        if not isinstance(storage, storages.BaseStorage):
            raise ValueError(f"`storage` must be a path, a URL or an Optuna storage. Received: storage={storage!r}")
        return storage
    if "://" not in str(storage):
        path = os.path.abspath(storage)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with naming_damage(path, "delete it, and the search starts anew"):
            repair_journal(path, journal.JournalFileSymlinkLock(path))
            return storages.JournalStorage(journal.JournalFileBackend(path))
    # SQLite lets one process write at a time; the others wait. Its tables may be made by two at once: one then fails.
    sqlite = str(storage).startswith("sqlite")
    arguments = {"connect_args": {"timeout": 60}} if sqlite else {}
    with naming_damage(storage, "delete the database, and the search starts anew"):
        if sqlite:
            check_database(str(storage).partition(":///")[2])
        for attempt in range(20):
            try:
                return storages.RDBStorage(str(storage), engine_kwargs=arguments)
            except Exception:
                if not sqlite or attempt == 19:
                    raise
                time.sleep(0.1 + 0.2 * random.random())


@contextlib.contextmanager
def naming_damage(storage, remedy):
    """Turns whatever the block raises into a ValueError that names the storage and says what to do."""
    try:
        yield
    except Exception as error:
        # Of what Optuna and SQLAlchemy raise, the first line says what is wrong; the rest are their own addresses.
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"The storage can't be read: {type(error).__name__}: {reason}. If it is damaged, {remedy}. "
            f"Received: storage={str(storage)!r}"
        ) from error


def repair_journal(path, lock):
    """Cuts off what a killed worker left of a journal's last line, and raises an error for damage elsewhere.

    Optuna reads up to such a line, but then writes on behind it, which makes one wrong line of two.
    """
    if not os.path.exists(path):
        return
    if not os.path.isfile(path):
        raise ValueError("it is no ordinary file")
    # Another worker may be in the middle of a line.
    lock.acquire()
    try:
        with open(path, "rb+") as file:
            end = 0
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    known = isinstance(json.loads(line).get("op_code"), int)
                except (ValueError, AttributeError, RecursionError):
                    known = False
                if not known:
                    raise ValueError(f"line {number} is no entry of a journal; what stands before it can be kept")
                end += len(line)
            if end < os.path.getsize(path):
                _LOG.warning("Cut off the last line of %s, which was written in part", path)
                file.truncate(end)
    finally:
        lock.release()


def check_database(path):
    """Raises an error for an SQLite file that is there and damaged; what isn't there yet is made later."""
    path = path.partition("?")[0]
    if not path or path == ":memory:" or not os.path.exists(path):
        return
    if not os.path.isfile(path):
        raise ValueError("it is no ordinary file")
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as database:
        ((answer, *_),) = database.execute("PRAGMA quick_check(1)").fetchall()
        if answer != "ok":
            raise ValueError(answer)


def outcome_digest(attributes, parameters, outcome):
    """Returns the checksum of a trial's outcome, with what it is the outcome of."""
    outcome = {name: value for name, value in outcome.items() if name != "sha256"}
    return value_digest([attributes["slot"], parameters, outcome])


def check_outcome(slot, trial, storage):
    """Raises an error for a finished trial whose outcome or parameters aren't those that were stored."""
    outcome, complete = trial.user_attrs.get("outcome"), trial.state.name == "COMPLETE"
    if outcome is None and not complete:
        # Its workers died.
        return
    good = isinstance(outcome, dict) and (outcome.get("state") == "complete") == complete
    good = good and (not complete or outcome.get("value") == trial.value)
    # Those of older versions have no checksum.
    if not good or outcome.get("sha256") not in (None, outcome_digest(trial.user_attrs, trial.params, outcome)):
        raise ValueError(
            "A trial in the storage is damaged: its checksum is not that of what is stored. Delete the storage, and "
            "the search starts anew, or search under another `name`. "
            f"Received: trial={trial.number}, slot={slot}, storage={str(storage)!r}"
        )


def _process_started(pid):
    """Returns when a process started, in ticks since the machine did; None if it has ended or that can't be seen."""
    # Field 22 of stat, counted after the name, which may hold spaces.
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def this_worker():
    """Returns what identifies this process: on Linux, others on the same machine can see whether it is still there."""
    worker = {"host": platform.node(), "pid": os.getpid()}
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            worker["machine"] = file.read().strip() + os.readlink("/proc/self/ns/pid")
        worker["started"] = _process_started(os.getpid())
    return worker


def is_gone(worker):
    """Returns whether a worker's process is known to have ended; False where that can't be seen from here."""
    here = this_worker()
    if "machine" not in here or worker.get("machine") != here["machine"]:
        return False
    return _process_started(worker["pid"]) != worker["started"]


class Round:
    """One round, as this worker sees it.

    Args:
        storage: An Optuna storage.
        name: String, the study's name.
        mode: `"min"` or `"max"`.
        num_slots: Integer.
        settings: Dictionary of JSON values that all workers must agree on.
        pruner: An Optuna pruner.
        timeout: Float, seconds without a beat after which a trial is given up.
        given: What the user gave as the storage, for messages. Defaults to `storage`.
    """

    def __init__(self, storage, name, mode, num_slots, settings, pruner, timeout, given=None):
        self.optuna = import_optional("optuna", "kregkit.search")
        self._given = storage if given is None else given
        with self._reading():
            self.study = self.optuna.create_study(
                storage=storage,
                study_name=name,
                direction={"min": "minimize", "max": "maximize"}[mode],
                pruner=pruner,
                load_if_exists=True,
            )
            known = self.study.user_attrs.get("settings")
        self.num_slots = num_slots
        self.timeout = timeout
        self.states = self.optuna.trial.TrialState
        self._watched = {}
        # What the trials that this object begins are known by.
        self._bids = set()
        # Numbers of trials whose outcomes are what was written.
        self._checked = set()
        if known is None:
            self.study.set_user_attr("settings", settings)
        elif known != settings:
            differing = sorted(key for key in {*known, *settings} if known.get(key) != settings.get(key))
            was, now = ({key: values.get(key) for key in differing} for values in (known, settings))
            raise ValueError(
                f"The storage holds study {name!r} with {was}. Search under another `name`, or with the same settings; "
                "of a later round, the ranges follow from `trials` and `quantile` of the earlier ones. "
                f"Received: {', '.join(f'{key}={value!r}' for key, value in now.items())}"
            )

    def _reading(self):
        return naming_damage(self._given, "delete it, and the search starts anew")

    def _all_trials(self):
        with self._reading():
            return self.study.get_trials(deepcopy=False)

    def _slots(self):
        """Returns a dictionary from slots to the trial that holds each."""
        holders, losses, last_lost = {}, {}, {}
        for trial in self._all_trials():
            slot = trial.user_attrs.get("slot")
            if not isinstance(slot, int) or slot >= self.num_slots:
                continue
            if trial.state != self.states.FAIL or "outcome" in trial.user_attrs:
                holders.setdefault(slot, trial)
            elif "lost" in trial.user_attrs:
                losses[slot] = losses.get(slot, 0) + 1
                last_lost[slot] = trial
        for slot, trial in last_lost.items():
            if losses[slot] >= MOST_LOSSES:
                holders.setdefault(slot, trial)
        return holders

    def trials(self):
        """Returns the finished trials that count, as a dictionary from slots to Optuna's frozen trials."""
        finished = {slot: trial for slot, trial in sorted(self._slots().items()) if trial.state.is_finished()}
        for slot, trial in finished.items():
            if trial.number not in self._checked:
                check_outcome(slot, trial, self._given)
                self._checked.add(trial.number)
        return finished

    def is_finished(self):
        """Returns whether every slot has its trial."""
        return len(self.trials()) == self.num_slots

    def take(self, sampler, params=None):
        """Returns `(slot, trial)` for a slot that is now this worker's, or None where others hold all that are left.

        Args:
            sampler: Callable from a slot to an Optuna sampler.
            params: Callable from a slot to a dictionary of `(value, distribution)`, the trial's fixed parameters.
        """
        while True:
            holders = self._slots()
            free = [slot for slot in range(self.num_slots) if slot not in holders]
            if not free:
                return None
            # Alone, in order; among others, at random, so that two rarely reach for the same slot.
            alone = all(trial.state.is_finished() for trial in holders.values())
            slot = free[0] if alone else random.SystemRandom().choice(free)
            fixed = params(slot) if params else {}
            bid = uuid.uuid4().hex
            self._bids.add(bid)
            self.study.add_trial(
                self.optuna.trial.create_trial(
                    state=self.states.RUNNING,
                    params={name: value for name, (value, _) in fixed.items()},
                    distributions={name: distribution for name, (_, distribution) in fixed.items()},
                    user_attrs={"slot": slot, "bid": bid, "worker": this_worker()},
                )
            )
            holder = self._slots()[slot]
            if holder.user_attrs["bid"] == bid:
                self.study.sampler = sampler(slot)
                return slot, self.optuna.Trial(self.study, keras_internals.trial_id(holder))
            mine = next(trial for trial in self._all_trials() if trial.user_attrs.get("bid") == bid)
            self._finish(mine.number, self.states.FAIL)

    def release(self, trial):
        """Frees the slot of a trial that this worker doesn't finish."""
        self._finish(trial.number, self.states.FAIL)

    def release_own(self):
        """Frees every slot that this object took and has not finished."""
        for trial in self._all_trials():
            if trial.user_attrs.get("bid") in self._bids and not trial.state.is_finished():
                self._finish(trial.number, self.states.FAIL)

    def record(self, trial, outcome):
        """Stores a trial's outcome; returns False if others had given the trial up meanwhile, so that it is void.

        Args:
            trial: What `take` returned.
            outcome: Dictionary of JSON values with the keys `state` (`"complete"`, `"pruned"` or `"failed"`) and
                `value`.
        """
        state = {"complete": self.states.COMPLETE, "pruned": self.states.PRUNED, "failed": self.states.FAIL}
        try:
            digest = outcome_digest(trial.user_attrs, trial.params, outcome)
            trial.set_user_attr("outcome", {**outcome, "sha256": digest})
        except self.optuna.exceptions.UpdateFinishedTrialError:
            return False
        value = outcome["value"] if outcome["state"] == "complete" else None
        return self._finish(trial.number, state[outcome["state"]], value)

    def _finish(self, number, state, value=None):
        try:
            self.study.tell(number, value, state)
        except (ValueError, self.optuna.exceptions.UpdateFinishedTrialError):
            trial = next(trial for trial in self._all_trials() if trial.number == number)
            if not trial.state.is_finished():
                raise
            return False
        return True

    def give_up_dead(self):
        """Frees the slots of workers that are gone, or that have not beaten for `timeout` seconds of this clock."""
        now = time.monotonic()
        for trial in self._slots().values():
            if trial.state != self.states.RUNNING:
                continue
            beat = trial.user_attrs.get("beat", 0)
            last_beat, since = self._watched.get(trial.number, (None, now))
            # By this worker's clock, whatever the others' clocks say.
            self._watched[trial.number] = (beat, since if beat == last_beat else now)
            if is_gone(trial.user_attrs["worker"]) or now - self._watched[trial.number][1] > self.timeout:
                with contextlib.suppress(self.optuna.exceptions.UpdateFinishedTrialError):
                    self.optuna.Trial(self.study, keras_internals.trial_id(trial)).set_user_attr("lost", True)
                    self._finish(trial.number, self.states.FAIL)

    @contextlib.contextmanager
    def beating(self, trial):
        """Lets a thread show, for a block, that this worker is at work on a trial."""
        ended = threading.Event()

        def beat():
            count = 0
            while not ended.wait(self.timeout / BEATS_PER_TIMEOUT):
                count += 1
                # A storage that is out of reach for a moment is no reason to end; the next beat tries again.
                with contextlib.suppress(Exception):
                    trial.set_user_attr("beat", count)

        thread = threading.Thread(target=beat, name="kregkit.search", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
