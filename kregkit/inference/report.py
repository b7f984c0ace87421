"""How good each member of an ensemble is, and the ensemble."""

import numpy as np

# As in Guo et al. 2017.
_NUM_BINS = 15


class Report:
    """Measures of each member and of the ensemble, which print as a table; made by `Ensemble.report`.

    Args:
        members: List of dictionaries, one per member: `"name"`, `"weight"` and one entry per measure.
        ensemble: Dictionary of the ensemble's measures.
        disagreement: Array `(members, members)`: the fraction of examples for which two members decide differently;
            for values, the root of the mean squared difference. With several outputs, a dictionary of such arrays.

    Example:

    >>> rows = [{"name": "a", "weight": 0.5, "error": 0.25}, {"name": "b", "weight": 0.5, "error": 0.125}]
    >>> print(Report(rows, {"error": 0.0}, np.array([[0.0, 0.375], [0.375, 0.0]])))
              weight   error
    a            0.5    0.25
    b            0.5   0.125
    ensemble               0
    <BLANKLINE>
    disagreement       a       b
    a                  0   0.375
    b              0.375       0
    """

    def __init__(self, members, ensemble, disagreement):
        self.members = members
        self.ensemble = ensemble
        self.disagreement = disagreement

    def __str__(self):
        names = [member["name"] for member in self.members]
        measures = list(self.ensemble)
        rows = [[member["weight"], *(member[measure] for measure in measures)] for member in self.members]
        rows.append(["", *self.ensemble.values()])
        tables = [_table("", ["weight", *measures], [*names, "ensemble"], rows)]
        several = self.disagreement if isinstance(self.disagreement, dict) else {"": self.disagreement}
        for output, matrix in several.items():
            tables.append(_table(f"{output} disagreement".strip(), names, names, np.asarray(matrix).tolist()))
        return "\n\n".join(tables)

    def __repr__(self):
        return str(self)


def _table(corner, columns, names, rows):
    cells = [[cell if isinstance(cell, str) else f"{cell:.4g}" for cell in row] for row in rows]
    widths = [max(len(column), *(len(row[index]) for row in cells), 6) + 2 for index, column in enumerate(columns)]
    first = max(len(corner), *map(len, names))
    lines = [corner.ljust(first) + "".join(column.rjust(width) for column, width in zip(columns, widths))]
    for name, row in zip(names, cells):
        lines.append(name.ljust(first) + "".join(cell.rjust(width) for cell, width in zip(row, widths)))
    return "\n".join(line.rstrip() for line in lines)


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


def _decisions(y_pred, task):
    """Returns the predicted class of every decision."""
    return _distribution(y_pred, task).argmax(axis=-1)


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
