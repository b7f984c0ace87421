"""Where examples come from: arrays, sequences and streams. `_open_source.py` says which of them reads what.

A source with random access has `size` and `fetch(indices)`; a stream has `dataset`, one example after another. Both
have `spec`, an example's structure, `first(num)`, what can be seen of the first examples and of all labels before
anything is read, and `describe(index)`, what an error calls an example.
"""

import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kregkit._core.types import Path
from kregkit.data._cache import open_cache
from kregkit.data._epochs import plain
from kregkit.data._graph_checks import text


class Source:
    """What all sources share."""

    batched = False
    skip = False

    def first(self, num: int) -> Any:
        """Returns a batch of the first examples, and a batch with the labels of all; `None` for what isn't known."""
        return None, None

    def first_spec(self) -> Any:
        """Returns the structure of the first example if it is known more exactly than `spec`, else `None`."""
        return None

    def describe(self, index: int) -> Any:
        """Returns a string tensor from an integer tensor."""
        return text("Example ", index, " of the source")


class ArraySource(Source):
    """Arrays in memory: a structure of arrays with one first dimension. Whole batches are gathered at once."""

    batched = True

    def __init__(self, arrays: Any) -> None:
        arrays = without_lists(arrays)
        leaves = keras.tree.flatten(arrays)
        lengths = {len(array) if np.ndim(array) else None for array in leaves}
        if len(lengths) != 1 or lengths & {None, 0}:
            shapes = [np.shape(array) for array in leaves[:5]]
            raise ValueError(
                "`source` must hold arrays of one length, at least 1. A list counts as several arrays: make one of it, "
                "such as by np.stack(images), or np.array(labels). "
                f"Received: {len(leaves)} arrays of shapes={shapes}{' ...' if len(leaves) > 5 else ''}"
            )
        objects = [array for array in leaves if getattr(array, "dtype", None) is np.dtype(object)]
        if any(not all(isinstance(value, (str, bytes)) for value in array.flat) for array in objects):
            raise ValueError(
                "Arrays of Python objects have no type that batches could have: cast them, such as by "
                "labels.astype('int64'), or make one array of many by np.stack(images), whose sizes must be equal. "
                f"Received: dtype=object, shapes={[array.shape for array in objects]}"
            )
        self.size: Any = lengths.pop()
        with tf.device("CPU:0"):
            self.arrays = keras.tree.map_structure(tf.convert_to_tensor, arrays)
        self.spec = keras.tree.map_structure(lambda a: tf.TensorSpec(a.shape[1:], a.dtype), self.arrays)

    def fetch(self, indices: Any) -> Any:
        return keras.tree.map_structure(lambda array: tf.gather(array, indices), self.arrays)

    def first(self, num: int) -> Any:
        return self.fetch(tf.range(min(num, self.size))), self.arrays


class SequenceSource(Source):
    """A Python object with `len(source)` and `source[i]`, such as TFDS's random-access `.array_record` sources.

    Examples are read in Python, one after another within an element, several elements at a time. All must have the
    structure, the types and the ranks of the first one.
    """

    def __init__(self, sequence: Any, cache: bool | Path = False) -> None:
        self.sequence = sequence
        self.size = len(sequence)
        if not self.size:
            raise ValueError(f"`source` must hold at least one example. Received: source={sequence!r} of length 0")
        self._first = without_lists(sequence[0])
        self.spec = keras.tree.map_structure(
            lambda value: tf.TensorSpec(_loose(np.shape(value)), tf.as_dtype(np.asarray(value).dtype)), self._first
        )
        self._types = [spec.dtype for spec in keras.tree.flatten(self.spec)]
        self._cache = open_cache(cache, {"kind": "sequence", "size": self.size, "spec": _spec_text(self.spec)})
        self._cache.compare(self._read_anew, self._types)

    def _read(self, index):
        values = self._cache.get(index, self._types)
        if values is None:
            values = self._read_anew(index)
            self._cache.put(index, values)
        return values

    def _read_anew(self, index):
        return fitted(without_lists(self.sequence[index]), self.spec, f"Example {index} of the source", "the first one")

    def fetch(self, index: int) -> Any:
        return read_in_python(self._read, index, self.spec)

    def first(self, num: int) -> Any:
        return keras.tree.map_structure(lambda value: tf.convert_to_tensor(value)[None], self._first), None

    def first_spec(self) -> Any:
        return keras.tree.map_structure(
            lambda value: tf.TensorSpec.from_tensor(tf.convert_to_tensor(value)), self._first
        )


def fitted(example: Any, spec: Any, name: str, model: keras.Model) -> Any:
    """Returns the arrays of an example or batch, of the types of `spec`; raises an error if they are unlike it."""
    keras.tree.assert_same_structure(spec, example)
    values = []
    for value, part in zip(keras.tree.flatten(example), keras.tree.flatten(spec)):
        value, kind = np.asarray(value), part.dtype.as_numpy_dtype
        # A cast to another kind would cut fractions off in silence.
        if not (np.can_cast(value.dtype, kind, "same_kind") and part.shape.is_compatible_with(value.shape)):
            raise ValueError(
                f"{name} must be like {model}, {part.dtype.name} of shape {part.shape}. "
                f"Received: {value.dtype.name} of shape {value.shape}"
            )
        values.append(value.astype(kind, copy=False))
    return values


