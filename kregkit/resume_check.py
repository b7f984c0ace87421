"""Prove on a program of your own that `kregkit.callbacks.Resume` takes it up bit for bit.

    python -m kregkit.resume_check script.py --kills 5 [-- the script's own arguments]

runs the script once to its end, and once more while it is killed at random instants and started again. Then it
compares what both ended in: weights, optimizer slots and history bit by bit, and all files that the script wrote.

Each run has a new, empty working directory, so paths that the script reads must be absolute or relative to its own
`__file__`, and those that it writes, `Resume`'s directory among them, relative to the working directory.

A program that starts others, such as the workers of one training, is killed together with all of them, as by a power
cut. It has to wait for them before it ends.
"""

import argparse
import contextlib
import dataclasses
import fnmatch
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

from kregkit._core import rules
from kregkit._core.checks import check_integer, check_number
from kregkit._core.files import file_digest
from kregkit._core.types import Path

__all__ = ["Verification", "verify"]

RECORD = "KREGKIT_RESUME_RECORD"
# Files that hold the time, or the number of a process, in their names or contents.
IGNORED = ("*.tfevents.*", "*.log")
# Seconds for which helpers of a program, such as those of `multiprocessing`, may outlive it.
_GRACE = 5.0


@dataclasses.dataclass
class Verification:
    """What `verify` found.

    Attributes:
        kills: Integer, how often the run was killed.
        kills_in_writes: Integer, how many of these came while a file was being written.
        compared: Integer, how many variables, logged quantities and files were compared.
        differences: List of strings, what differs between the two runs; empty if nothing does.
    """

    kills: int
    kills_in_writes: int
    compared: int
    differences: list

    @property
    def identical(self) -> bool:
        """Whether the killed run ended in the same bits."""
        return not self.differences

    def __str__(self):
        kills = f"{self.kills} kills, {self.kills_in_writes} of them within a write"
        if self.identical and self.kills == 0:
            return "nothing is proved: the program ended before it could be killed; let it train longer"
        if self.identical:
            return f"bit-identical after {kills}: {self.compared} variables, logs and files"
        return "\n".join([f"not identical after {kills}:", *(f"  {line}" for line in self.differences)])


@rules.checked(
    script=rules.optional(rules.path),
    arguments=rules.entries(rules.any_of(rules.path, rules.number(), rules.word(empty=True)), empty=True),
    seed=rules.seed,
    ignored=rules.entries(rules.word(), empty=True),
    start=rules.function(none=True, num=2),
    verbose=rules.boolean,
)
def verify(
    script: Path | None,
    arguments: Sequence[Any] = (),
    kills: int = 5,
    seed: int = 0,
    timeout: float = 600.0,
    ignored: Sequence[str] = IGNORED,
    start: Callable[..., Any] | None = None,
    verbose: bool = False,
) -> Verification:
    """Runs a program without and with kills, and compares what both runs end in.

    Args:
        script: String or path of a Python program whose `fit` has a `Resume` in its callbacks. It may start further
            programs, such as workers: all of them are killed at once, and it must wait for them before it ends.
        arguments: List of strings, the program's arguments.
        kills: Integer >= 1, how often to kill it; fewer, if it ends before. A third is aimed at a write.
        seed: Integer, of the instants.
        timeout: Float > 0, the seconds after which a run counts as stuck.
        ignored: List of patterns of file names that aren't compared.
        start: Function `(directory, environment)` that starts the program there in another way, and returns an object
            with `pid`, `poll()` and `wait()` like those of `subprocess.Popen`. Defaults to running `script`. What it
            starts in turn is killed too if it leads a process group (`start_new_session=True`) or, on Linux, if its
            processes have that environment.
        verbose: Boolean, whether to print what is being done. Defaults to `False`.

    Returns:
        A `Verification`.

    Raises:
        ValueError: An argument is out of range; the program has no `Resume`, or its directory is the same for all runs.
        RuntimeError: The program fails, takes longer than `timeout`, or ends before the processes that it started.

    Example: `print(verify("train.py", kills=10))`.
    """
    check_integer("kills", kills, 1)
    check_number("timeout", timeout, 0, low_open=True)
    if start is None:
        path = pathlib.Path(script or "").resolve()
        if not path.is_file():
            raise ValueError(f"`script` must be a Python program. Received: script={str(script)!r}")

        def start(directory, environment):
            command = [sys.executable, str(path), *map(str, arguments)]
            environment = {**os.environ, **environment}
            return subprocess.Popen(command, cwd=directory, env=environment, start_new_session=True)

    with tempfile.TemporaryDirectory(prefix="resume-check-", ignore_cleanup_errors=True) as root:
        say = (lambda line: print(f"resume_check: {line}", flush=True)) if verbose else lambda line: None
        whole, killed = (_Run(pathlib.Path(root) / name, start, timeout, say) for name in ("whole", "killed"))
        say("a run to its end")
        whole.finish()
        whole.check()
        count, in_writes = killed.finish_with_kills(kills, whole, random.Random(seed))
        compared, different = _compare(whole, killed, tuple(ignored))
        return Verification(count, in_writes, compared, different)


