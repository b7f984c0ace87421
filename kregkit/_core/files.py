"""Files that are there whole or not at all."""

import contextlib
import hashlib
import json
import os
import pathlib
import stat
import tempfile


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path beside `path`; renames it to `path` if the block ends well, else removes it.

    The temporary file has the suffix of `path`, since some writers choose their format by it, and its name starts
    with a dot. Its content is on the disk before the rename, so that a crash leaves the old file or the new one.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    >>> with replacing(path) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> path.read_text()
    'whole'
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Everything from the first dot on: "cycle-01.weights.h5" needs ".weights.h5".
    suffix = "".join(path.suffixes)
    handle, name = tempfile.mkstemp(prefix=f".{path.name.removesuffix(suffix)}-", suffix=suffix, dir=path.parent)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner may read.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, value):
    """Writes `value` as indented JSON, whole or not at all. NaN and infinities are refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path, largest=2**26):
    """Returns what a JSON file of at most `largest` bytes holds.

    Raises:
        ValueError: It is no such file: larger, not text, not JSON, nested deeper than Python can follow, with NaN or
            with one key twice.
    """
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        raise ValueError(f"{path} is no ordinary file")
    if state.st_size > largest:
        raise ValueError(f"{path} is too large to be read: at most {largest} bytes. Received: bytes={state.st_size}")
    try:
        return json.loads(
            pathlib.Path(path).read_text(encoding="utf-8"), parse_constant=_no_constant, object_pairs_hook=_distinct
        )
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply to be read") from None


def _no_constant(name):
    raise ValueError(f"JSON has no {name}")


def _distinct(pairs):
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"a key stands twice in one object. Received: keys={keys}")
    return value


def value_digest(value):
    """Returns the SHA-256 of a JSON value, in hexadecimal: the same for what is read back from a file."""
    text = json.dumps(json.loads(json.dumps(value)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path):
    """Returns the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
