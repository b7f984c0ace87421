"""The best constant predictions, which are the same for all examples."""

import numpy as np
import tensorflow as tf


def constant_outputs(labels, outputs):
    """Returns lists of one output each per label array: frequencies or means, and then medians.

    The list is empty where the labels of an output don't tell.

    Args:
        labels: As `Probe.labels` returns them.
        outputs: List of tensors, the model's outputs.
    """
    if len(labels) != len(outputs):
        return []
    rows = [_rows(array, task, output) for (_, array, task, _), output in zip(labels, outputs)]
    if any(row is None for row in rows):
        return []
    centres = [[row.mean(0) for row in rows], [np.median(row, axis=0) for row in rows]]
    if any(task is None or task.link is not None for _, _, task, _ in labels):
        # A median of yes and no isn't the best answer to any loss.
        del centres[1:]
    return [
        [_output(centre, task, output) for centre, (_, _, task, _), output in zip(chosen, labels, outputs)]
        for chosen in centres
    ]


def _rows(array, task, output):
    """Returns labels in the output's shape; None where they have another."""
    shape, array = tuple(output.shape), np.asarray(array)
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        return None
    array = array.astype("float64")
    if task is not None and task.link == "softmax" and array.size * shape[-1] == np.prod(shape) and shape[-1] > 1:
        numbers = array.astype(int).reshape(shape[:-1])
        return np.eye(shape[-1])[np.clip(numbers, 0, shape[-1] - 1)]
    return array.reshape(shape) if array.size == np.prod(shape) else None


def _output(centre, task, output):
    if task is not None and task.link is not None:
        centre = np.clip(centre, 1e-6, 1 - 1e-6)
        if task.kind == "logits":
            centre = np.log(centre) if task.link == "softmax" else np.log(centre) - np.log1p(-centre)
    return tf.cast(tf.broadcast_to(tf.constant(centre), tf.shape(output)), output.dtype)
