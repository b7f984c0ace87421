"""The checkpoints of one run in a directory: numbered files, written in the background, the newest few kept."""

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
    """What `Resume` writes and reads. Nothing is created before `lock`.

    Args:
        directory: String or path.
        keep: Integer >= 1, how many of the newest checkpoints stay.
    """

    def __init__(self, directory, keep):
        self.path = pathlib.Path(directory)
        self.keep = keep
        self.lock = DirectoryLock(directory, "Resume")
        self._condition = threading.Condition()
        self._pending, self._thread, self._error = None, None, None
        self._good = []

    def acquire(self):
        """Takes the directory's lock and removes what a killed run was writing."""
        self.lock.acquire()
        for path in self._listed(_UNFINISHED):
            path.unlink(missing_ok=True)

    def release(self):
        """Waits for what is being written, then lets the lock go."""
        try:
            self.wait()
        finally:
            self.lock.release()

    def load(self):
        """Returns the newest checkpoint that is whole, or None; warns of newer files that aren't."""
        good = None
        for path in sorted(self._listed(_NAME), reverse=True):
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

        If another one is being written, this one waits, and takes the place of one that waits already. A failed write
        is told by `warn_of_failure`; older checkpoints stay.

        Args:
            make_state: Function that returns the state; it runs in the background.
        """
        with self._condition:
            self._pending = make_state
            if self._thread is None:
                # Not a daemon: an interpreter that ends waits until the file is whole.
                self._thread = threading.Thread(target=self._work, name="kregkit-resume")
                self._thread.start()

    def wait(self):
        """Returns when nothing is being written any more."""
        thread = self._thread
        if thread is not None:
            thread.join()
        self.warn_of_failure()

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
                make_state, self._pending = self._pending, None
                if make_state is None:
                    self._thread = None
                    return
            try:
                self._write(make_state())
            except Exception as error:
                self._error = error

    def _write(self, state):
        serials = [int(_NAME.fullmatch(path.name)[1]) for path in self._listed(_NAME)]
        path = self.path / f"checkpoint-{max(serials, default=0) + 1:08d}.state"
        write_state(path, state)
        _synchronize(self.path)
        self._good = [*self._good, path][-self.keep :]
        for other in self._listed(_NAME):
            if other not in self._good:
                other.unlink(missing_ok=True)

    def _listed(self, pattern):
        with contextlib.suppress(FileNotFoundError):
            return [self.path / name for name in os.listdir(self.path) if pattern.fullmatch(name)]
        return []


def _synchronize(directory):
    """Has the directory's list of names on the disk before older files go."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
