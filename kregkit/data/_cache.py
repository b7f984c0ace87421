"""Examples kept in memory or on the disk, so that each is read once."""

import hashlib
import os
import pathlib

import tensorflow as tf

from kregkit._core.checks import check_integer, shown
from kregkit._core.files import read_json, replacing, value_digest, write_json

_FORMAT = 2


def check_cache(cache):
    if not isinstance(cache, bool) and not (isinstance(cache, (str, os.PathLike)) and str(cache)):
        raise ValueError(f"`cache` must be True, False or a path. Received: cache={shown(cache)}")


def open_cache(where, source):
    """Returns what keeps examples: in memory for `True`, in a directory for a path, nothing for `False`.

    Args:
        where: Boolean or path.
        source: Dictionary of JSON values, what identifies the source.

    Raises:
        ValueError: if the path is a file, or a directory that holds the examples of another source.
    """
    if where in (True, False):
        return _Memory() if where else _Nothing()
    return _Directory(where, source)


class _Nothing:
    def get(self, name, types):
        return None

    def put(self, name, values):
        pass

    def compare(self, read, types, limit=None):
        pass


class _Memory(_Nothing):
    def __init__(self):
        self._values = {}

    def get(self, name, types):
        return self._values.get(name)

    def put(self, name, values):
        self._values[name] = values


class _Directory:
    """One file per example, in TensorFlow's own format behind a SHA-256 of it.

    Each file is there whole or not at all, so that processes may share the directory. `source.json` says whose examples
    they are.
    """

    def __init__(self, path, source):
        self.path = pathlib.Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"`cache` must be a directory, not a file. Received: cache={str(path)!r}")
        identity = {"format": _FORMAT, "source": source}
        file = self.path / "source.json"
        try:
            written = read_json(file)
        except FileNotFoundError:
            written = identity if not any(self.path.glob("*.tensors")) else "examples without source.json"
            if written == identity:
                write_json(file, identity)
        except ValueError:
            written = "a source.json that can't be read"
        if written != identity:
            self._refuse(f"{shown(written)}, expected {shown(identity)}")

    def _refuse(self, received):
        raise ValueError(
            f"The directory {self.path} caches the examples of another source, or of this one before it changed. Give "
            f"each source a directory of its own, or delete this one. Received: {received}"
        )

    def compare(self, read, types, limit=None):
        """Raises an error if a few of the examples that are kept aren't those that `read(index)` returns."""
        indices = sorted(int(file.stem) for file in self.path.glob("*.tensors") if file.stem.isdecimal())
        indices = indices if limit is None else [index for index in indices if index < limit]
        for index in sorted({indices[round(part * (len(indices) - 1) / 3)] for part in range(4)} if indices else ()):
            if _payload(self.get(index, types)) != _payload(read(index)):
                self._refuse(f"example {index} differs from what the source gives")

    def get(self, name, types, missing_is_damage=False):
        file = self.path / f"{name}.tensors"
        try:
            if file.exists() and not file.is_file():
                raise ValueError(f"The cached file {file} is no ordinary file: delete the directory {self.path}")
            content = file.read_bytes()
        except FileNotFoundError:
            if missing_is_damage:
                raise ValueError(f"The cached file {file} is missing: delete the directory {self.path}") from None
            return None
        payload = content[32:]
        if content[:32] != _digest(name, payload):
            raise ValueError(
                f"The cached file {file} is damaged, its checksum is wrong: delete it, or the directory {self.path}, "
                "and the source is read again"
            )
        try:
            parts = tf.io.parse_tensor(payload, tf.string).numpy()
            return [tf.io.parse_tensor(part, kind).numpy() for part, kind in zip(parts, types, strict=True)]
        except (tf.errors.OpError, ValueError, TypeError) as error:
            reason = str(getattr(error, "message", error)).splitlines()[0][:200]
            raise ValueError(
                f"The cached file {file} holds another example than is wanted: delete the directory {self.path}, and "
                f"the source is read again. {reason}"
            ) from None

    def put(self, name, values):
        payload = _payload(values)
        with replacing(self.path / f"{name}.tensors") as file:
            file.write_bytes(_digest(name, payload) + payload)

    def num_complete(self):
        """Returns the number of examples of a stream that is here whole, -1 where it isn't: int64 for TensorFlow."""
        try:
            written = read_json(self.path / "complete.json")
            num = check_integer("num", written["num"], 0, 2**62)
            # Older caches have no checksum.
            if written != {"num": num} and written != _complete(num):
                raise ValueError(written)
            return tf.constant(num, tf.int64).numpy()
        except FileNotFoundError:
            return tf.constant(-1, tf.int64).numpy()
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{self.path / 'complete.json'} is damaged: delete the directory {self.path}") from None

    def complete(self, num):
        write_json(self.path / "complete.json", _complete(num))


def _complete(num):
    return {"num": int(num), "sha256": value_digest(int(num))}


def _payload(values):
    return tf.io.serialize_tensor(tf.stack([tf.io.serialize_tensor(tf.convert_to_tensor(v)) for v in values])).numpy()


def _digest(name, payload):
    # With the name, so that a file under another's name is noticed too.
    return hashlib.sha256(f"{name}|".encode() + payload).digest()
