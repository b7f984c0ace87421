"""What a preflight found, on one page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kregkit._core import rules
from kregkit._core.optional import import_optional
from kregkit.plots._axes import finish
from kregkit.plots.rates import learning_rate_sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = {"pass": "#2a8c4a", "warn": "#d98e04", "fail": "#c0392b"}
_VERDICTS = {"pass": "passes", "warn": "warns", "fail": "fails"}


@rules.checked(figure=rules.figure)
def findings(report: Mapping[str, Any], figure: Figure | None = None) -> Figure:
    """Draws a preflight: the verdicts, the signal through depth, the small batch, the rate's range, update ratios.

    Args:
        report: A report's dictionary, as `kregkit.diagnostics.PreflightReport.to_dict()` returns it.
        figure: Matplotlib Figure to draw on. Defaults to a new one.

    Returns:
        The Figure. Checks that were not run leave their panels out.

    Raises:
        ValueError: The report holds no checks.

    Example:

    >>> check = {"status": "pass", "figure": "2.3", "expected": "about 2.3", "problems": [], "details": {}}
    >>> len(findings({"status": "pass", "faults": [], "checks": {"initial_loss": check}}).axes)
    1
    """
    plt = import_optional("matplotlib.pyplot", "kregkit.plots")
    checks = report.get("checks") if isinstance(report, dict) else None
    if not checks:
        raise ValueError(f"The report must hold checks. Received: report={report!r}")
    panels = [
        (draw, checks[name]["details"])
        for name, draw in (
            ("signal_flow", _signal),
            ("overfit_small_batch", _overfit),
            ("learning_rate", _rate),
            ("update_ratio", _ratios),
        )
        if checks.get(name, {}).get("details")
    ]
    rows = -(-len(panels) // 2)
    lines = sum(1 + len(_alike(check["problems"])) for check in checks.values())
    top = 0.3 * lines + 0.5
    if figure is None:
        figure = plt.figure(figsize=(10.5, top + 2.7 * rows), layout="constrained")
    grid = figure.add_gridspec(rows + 1, 2, height_ratios=[top, *[2.7] * rows])
    _table(figure.add_subplot(grid[0, :]), checks, lines)
    for index, (draw, details) in enumerate(panels):
        draw(figure.add_subplot(grid[1 + index // 2, index % 2]), details)
    named = f": {', '.join(report['faults'][:3])}" if report.get("faults") else ""
    title = f"Preflight {_VERDICTS.get(str(report.get('status')), '')}".rstrip() + named
    figure.suptitle(title, fontsize=13, fontweight="bold", color="0.2")
    return figure


def _table(axes, checks, lines):
    axes.set(xlim=(0, 1), ylim=(lines, 0))
    axes.axis("off")
    line = 0.5
    for name, check in checks.items():
        color = _COLORS[check["status"]]
        axes.text(0.0, line, check["status"].upper(), color=color, fontweight="bold", va="center", fontsize=10)
        axes.text(0.065, line, name.replace("_", " "), va="center", fontsize=10)
        axes.text(0.25, line, check["figure"], va="center", fontsize=9)
        axes.text(0.66, line, "expected " + check["expected"], va="center", fontsize=9, color="0.45")
        line += 1
        for group in _alike(check["problems"]):
            problem = group[0]
            where = f" in {problem['where']}" if problem["where"] else ""
            text = f"{problem['name']}{where}: {problem['figure']}"
            text = text if len(text) < 120 else text[:117] + "..."
            text += f" (and {len(group) - 1} more)" if len(group) > 1 else ""
            axes.text(0.085, line, text, va="center", fontsize=9, color=_COLORS[problem["status"]])
            line += 1


def _alike(problems):
    groups = {}
    for problem in problems:
        groups.setdefault((problem["name"], problem["status"]), []).append(problem)
    return list(groups.values())


def _title(axes, text):
    finish(axes, legend=False)
    axes.set_title(text, loc="left", fontsize=10, fontweight="bold")


def _signal(axes, details):
    rows = [row for row in details["layers"] if row["weights"] or row["activation"]]
    positions = np.arange(1, len(rows) + 1)
    for key, label, marker in (("std", "std of outputs", "o"), ("gradient", "gradient (rms)", "s")):
        values = np.array([row[key] for row in rows], float)
        values = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        axes.plot(positions, values, marker=marker, markersize=4, linewidth=1.4, label=label)
    axes.set_yscale("log")
    axes.set_xticks(positions, [row["layer"] for row in rows], rotation=35, ha="right", fontsize=7)
    _title(axes, "signal through depth")
    # Beside the title, where it hides nothing.
    axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=2)


def _overfit(axes, details):
    axes.plot(np.arange(1, len(details["losses"]) + 1), details["losses"], linewidth=1.6)
    axes.axhline(details["target"], color="0.4", linestyle="--", linewidth=1)
    # The goal is a twentieth of the start, which a linear axis shows; what rises beyond twice the start is cut off.
    losses, target = np.asarray(details["losses"], float), details["target"]
    span = max(losses[0] - target, 1e-12)
    axes.set_ylim(min(target, losses.min()) - 0.1 * span, min(losses.max() + 0.1 * span, target + 2 * span))
    axes.set(xlabel="step", ylabel=f"loss of {details['num']} examples")
    _title(axes, "a small batch by heart, dashed: goal")


def _rate(axes, details):
    _title(learning_rate_sweep(details, axes), "range of the learning rate")


def _ratios(axes, details):
    names, values = list(details["ratios"]), np.array(list(details["ratios"].values()), float)
    positions = np.arange(len(names))
    axes.axvspan(1e-5, 0.05, color=_COLORS["pass"], alpha=0.1, linewidth=0)
    axes.axvline(1e-3, color="0.4", linestyle="--", linewidth=1)
    axes.plot(np.where(values > 0, values, np.nan), positions, "o", color="C0")
    axes.set_xscale("log")
    axes.set_yticks(positions, ["/".join(name.split("/")[-2:])[-28:] for name in names], fontsize=7)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("size of update / size of weights")
    _title(axes, "updates beside weights, shaded: healthy")
