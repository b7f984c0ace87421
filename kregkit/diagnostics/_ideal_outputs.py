"""Outputs that agree with the labels, and outputs that contradict them."""

import numpy as np

from kregkit._core.output_kinds import Task

_SURE = 0.98


def agreeing_and_contradicting(array, task, shape):
    """Returns two arrays of an output's shape, or None where the labels don't tell what the output should be.

    Args:
        array: Labels of one output.
        task: `Task` of the output, or None.
        shape: Shape of the output; its first number doesn't matter.
    """
    array = np.asarray(array, "float64")
    output = (len(array), *shape[1:])
    size = int(np.prod(output))
    classes = shape[-1] if len(shape) > 1 else 1
    whole = (array == np.floor(array)).all() and array.min() >= 0
    numbers = whole and array.size * classes == size and array.max() < classes and classes > 1
    if task is None and numbers:
        # Numbers of classes beside a row of outputs each.
        task = Task("logits", "softmax")
    if not np.isfinite(array).all() or (task is not None and task.link == "softmax" and classes < 2):
        return None
    if task is not None and task.link == "softmax":
        rows = np.eye(classes)[array.astype(int).reshape(-1)] if numbers and array.size != size else array
        if rows.size != size:
            return None
        rows = _SURE * rows.reshape(output) + (1 - _SURE) / classes
        pair = (rows, np.roll(rows, 1, axis=-1))
        return tuple(np.log(np.maximum(one, 1e-6)) for one in pair) if task.kind == "logits" else pair
    if array.size != size or np.ptp(array) == 0:
        return None
    array = array.reshape(output)
    if task is not None and task.link == "sigmoid":
        rows = np.clip(array, 1 - _SURE, _SURE)
        pair = (rows, 1 - rows)
        return tuple(np.log(one) - np.log1p(-one) for one in pair) if task.kind == "logits" else pair
    return array, 2 * array.mean(0) - array
