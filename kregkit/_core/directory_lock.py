"""A lock on a directory, so that two processes don't write the same run."""

import contextlib
import os
import pathlib
import socket

try:
    import fcntl
except ImportError:  # Windows: nobody is refused there.
    fcntl = None  # type: ignore[assignment]

# What this process holds: the operating system's locks are between processes only.
_HELD: set[str] = set()


class DirectoryLock:
    """Held by at most one object of one process at a time; the operating system lets it go when the process dies.

    A POSIX record lock on the file `lock` in the directory. It is not inherited by forked workers, which may outlive
    a process that was killed, and it works on network file systems.

    Args:
        directory: String or path; made if it isn't there.
        user: String, what holds the lock, for the message.

    >>> import tempfile
    >>> first, second = (DirectoryLock(directory, "Run") for directory in [tempfile.mkdtemp()] * 2)
    >>> first.acquire()
    >>> try:
    ...     second.acquire()
    ... except ValueError as error:
    ...     print(str(error).partition(":")[0])
    Run's directory is in use by this process
    >>> first.release()
    >>> second.acquire()
    >>> second.release()
    """

    def __init__(self, directory, user):
        self.path = pathlib.Path(directory) / "lock"
        self.user = user
        self._file = None

    @property
    def held(self):
        """Whether this object holds the lock."""
        return self._file is not None

    def acquire(self):
        """Takes the lock; nothing happens if this object holds it.

        Raises:
            ValueError: Somebody else holds it, and the message says which process on which machine; or it can't be
                held, since something else is in the place of the directory or of its file.
        """
        if self.held:
            return
        self._made = not self.path.parent.exists()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            self._fail(f"a file is in its place ({error}): delete it, or use another directory", error)
        name = os.path.realpath(self.path)
        if name in _HELD:
            self._refuse("this process: another `fit` is running in it, or ended in an error that is still looked at")
        if self.path.is_symlink():
            self._refuse("nobody can tell whom, since its file `lock` is a link: delete it")
        file = self._open_locked()
        while not self._is_there(file):
            # The one who held it has removed the file in between.
            file.close()
            file = self._open_locked()
        with contextlib.suppress(OSError):
            # Only for the message; the disk may be full.
            file.truncate()
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        self._file = file
        _HELD.add(name)

    def release(self):
        """Lets the lock go, if this object holds it."""
        if self.held:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                self.path.unlink()
                if self._made:
                    # If nothing was written there.
                    self.path.parent.rmdir()
            _HELD.discard(os.path.realpath(self.path))
            with contextlib.suppress(OSError):
                file.close()

    def _open_locked(self):
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except (IsADirectoryError, PermissionError) as error:
            self._fail(f"its file `lock` can't be opened ({error}): delete it, or use another directory", error)
        file = os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace")
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            with file:
                holder = file.read(200).strip() or "another process"
            if isinstance(error, (BlockingIOError, PermissionError)):
                self._refuse(f"{holder}: wait for it, or use another directory")
            self._refuse(f"nobody can tell whom, as its file system has no locks ({error})")
        return file

    def _is_there(self, file):
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _fail(self, reason, error):
        raise ValueError(
            f"{self.user}'s directory can't be used: {reason}. Received: directory={str(self.path.parent)!r}"
        ) from error

    def _refuse(self, holder):
        raise ValueError(
            f"{self.user}'s directory is in use by {holder}. Received: directory={str(self.path.parent)!r}"
        )
