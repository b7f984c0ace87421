"""Examples of sources with random access, kept so that each is read once."""

import pathlib

import tensorflow as tf

from kregkit._core.files import replacing


def check_cache(cache):
    if cache not in (True, False) and not isinstance(cache, (str, pathlib.Path)):
        raise ValueError(f"`cache` must be True, False or a path. Received: cache={cache!r}")


def open_cache(where):
    """Returns what keeps examples: in memory for `True`, in a directory for a path, nothing for `False`.

    Raises:
        ValueError: if the path is a file.
    """
    if where in (True, False):
        return _Memory() if where else _Nothing()
    return _Directory(where)


class _Nothing:
    def get(self, name, types):
        return None

    def put(self, name, values):
        pass


class _Memory(dict):
    def get(self, name, types):
        return super().get(name)

    def put(self, name, values):
        self[name] = values


class _Directory:
    """One file per example, in TensorFlow's own format; whole or not at all, so that processes may share it."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"`cache` must be a directory for this source, not a file. Received: cache={str(path)!r}")

    def get(self, name, types):
        try:
            parts = tf.io.parse_tensor((self.path / f"{name}.tensors").read_bytes(), tf.string).numpy()
        except FileNotFoundError:
            return None
        return [tf.io.parse_tensor(part, kind).numpy() for part, kind in zip(parts, types)]

    def put(self, name, values):
        parts = tf.io.serialize_tensor(tf.stack([tf.io.serialize_tensor(tf.convert_to_tensor(v)) for v in values]))
        with replacing(self.path / f"{name}.tensors") as file:
            file.write_bytes(parts.numpy())
