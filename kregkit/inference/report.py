"""How good predictions are, and those of each member of an ensemble, as a table. `_scores.py` computes the numbers."""

from collections.abc import Sequence

import numpy as np

from kregkit._core.notebook import Notebook


class Report(Notebook):
    """Measures of each member and of their average, which print as a table; made by `report` of any predictor.

    Args:
        members: List of dictionaries, one per member: `"name"`, `"weight"` and one entry per measure. Empty where the
            predictions are not an ensemble's.
        ensemble: Dictionary of the measures of the average.
        intervals: Dictionary from measures to `(low, high)`, their 95% bootstrap intervals; empty where they weren't
            computed.
        disagreement: `None`, or an array `(members, members)`: the fraction of examples for which two members decide
            differently; for values, the root of the mean squared difference. With several outputs, a dictionary of
            such arrays.
        unweighed: List of the names of outputs that were not measured: all their examples have weight 0, or are masked.

    Example:

    >>> rows = [{"name": "a", "weight": 0.5, "error": 0.25}, {"name": "b", "weight": 0.5, "error": 0.125}]
    >>> print(Report(rows, {"error": 0.0}, {"error": (0.0, 0.1)}, np.array([[0.0, 0.375], [0.375, 0.0]])))
              weight   error
    a            0.5    0.25
    b            0.5   0.125
    ensemble               0
    95% from               0
    95% to               0.1
    <BLANKLINE>
    disagreement       a       b
    a                  0   0.375
    b              0.375       0
    """

    def __init__(
        self,
        members: list[dict],
        ensemble: dict,
        intervals: dict,
        disagreement: object,
        unweighed: Sequence[str] = (),
    ) -> None:
        self.members = members
        self.ensemble = ensemble
        self.intervals = intervals
        self.disagreement = disagreement
        self.unweighed = list(unweighed)

    def __str__(self):
        names = [member["name"] for member in self.members]
        measures = list(self.ensemble)
        rows = [[member["weight"], *(member[measure] for measure in measures)] for member in self.members]
        rows.append(["", *self.ensemble.values()])
        labels = [*names, "ensemble" if names else "average"]
        if self.intervals:
            rows += [["", *(self.intervals[measure][end] for measure in measures)] for end in (0, 1)]
            labels += ["95% from", "95% to"]
        columns = ["weight", *measures]
        if not names:
            rows, columns = [row[1:] for row in rows], measures
        parts = [_table("", columns, labels, rows)]
        if self.disagreement is not None:
            several = self.disagreement if isinstance(self.disagreement, dict) else {"": self.disagreement}
            for output, matrix in several.items():
                parts.append(_table(f"{output} disagreement".strip(), names, names, np.asarray(matrix).tolist()))
        if self.unweighed:
            lines = [f"{name}: not measured, all its examples have weight 0 or are masked" for name in self.unweighed]
            parts.append("\n".join(lines))
        return "\n\n".join(parts)

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
