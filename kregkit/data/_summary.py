"""What a notebook shows of a pipeline."""

import keras
import tensorflow as tf


def summary(spec, size, num_batches, batch_size, what, operations, seed, epoch):
    """Returns a text of two columns.

    Args:
        spec: The structure of a batch.
        size, num_batches: Integers, of examples and of batches; or `None`.
        batch_size: Integer.
        what: String, what the source is.
        operations: List of the operations that act.
        seed: Integer.
        epoch: Variable.
    """
    examples = "examples" if size is None else f"{size:,} examples"
    batches = (
        f"of {batch_size}, their number is not known" if num_batches is None else f"{num_batches:,} of {batch_size}"
    )
    entries = [_entry(path, spec) for path, spec in keras.tree.flatten_with_path(spec)]
    rows = [
        ("reads", f"{examples} of {what}"),
        ("does", str(operations[0]) if operations else "nothing"),
        *(("", str(one)) for one in operations[1:]),
        ("batches", batches),
        ("gives", entries[0]),
        *(("", entry) for entry in entries[1:]),
        ("seed, epoch", f"{seed}, {int(epoch)}"),
    ]
    return "\n".join(f"{name:13s}{value}" for name, value in (("pipeline", ""), *rows))


def _entry(path, spec):
    name = ", ".join(map(str, path))
    if not isinstance(spec, tf.TensorSpec):
        return f"{name}: {spec}"
    sides = (
        "any shape" if spec.shape.rank is None else " x ".join("?" if one is None else str(one) for one in spec.shape)
    )
    return f"{name}: {spec.dtype.name}, {sides or 'a number'}"
