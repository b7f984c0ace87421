"""Where examples come from: arrays, sequences, folders, TFDS names and builders, any `tf.data.Dataset`.

A source with random access has `size` and `fetch(indices)`; a stream has `dataset`, one example after another.
"""

import collections.abc
import csv
import logging
import pathlib

import keras
import numpy as np
import tensorflow as tf

from kregkit._core.checks import check_choice
from kregkit._core.optional import import_optional
from kregkit.data import _tfds
from kregkit.data.loading import builder as prepared_builder

_LOG = logging.getLogger("kregkit.data")
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


class ArraySource:
    """Arrays in memory: a structure of arrays with one first dimension. Whole batches are gathered at once."""

    batched = True

    def __init__(self, arrays):
        arrays = list(arrays) if isinstance(arrays, list) else arrays
        lengths = [len(array) if np.ndim(array) or hasattr(array, "shape") else None for array in _leaves(arrays)]
        if not lengths or None in lengths or len(set(lengths)) > 1 or not lengths[0]:
            raise ValueError(
                "`source` must hold arrays of one length, at least 1. "
                f"Received: shapes={[np.shape(array) for array in _leaves(arrays)]}"
            )
        self.size = lengths[0]
        self.arrays = keras.tree.map_structure(tf.convert_to_tensor, arrays)
        self.spec = keras.tree.map_structure(lambda a: tf.TensorSpec(a.shape[1:], a.dtype), self.arrays)

    def fetch(self, indices):
        return keras.tree.map_structure(lambda array: tf.gather(array, indices), self.arrays)


class SequenceSource:
    """A Python object with `len(source)` and `source[i]`, such as TFDS's random-access `.array_record` sources.

    Examples are read in Python, one after another within an element, several elements at a time.
    """

    batched = False
    skip = False

    def __init__(self, sequence, cache=False):
        self.sequence = sequence
        self.size = len(sequence)
        if not self.size:
            raise ValueError(f"`source` must hold at least one example. Received: source={sequence!r} of length 0")
        self._cache = {} if cache else None
        self._first = self._read(0)
        self.spec = keras.tree.map_structure(
            lambda value: tf.TensorSpec(_loose(np.shape(value)), tf.as_dtype(np.asarray(value).dtype)), self._first
        )

    def _read(self, index):
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        example = self.sequence[int(index)]
        if self._cache is not None:
            self._cache[index] = example
        return example

    def fetch(self, index):
        specs = keras.tree.flatten(self.spec)

        def read(i):
            values = keras.tree.flatten(self._read(int(i)))
            return [np.asarray(value, spec.dtype.as_numpy_dtype) for value, spec in zip(values, specs)]

        values = tf.numpy_function(read, [index], [spec.dtype for spec in specs], stateful=False)
        for value, spec in zip(values, specs):
            value.set_shape(spec.shape)
        return keras.tree.pack_sequence_as(self.spec, values)


class FileSource:
    """Image files and their labels: `(image, label)`, decoded when they are wanted.

    Args:
        paths: List of paths.
        labels: List of integers.
        class_names: List of the classes' names.
        channels: 0 (as in the file), 1 or 3.
        on_error: `"raise"` or `"skip"`. What was skipped is logged once per file and kept in `skipped`.
        cache: Boolean, whether to keep decoded images in memory.
    """

    batched = False

    def __init__(self, paths, labels, class_names, channels=3, on_error="raise", cache=False):
        self.paths, self.class_names, self.channels = [str(path) for path in paths], class_names, channels
        self.on_error = check_choice("on_error", on_error, ("raise", "skip"))
        self.skip = on_error == "skip"
        self.skipped = {}
        self.size = len(self.paths)
        self.labels = tf.constant(labels, tf.int64)
        self._cache = {} if cache else None
        self.spec = (tf.TensorSpec((None, None, channels or None), tf.uint8), tf.TensorSpec((), tf.int64))

    def _decode(self, index):
        path = self.paths[index]
        if self._cache is not None and path in self._cache:
            return self._cache[path], True
        try:
            with open(path, "rb") as file:
                image = tf.io.decode_image(file.read(), channels=self.channels, expand_animations=False).numpy()
            if not image.size:
                raise ValueError("it has no pixels")
        except (OSError, ValueError, tf.errors.OpError) as error:
            reason = str(getattr(error, "message", error)).splitlines()[0][:200]
            if not self.skip:
                raise ValueError(f"The image file {path} can't be read: {reason}") from None
            if path not in self.skipped:
                self.skipped[path] = reason
                _LOG.warning("Skipped %s (%d so far): %s", path, len(self.skipped), reason)
            return np.zeros((1, 1, self.channels or 3), "uint8"), False
        if self._cache is not None:
            self._cache[path] = image
        return image, True

    def fetch(self, index):
        """Returns an example; with `on_error="skip"`, a pair of it and whether it could be read."""
        image, good = tf.numpy_function(self._decode, [index], [tf.uint8, tf.bool], stateful=False)
        image.set_shape(self.spec[0].shape)
        good.set_shape(())
        example = (image, tf.gather(self.labels, index))
        return (example, good) if self.skip else example