class _Run:
    """One run of the program: its directory, the record that `Resume` writes, and its processes."""

    def __init__(self, path, start, timeout, say):
        self.directory = path / "work"
        self.directory.mkdir(parents=True)
        self.record_path = path / "record.jsonl"
        self._start, self._timeout, self._say = start, timeout, say

    @contextlib.contextmanager
    def running(self):
        """Starts the program for a block; at its end, however it comes, no process of the program is left."""
        process = self._start(str(self.directory), {RECORD: str(self.record_path)})
        program = _Program(process, self.record_path)
        try:
            yield program
        finally:
            program.kill()

    def record(self):
        """Returns the events that were written so far; a killed process may have left half of one."""
        events = []
        with contextlib.suppress(FileNotFoundError):
            for line in self.record_path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    events.append(json.loads(line))
        return events

    def finish(self):
        with self.running() as program:
            self._finish(program)

    def _finish(self, process):
        begun = time.monotonic()
        self._wait(process, lambda: bool(self.record()))
        first = stepping = time.monotonic()
        seen = set()

        def stepped():
            # The second checkpoint comes after the first steps, which take longer than others.
            seen.update(self._names())
            return len(seen) > 1

        if self._wait(process, stepped):
            stepping = time.monotonic()
        self._wait(process)
        # Without the start of Python and of the libraries; and without the first steps.
        self.seconds = time.monotonic() - (first if self.record() else begun)
        self.step_seconds = time.monotonic() - stepping
        if process.wait() != 0:
            raise RuntimeError(f"The program failed. Received: exit code {process.wait()}")
        process.check_all_ended()

    def finish_with_kills(self, kills, whole, instants):
        """Returns how often the program was killed, and how often of these within a write."""
        count = in_writes = 0
        for number in range(kills):
            self._say(f"a run to be killed ({number + 1} of {kills})")
            aimed, seen = number % 3 == 2, len(self.record())
            with self.running() as process:
                begun = self._wait(process, lambda seen=seen: len(self.record()) > seen)
                if not begun or not self._comes_to(process, number, whole, instants):
                    # It ended, or failed before its fit.
                    break
            count += 1
            in_writes += aimed and self._writes()
        self._say(f"a run that goes on to its end after {count} kills")
        self.finish()
        return count, in_writes

    def _comes_to(self, process, number, whole, instants):
        """Waits for the instant of a kill; returns whether it came before the program ended."""
        if number % 3 == 2:
            return self._wait(process, self._writes, pause=0.0)
        if number % 3 == 1:
            # Some way after the next checkpoint: a restart costs longer than many steps do.
            names = self._names()
            hit = self._wait(process, lambda: self._names() - names, pause=0.001)
            return hit and not self._ends_within(process, instants.uniform(0, 0.5 * whole.step_seconds))
        return not self._ends_within(process, instants.uniform(0, 0.6 * whole.seconds))

    def check(self):
        """Checks that the record tells of a run that `Resume` can be asked to take up."""
        ends = [event for event in self.record() if event["event"] == "end"]
        if not ends:
            raise ValueError("The program has no fit with `kregkit.callbacks.Resume` in its callbacks")
        for event in ends:
            if not pathlib.Path(event["directory"]).is_relative_to(self.directory.resolve()):
                raise ValueError(
                    "Resume's directory must be relative to the working directory, so that each run has its own. "
                    f"Received: directory={event['directory']!r}"
                )

    def ends(self):
        """Returns what the fits ended in, by the directory of their `Resume` and, of several workers, the worker."""
        root, ends = self.directory.resolve(), {}
        for event in self.record():
            if event["event"] == "end":
                worker = event.get("worker")
                of = "" if worker is None else f" (worker {worker})"
                ends[f"{pathlib.Path(event['directory']).relative_to(root)}{of}"] = event
        return ends

    def _directories(self):
        return {event["directory"] for event in self.record()}

    def _names(self):
        names = set()
        for directory in self._directories():
            with contextlib.suppress(FileNotFoundError):
                names |= {(directory, name) for name in os.listdir(directory) if name.startswith("checkpoint-")}
        return names

    def _writes(self):
        """Returns whether a checkpoint is being written."""
        for directory in self._directories():
            with contextlib.suppress(FileNotFoundError):
                if any(name.startswith(".checkpoint-") for name in os.listdir(directory)):
                    return True
        return False

    def _wait(self, process, condition=lambda: False, pause=0.005):
        """Waits until a condition holds, and returns whether it did before the process ended."""
        until = time.monotonic() + self._timeout
        while process.poll() is None:
            if condition():
                return True
            if time.monotonic() > until:
                raise RuntimeError(f"The program took longer than timeout={self._timeout}")
            time.sleep(pause)
        return False

    def _ends_within(self, process, seconds):
        until = time.monotonic() + seconds
        self._wait(process, lambda: time.monotonic() >= until, pause=0.001)
        return process.poll() is not None