def read_in_python(read: Any, index: int, spec: Any) -> Any:
    """Returns tensors of the structure `spec` from the list of arrays that `read(index)` returns."""
    specs = keras.tree.flatten(spec)
    values = tf.numpy_function(lambda i: read(int(i)), [index], [part.dtype for part in specs], stateful=False)
    for value, part in zip(values, specs):
        value.set_shape(part.shape)
    return keras.tree.pack_sequence_as(spec, values)


class StreamSource(Source):
    """Examples that come one after another, from a `tf.data.Dataset` of single examples."""

    def __init__(self, dataset: Any, cache: bool | Path = False) -> None:
        self.spec = dataset.element_spec
        self.size = known_size(dataset)
        if isinstance(cache, (str, pathlib.Path)):
            dataset = _on_disk(dataset, self.size, cache)
        elif cache:
            dataset = dataset.cache()
        self.dataset = dataset


def _on_disk(dataset, size, path):
    """Returns a dataset whose first whole pass writes each example to a directory, from which later passes read."""
    spec = dataset.element_spec
    if not all(isinstance(part, tf.TensorSpec) for part in keras.tree.flatten(spec)):
        raise ValueError(f"`cache` as a path keeps dense tensors only. Received: examples of {spec}")
    types = [part.dtype for part in keras.tree.flatten(spec)]
    cache = open_cache(path, {"kind": "stream", "size": size, "spec": _spec_text(spec)})
    cache.compare(lambda index: keras.tree.flatten(next(dataset.skip(index).as_numpy_iterator())), types, limit=4)
    num_written = []

    def write(index, *values):
        cache.put(int(index), values)
        num_written[:] = [int(index) + 1]
        return np.int64(0)

    def finish(_):
        cache.complete(num_written[0])
        return False

    def keep(index, element):
        written = tf.numpy_function(write, [index, *keras.tree.flatten(element)], tf.int64)
        with tf.control_dependencies([written]):
            return keras.tree.map_structure(tf.identity, element)

    def zeros(_):
        return keras.tree.map_structure(lambda part: tf.zeros([side or 0 for side in part.shape], part.dtype), spec)

    def one_pass(_):
        num = tf.ensure_shape(tf.numpy_function(cache.num_complete, [], tf.int64), ())
        stored = tf.data.Dataset.range(tf.maximum(num, 0))
        stored = stored.map(
            plain(lambda index: read_in_python(lambda i: cache.get(i, types, missing_is_damage=True), index, spec)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        fresh = dataset.take(tf.where(num < 0, tf.constant(-1, tf.int64), 0)).enumerate()
        fresh = fresh.map(plain(lambda index, *parts: keep(index, parts[0] if len(parts) == 1 else parts)))
        end = tf.data.Dataset.from_tensors(0).take(tf.where(num < 0, tf.constant(1, tf.int64), 0))
        end = end.filter(plain(lambda x: tf.ensure_shape(tf.numpy_function(finish, [x], tf.bool), ()))).map(
            plain(zeros)
        )
        return stored.concatenate(fresh).concatenate(end)

    cached = tf.data.Dataset.from_tensors(0).flat_map(plain(one_pass))
    return cached if size is None else cached.apply(tf.data.experimental.assert_cardinality(size))


def known_size(dataset: Any) -> Any:
    """Returns the number of examples, or `None` where only reading tells it."""
    size = int(dataset.cardinality())
    if size == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "`source` must end, since an epoch is one pass over it: use `.take(n)`. Received: an infinite dataset"
        )
    if size == 0:
        raise ValueError("`source` must hold at least one example. Received: an empty dataset")
    return size if size > 0 else None


def without_lists(arrays: Any) -> Any:
    # Lists of numbers or strings are arrays. Of arrays they become tuples, since `tf.data` would stack them.
    if isinstance(arrays, dict):
        return {key: without_lists(value) for key, value in arrays.items()}
    if isinstance(arrays, list) and arrays and not any(np.ndim(v) or isinstance(v, dict) for v in arrays):
        return np.asarray(arrays)
    if isinstance(arrays, (list, tuple)):
        parts = [without_lists(value) for value in arrays]
        return type(arrays)(*parts) if hasattr(arrays, "_fields") else tuple(parts)
    return arrays


def _spec_text(spec):
    return [f"{tuple(part.shape)} {part.dtype.name}" for part in keras.tree.flatten(spec)]


def _loose(shape):
    # Images of a random-access source may differ in size; channels and labels don't.
    return (None, None, *shape[2:]) if len(shape) == 3 else shape
