"""How good predictions are: log loss, error, calibration; squared and absolute error; how often two disagree."""

import keras
import numpy as np

from kregkit.inference._calibration_error import equal_mass_bins, equal_width_bins, gaps, mean_gap


def measures(y_true, y_pred, task, weight=None):
    """Returns, by name, how to measure predictions; each is better if lower, and a function of one mean.

    Classification: `"log loss"` (mean `-log p` of the true class), `"error"` (fraction of wrong classes),
    `"calibration error"` (expected difference of confidence and accuracy over 15 bins of equal width, Guo et al.
    2017), `"equal-mass calibration error"` (over 15 bins of equally many decisions) and `"Brier score"` (mean squared
    distance of probabilities and truth, summed over the classes; of two, of one of them). Values: `"mean squared
    error"` and `"mean absolute error"`.

    Returns:
        Dictionary from names to pairs `(parts, combine)`: `parts` is an array `(decisions, k)`, and the measure is
        `combine(weights @ parts)` for weights that sum to 1.
    """
    if task.kind == "values":
        difference = np.asarray(y_pred, "float64") - np.asarray(y_true, "float64").reshape(np.shape(y_pred))
        difference = difference.reshape(-1)
        return {"mean squared error": (difference**2, _itself), "mean absolute error": (np.abs(difference), _itself)}
    p = _distribution(y_pred, task)
    target = target_distributions(y_true, y_pred, task)
    right = (p.argmax(axis=-1) == target.argmax(axis=-1)).astype("float64")
    confidence = p.max(axis=-1)
    of_width, of_mass = equal_width_bins(confidence), equal_mass_bins(confidence, spread_weight(weight, len(p)))
    return {
        "log loss": (-(target * np.log(np.maximum(p, 1e-37))).sum(axis=-1), _itself),
        "error": (1.0 - right, _itself),
        "calibration error": (gaps(confidence, right, of_width), mean_gap),
        "equal-mass calibration error": (
            gaps(confidence, right, of_mass),
            mean_gap,
        ),
        "Brier score": (((p - target) ** 2).sum(axis=-1) * (0.5 if p.shape[-1] == 2 else 1.0), _itself),
    }


def scores(y_true, y_pred, task, weight=None):
    """Returns a dictionary from the names of `measures` to floats."""
    return {
        name: combine(spread_weight(weight, len(parts)) @ parts)
        for name, (parts, combine) in measures(y_true, y_pred, task, weight).items()
    }


def intervals(y_true, y_pred, task, weight=None, resamples=1000, level=0.95, seed=0):
    """Returns, by name of measure, the bootstrap interval `(low, high)` of that level (Efron 1979).

    Examples are resampled, with all their decisions; the bins of calibration errors stay those of the sample.
    """
    num = len(np.asarray(y_true))
    named = measures(y_true, y_pred, task, weight)
    columns = [parts if np.ndim(parts) == 2 else parts[:, None] for parts, _ in named.values()]
    columns = np.concatenate([np.ones((len(columns[0]), 1)), *columns], axis=1)
    # Per example, the sums over its decisions.
    sums = (spread_weight(weight, len(columns))[:, None] * columns).reshape(num, -1, columns.shape[1]).sum(axis=1)
    random = np.random.default_rng(seed)
    drawn = {name: [] for name in named}
    for _ in range(resamples):
        total, *means = np.bincount(random.integers(0, num, num), minlength=num) @ sums
        if total > 0:
            start = 0
            for name, (parts, combine) in named.items():
                width = parts.shape[1] if np.ndim(parts) == 2 else 1
                mean = np.array(means[start : start + width]) / total
                drawn[name].append(combine(mean if np.ndim(parts) == 2 else mean[0]))
                start += width
    tail = 50.0 * (1.0 - level)
    return {name: tuple(map(float, np.percentile(values, [tail, 100.0 - tail]))) for name, values in drawn.items()}


def _itself(mean):
    return float(mean)


def disagreement(left, right, task, weight=None):
    """Returns the fraction of decisions that differ in two predictions; for values, their root-mean-square distance."""
    if task.kind == "values":
        difference = (np.asarray(left, "float64") - np.asarray(right, "float64")).reshape(-1)
        return float(np.sqrt(spread_weight(weight, len(difference)) @ difference**2))
    differ = _decisions(left, task) != _decisions(right, task)
    return float(spread_weight(weight, len(differ)) @ differ)


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


def target_distributions(y_true, y_pred, task):
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


def spread_weight(weight, num):
    """Returns one weight per decision, from one per example or per step (or none), summing to 1."""
    weight = per_decision(weight, num)
    return weight / weight.sum()


def per_decision(weight, num):
    """Returns one weight per decision: that of its example or of its step; 1 where there is none."""
    if weight is None:
        return np.ones(num)
    weight = np.asarray(weight, "float64").reshape(-1)
    return np.repeat(weight, num // len(weight))


def output_names(model, structure):
    """Returns the name of each flat output; of a single one, an empty string."""
    count = len(keras.tree.flatten(structure))
    if count == 1:
        return [""]
    if isinstance(structure, dict):
        return keras.tree.flatten({key: key for key in structure})
    return list(getattr(model, "output_names", None) or [f"output {index}" for index in range(count)])