class StreamSource:
    """Examples that come one after another, from a `tf.data.Dataset` of single examples."""

    batched = False
    skip = False

    def __init__(self, dataset, cache=False):
        if isinstance(cache, (str, pathlib.Path)):
            dataset = dataset.cache(str(cache))
        elif cache:
            dataset = dataset.cache()
        self.dataset = dataset
        self.spec = dataset.element_spec
        size = int(dataset.cardinality())
        if size == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "`source` must end, since an epoch is one pass over it: use `.take(n)`. Received: an infinite dataset"
            )
        if size == 0:
            raise ValueError("`source` must hold at least one example. Received: an empty dataset")
        self.size = size if size > 0 else None


def open_source(source, split="train", data_dir=None, cache=False, on_error="raise", channels=3):
    """Returns the source for whatever `pipeline` was given."""
    if cache not in (True, False) and not isinstance(cache, (str, pathlib.Path)):
        raise ValueError(f"`cache` must be True, False or a path. Received: cache={cache!r}")
    if hasattr(source, "fetch") or isinstance(source, StreamSource):
        return source
    if isinstance(source, tf.data.Dataset):
        return _stream(source, cache)
    if isinstance(source, (str, pathlib.Path)):
        path = pathlib.Path(source)
        if path.is_dir():
            return image_folder(path, None if not (path / split).is_dir() else split, None, channels, on_error, cache)
        if isinstance(source, pathlib.Path) or "\\" in source or source.startswith((".", "/", "~")):
            raise FileNotFoundError(f"There is no folder {source}. Received: source={str(source)!r}")
        source = prepared_builder(source, data_dir)
    if hasattr(source, "as_dataset") and hasattr(source, "info"):
        return _from_builder(source, split, cache, on_error, channels)
    if not isinstance(source, (tuple, list, dict, np.ndarray, tf.Tensor)) and _is_sequence(source):
        return SequenceSource(source, bool(cache))
    if isinstance(source, (tuple, list, dict, np.ndarray, tf.Tensor)) or hasattr(source, "__array__"):
        return ArraySource(source)
    raise ValueError(
        "`source` must be arrays, a tf.data.Dataset, a TFDS name or builder, a folder of images, or an object with "
        f"`__len__` and `__getitem__`. Received: source={source!r}"
    )


