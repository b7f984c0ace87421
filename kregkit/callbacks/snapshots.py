"""Snapshot ensembles: one training run, several trained members."""

import contextlib
import copy
import hashlib
import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from kregkit import schedules
from kregkit._core import keras_internals
from kregkit._core.architecture import architecture_text
from kregkit._core.checks import check_boolean, check_integer, check_number, shown
from kregkit._core.directory_lock import DirectoryLock
from kregkit._core.optimizers import leaf_optimizers
from kregkit._core.snapshot_directory import SnapshotDirectory
from kregkit._core.types import Path, Tensor
from kregkit._core.weights import assign_values, copy_values, swapped, training_state
from kregkit._core.workers import gather_from_workers, is_chief
from kregkit.callbacks._train_step import Hook
from kregkit.callbacks.learning_rate import RateCallback, Rates


class SnapshotEnsemble(RateCallback):
    """Trains in cosine cycles and keeps the weights at each cycle's end, as members of an ensemble.

    The rate is `kregkit.schedules.CosineCycles` over the whole fit, step by step, in place of the compiled rate; only
    `Warmup` and `kregkit.transfer.GradualUnfreeze` may share it. Cycles are counted in batches, so that skipped
    updates lose no member. Each member is a `cycle-NN.weights.h5`, as `model.save_weights` writes it, with the raw
    weights, also beside `PolyakAveraging`; `manifest.json` lists them with cycle, epoch, step, learning rate, logs and
    checksum. `kregkit.inference.Ensemble.from_directory(directory)` predicts with them.

    A run that was killed goes on when the same program is started again: from its last complete cycle, with that
    member's weights, the optimizer's slots and the seeds of random layers; only the order of a shuffled data set is
    not restored. If a cycle ends within an epoch, that epoch is begun again, and the run is longer by its part. Beside
    `Resume` it goes on from that one's checkpoint instead, bit for bit, and writes later members again. With
    `BackupAndRestore` before this callback it goes on from that one's place, which loses less of a long cycle.

    On several workers, the chief writes, and all must see the same directory. One run at a time may use it.

    Args:
        directory: String or path, where members go; it is made when the first one is written.
        cycles: Integer >= 1, how many members. Defaults to `5`.
        max_learning_rate: Float > 0, the rate at each cycle's start. Defaults to the compiled rate.
        min_learning_rate: Float >= 0, the rate that each cycle approaches. Defaults to `0.0`.
        restart_multiplier: Float >= 1, how much longer each cycle is than the one before. Defaults to `1.0`.
        overwrite: Boolean, whether a finished or a different run in the directory is replaced. Defaults to `False`.

    Raises:
        ValueError: An argument is out of range. In `fit`, before the first step: the data doesn't tell its length
            (pass `steps_per_epoch`); there are too few steps; the directory holds a finished or a different run
            (other cycles, rates, length, architecture or optimizer); another process uses it; the member to go on
            from is missing or corrupt; the fit doesn't start at epoch 0; another rate callback.

    Example:

    >>> callback = SnapshotEnsemble("snapshots", cycles=4, max_learning_rate=0.1)

    Reference: [Huang et al., 2017](https://arxiv.org/abs/1704.00109)
    """

    replaces_base = True
    untraced_attributes: tuple[str, ...] = (
        *("directory", "ends", "overwrite", "_given", "_replaces", "_settings", "_members", "_start_epoch", "_epoch"),
        *("_before", "_rate_index", "_directory_lock", "_waits"),
    )
    fit_attributes: tuple[str, ...] = ("_state_variables", "_copies", "_end_steps", "_directory_lock")
    _directory_lock = None  # within a fit: on the directory
    _waits = False  # within a fit: for the state that `Resume` gives

    def __init__(
        self,
        directory: Path,
        cycles: int = 5,
        max_learning_rate: float | None = None,
        min_learning_rate: float = 0.0,
        restart_multiplier: float = 1.0,
        overwrite: bool = False,
    ) -> None:
        super().__init__("epoch")
        self.directory = SnapshotDirectory(directory)
        self.cycles = check_integer("cycles", cycles, 1)
        if max_learning_rate is not None:
            max_learning_rate = check_number("max_learning_rate", max_learning_rate, 0, low_open=True)
        self.max_learning_rate = max_learning_rate
        self.min_learning_rate = check_number(
            "min_learning_rate", min_learning_rate, 0, math.inf if max_learning_rate is None else max_learning_rate
        )
        self.restart_multiplier = check_number("restart_multiplier", restart_multiplier, 1)
        self.overwrite = check_boolean("overwrite", overwrite)
        self._given: dict[str, Any] | None = None
        self._replaces = False

    def combines_with(self, other: Any) -> bool:
        return other.multiplies_cycles

    def make_schedule(self, unit_steps: int, total_steps: int) -> Callable[[Tensor], Tensor]:
        # From 1 to 0; what lies between is between the two rates.
        return schedules.CosineCycles(1.0, total_steps, self.cycles, 0.0, self.restart_multiplier)

    def rate_at(self, step: Tensor, base: Tensor) -> Tensor:
        high = base if self.max_learning_rate is None else self.max_learning_rate
        return self.min_learning_rate + (high - self.min_learning_rate) * self.factor_at(step)

    def get_state(self) -> dict[str, Any]:
        """Returns how many members are complete, and their entries in the manifest; the files are in the directory."""
        return {
            "members": len(self._members),
            "entries": copy.deepcopy(self._members),
            "settings": copy.deepcopy(self._settings),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Tells the next fit, or this one before its first epoch, that weights and place are restored by others.

        Args:
            state: What `get_state` returned; `{"members": number}` is enough where the manifest lists them.
        """
        self._given = copy.deepcopy(state)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        try:
            self._look()
        except BaseException:
            self._unlock()
            raise

    def _look(self):
        if not self.model.built or not self.model.optimizer.built:
            raise ValueError(
                "A member holds all weights and the optimizer's slots, which this model makes in its first step, or "
                "which Keras doesn't save as it has no `call`: give it one, and call it once on a batch of inputs "
                f"before `fit`. Received: model={self.model.name!r}"
            )
        total_steps = self.train_step.steps_per_epoch * self.train_step.epochs
        self.ends = self.make_schedule(None, total_steps).ends
        bases = self.train_step.share(Rates).bases
        self._settings = {
            "cycles": self.cycles,
            "max_learning_rate": bases if self.max_learning_rate is None else self.max_learning_rate,
            "min_learning_rate": self.min_learning_rate,
            "restart_multiplier": self.restart_multiplier,
            "epochs": self.train_step.epochs,
            "steps_per_epoch": self.train_step.steps_per_epoch,
            "weights": [[list(weight.shape), weight.dtype] for weight in self.model.weights],
            "architecture": _digest(architecture_text(self.model)),
            "optimizer": [
                [type(leaf).__name__, _digest(_options(leaf))] for leaf in leaf_optimizers(self.model.optimizer)
            ],
        }
        self._state_variables = training_state(self.model)
        rate = leaf_optimizers(self.model.optimizer)[0].learning_rate
        self._rate_index = next(index for index, variable in enumerate(self._state_variables) if variable is rate)
        self._members, self._start_epoch = [], 0
        self._directory_lock = DirectoryLock(self.directory.path, "SnapshotEnsemble")
        if is_chief(self.model):
            self._directory_lock.acquire()
        backed_up = self._backed_up_epoch()
        # `Resume` gives the state later, whichever of the two comes first.
        self._waits = any(type(callback).restore is not Hook.restore for callback in self.train_step.find(Hook))
        if self._waits:
            return
        if self.directory.exists():
            self._take_up()
        if self._given is not None:
            self._go_on_from_state()
        elif backed_up:
            self._go_on_from_backup(backed_up)
        elif self._members:
            self._go_on()
        self._check_workers()
        self._choose_source()

    def _check_workers(self):
        """Raises an error on all workers if they found different places to go on from, before one waits for others."""
        members = gather_from_workers(self.model, len(self._members))
        if len(set(members)) > 1:
            raise ValueError(
                "All workers must see the same directory, on a file system that their machines share. Received: "
                f"directory={str(self.directory.path)!r} with {[int(num) for num in members]} members, by worker"
            )

    def prepare(self) -> None:
        if not self._waits:
            return
        if self.directory.exists():
            self._take_up()
        if self._given is not None:
            self._go_on_from_state()
        elif self._members:
            # Without a checkpoint the run begins again, and writes its members again.
            self._members, self._replaces = [], True
        self._choose_source()

    def _go_on_from_state(self):
        state, self._given = self._given, None
        members = state.get("entries", self._members[: state["members"]])
        different = _different(state["settings"], self._settings) if "settings" in state else []
        if different:
            raise ValueError(
                f"Cycles are laid over the whole run, which was a different one (in {', '.join(different)}): keep its "
                f"settings, or use another directory. Received: directory={str(self.directory.path)!r}"
            )
        # Other workers know the steps of members only.
        for member in members if is_chief(self.model) else ():
            self.directory.member_path(member)
        self._members, self._start_epoch = members, None

    def _unlock(self):
        if self._directory_lock is not None:
            self._directory_lock.release()

    def _backed_up_epoch(self):
        """Returns the epoch that BackupAndRestore goes on from, 0 if it has nothing to go on from."""
        callbacks = self.train_step.callbacks
        backups = self.train_step.find(keras.callbacks.BackupAndRestore)
        if any(callbacks.index(backup) > callbacks.index(self) for backup in backups):
            raise ValueError(
                "BackupAndRestore would take the weights away from the place that the cycles go on from: place it "
                f"before SnapshotEnsemble. Received: callbacks={[type(callback).__name__ for callback in callbacks]}"
            )
        return (keras_internals.initial_epoch(self.model) or 0) if backups else 0

    def _go_on_from_backup(self, epoch):
        step = epoch * self.train_step.steps_per_epoch
        # A member that is newer than the backup is made again.
        self._members = [member for member in self._members if member["step"] <= step]
        complete = sum(end <= step for end in self.ends)
        if len(self._members) != complete:
            raise ValueError(
                f"BackupAndRestore goes on after {complete} complete cycles, but the directory holds "
                f"{len(self._members)}. Received: directory={str(self.directory.path)!r}"
            )
        for member in self._members:
            self.directory.member_path(member)
        self._start_epoch = epoch

    def _take_up(self):
        manifest = self.directory.read()
        old, new = manifest["settings"], self._settings
        different = _different(old, new)
        if not manifest["finished"] and not different:
            self._members = manifest["members"]
            self._check_members()
            if is_chief(self.model):
                self.directory.remove_unfinished()
        elif self._given is not None and not different:
            # Finished after the state was taken: what came later is made again.
            self._members = manifest["members"]
        elif not self.overwrite:
            kind = "a finished run" if manifest["finished"] else f"a different run (in {', '.join(different)})"
            raise ValueError(
                f"The directory holds {kind}; use another one, or overwrite=True. "
                f"Received: directory={str(self.directory.path)!r}"
            )
        else:
            # Not now: another callback may still refuse this fit.
            self._replaces = True

    def _check_members(self):
        """Raises an error unless the members are those of this run's first cycles, the newest with its state."""
        steps = [member.get("step") for member in self._members]
        # A member that was killed while its validation ran has its state; older ones don't need theirs any more.
        if steps != self.ends[: len(steps)] or any("learning_rate" not in member for member in self._members):
            expected = f"cycles that end at steps {self.ends}"
        elif self._members and not self._members[-1].get("state"):
            expected = "a state of the newest member"
        else:
            return
        raise ValueError(
            f"The manifest {self.directory.manifest_path} doesn't fit its own settings: it must have {expected}. "
            f"Delete the directory to train anew. Received: step={shown(steps)}"
        )

    def _replace(self):
        self._replaces = False
        if not is_chief(self.model):
            return
        self.directory.write(self._settings, [], finished=False)
        self.directory.remove_members()

    def _go_on(self):
        last = self._members[-1]
        arrays = self.directory.load_state(last["state"])
        if len(arrays) != len(self._state_variables):
            raise ValueError(
                f"The state in {self.directory.path} has {len(arrays)} arrays, expected {len(self._state_variables)}. "
                f"Delete the directory to train anew. Received: file={last['state']['file']!r}"
            )
        paths = [self.directory.member_path(member) for member in self._members]
        values = [
            value.view(variable.dtype) if value.dtype.kind == "V" else value
            for value, variable in zip(arrays, copy_values(self._state_variables))
        ]
        self.model.load_weights(paths[-1])
        assign_values(self._state_variables, values)
        self._start_epoch, offset = divmod(last["step"], self.train_step.steps_per_epoch)
        self.train_step.offset = offset
        # The rate of the member's last step came with its state; the base is the compiled one.
        for leaf, base in zip(leaf_optimizers(self.model.optimizer), self.train_step.share(Rates).bases):
            leaf.learning_rate = base
        # `fit` reads it next; `on_epoch_begin` clears it for the fits to come.
        keras_internals.set_initial_epoch(self.model, self._start_epoch)

    def _choose_source(self):
        """Where a cycle ends inside an execution of several steps, the step itself keeps a copy of that moment."""
        steps, execution = self.train_step.steps_per_epoch, self.model.steps_per_execution
        places = [(end - self.train_step.offset - 1) % steps + 1 for end in self.ends]
        self._copies = None
        if all(place % execution == 0 or place == steps for place in places):
            return
        if any(later - earlier < execution for earlier, later in itertools.pairwise(self.ends)):
            raise ValueError(
                f"Cycles must be longer than `steps_per_execution`. Received: cycles={self.cycles} over "
                f"{self.ends[-1]} steps with steps_per_execution={execution}"
            )
        variable = self.train_step.variable
        self._copies = [
            variable(self, f"copy_{index}", value, value.dtype.name)
            for index, value in enumerate(copy_values(self._state_variables))
        ]
        self._end_steps = variable(self, "ends", np.asarray(self.ends), "int64")

    def after_step(self, step: Tensor, logs: dict[str, Any]) -> None:
        if self._copies is None:
            return

        def keep():
            for kept, variable in zip(self._copies, self._state_variables):
                kept.assign(ops.cast(variable, kept.dtype))

        ops.cond(ops.any(step + 1 == self._end_steps), keep, lambda: None)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        keras_internals.clear_initial_epoch(self.model)
        if self._start_epoch is not None and epoch != self._start_epoch:
            raise ValueError(
                f"Cycles are laid over the whole run, which begins at epoch {self._start_epoch}. "
                f"Received: initial_epoch={epoch}"
            )
        self._start_epoch = None
        if self._replaces:
            self._replace()
        self._epoch = epoch
        self._before = epoch * self.train_step.steps_per_epoch + self.train_step.offset

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # An execution of several steps counts itself whole, also where the epoch ends within it.
        trained, cycle = self._before + min(batch + 1, self.train_step.steps_per_epoch), len(self._members)
        if cycle < self.cycles and trained >= self.ends[cycle]:
            self._save(cycle + 1, self.ends[cycle], logs or {})

    def _save(self, cycle, step, logs):
        if not is_chief(self.model):
            self._members.append({"epoch": self._epoch, "step": step})
            return
        state = copy_values(self._state_variables if self._copies is None else self._copies)
        with contextlib.nullcontext() if self._copies is None else swapped(self._state_variables, state):
            member = self.directory.save_member(self.model, cycle)
        self._members.append(
            {
                **member,
                "state": self.directory.save_state(state, cycle),
                "cycle": cycle,
                "epoch": self._epoch,
                "step": step,
                # The rate of this very step; the logs are those of the execution that it was in.
                "learning_rate": float(state[self._rate_index]),
                "logs": _finite(logs),
            }
        )
        self._record()

    def _record(self):
        if not is_chief(self.model):
            return
        if len(self._members) == 1:
            self.directory.save_architecture(self.model)
        # The manifest is what makes a member count, so it is written last.
        self.directory.write(self._settings, self._members, finished=len(self._members) == self.cycles)
        for member in self._members[:-1]:
            self.directory.remove_state(member["state"])

    def release(self) -> None:
        # An error between the two hooks would leave the next fit with this one's first epoch.
        keras_internals.clear_initial_epoch(self.model)
        self._unlock()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # Validation came after the member was saved; it belongs to it if the cycle ended with the epoch.
        end = self._before + self.train_step.steps_per_epoch
        if self._members and self._members[-1]["step"] == end and self._members[-1]["epoch"] == epoch:
            self._members[-1]["logs"] = _finite(logs or {})
            self._record()


def _different(old, new):
    """Returns the names of the settings that differ."""
    return [name for name in new if old.get(name) != new[name]]


def _digest(value):
    """Returns a short name for a JSON value, `None` for something that is none."""
    try:
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    except (TypeError, ValueError):
        return None


def _options(optimizer):
    """Returns an optimizer's configuration less its name and rate, `None` where it has none."""
    try:
        config = optimizer.get_config()
    except NotImplementedError:
        return None
    return {key: value for key, value in config.items() if key not in ("name", "learning_rate")}


def _finite(logs):
    """JSON has neither arrays, which some metrics give, nor NaN; callbacks may have put words into the logs."""

    def plain(value):
        if isinstance(value, list):
            return [plain(one) for one in value]
        return value if math.isfinite(value) else None

    def number(value):
        try:
            return plain(np.asarray(value, "float64").tolist())
        except (TypeError, ValueError):
            return str(value)

    return {name: number(value) for name, value in logs.items()}
