"""Which way a metric is better."""

import math

from kregkit._core.checks import check_choice

# Metrics of Keras that are better when larger, by the words in their names; all else is a loss or an error.
_LARGER_IS_BETTER = (
    *("acc", "auc", "precision", "recall", "f1", "fbeta", "iou", "io_u", "r2", "cosine_similarity", "hit"),
    *("sensitivity", "specificity", "true_positives", "true_negatives", "correlation"),
)


def direction(monitor, mode="auto"):
    """Returns `"min"` or `"max"` for a logged quantity.

    Args:
        monitor: String, the quantity's name in `logs`, such as `"val_loss"`.
        mode: `"min"`, `"max"`, or `"auto"`, which decides by the name.

    >>> direction("val_loss"), direction("val_accuracy")
    ('min', 'max')
    """
    check_choice("mode", mode, ("auto", "min", "max"))
    if mode != "auto":
        return mode
    return "max" if any(word in monitor.lower() for word in _LARGER_IS_BETTER) and "loss" not in monitor else "min"


def is_better(value, best, mode, min_delta=0.0):
    """Returns whether `value` beats `best` by more than `min_delta`; NaN beats nothing, all else beats `None`."""
    if math.isnan(value):
        return False
    if best is None:
        return True
    return value < best - min_delta if mode == "min" else value > best + min_delta
