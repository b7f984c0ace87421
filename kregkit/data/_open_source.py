"""Which source reads what `pipeline` was given."""

import collections.abc
import difflib
import pathlib
import re

import keras
import numpy as np
import tensorflow as tf

from kregkit._core.checks import check_choice, check_path
from kregkit._core.optional import import_optional
from kregkit.data import _tfds
from kregkit.data._cache import check_cache
from kregkit.data._encoded_streams import EncodedStream, encoded_tfds
from kregkit.data._epochs import plain
from kregkit.data.image_folders import image_folder
from kregkit.data.loading import UnknownDataSetError
from kregkit.data.loading import builder as prepared_builder
from kregkit.data.sources import (
    ArraySource,
    SequenceSource,
    StreamSource,
    fitted,
    known_size,
    read_in_python,
    without_lists,
)


def open_source(
    source, split="train", data_dir=None, cache=False, on_error="raise", channels=3, orientation=True, alone=True
):
    """Returns the source for whatever `pipeline` was given; `alone`: images have no masks, boxes or points."""
    check_cache(cache)
    check_choice("on_error", on_error, ("raise", "skip"))
    opened = _open(source, split, data_dir, cache, on_error, channels, orientation, alone)
    if not orientation and getattr(opened, "orientation", False):
        raise ValueError(
            "`orientation` of an opened folder goes to `image_folder`. Received: orientation=False with "
            f"{type(opened).__name__}"
        )
    if on_error == "skip" and not opened.skip:
        raise ValueError(
            "`on_error='skip'` is for folders of images, and goes to `image_folder` where that opened it. "
            f"Received: on_error={on_error!r} with {type(opened).__name__}"
        )
    return opened


def _open(source, split, data_dir, cache, on_error, channels, orientation, alone):
    if hasattr(source, "fetch") or isinstance(source, EncodedStream):
        if cache is not False:
            raise ValueError(f"`cache` of an opened source goes to `image_folder`. Received: cache={cache!r}")
        return source
    if isinstance(source, tf.data.Dataset):
        return _stream(source, cache)
    if isinstance(source, keras.utils.PyDataset):
        return _stream(_py_dataset(source), cache)
    if isinstance(source, (str, pathlib.Path)):
        check_path("source", source)
        path = pathlib.Path(source)
        if path.is_dir():
            subfolder = split if (path / split).is_dir() else None
            # All images in place of a split that isn't there would leak test images into training.
            if subfolder is None and split != "train":
                raise FileNotFoundError(f"The folder {path} has no subfolder {split}. Received: split={split!r}")
            return image_folder(path, subfolder, None, channels, on_error, cache, orientation=orientation)
        if isinstance(source, pathlib.Path) or "\\" in source or source.startswith((".", "/", "~")):
            raise FileNotFoundError(f"There is no folder {source}. Received: source={str(source)!r}")
        try:
            source = prepared_builder(source, data_dir)
        except ValueError as error:
            # TFDS can't even read some folders' names, such as those with a space.
            if not isinstance(error, UnknownDataSetError) and re.fullmatch(r"[\w/:.,=*-]+", source):
                raise
            raise _neither_folder_nor_data_set(source, error) from error
    if hasattr(source, "as_dataset") and hasattr(source, "info"):
        return _from_builder(source, split, cache, on_error, channels, orientation, alone)
    if not isinstance(source, (tuple, list, dict, np.ndarray, tf.Tensor, bytes)) and _is_sequence(source):
        return SequenceSource(source, cache)
    if isinstance(source, (tuple, list, dict, np.ndarray, tf.Tensor)) or hasattr(source, "__array__"):
        return ArraySource(source)
    raise ValueError(
        "`source` must be arrays, a tf.data.Dataset, a keras.utils.PyDataset, a TFDS name or builder, a folder of "
        "images, or an object with `__len__` and `__getitem__`. A generator can be read only once: give "
        f"tf.data.Dataset.from_generator(function, ...). Received: source={source!r}"
    )


def _neither_folder_nor_data_set(source, error):
    """Returns the error for a string that is no folder and no TFDS name: what it may have been meant to be."""
    # The first part of the path that isn't there, and what lies beside it.
    missing = pathlib.Path(source)
    while not missing.parent.is_dir():
        missing = missing.parent
    folders = [one.name for one in missing.parent.iterdir() if one.is_dir()]
    close = difflib.get_close_matches(missing.name, folders, n=1, cutoff=0.75)
    if close:
        # Names of data sets are no answer to a mistyped folder.
        meant = missing.with_name(close[0]) / pathlib.Path(source).relative_to(missing)
        return FileNotFoundError(
            f"There is no folder {source}, and no data set of that name. Did you mean {meant}? "
            f"Received: source={source!r}"
        )
    names = () if "/" in source else getattr(error, "close", ())
    hint = f" Data sets of similar names: {', '.join(names)}." if names else ""
    return UnknownDataSetError(
        f"There is neither a folder {source} in {pathlib.Path.cwd()} nor a TFDS data set of that name.{hint} "
        f"Received: source={source!r}"
    )


def _from_builder(builder, split, cache, on_error, channels, orientation, alone):
    tfds = import_optional("tensorflow_datasets", "kregkit.data")
    if isinstance(builder, tfds.ImageFolder):
        if split not in builder.info.splits:
            raise ValueError(f"`split` must be one of {sorted(builder.info.splits)}. Received: split={split!r}")
        names = builder.info.features["label"].names
        return image_folder(
            builder.data_dir, split, None, channels, on_error, cache, class_names=names, orientation=orientation
        )
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
    # Boxes and masks of a set are those of its images as they are stored.
    encoded = None if cache else encoded_tfds(builder, split, supervised, orientation and alone)
    return _stream(_tfds.read(builder, split, supervised), cache) if encoded is None else encoded


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
    known_size(dataset)
    specs = tf.nest.flatten(dataset.element_spec)
    if any(isinstance(spec, tf.RaggedTensorSpec) and spec.ragged_rank == 0 for spec in specs):
        # Single examples of a ragged batch: ordinary tensors, which they become in any map.
        together = isinstance(dataset.element_spec, tuple)
        dataset = dataset.map(plain(lambda *parts: parts if together else parts[0]))
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


def _py_dataset(source):
    """Returns the examples of a `keras.utils.PyDataset` as a dataset, in the order of its batches."""
    try:
        num = source.num_batches
    except NotImplementedError:
        num = None
    if num is None or not np.isfinite(num):
        raise ValueError(
            "`source` must end, since an epoch is one pass over it: define `__len__`. "
            f"Received: source={source!r} with num_batches={num}"
        )
    if not num:
        raise ValueError(f"`source` must hold at least one example. Received: source={source!r} without batches")

    def batch(index):
        value = source[index]
        parts = list(value) if isinstance(value, tuple) else [value]
        while len(parts) > 1 and parts[-1] is None:
            parts.pop()
        return without_lists(tuple(parts) if len(parts) > 1 else parts[0])

    first = batch(0)
    spec = keras.tree.map_structure(
        lambda value: tf.TensorSpec((None, *np.shape(value)[1:]), tf.as_dtype(np.asarray(value).dtype)), first
    )

    def examples(index):
        read = read_in_python(lambda i: fitted(batch(i), spec, f"Batch {i}", "batch 0"), index, spec)
        return tf.data.Dataset.from_tensor_slices(read)

    # `unbatch` ends the process where a part has no size, such as boxes of which there are none.
    return tf.data.Dataset.range(num).flat_map(plain(examples))
