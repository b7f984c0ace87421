"""Folders of image files, read when an example is wanted."""

import csv
import hashlib
import logging
import os
import pathlib

import numpy as np
import tensorflow as tf

from kregkit._core.checks import check_choice
from kregkit.data._cache import check_cache, open_cache

_LOG = logging.getLogger("kregkit.data")
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


def image_folder(directory, split=None, labels=None, channels=3, on_error="raise", cache=False, *, class_names=None):
    """Opens a folder of images as a source for `pipeline`.

    The layout is that of `tfds.ImageFolder`: `directory/[split/]class/image.jpg`, the classes of all splits numbered in
    the order of their names. With `labels`, a CSV file of rows `path,class` under an optional header `file,label` names
    the images instead, relative to the directory; classes that are all whole numbers are ordered as numbers. What
    starts with a dot is passed over.

    Args:
        directory: Path.
        split: String, the subdirectory to read, or `None` (the default) if the classes lie in `directory` itself.
        labels: Path of a CSV file, or `None`.
        channels: 3 (the default), 1, or 0 for what each file holds.
        on_error: `"raise"` (the default): a file that can't be read ends the iteration with an error that names it.
            `"skip"` leaves it out, logs it, and keeps it in the source's `skipped`.
        cache: `True` keeps the decoded images in memory, a path in a directory, one file each.
        class_names: List of strings in the order of their numbers, or `None` (the default) for those that are found.
            With two label files, one for training and one for testing, it makes sure that both number alike.

    Returns:
        A source of `(image, label)`, with random access, and with `class_names`, `paths` and `skipped`. It is a
        sequence: `source[0]` is an example, and `PCAColorNoise().fit(source)` reads them all.

    Raises:
        FileNotFoundError: if the directory, or a file that the CSV names, doesn't exist.
        ValueError: if there are no images, or the CSV is wrong: the message names the file and the line. Or if an image
            is of a class that isn't among `class_names`.

    Example:

    >>> import pathlib, tempfile, numpy as np, tensorflow as tf
    >>> from kregkit.data import image_folder, pipeline
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (root / name).mkdir()
    ...     png = tf.io.encode_png(np.zeros((8, 8, 3), "uint8"))
    ...     _ = (root / name / "1.png").write_bytes(png.numpy())
    >>> source = image_folder(root)
    >>> source.size, source.class_names
    (2, ['cat', 'dog'])
    """
    root = pathlib.Path(directory) if split is None else pathlib.Path(directory) / split
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}. Received: directory={str(directory)!r}, split={split!r}")
    check_choice("channels", channels, (0, 1, 3))
    check_cache(cache)
    _check_class_names(class_names)
    if labels is not None:
        paths, names = _read_labels(pathlib.Path(labels), root, class_names)
        found = sorted(set(names), key=int if all(name.isdecimal() for name in names) else None)
    else:
        paths = [path for path in _shown(root, "*/*") if path.suffix.lower() in IMAGE_SUFFIXES]
        names = [path.parent.name for path in paths]
        if not paths:
            raise ValueError(
                f"The folder {root} holds no images: they are looked for as {root}/CLASS/NAME with the suffixes "
                f"{', '.join(IMAGE_SUFFIXES)}. Received: directory={str(directory)!r}"
            )
        for folder in _folders(root):
            if folder.name not in set(names):
                raise ValueError(f"The class folder {folder} holds no images. Received: directory={str(directory)!r}")
        # A class that one split lacks keeps its number in all.
        splits = [root] if split is None else _folders(root.parent)
        found = sorted({folder.name for one in splits for folder in _folders(one)})
    class_names = found if class_names is None else list(class_names)
    numbers = {name: number for number, name in enumerate(class_names)}
    for path, name in zip(paths, names):
        if name not in numbers:
            raise ValueError(f"The class of {path} is not in `class_names`. Received: class_names={class_names}")
    return FileSource(paths, [numbers[name] for name in names], class_names, channels, on_error, cache)


def _shown(root, pattern):
    paths = sorted(root.glob(pattern))
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def _folders(root):
    return [path for path in _shown(root, "*") if path.is_dir()]


def _check_class_names(names):
    strings = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    if names is not None and not (strings and len(set(names)) == len(names)):
        raise ValueError(f"`class_names` must be a list of different strings. Received: class_names={names!r}")


