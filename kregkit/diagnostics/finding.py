"""What a check found: a verdict, the figure it rests on, the expected range, and what to do."""

import dataclasses
from typing import Any

from kregkit._core.notebook import Notebook

STATUSES = ("pass", "warn", "fail")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        name: String, the fault's name, such as `"dead ReLUs"`.
        status: `"warn"` or `"fail"`.
        figure: String, what was measured.
        expected: String, what it should have been.
        remedy: String, what to do.
        where: String, the layer, input or output that it is about; may be empty.
    """

    name: str
    status: str
    figure: str
    expected: str
    remedy: str
    where: str = ""


@dataclasses.dataclass(frozen=True)
class Finding(Notebook):
    """The result of one check.

    Args:
        check: String, the check's name.
        figure: String, the number that sums up the check.
        expected: String, the range in which a healthy model's figure lies.
        problems: Tuple of `Problem`; empty where all is well.
        details: Dictionary of plain values (numbers, strings, lists, dictionaries): everything that was measured.
        note: String, what there is to know about the check itself, such as that its time was up; may be empty. It
            says nothing about the model and doesn't change the status.

    Example:

    >>> Finding("initial_loss", "2.31", "2.30").status
    'pass'
    """

    check: str
    figure: str
    expected: str
    problems: tuple = ()
    details: dict = dataclasses.field(default_factory=dict)
    note: str = ""

    @property
    def status(self) -> str:
        """`"pass"`, `"warn"` or `"fail"`: the worst of the problems."""
        return max((problem.status for problem in self.problems), key=STATUSES.index, default="pass")

    @property
    def faults(self) -> list[str]:
        """The problems' names, in order and without repeats."""
        return list(dict.fromkeys(problem.name for problem in self.problems))

    def to_dict(self) -> dict[str, Any]:
        """Returns the finding as plain dictionaries, lists, strings and numbers."""
        return {
            "check": self.check,
            "status": self.status,
            "figure": self.figure,
            "expected": self.expected,
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
            "details": self.details,
            "note": self.note,
        }

    def __str__(self):
        lines = [f"{self.status.upper():<5} {self.check}: {self.figure} (expected {self.expected})"]
        for problem in self.problems:
            where = f" in {problem.where}" if problem.where else ""
            lines.append(f"      {problem.name}{where}: {problem.figure} (expected {problem.expected})")
            lines.append(f"        -> {problem.remedy}")
        if self.note:
            lines.append(f"      note: {self.note}")
        return "\n".join(lines)
