"""Where examples come from: arrays, sequences, folders, TFDS names and builders, any `tf.data.Dataset`.

A source with random access has `size` and `fetch(indices)`; a stream has `dataset`, one example after another.
"""

import collections.abc
import csv
import hashlib
import logging
import os
import pathlib

import keras
import numpy as np
import tensorflow as tf

from kregkit._core.checks import check_choice
from kregkit._core.optional import import_optional
from kregkit.data import _tfds
from kregkit.data._cache import open_cache
from kregkit.data.loading import builder as prepared_builder

_LOG = logging.getLogger("kregkit.data")
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


class ArraySource:
    """Arrays in memory: a structure of arrays with one first dimension. Whole batches are gathered at once."""

    batched = True
    skip = False

    def __init__(self, arrays):
        arrays = _without_lists(arrays)
        leaves = keras.tree.flatten(arrays)
        lengths = {len(array) if np.ndim(array) else None for array in leaves}
        if len(lengths) != 1 or lengths & {None, 0}:
            shapes = [np.shape(array) for array in leaves[:5]]
            raise ValueError(
                "`source` must hold arrays of one length, at least 1. "
                f"Received: {len(leaves)} arrays of shapes={shapes}{' ...' if len(leaves) > 5 else ''}"
            )
        self.size = lengths.pop()
        with tf.device("CPU:0"):
            self.arrays = keras.tree.map_structure(tf.convert_to_tensor, arrays)
        self.spec = keras.tree.map_structure(lambda a: tf.TensorSpec(a.shape[1:], a.dtype), self.arrays)

    def fetch(self, indices):
        return keras.tree.map_structure(lambda array: tf.gather(array, indices), self.arrays)


class SequenceSource:
    """A Python object with `len(source)` and `source[i]`, such as TFDS's random-access `.array_record` sources.

    Examples are read in Python, one after another within an element, several elements at a time. All must have the
    structure, the types and the ranks of the first one.
    """

    batched = False
    skip = False

    def __init__(self, sequence, cache=False):
        self.sequence = sequence
        self.size = len(sequence)
        if not self.size:
            raise ValueError(f"`source` must hold at least one example. Received: source={sequence!r} of length 0")
        self._cache = open_cache(cache)
        self.spec = keras.tree.map_structure(
            lambda value: tf.TensorSpec(_loose(np.shape(value)), tf.as_dtype(np.asarray(value).dtype)),
            _without_lists(sequence[0]),
        )

    def _read(self, index):
        specs = keras.tree.flatten(self.spec)
        values = self._cache.get(index, [spec.dtype for spec in specs])
        if values is None:
            example = _without_lists(self.sequence[index])
            keras.tree.assert_same_structure(self.spec, example)
            values = [self._fitted(index, *pair) for pair in zip(keras.tree.flatten(example), specs)]
            self._cache.put(index, values)
        return values

    @staticmethod
    def _fitted(index, value, spec):
        value, kind = np.asarray(value), spec.dtype.as_numpy_dtype
        # A cast to another kind would cut fractions off in silence.
        if not (np.can_cast(value.dtype, kind, "same_kind") and spec.shape.is_compatible_with(value.shape)):
            raise ValueError(
                f"Example {index} of the source must be like the first one, {spec.dtype.name} of shape {spec.shape}. "
                f"Received: {value.dtype.name} of shape {value.shape}"
            )
        return value.astype(kind, copy=False)

    def fetch(self, index):
        specs = keras.tree.flatten(self.spec)
        kinds = [spec.dtype for spec in specs]
        values = tf.numpy_function(lambda i: self._read(int(i)), [index], kinds, stateful=False)
        for value, spec in zip(values, specs):
            value.set_shape(spec.shape)
        return keras.tree.pack_sequence_as(self.spec, values)


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
        self.size = _known_size(dataset)


def _known_size(dataset):
    """Returns the number of examples, or `None` where only reading tells it."""
    size = int(dataset.cardinality())
    if size == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "`source` must end, since an epoch is one pass over it: use `.take(n)`. Received: an infinite dataset"
        )
    if size == 0:
        raise ValueError("`source` must hold at least one example. Received: an empty dataset")
    return size if size > 0 else None


