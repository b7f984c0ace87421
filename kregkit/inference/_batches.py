"""One pass over data of any kind that `fit` takes, as NumPy-like batches."""

import keras
import numpy as np

from kregkit._core.checks import check_integer


def batches(data, batch_size=None):
    """Yields `(x, y, sample_weight)` per batch, once over `data`.

    Args:
        data: `x`, `(x, y)` or `(x, y, sample_weight)` of arrays, where several inputs or outputs are lists or
            dictionaries of arrays; or a `keras.utils.PyDataset`, or anything that yields such tuples in batches,
            like a `tf.data.Dataset`.
        batch_size: Integer, for arrays. Defaults to 32.
    """
    if isinstance(data, keras.utils.PyDataset):
        yield from (keras.utils.unpack_x_y_sample_weight(data[index]) for index in range(data.num_batches))
        return
    if not is_arrays(data):
        yield from (keras.utils.unpack_x_y_sample_weight(batch) for batch in data)
        return
    # Keras would take a list apart like a tuple; among arrays it is several inputs.
    parts = keras.utils.unpack_x_y_sample_weight((data,) if isinstance(data, list) else data)
    arrays = [array for part in parts if part is not None for array in keras.tree.flatten(part)]
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise ValueError(f"All arrays must have one length. Received: lengths={sorted(lengths)}")
    batch_size = 32 if batch_size is None else check_integer("batch_size", batch_size, 1)
    for start in range(0, lengths.pop(), batch_size):
        stop = start + batch_size
        yield tuple(
            None if part is None else keras.tree.map_structure(lambda array: array[start:stop], part)  # noqa: B023
            for part in parts
        )


def is_arrays(data):
    """Returns whether `data` is arrays or tensors, and not something that yields batches."""
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    return all(hasattr(leaf, "shape") and hasattr(leaf, "__getitem__") for leaf in leaves)


def concatenate(structures):
    """Returns one structure of NumPy arrays from a list of structures of batches; `None` stays `None`."""
    if structures[0] is None:
        return None
    return keras.tree.map_structure(
        lambda *parts: np.concatenate([keras.ops.convert_to_numpy(part) for part in parts]), *structures
    )