def _read_labels(file, root, class_names):
    if not file.is_file():
        raise FileNotFoundError(f"There is no label file {file}. Received: labels={str(file)!r}")
    paths, names = [], []
    seen = set()
    with open(file, newline="", encoding="utf-8-sig") as lines:
        for number, row in enumerate(csv.reader(lines), 1):
            where = f"{file}, line {number}"
            if not row or (number == 1 and [cell.strip().lower() for cell in row] == ["file", "label"]):
                continue
            if len(row) != 2 or not row[0].strip() or not row[1].strip():
                raise ValueError(f"{where}: expected `path,class`. Received: row={row}")
            path = root / row[0].strip()
            if not path.is_file():
                raise FileNotFoundError(f"{where}: there is no file {path}. Received: row={row}")
            if class_names is not None and row[1].strip() not in class_names:
                raise ValueError(f"{where}: the class is not in `class_names`, {class_names}. Received: row={row}")
            if path in seen:
                raise ValueError(f"{where}: {path} was named before. Received: row={row}")
            seen.add(path)
            paths.append(path)
            names.append(row[1].strip())
    if not paths:
        raise ValueError(f"The label file {file} names no images. Received: labels={str(file)!r}")
    return paths, names


class FileSource:
    """Image files and their labels: a sequence of `(image, label)`, decoded when they are wanted.

    Args:
        paths: List of paths.
        labels: List of integers.
        class_names: List of the classes' names.
        channels: 0 (as in the file), 1 or 3.
        on_error: `"raise"` or `"skip"`. What was skipped is logged once per file and kept in `skipped`.
        cache: `True` keeps decoded images in memory, a path in a directory.
    """

    batched = False

    def __init__(self, paths, labels, class_names, channels=3, on_error="raise", cache=False):
        self.paths, self.class_names, self.channels = [str(path) for path in paths], class_names, channels
        self.on_error = check_choice("on_error", on_error, ("raise", "skip"))
        self.skip = on_error == "skip"
        self.skipped = {}
        self.size = len(self.paths)
        self.labels = tf.constant(labels, tf.int64)
        self._cache = open_cache(cache)
        self.spec = (tf.TensorSpec((None, None, channels or None), tf.uint8), tf.TensorSpec((), tf.int64))

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        """Returns one example as NumPy values; a file that can't be read is an error whatever `on_error` says."""
        return self._decode(range(self.size)[index]), int(self.labels[index])

    def _decode(self, index):
        path = self.paths[index]
        try:
            # Another file under the same name is another image.
            name = hashlib.sha256(f"{path}|{os.stat(path).st_mtime_ns}|{self.channels}".encode()).hexdigest()
            kept = self._cache.get(name, [tf.uint8])
            if kept is not None:
                return kept[0]
            with open(path, "rb") as file:
                image = tf.io.decode_image(file.read(), channels=self.channels, expand_animations=False).numpy()
            if not image.size:
                raise ValueError("it has no pixels")
        except (OSError, ValueError, tf.errors.OpError) as error:
            # TensorFlow puts the node's name in braces before the reason.
            reason = str(getattr(error, "message", error)).splitlines()[0].rpartition("}} ")[2][:200]
            raise ValueError(f"The image file {path} can't be read: {reason}") from None
        self._cache.put(name, [image])
        return image

    def _decode_or_skip(self, index):
        path = self.paths[index]
        try:
            return self._decode(index), True
        except ValueError as error:
            if not self.skip:
                raise
            if path not in self.skipped:
                self.skipped[path] = str(error).partition("can't be read: ")[2]
                _LOG.warning("Skipped %s (%d so far): %s", path, len(self.skipped), self.skipped[path])
            return np.zeros((1, 1, self.channels or 3), "uint8"), False

    def fetch(self, index):
        """Returns an example; with `on_error="skip"`, a pair of it and whether it could be read."""
        image, good = tf.numpy_function(self._decode_or_skip, [index], [tf.uint8, tf.bool], stateful=False)
        image.set_shape(self.spec[0].shape)
        good.set_shape(())
        example = (image, tf.gather(self.labels, index))
        return (example, good) if self.skip else example
