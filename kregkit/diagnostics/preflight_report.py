"""The findings of all checks, as one report."""

import dataclasses
from typing import Any

from kregkit._core.notebook import Notebook
from kregkit.diagnostics.finding import STATUSES


@dataclasses.dataclass(frozen=True)
class PreflightReport(Notebook):
    """What `preflight` found: prints as a table, and is a dictionary by `to_dict()`.

    Args:
        findings: Tuple of `Finding`, in the order of the checks.
    """

    findings: tuple

    @property
    def status(self) -> str:
        """`"pass"`, `"warn"` or `"fail"`: the worst of all checks."""
        return max((finding.status for finding in self.findings), key=STATUSES.index, default="pass")

    @property
    def faults(self) -> list[str]:
        """Names of everything that was found, in order and without repeats."""
        return list(dict.fromkeys(name for finding in self.findings for name in finding.faults))

    @property
    def notes(self) -> dict[str, str]:
        """Dictionary from the name of a check to what it says of itself: that it was cut short, and how far it came."""
        return {finding.check: finding.note for finding in self.findings if finding.note}

    def __getitem__(self, check):
        for finding in self.findings:
            if finding.check == check:
                return finding
        raise KeyError(check)

    def to_dict(self) -> dict[str, Any]:
        """Returns `{"status": ..., "faults": [...], "notes": {...}, "checks": {name: finding}}` of plain values."""
        checks = {finding.check: finding.to_dict() for finding in self.findings}
        return {"status": self.status, "faults": self.faults, "notes": self.notes, "checks": checks}

    def plot(self) -> Any:
        """Draws the report with `kregkit.plots.findings`; returns the Figure."""
        from kregkit import plots

        return plots.findings(self.to_dict())

    def __str__(self):
        rows = [("", "check", "measured", "expected")]
        rows += [(_shown(one), one.check, one.figure, one.expected) for one in self.findings]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths)), row[3]]).rstrip() for row in rows]
        lines.insert(1, "-" * max(map(len, lines)))
        for finding in self.findings:
            for (name, status, remedy), group in _alike(finding.problems).items():
                shown = [f"{each.where}: {each.figure}" if each.where else each.figure for each in group[:3]]
                rest = f", and {len(group) - 3} more" if len(group) > 3 else ""
                lines += [
                    "",
                    f"{status.upper()} {name}: {', '.join(shown)}{rest} (expected {group[0].expected})",
                    f"     {remedy}",
                ]
        lines += [f"\nNOTE {check}: {note}" for check, note in self.notes.items()]
        return "\n".join(lines)


def _shown(finding):
    """Returns the verdict of a check; `"cut"` of one that was cut short and saw nothing wrong until then."""
    return "cut" if finding.note and finding.status == "pass" else finding.status


def _alike(problems):
    groups = {}
    for problem in problems:
        groups.setdefault((problem.name, problem.status, problem.remedy), []).append(problem)
    return groups
