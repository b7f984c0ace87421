"""How good each member of an ensemble is, and the ensemble, as a table. `_scores.py` computes the numbers."""

import numpy as np


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