def open_source(source, split="train", data_dir=None, cache=False, on_error="raise", channels=3):
    """Returns the source for whatever `pipeline` was given."""
    _check_cache(cache)
    check_choice("on_error", on_error, ("raise", "skip"))
    opened = _open(source, split, data_dir, cache, on_error, channels)
    if on_error == "skip" and not opened.skip:
        raise ValueError(
            "`on_error='skip'` is for folders of images, and goes to `image_folder` where that opened it. "
            f"Received: on_error={on_error!r} with {type(opened).__name__}"
        )
    return opened


def _open(source, split, data_dir, cache, on_error, channels):
    if hasattr(source, "fetch"):
        if cache is not False:
            raise ValueError(f"`cache` of an opened source goes to `image_folder`. Received: cache={cache!r}")
        return source
    if isinstance(source, tf.data.Dataset):
        return _stream(source, cache)
    if isinstance(source, (str, pathlib.Path)):
        path = pathlib.Path(source)
        if path.is_dir():
            found = split if (path / split).is_dir() else None
            # All images in place of a split that isn't there would leak test images into training.
            if found is None and split != "train":
                raise FileNotFoundError(f"The folder {path} has no subfolder {split}. Received: split={split!r}")
            return image_folder(path, found, None, channels, on_error, cache)
        if isinstance(source, pathlib.Path) or "\\" in source or source.startswith((".", "/", "~")):
            raise FileNotFoundError(f"There is no folder {source}. Received: source={str(source)!r}")
        source = prepared_builder(source, data_dir)
    if hasattr(source, "as_dataset") and hasattr(source, "info"):
        return _from_builder(source, split, cache, on_error, channels)
    if not isinstance(source, (tuple, list, dict, np.ndarray, tf.Tensor)) and _is_sequence(source):
        return SequenceSource(source, cache)
    if isinstance(source, (tuple, list, dict, np.ndarray, tf.Tensor)) or hasattr(source, "__array__"):
        return ArraySource(source)
    raise ValueError(
        "`source` must be arrays, a tf.data.Dataset, a TFDS name or builder, a folder of images, or an object with "
        f"`__len__` and `__getitem__`. Received: source={source!r}"
    )


def _check_cache(cache):
    if cache not in (True, False) and not isinstance(cache, (str, pathlib.Path)):
        raise ValueError(f"`cache` must be True, False or a path. Received: cache={cache!r}")


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
    _check_cache(cache)
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


def _from_builder(builder, split, cache, on_error, channels):
    tfds = import_optional("tensorflow_datasets", "kregkit.data")
    if isinstance(builder, tfds.ImageFolder):
        if split not in builder.info.splits:
            raise ValueError(f"`split` must be one of {sorted(builder.info.splits)}. Received: split={split!r}")
        names = builder.info.features["label"].names
        return image_folder(builder.data_dir, split, None, channels, on_error, cache, class_names=names)
    if not _tfds.is_prepared(builder):
        raise FileNotFoundError(
            f"The data set {builder.info.full_name} is not prepared in {builder.data_path}: call "
            f"`builder.download_and_prepare()` first. Received: source={builder.info.full_name!r}"
        )
    supervised = bool(builder.info.supervised_keys)
    if str(getattr(builder.info.file_format, "value", builder.info.file_format)) == "array_record":
        _tfds.check_split(builder, split)
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
    _known_size(dataset)
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


def _without_lists(arrays):
    # Lists of numbers or strings are arrays. Of arrays they become tuples, since `tf.data` would stack them.
    if isinstance(arrays, dict):
        return {key: _without_lists(value) for key, value in arrays.items()}
    if isinstance(arrays, list) and arrays and not any(np.ndim(v) or isinstance(v, dict) for v in arrays):
        return np.asarray(arrays)
    if isinstance(arrays, (list, tuple)):
        parts = [_without_lists(value) for value in arrays]
        return type(arrays)(*parts) if hasattr(arrays, "_fields") else tuple(parts)
    return arrays


def _loose(shape):
    # Images of a random-access source may differ in size; channels and labels don't.
    return (None, None, *shape[2:]) if len(shape) == 3 else shape
