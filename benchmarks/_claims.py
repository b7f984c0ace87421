"""What a claim is, what its numbers say about it, and the page that is made from them. Measures nothing itself."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterable

import numpy as np
from scipy import stats

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS, PAGE, PICTURE = ROOT / "docs/claims.jsonl", ROOT / "docs/claims.md", ROOT / "docs/claims.png"
VERDICTS = ("holds", "doesn't show here", "contradicted")

INTRODUCTION = """# The lecture's claims, measured

<!-- Made by `python benchmarks/claims.py --write`; change that, not this. -->

Each claim of CS231n's lecture 7 (2017) that can be measured in minutes, as an experiment: networks of ten to a hundred
thousand weights, 300 to 400 of MNIST's digits to train on and 3,000 others to test on; for transfer, EfficientNet-Lite0
at 64 x 64 pixels, whose fine-tuning starts from the linear probe. Both sides of a claim get the same examples, starting
weights, batches and number of steps, and a learning rate each, tuned on held-out training data of another seed.
"Difference" is the mean over seeds of the first side minus the second, with Student's 95% interval. A claim *holds* if
the whole interval is on its side, is *contradicted* if it is on the other, and *doesn't show here* if zero lies in it.
Of forty claims without any effect two would fall outside by chance. What doesn't show with small networks and digits
may show with large ones.

`python benchmarks/claims.py` measures them anew, `--only NAME` one of them, and `--quick`, in six minutes, those that
cost least."""

REGISTRY: dict[str, "Claim"] = {}


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement, and how it is put to the test.

    Args:
        name: String, under which `--only` finds it.
        says: String, the statement.
        group: String, the part of the lecture.
        sides: Pair of strings, what is compared: the technique, and what it is compared with.
        unit: String, what the two numbers are.
        expect: `"lower"`, `"higher"` or `"within"`: what the claim says about the first number minus the second.
        measure: Function `(seed, lab)` that returns the two numbers. Equal seeds mean equal data, weights and batches.
        seeds: Integer, how many seeds a full run takes.
        margin: Float, with `"within"`: how far apart the two may be.
    """

    name: str
    says: str
    group: str
    sides: tuple[str, str]
    unit: str
    expect: str
    measure: Callable
    seeds: int
    margin: float = 0.0


def claim(
    name: str, says: str, group: str, sides: tuple[str, str], unit: str = "test error, %", **settings
) -> Callable:
    """Registers the function below it as a claim's measurement."""

    def register(measure: Callable) -> Callable:
        options = {"expect": "lower", "seeds": 5, **settings}
        REGISTRY[name] = Claim(name, says, group, sides, unit, measure=measure, **options)
        return measure

    return register


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the pairs of numbers say about a claim. The interval is Student's, of the mean difference, at 95%."""

    seeds: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    verdict: str


def summarize(expect: str, pairs: Iterable[tuple[float, float]], margin: float = 0.0) -> Summary:
    """Returns the means of both sides, their mean difference with its interval, and the verdict.

    A claim holds if the whole interval lies on its side of zero, and is contradicted if it lies on the other. A claim
    that two numbers agree holds if the interval lies within the margin. One pair has no interval and no verdict.
    """
    values = np.asarray(list(pairs), "float64")
    differences = values[:, 0] - values[:, 1]
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        return Summary(count, *map(float, values[0]), mean, math.nan, math.nan, "one seed says nothing")
    half = float(stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / math.sqrt(count))
    low, high = mean - half, mean + half
    if expect == "within":
        holds, contradicted = -margin <= low and high <= margin, low > margin or high < -margin
    elif expect == "lower":
        holds, contradicted = high < 0, low > 0
    else:
        holds, contradicted = low > 0, high < 0
    verdict = VERDICTS[0] if holds else VERDICTS[2] if contradicted else VERDICTS[1]
    return Summary(count, float(values[:, 0].mean()), float(values[:, 1].mean()), mean, low, high, verdict)


def read_lines(path: pathlib.Path) -> list[dict]:
    """Returns the objects of a file of JSON lines, without the last line of a run that was killed while writing it."""
    found = []
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def cheapest_first(names: Iterable[str], lines: Iterable[dict], seeds: int) -> list[str]:
    """Returns the names by the seconds that so many seeds took, in the lines of an earlier run; unknown ones last.

    Of the first seed, which tuned the rates, only as much counts as a later one took.
    """
    seconds: dict[str, list[float]] = {}
    for line in lines:
        if "claim" in line:
            seconds.setdefault(line["claim"], []).append(line["seconds"])
    cost = {name: seeds * min(each) for name, each in seconds.items()}
    return sorted(names, key=lambda name: cost.get(name, math.inf))