class _Program:
    """A started program, and all processes that it starts."""

    def __init__(self, process, record_path):
        self._process = process
        self._mark = f"{RECORD}={record_path}".encode()
        self.poll, self.wait = process.poll, process.wait
        # Only of a group that the program leads: another one may be this process's own.
        self._leads = False
        with contextlib.suppress(ProcessLookupError):
            self._leads = os.getpgid(process.pid) == process.pid

    def kill(self):
        """Ends every process of the program, as a power cut does."""
        with contextlib.suppress(ProcessLookupError):
            if self._leads:
                os.killpg(self._process.pid, signal.SIGKILL)
            elif self.poll() is None:
                os.kill(self._process.pid, signal.SIGKILL)
        # Those that have left the group, until no one is there to start another.
        while others := self._others():
            for pid in others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        self.wait()

    def check_all_ended(self):
        """Raises an error where the program has ended, and processes that it started go on."""
        until = time.monotonic() + _GRACE
        while others := self._others():
            if time.monotonic() > until:
                raise RuntimeError(
                    "The program ended before processes that it started, which then were killed: let it wait for them, "
                    f"as by `process.wait()`. Received: processes={others}"
                )
            time.sleep(0.02)

    def _others(self):
        """Returns the numbers of other processes that have the program's environment; none without /proc."""
        found = []
        for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
            # A process that has ended, or of another user, can't be read.
            with contextlib.suppress(OSError):
                if name.isdigit() and int(name) not in (self._process.pid, os.getpid()):
                    environment = pathlib.Path("/proc", name, "environ").read_bytes()
                    if self._mark in environment.split(b"\0"):
                        found.append(int(name))
        return found


def _compare(whole, killed, ignored):
    """Returns how many things were compared, and lines that say what differs."""
    lines, compared = [], 0
    old, new = whole.ends(), killed.ends()
    for directory, first in old.items():
        second = new.get(directory)
        if second is None:
            lines.append(f"{directory}: the killed run's fit never ended")
            continue
        pairs = zip(first["variables"], second["variables"])
        lines += [f"{directory}: variable {one[0]}" for one, other in pairs if one[1] != other[1]]
        if len(first["variables"]) != len(second["variables"]):
            lines.append(f"{directory}: {len(first['variables'])} variables and {len(second['variables'])}")
        names = sorted(first["history"].keys() | second["history"].keys())
        lines += [
            f"{directory}: history[{name!r}]: {first['history'].get(name)} and {second['history'].get(name)}"
            for name in names
            if first["history"].get(name) != second["history"].get(name)
        ]
        compared += len(first["variables"]) + len(names)
    files, others = _files(whole, ignored), _files(killed, ignored)
    for name in sorted(files.keys() | others.keys()):
        if name not in files or name not in others:
            lines.append(f"file {name}: only in the {'whole' if name in files else 'killed'} run")
        elif files[name] != others[name]:
            lines.append(f"file {name}")
    return compared + len(files), lines


def _files(run, ignored):
    """Returns the checksums of all files that a run wrote, but for `Resume`'s own and for locks."""
    left_out = [pathlib.Path(event["directory"]) for event in run.record()]
    root, digests = run.directory.resolve(), {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        skipped = path.name == "lock" or any(fnmatch.fnmatch(path.name, pattern) for pattern in ignored)
        if path.is_file() and not skipped and not any(path.is_relative_to(directory) for directory in left_out):
            digests[name] = _model_digest(path) if path.suffix == ".keras" else file_digest(path)
    return digests


# Keras writes the addresses of objects in memory as their numbers.
_ADDRESS = re.compile(rb'"shared_object_id": *\d+')


def _model_digest(path):
    """Returns the checksums of a `.keras` file's parts, less what differs between any two processes.

    The archive and its metadata hold the time; the configuration holds addresses, of which only the order counts.
    """
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name != "metadata.json"]
        digests = {name: archive.getinfo(name).CRC for name in names}
        if "config.json" in digests:
            numbers = {}
            digests["config.json"] = _ADDRESS.sub(
                lambda found: b"%d" % numbers.setdefault(found[0], len(numbers)), archive.read("config.json")
            )
        return digests


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m kregkit.resume_check",
        description="Prove that a program goes on bit for bit after kills.",
        usage="%(prog)s script.py [options] [-- the script's own arguments]",
    )
    parser.add_argument("script")
    parser.add_argument("--kills", type=int, default=5, help="how often it is killed (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants at which it is killed")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds after which a run counts as stuck")
    parser.add_argument("--ignore", action="append", default=[], help="a pattern of file names, such as '*.png'")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # `argparse` itself takes no "--" after other options.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:end])
    try:
        found = verify(
            options.script,
            arguments[end + 1 :],
            options.kills,
            options.seed,
            options.timeout,
            (*IGNORED, *options.ignore),
            verbose=True,
        )
    except (ValueError, RuntimeError) as error:
        parser.exit(2, f"{error}\n")
    print(found)
    return 0 if found.identical and found.kills else 1


if __name__ == "__main__":
    sys.exit(main())
