"""The one reader of whatever `fit` takes: arrays, data sets, `PyDataset`s and generators."""

import itertools

import keras
import numpy as np

from kregkit._core.checks import check_integer


def is_arrays(data):
    """Returns whether `data` is arrays or tensors in a structure, and not something that yields batches."""
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    return bool(leaves) and all(hasattr(leaf, "shape") and hasattr(leaf, "__getitem__") for leaf in leaves)


def num_examples(structure):
    """Returns the number of examples in a structure of arrays.

    Raises:
        ValueError: The arrays differ in it, or there is none.
    """
    lengths = {len(array) for array in keras.tree.flatten(structure) if array is not None}
    if len(lengths) != 1:
        raise ValueError(f"All arrays must have one length. Received: lengths={sorted(lengths)}")
    return lengths.pop()


def unpack(data):
    """Returns `(x, y, sample_weight)` of one batch or of a whole data set in arrays; missing parts are None."""
    # Keras would take a list apart like a tuple; among arrays it is several inputs.
    return keras.utils.unpack_x_y_sample_weight((data,) if isinstance(data, list) else data)


def is_endless(data):
    """Returns whether a data set is known never to end; generators don't tell."""
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    # -1 is TensorFlow's number for data without end.
    return hasattr(data, "cardinality") and int(data.cardinality()) == -1


def read_batches(data, batch_size=None, endless=False):
    """Yields `(x, y, sample_weight)` per batch, once over `data`, in its own order.

    Args:
        data: `x`, `(x, y)` or `(x, y, sample_weight)` of arrays, where several inputs or outputs are lists or
            dictionaries of arrays; or a `keras.utils.PyDataset`, or anything that yields such tuples in batches,
            like a `tf.data.Dataset` or a generator.
        batch_size: Integer, for arrays. Defaults to 32.
        endless: Boolean, whether the caller stops by itself, so that the data need not end.

    Raises:
        ValueError: The arrays differ in length, or the data are known never to end.

    >>> import numpy as np
    >>> [len(x) for x, y, weight in read_batches((np.zeros((5, 2)), np.zeros(5)), batch_size=2)]
    [2, 2, 1]
    """
    if not endless and is_endless(data):
        raise ValueError(
            "The data must end, as they are read from end to end: leave out `repeat()`, or cut them by `take`. "
            f"Received: {type(data).__name__} without end"
        )
    if isinstance(data, keras.utils.PyDataset):
        numbers = itertools.count() if data.num_batches is None else range(data.num_batches)
        yield from (keras.utils.unpack_x_y_sample_weight(data[index]) for index in numbers)
        return
    if not is_arrays(data):
        yield from (keras.utils.unpack_x_y_sample_weight(batch) for batch in data)
        return
    parts = unpack(data)
    num = num_examples(parts)
    batch_size = 32 if batch_size is None else check_integer("batch_size", batch_size, 1)
    for start in range(0, num, batch_size):
        yield take_examples(parts, slice(start, start + batch_size))


def take_examples(parts, index):
    """Returns the examples at `index`, a slice or an integer array, of a tuple of structures; None stays None."""
    return tuple(None if part is None else keras.tree.map_structure(lambda array: array[index], part) for part in parts)


def concatenate(structures):
    """Returns one structure of NumPy arrays from a list of structures of batches; `None` stays `None`."""
    if structures[0] is None:
        return None
    return keras.tree.map_structure(
        lambda *parts: np.concatenate([keras.ops.convert_to_numpy(part) for part in parts]), *structures
    )
