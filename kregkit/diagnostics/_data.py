"""A sample of the user's data, taken without moving anything that decides the order of the next epoch."""

import contextlib
import math
import time

import keras
import numpy as np
import tensorflow as tf

from kregkit._core.batches import num_examples, read_batches, take_examples, unpack
from kregkit._core.keras_internals import serialized_graph

# Operations whose resource remembers something between iterations, and the operation that gives them a new one.
_FRESH = {
    "ShuffleDatasetV3": "DummySeedGenerator",
    "ShuffleAndRepeatDatasetV2": "DummySeedGenerator",
    "RandomDatasetV2": "DummySeedGenerator",
    "CacheDatasetV2": "DummyMemoryCache",
}


def sample_batches(data, batch_size, max_examples, max_bytes=256 * 2**20, end=math.inf):
    """Returns a list of `(x, y, sample_weight)`, NumPy arrays or structures of them, all of one batch size.

    Args:
        data: `(x, y)` or `(x, y, sample_weight)` of arrays; a batched `tf.data.Dataset`; or a
            `keras.utils.PyDataset`.
        batch_size: Integer, for arrays.
        max_examples, max_bytes: Integers, where to stop.
        end: Float, the `time.monotonic()` after which no batch but the first is waited for.

    Raises:
        ValueError: The data is an iterator, whose batches would be gone, or is empty.
    """
    if isinstance(data, tf.data.Dataset):
        source = read_batches(_fresh_copy(data), endless=True)
    elif isinstance(data, keras.utils.PyDataset):
        source = read_batches(data)
    elif isinstance(data, (tuple, list)) and len(data) in (2, 3):
        source = _shuffled(data, batch_size, max_examples)
    else:
        raise ValueError(
            "`data` must be arrays `(x, y)` or `(x, y, sample_weight)`, a tf.data.Dataset or a keras.utils.PyDataset; "
            f"what an iterator yields can't be put back. Received: data={type(data).__name__}"
        )
    batches, examples, size = [], 0, 0
    with contextlib.closing(source):
        for x, y, weight in source:
            batch = tuple(None if part is None else keras.tree.map_structure(_array, part) for part in (x, y, weight))
            num = len(keras.tree.flatten(batch[0])[0])
            if batches and num != len(keras.tree.flatten(batches[0][0])[0]):
                continue
            batches.append(batch)
            examples += num
            size += sum(array.nbytes for array in keras.tree.flatten(batch) if array is not None)
            if examples >= max_examples or size >= max_bytes or time.monotonic() >= end:
                break
    if not batches:
        raise ValueError(f"`data` holds no batch. Received: data={type(data).__name__}")
    return batches


def named_arrays(structure, kind):
    """Returns `[(name, array), ...]` of a structure of arrays, named after its keys or indices.

    Their order is that of `keras.tree.flatten`, which sorts keys.
    """
    if isinstance(structure, dict):
        return [(f"{kind} {name!r}", structure[name]) for name in sorted(structure)]
    flat = keras.tree.flatten(structure)
    return [(kind if len(flat) == 1 else f"{kind} {index}", array) for index, array in enumerate(flat)]


def _array(value):
    return None if value is None else np.asarray(keras.ops.convert_to_numpy(value))


def _shuffled(data, batch_size, max_examples):
    parts = unpack(tuple(data))
    for part in keras.tree.flatten(parts):
        if part is not None and not getattr(part, "shape", ()):
            raise ValueError(
                "`data` must hold arrays or structures of them, as `fit` takes them: use `numpy.asarray` on lists. "
                f"Received: {type(part).__name__} {part!r:.60}"
            )
    num = num_examples(parts)
    if num == 0:
        raise ValueError("`data` must hold examples. Received: 0 examples")
    batch_size = min(batch_size, num)
    # `fit` shuffles; arrays are often sorted by class. Batches are of one size.
    count = min(max(max_examples, batch_size), num)
    order = np.random.default_rng(0).permutation(num)[: count - count % batch_size]
    arrays = tuple(None if part is None else keras.tree.map_structure(np.asarray, part) for part in parts)
    return read_batches(take_examples(arrays, order), batch_size)


def _fresh_copy(dataset):
    """Returns a dataset with the same content and seeds that shares no memory with `dataset`.

    Iterating a `tf.data.Dataset` advances its shuffles' seed generators and fills its caches, which are resources
    that its serialised graph still points to. The copy's graph makes new ones.
    """
    try:
        graph = tf.compat.v1.GraphDef.FromString(serialized_graph(dataset).numpy())
        nodes = {node.name: node for node in graph.node}
        for node in list(graph.node):
            for name in node.input if node.op in _FRESH else ():
                source = nodes[name.split(":")[0].lstrip("^")]
                if source.op == "Const" and source.attr["dtype"].type == tf.resource.as_datatype_enum:
                    source.op = _FRESH[node.op]
                    source.attr.clear()
        variant = tf.raw_ops.DatasetFromGraph(graph_def=graph.SerializeToString())
        return tf.data.experimental.from_variant(variant, dataset.element_spec)
    except (tf.errors.OpError, KeyError) as error:
        raise ValueError(
            f"This dataset can't be copied ({error}), and reading it would move its seeds: pass some of its examples "
            f"as arrays. Received: data={dataset}"
        ) from error
