"""How good predictions are: log loss, error, calibration error; squared and absolute error; how often two disagree."""

import keras
import numpy as np

# Bins of the calibration error, as in Guo et al. 2017.
_NUM_BINS = 15


def scores(y_true, y_pred, task, weight=None):
    """Returns a dictionary of measures, lower is better in each.

    Classification: `"log loss"` (mean `-log p` of the true class), `"error"` (fraction of wrong classes) and
    `"calibration error"` (expected difference of confidence and accuracy over 15 bins of equal width, Guo et al.
    2017). Values: `"mean squared error"` and `"mean absolute error"`.
    """
    if task.kind == "values":
        difference = np.asarray(y_pred, "float64") - np.asarray(y_true, "float64").reshape(np.shape(y_pred))
        difference = difference.reshape(-1)
        weight = _spread_weight(weight, len(difference))
        return {
            "mean squared error": float(weight @ difference**2),
            "mean absolute error": float(weight @ np.abs(difference)),
        }
    p = _distribution(y_pred, task)
    target = _targets(y_true, y_pred, task)
    weight = _spread_weight(weight, len(p))
    right = (p.argmax(axis=-1) == target.argmax(axis=-1)).astype("float64")
    log_loss = -(target * np.log(np.maximum(p, 1e-37))).sum(axis=-1)
    return {
        "log loss": float(weight @ log_loss),
        "error": float(weight @ (1.0 - right)),
        "calibration error": _calibration_error(p.max(axis=-1), right, weight),
    }


def _calibration_error(confidence, right, weight):
    # Bins are open at the left, so that a confidence of exactly 1 has the last one.
    bins = np.clip(np.ceil(confidence * _NUM_BINS).astype(int) - 1, 0, _NUM_BINS - 1)
    gap = np.bincount(bins, weight * (right - confidence), minlength=_NUM_BINS)
    return float(np.abs(gap).sum())


def disagreement(left, right, task, weight=None):
    """Returns the fraction of decisions that differ in two predictions; for values, their root-mean-square distance."""
    if task.kind == "values":
        difference = (np.asarray(left, "float64") - np.asarray(right, "float64")).reshape(-1)
        return float(np.sqrt(_spread_weight(weight, len(difference)) @ difference**2))
    differ = _decisions(left, task) != _decisions(right, task)
    return float(_spread_weight(weight, len(differ)) @ differ)


def _decisions(y_pred, task):
    """Returns the predicted class of every decision."""
    return _distribution(y_pred, task).argmax(axis=-1)


def _distribution(y_pred, task):
    """Returns probabilities `(num, classes)`, one row per decision."""
    y = np.asarray(y_pred, "float64")
    if task.link == "softmax":
        y = y.reshape(-1, y.shape[-1])
        if task.kind == "probabilities":
            return y
        y = np.exp(y - y.max(axis=-1, keepdims=True))
        return y / y.sum(axis=-1, keepdims=True)
    y = y.reshape(-1)
    if task.kind == "logits":
        # Either half by its own formula: 1 - p would be rounded away.
        return np.stack([np.exp(-np.logaddexp(0.0, y)), np.exp(-np.logaddexp(0.0, -y))], axis=-1)
    return np.stack([1.0 - y, y], axis=-1)


def _targets(y_true, y_pred, task):
    """Returns target distributions `(num, classes)` from class indices, one-hot rows or yes/no numbers."""
    y = np.asarray(y_true)
    if task.link == "sigmoid":
        y = y.astype("float64").reshape(-1)
        return np.stack([1.0 - y, y], axis=-1)
    classes = y_pred.shape[-1]
    if y.shape == y_pred.shape:
        return y.astype("float64").reshape(-1, classes)
    y = y.astype("int64").reshape(-1)
    if y.size and not 0 <= y.min() <= y.max() < classes:
        raise ValueError(
            f"Targets must be class indices from 0 to {classes - 1}; leave out examples of an ignored class. "
            f"Received: targets from {y.min()} to {y.max()}"
        )
    return np.eye(classes)[y]


def _spread_weight(weight, num):
    """Returns one weight per decision from one weight per example (or none), summing to 1."""
    if weight is None:
        return np.full(num, 1.0 / num)
    weight = np.asarray(weight, "float64").reshape(-1)
    weight = np.repeat(weight, num // len(weight))
    return weight / weight.sum()


def matching_targets(y, structure):
    """Returns one target per flat output of `structure`; `None` where there is none."""
    if isinstance(structure, dict) and isinstance(y, dict):
        return keras.tree.flatten({key: y.get(key) for key in structure})
    flat = keras.tree.flatten(y)
    count = len(keras.tree.flatten(structure))
    if len(flat) != count:
        raise ValueError(f"Expected targets for {count} outputs. Received: {len(flat)} arrays")
    return flat


def output_names(model, structure):
    """Returns the name of each flat output; of a single one, an empty string."""
    count = len(keras.tree.flatten(structure))
    if count == 1:
        return [""]
    if isinstance(structure, dict):
        return keras.tree.flatten({key: key for key in structure})
    return list(getattr(model, "output_names", None) or [f"output {index}" for index in range(count)])