def image_folder(directory, split=None, labels=None, channels=3, on_error="raise", cache=False):
    """Opens a folder of images as a source for `pipeline`.

    The layout is that of `tfds.ImageFolder`: `directory/[split/]class/image.jpg`, the classes numbered in the order of
    their names. With `labels`, a CSV file of rows `path,class` under an optional header `file,label` names the images
    instead, relative to the directory.

    Args:
        directory: Path.
        split: String, the subdirectory to read, or `None` (the default) if the classes lie in `directory` itself.
        labels: Path of a CSV file, or `None`.
        channels: 3 (the default), 1, or 0 for what each file holds.
        on_error: `"raise"` (the default): a file that can't be read ends the iteration with an error that names it.
            `"skip"` leaves it out, logs it, and keeps it in the source's `skipped`.
        cache: Boolean, whether to keep the decoded images in memory.

    Returns:
        A source of `(image, label)`, with random access, and with `class_names`, `paths` and `skipped`.

    Raises:
        FileNotFoundError: if the directory, or a file that the CSV names, doesn't exist.
        ValueError: if there are no images, or the CSV is wrong: the message names the file and the line.

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
    if labels is not None:
        paths, names = _read_labels(pathlib.Path(labels), root)
    else:
        paths = sorted(path for path in root.glob("*/*") if path.suffix.lower() in IMAGE_SUFFIXES)
        names = [path.parent.name for path in paths]
        if not paths:
            raise ValueError(
                f"The folder {root} holds no images: they are looked for as {root}/CLASS/NAME with the suffixes "
                f"{', '.join(IMAGE_SUFFIXES)}. Received: directory={str(directory)!r}"
            )
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
            if folder.name not in set(names):
                raise ValueError(f"The class folder {folder} holds no images. Received: directory={str(directory)!r}")
    class_names = sorted(set(names))
    numbers = {name: number for number, name in enumerate(class_names)}
    return FileSource(paths, [numbers[name] for name in names], class_names, channels, on_error, bool(cache))


def _read_labels(file, root):
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
            if path in seen:
                raise ValueError(f"{where}: {path} was named before. Received: row={row}")
            seen.add(path)
            paths.append(path)
            names.append(row[1].strip())
    if not paths:
        raise ValueError(f"The label file {file} names no images. Received: labels={str(file)!r}")
    return paths, names


def _from_builder(builder, split, cache, on_error, channels):
    tfds = import_optional("tensorflow_datasets", "kregkit.data")
    if isinstance(builder, tfds.ImageFolder):
        if split not in builder.info.splits:
            raise ValueError(f"`split` must be one of {sorted(builder.info.splits)}. Received: split={split!r}")
        return image_folder(builder.data_dir, split, None, channels, on_error, cache)
    if not _tfds.is_prepared(builder):
        raise FileNotFoundError(
            f"The data set {builder.info.full_name} is not prepared in {builder.data_path}: call "
            f"`builder.download_and_prepare()` first. Received: source={builder.info.full_name!r}"
        )
    supervised = bool(builder.info.supervised_keys)
    if str(getattr(builder.info.file_format, "value", builder.info.file_format)) == "array_record":
        sequence = builder.as_data_source(split)
        return SequenceSource(_Supervised(sequence, builder.info.supervised_keys) if supervised else sequence, cache)
    return _stream(_tfds.read(builder, split, supervised), cache)


class _Supervised:
    """A TFDS data source whose examples are pairs."""

    def __init__(self, sequence, keys):
        self.sequence, self.keys = sequence, keys

    def __len__(self):
        return len(self.sequence)

    def __getitem__(self, index):
        example = self.sequence[index]
        return tuple(example[key] for key in self.keys)


def _stream(dataset, cache):
    if cache is True and all(
        isinstance(spec, tf.TensorSpec) and spec.shape.is_fully_defined()
        for spec in keras.tree.flatten(dataset.element_spec)
    ):
        # Equal shapes in memory are arrays, which have random access.
        examples = [keras.tree.flatten(batch) for batch in dataset.batch(1024)]
        if not examples:
            raise ValueError("`source` must hold at least one example. Received: an empty dataset")
        columns = [np.concatenate(column) for column in zip(*examples)]
        return ArraySource(keras.tree.pack_sequence_as(dataset.element_spec, columns))
    return StreamSource(dataset, cache)


def _is_sequence(source):
    return isinstance(source, collections.abc.Sequence) or (
        hasattr(source, "__len__") and hasattr(source, "__getitem__") and not hasattr(source, "__array__")
    )


def _leaves(arrays):
    return keras.tree.flatten(arrays)


def _loose(shape):
    # Images of a random-access source may differ in size; channels and labels don't.
    return (None, None, *shape[2:]) if len(shape) == 3 else shape
