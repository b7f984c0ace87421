"""The checkpoints of one run in a directory: numbered files, written in the background, the newest few kept.

Several workers have a directory each, since each has sums, statistics and random numbers of its own: the chief that of
the run, the others `worker-1`, `worker-2` in it. A checkpoint counts when each of them has its file of that number.
"""

import contextlib
import os
import pathlib
import re
import threading
import warnings

from kregkit._core.directory_lock import DirectoryLock
from kregkit._core.state_file import read_state, write_state

# The only names that are read or deleted.
_NAME = re.compile(r"checkpoint-(\d{8})\.state")
_UNFINISHED = re.compile(r"\.checkpoint-\d{8}-.*\.state")


class Checkpoints:
    """What `Resume` writes and reads. Nothing is created before `acquire`.

    Args:
        directory: String or path.
        keep: Integer >= 1, how many of the newest checkpoints stay.
        worker: The `Worker` that this process is.
    """

    def __init__(self, directory, keep, worker):
        paths = [
            pathlib.Path(directory),
            *(pathlib.Path(directory) / f"worker-{one}" for one in range(1, worker.count)),
        ]
        self.path, self._paths = paths[worker.index], paths
        self.keep, self._worker = keep, worker
        self._next = None
        self.lock = DirectoryLock(directory, "Resume")
        self._condition = threading.Condition()
        self._pending, self._thread, self._error = None, None, None
        self._good = []

    def acquire(self):
        """Takes the directory's lock; on several workers, the chief does."""
        if self._worker.is_chief:
            self.lock.acquire()

    def tidy(self):
        """Removes what a killed run was writing, once the directory is this run's.

        Raises:
            ValueError: Another worker, the chief, has taken a directory that this one doesn't see.
        """
        if not self.lock.path.exists():
            raise ValueError(
                "All workers must see the same directory, on a file system that their machines share. Received: "
                f"directory={str(self._paths[0])!r}"
            )
        if not self._worker.is_chief and self.path.is_symlink():
            raise ValueError(f"{self.path} is a link, and a run's files lie in its directory")
        self.path.mkdir(exist_ok=True)
        for path in self._listed(_UNFINISHED):
            path.unlink(missing_ok=True)

    def release(self):
        """Waits for what is being written, then lets the lock go."""
        try:
            self.wait()
        finally:
            self.lock.release()

    def load(self, gather=lambda value: [value]):
        """Returns the newest checkpoint that is whole on all workers, or None; warns of newer files that aren't.

        Args:
            gather: Function that returns the list of the numbers that all workers call it with.
        """
        newest = max(gather(max(map(_serial, self._listed(_NAME)), default=0)))
        self._next = int(newest) + 1
        at_most = newest
        while True:
            good = self._load(at_most)
            found = gather(_serial(self._good[0]) if self._good else 0)
            if len(set(found)) == 1:
                if newest and good is None and self._worker.count > 1:
                    warnings.warn(
                        "No checkpoint is whole on all workers, and the run begins anew. Received: "
                        f"directory={str(self._paths[0])!r}",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                return good
            at_most = min(found)

    def _load(self, at_most):
        good, self._good = None, []
        paths = [path for path in self._listed(_NAME) if _serial(path) <= at_most]
        for path in sorted(paths, reverse=True):
            try:
                if path.is_symlink() or not path.is_file():
                    raise ValueError(f"{path} is no ordinary file")
                state = read_state(path)
                if not isinstance(state, dict) or "identity" not in state:
                    raise ValueError(f"{path} is no checkpoint of a run")
                good = state
                self._good = [path]
                break
            except (ValueError, OSError) as error:
                warnings.warn(
                    f"A checkpoint can't be used, and the next older one is taken: {error}. "
                    f"Received: directory={str(self.path)!r}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return good

    def save(self, make_state):
        """Has a checkpoint written in the background.

        If another one is being written, this one waits, and takes the place of one that waits already; on several
        workers, which are to write the same ones, training waits. A failed write is told by `warn_of_failure`; older
        checkpoints stay.

        Args:
            make_state: Function that returns the state; it runs in the background.
        """
        if self._worker.count > 1:
            self._join()
        with self._condition:
            self._pending, self._serial = make_state, self._next
            self._next += 1
            if self._thread is None:
                # Not a daemon: an interpreter that ends waits until the file is whole.
                self._thread = threading.Thread(target=self._work, name="kregkit-resume")
                self._thread.start()

    def wait(self):
        """Returns when nothing is being written any more."""
        self._join()
        self.warn_of_failure()

    def _join(self):
        thread = self._thread
        if thread is not None:
            thread.join()

    def warn_of_failure(self):
        """Warns if a write has failed since the last call."""
        with self._condition:
            error, self._error = self._error, None
        if error is not None:
            last = f"{self._good[-1].name} is the newest" if self._good else "there is none yet"
            warnings.warn(
                f"A checkpoint could not be written, and training goes on without it ({last}): "
                f"{type(error).__name__}: {error}. Received: directory={str(self.path)!r}",
                RuntimeWarning,
                stacklevel=3,
            )

    def _work(self):
        while True:
            with self._condition:
                make_state, self._pending, serial = self._pending, None, self._serial
                if make_state is None:
                    self._thread = None
                    return
            try:
                self._write(make_state(), serial)
            except Exception as error:
                self._error = error

    def _write(self, state, serial):
        path = self.path / f"checkpoint-{serial:08d}.state"
        write_state(path, state)
        _synchronize(self.path)
        self._good = [*self._good, path]
        self._remove_older()

    def _remove_older(self):
        # Numbers that all workers have a file of.
        whole = set.intersection(*({path.name for path in _listed(one, _NAME)} for one in self._paths))
        kept = [path for path in self._good if path.name in whole][-self.keep :]
        if len(self._paths) == 1:
            # Nothing else is known to be good.
            self._good = kept
        elif len(kept) < self.keep:
            return
        else:
            self._good = [path for path in self._good if path.name >= kept[0].name]
        for other in self._listed(_NAME):
            if other not in self._good:
                other.unlink(missing_ok=True)

    def _listed(self, pattern):
        return _listed(self.path, pattern)


def _listed(directory, pattern):
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return [directory / name for name in os.listdir(directory) if pattern.fullmatch(name)]
    return []


def _serial(path):
    return int(_NAME.fullmatch(path.name)[1])


def _synchronize(directory):
    """Has the directory's list of names on the disk before older files go."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
