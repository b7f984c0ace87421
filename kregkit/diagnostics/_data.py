"""A sample of the user's data, taken without moving anything that decides the order of the next epoch."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

# Operations whose resource remembers something between iterations, and the operation that gives them a new one.
_FRESH = {
    "ShuffleDatasetV3": "DummySeedGenerator",
    "ShuffleAndRepeatDatasetV2": "DummySeedGenerator",
    "RandomDatasetV2": "DummySeedGenerator",
    "CacheDatasetV2": "DummyMemoryCache",
}


def sample_batches(data, batch_size, max_examples, max_bytes=256 * 2**20):
    """Returns a list of `(x, y, sample_weight)`, NumPy arrays or structures of them, all of one batch size.

    Args:
        data: `(x, y)` or `(x, y, sample_weight)` of arrays; a batched `tf.data.Dataset`; or a
            `keras.utils.PyDataset`.
        batch_size: Integer, for arrays.
        max_examples, max_bytes: Integers, where to stop.

    Raises:
        ValueError: The data is an iterator, whose batches would be gone, holds no labels, or is empty.
    """
    if isinstance(data, tf.data.Dataset):
        source = iter(_fresh_copy(data))
    elif isinstance(data, keras.utils.PyDataset):
        source = (data[index] for index in range(data.num_batches))
    elif isinstance(data, (tuple, list)) and len(data) in (2, 3):
        source = _slices(data, batch_size, max_examples)
    else:
        raise ValueError(
            "`data` must be arrays `(x, y)` or `(x, y, sample_weight)`, a tf.data.Dataset or a keras.utils.PyDataset; "
            f"what an iterator yields can't be put back. Received: data={type(data).__name__}"
        )
    batches, examples, size = [], 0, 0
    with contextlib.closing(source) if hasattr(source, "close") else contextlib.nullcontext():
        for batch in source:
            x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
            if y is None:
                raise ValueError(f"Every batch must hold inputs and labels. Received: y={y}")
            batch = tuple(keras.tree.map_structure(_array, part) for part in (x, y, weight))
            num = len(keras.tree.flatten(batch[0])[0])
            if batches and num != len(keras.tree.flatten(batches[0][0])[0]):
                continue
            batches.append(batch)
            examples += num
            size += sum(array.nbytes for array in keras.tree.flatten(batch) if array is not None)
            if examples >= max_examples or size >= max_bytes:
                break
    if not batches:
        raise ValueError(f"`data` holds no batch. Received: data={type(data).__name__}")
    return batches


def named_arrays(structure, kind):
    """Returns `[(name, array), ...]` of a structure of arrays, named after its keys or places.

    Their order is that of `keras.tree.flatten`, which sorts keys.
    """
    if isinstance(structure, dict):
        return [(f"{kind} {name!r}", structure[name]) for name in sorted(structure)]
    flat = keras.tree.flatten(structure)
    return [(kind if len(flat) == 1 else f"{kind} {index}", array) for index, array in enumerate(flat)]


def _array(value):
    return None if value is None else np.asarray(keras.ops.convert_to_numpy(value))


def _slices(data, batch_size, max_examples):
    x, y, weight = keras.utils.unpack_x_y_sample_weight(tuple(data))
    for part in keras.tree.flatten((x, y, weight)):
        if part is not None and not getattr(part, "shape", ()):
            raise ValueError(
                "`data` must hold arrays or structures of them, as `fit` takes them: use `numpy.asarray` on lists. "
                f"Received: {type(part).__name__} {part!r:.60}"
            )
    num = len(keras.tree.flatten(x)[0])
    lengths = {len(array) for array in keras.tree.flatten((x, y, weight)) if array is not None}
    if len(lengths) != 1 or num == 0:
        raise ValueError(f"All arrays must have one length, not 0. Received: lengths={sorted(lengths)}")
    batch_size = min(batch_size, num)
    # `fit` shuffles; arrays are often sorted by class.
    order = np.random.default_rng(0).permutation(num)[: max(max_examples, batch_size)]
    for start in range(0, len(order) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        yield tuple(
            None if part is None else keras.tree.map_structure(lambda array: np.asarray(array)[chosen], part)  # noqa: B023
            for part in (x, y, weight)
        )


def _fresh_copy(dataset):
    """Returns a dataset with the same content and seeds that shares no memory with `dataset`.

    Iterating a `tf.data.Dataset` advances its shuffles' seed generators and fills its caches, which are resources
    that its serialised graph still points to. The copy's graph makes new ones.
    """
    try:
        graph = tf.compat.v1.GraphDef.FromString(dataset._as_serialized_graph().numpy())
        nodes = {node.name: node for node in graph.node}
        for node in list(graph.node):
            for name in node.input if node.op in _FRESH else ():
                source = nodes[name.split(":")[0].lstrip("^")]
                if source.op == "Const" and source.attr["dtype"].type == tf.resource.as_datatype_enum:
                    source.op = _FRESH[node.op]
                    source.attr.clear()
        variant = tf.raw_ops.DatasetFromGraph(graph_def=graph.SerializeToString())
        return tf.data.experimental.from_variant(variant, dataset.element_spec)
    except (tf.errors.OpError, KeyError, AttributeError) as error:
        raise ValueError(
            f"This dataset can't be copied ({error}), and reading it would move its seeds: pass some of its examples "
            f"as arrays. Received: data={dataset}"
        ) from error