class Records:
    """The experiments made so far, one JSON object a line; each line is written when its experiment has ended.

    Args:
        path: Path of the file.
        resume: Boolean, whether what the file holds counts; otherwise it is begun anew.
    """

    def __init__(self, path: pathlib.Path, resume: bool = True):
        self.path = pathlib.Path(path)
        self.lines: list[dict] = []
        if resume and self.path.exists():
            self.lines = read_lines(self.path)
            self._write(self.lines, "w")
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("", encoding="utf-8")

    def add(self, **line) -> None:
        """Appends a line to the file."""
        self.lines.append(line)
        self._write([line], "a")

    def _write(self, lines: list[dict], mode: str) -> None:
        with open(self.path, mode, encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def pairs(self, name: str) -> dict[int, tuple[float, float]]:
        """Returns a claim's numbers by seed."""
        return {line["seed"]: tuple(line["values"]) for line in self.lines if line.get("claim") == name}

    def tuned(self) -> dict[str, dict]:
        """Returns what was tuned: a dictionary from a setting's text to its rate and the errors of all rates tried."""
        return {line["tuned"]: line for line in self.lines if "tuned" in line}


def summaries(records: Records) -> dict[str, Summary]:
    """Returns the summary of every registered claim that has numbers, in the registry's order."""
    found = {}
    for name, one in REGISTRY.items():
        pairs = records.pairs(name)
        if pairs:
            found[name] = summarize(one.expect, pairs.values(), one.margin)
    return found


def number(value: float) -> str:
    """Returns three significant digits, without an exponent where that is shorter."""
    return "0" if value == 0 else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def interval(summary: Summary, signed: bool = True) -> str:
    """Returns the mean difference with its interval; of one seed the difference alone."""
    if math.isnan(summary.low):
        return f"{summary.difference:+.3g} (one seed)"
    width = max(summary.high - summary.low, 1e-3 * abs(summary.difference), 1e-9)
    digits = max(0, 1 - math.floor(math.log10(width)))
    return f"{summary.difference:+.{digits}f} ({summary.low:+.{digits}f} to {summary.high:+.{digits}f})"


def table(found: dict[str, Summary]) -> str:
    """Returns the table in Markdown, one part per group."""
    lines: list[str] = []
    group = None
    for name, summary in found.items():
        one = REGISTRY[name]
        if one.group != group:
            group = one.group
            lines += [
                "",
                f"### {group}",
                "",
                "| claim | in | | | difference | seeds | verdict |",
                "|---|---|---|---|---|---|---|",
            ]
        sides = [f"{side} {number(value)}" for side, value in zip(one.sides, (summary.first, summary.second))]
        verdict = f"**{summary.verdict}**" if summary.verdict == VERDICTS[2] else summary.verdict
        cells = [f"{one.says} (`{name}`)", one.unit, *sides, interval(summary), str(summary.seeds), verdict]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines[1:])


def page(found: dict[str, Summary], introduction: str) -> str:
    """Returns the whole text of docs/claims.md."""
    counts = {verdict: sum(one.verdict == verdict for one in found.values()) for verdict in VERDICTS}
    told = "{} hold, {} don't show here, {} are contradicted".format(*counts.values())
    missing = [f"`{name}`" for name in REGISTRY if name not in found]
    absent = f"\n\nNot measured in this run: {', '.join(missing)}." if missing else ""
    return f"{introduction}\n\nOf {len(found)} claims: {told}.{absent}\n\n![effects](claims.png)\n\n{table(found)}\n"


def picture(found: dict[str, Summary]):
    """Draws every claim's effect with its interval, in widths of half the interval; returns the Figure.

    Units differ from claim to claim, so each effect is divided by half the width of its own interval: beyond 1 lies
    what the interval tells apart from no effect. The axis is turned so that to the right the claim holds.
    """
    import matplotlib.pyplot as plt

    shown = {name: one for name, one in found.items() if not math.isnan(one.low) and REGISTRY[name].expect != "within"}
    figure, axis = plt.subplots(figsize=(9.5, 0.235 * len(shown) + 1.9), layout="constrained")
    colors = dict(zip(VERDICTS, ("#2a8c4a", "0.5", "#c0392b")))
    limit = 12.0
    position, ticks, group = 0.0, [], None
    for name, one in shown.items():
        claim = REGISTRY[name]
        if claim.group != group:
            group = claim.group
            position += 0.6
            axis.text(
                -limit - 0.2, position, group, fontsize=9, fontweight="bold", ha="right", va="center", color="0.25"
            )
            position += 1
        half = max((one.high - one.low) / 2, 1e-12)
        effect = one.difference / half * (-1 if claim.expect == "lower" else 1)
        beyond = abs(effect) > limit - 1
        effect = float(np.clip(effect, -limit + 1, limit - 1))
        color = colors[one.verdict]
        axis.plot([effect - 1, effect + 1], [position, position], color=color, linewidth=2.2, solid_capstyle="butt")
        axis.plot(effect, position, ">" if beyond and effect > 0 else "<" if beyond else "o", color=color, markersize=5)
        ticks.append((position, claim.says))
        position += 1
    axis.axvline(0, color="0.3", linewidth=1)
    axis.set_yticks([place for place, _ in ticks], [says for _, says in ticks], fontsize=8)
    axis.set(xlim=(-limit, limit), ylim=(position, -0.6))
    axis.set_xlabel("mean difference, in halves of its 95% interval", fontsize=9)
    figure.suptitle("The lecture's claims, measured: to the right of 0 they hold", fontsize=12, fontweight="bold")
    for verdict, color in colors.items():
        axis.plot([], [], "o-", color=color, label=verdict)
    axis.legend(
        frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), fontsize=9, title="arrow: beyond the edge"
    )
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", alpha=0.25)
    return figure
