"""What a search found."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from kregkit._core.checks import check_integer
from kregkit._core.files import replacing
from kregkit._core.metrics import direction as direction_of
from kregkit._core.metrics import is_better
from kregkit._core.notebook import Notebook
from kregkit._core.optional import import_optional
from kregkit._core.types import Path
from kregkit.search.ranges import Range

if TYPE_CHECKING:
    from kregkit.search.space import Space


@dataclasses.dataclass(frozen=True)
class Trial:
    """One finished trial.

    Args:
        round: Integer, counted from 1.
        index: Integer, its number in the round, counted from 0.
        state: `"complete"`, `"pruned"` (ended early as hopeless) or `"failed"` (`train` raised, or its worker died).
        parameters: Dictionary of what was drawn; options of a choice by their names.
        value: Float, the metric at the best epoch, a mean over repeats; None unless complete.
        interval: `[low, high]`, its 95% confidence interval over repeats; None for a single training.
        values: List of floats, the metric of each repeat.
        metrics: Dictionary of all logged quantities at those epochs.
        epochs: Integer, how many were trained, all repeats together.
        seconds: Float, how long it took.
        reason: String, why it ended early or failed.
    """

    round: int
    index: int
    state: str
    parameters: dict
    value: float | None
    interval: list | None
    values: list
    metrics: dict
    epochs: int
    seconds: float
    reason: str


def trial_of(number: int, index: int, frozen: Any):
    """Returns the `Trial` of an Optuna trial in round `number`."""
    outcome = frozen.user_attrs.get("outcome", {"state": "failed", "reason": "its workers died"})
    return Trial(
        round=number,
        index=index,
        state=outcome["state"],
        parameters=dict(frozen.params),
        value=outcome.get("value"),
        interval=outcome.get("interval"),
        values=outcome.get("values", []),
        metrics=outcome.get("metrics", {}),
        epochs=outcome.get("epochs", 0),
        seconds=(frozen.datetime_complete - frozen.datetime_start).total_seconds(),
        reason=outcome["reason"],
    )


class SearchResult(Notebook):
    """The trials of a search and what they say. Returned by `search` and `grid`.

    Attributes:
        trials: List of `Trial`s, by round and index.
        rounds: List of dictionaries, one per round: `space` (a `Space`), `epochs`, `trials` and `remarks`
            (a dictionary from parameters to what was said when their range was made).
        space: The `Space` that a further round would search; `remarks` says where and why it was widened.
        edges: Dictionary from the parameters whose range was widened, or may not hold the optimum, to sentences.
        metric, mode: Strings, what was optimised, and `"min"` or `"max"`.
        studies: List of Optuna studies, one per round, for Optuna's own tools.
        interrupted: Boolean, whether Ctrl-C ended the search before its last trial. The last of the `rounds` then has
            fewer trials than planned, and `space` is the one that it searched.
    """

    def __init__(
        self,
        trials: Sequence[Any],
        rounds: Sequence[Any],
        space: Space,
        remarks: Any,
        metric: str,
        mode: Literal["min", "max"],
        studies: Any,
        interrupted: bool = False,
    ) -> None:
        self.trials, self.rounds, self.space, self.remarks = trials, rounds, space, remarks
        self.metric, self.mode, self.studies, self.interrupted = metric, mode, studies, interrupted

    @property
    def best(self) -> Any:
        """The complete trial with the best value, or None."""
        best = None
        for trial in self.trials:
            if trial.state == "complete" and is_better(trial.value, best and best.value, self.mode):
                best = trial
        return best

    @property
    def best_parameters(self) -> Any:
        """The best trial's parameters as `train` received them, options of a choice by their values.

        Raises:
            ValueError: No trial is complete.
        """
        best = self.best
        if best is None:
            reasons = sorted({trial.reason for trial in self.trials})
            raise ValueError(f"No trial is complete. Received: reasons={reasons}")
        return self.rounds[best.round - 1]["space"].values(best.parameters)

    def rows(self) -> list[dict[str, Any]]:
        """Returns the trials as flat dictionaries, `params_` before the parameters' names as Optuna has it."""
        rows = []
        for trial in self.trials:
            low, high = trial.interval or (None, None)
            rows.append(
                {
                    "round": trial.round,
                    "index": trial.index,
                    "state": trial.state,
                    self.metric: trial.value,
                    "low": low,
                    "high": high,
                    "epochs": trial.epochs,
                    "seconds": trial.seconds,
                    **{f"params_{name}": value for name, value in trial.parameters.items()},
                    **{name: value for name, value in trial.metrics.items() if name != self.metric},
                    "reason": trial.reason,
                }
            )
        return rows

    def to_csv(self, path: Path) -> None:
        """Writes the trials to a CSV file, whole or not at all; what a trial lacks is empty."""
        rows = self.rows()
        # In the order of the longest rows, since a pruned trial has no metrics.
        columns = list(dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row))
        with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    def to_dataframe(self) -> Any:
        """Returns the trials as a `pandas.DataFrame`.

        Raises:
            ImportError: pandas is not installed.
        """
        return import_optional("pandas", "SearchResult.to_dataframe").DataFrame(self.rows())

    def importance(self, round: int = 1, dependent: bool = False) -> dict[str, float]:
        """Returns each parameter's share in the metric's variation over a round, largest first.

        By Optuna's default evaluator, PED-ANOVA. The first round says most: its ranges are the widest. It needs a
        dozen trials or more to mean anything.

        Args:
            round: Integer, counted from 1.
            dependent: Boolean, whether to include parameters that only some trials have. For want of trials theirs
                is easily overestimated.

        Raises:
            ValueError: There is no such round, or it has fewer than two complete trials.

        Reference: [Watanabe et al., 2023](https://arxiv.org/abs/2304.10255)
        """
        check_integer("round", round, 1, len(self.rounds))
        complete = sum(trial.round == round and trial.state == "complete" for trial in self.trials)
        if complete < 2:
            raise ValueError(f"Importance needs two complete trials; round {round} has {complete}. Received: {round=}")
        importance = import_optional("optuna.importance", "kregkit.search")
        parameters = self.rounds[round - 1]["space"].parameters
        names = [name for name, parameter in parameters.items() if dependent or not parameter.condition]
        return importance.get_param_importances(self.studies[round - 1], params=names)

    def plot(self, x: str | None = None, y: str | None = None, color: str | None = None) -> Any:
        """Draws trials over two parameters, importance per parameter and the range of each round.

        See `kregkit.plots.search_results`, whose array of Axes it returns. The title says how many trials there were
        and the best value.

        Args:
            x, y: Strings, parameters. Default to the first two with logarithmic ranges.
            color: String, a logged quantity. Defaults to the metric of the search.
        """
        from kregkit import plots

        color = color or self.metric
        complete = sum(trial.round == 1 and trial.state == "complete" for trial in self.trials)
        return plots.search_results(
            [dataclasses.asdict(trial) for trial in self.trials],
            [searched["space"].to_json() for searched in self.rounds],
            self.importance() if complete >= 2 else {},
            x=x,
            y=y,
            color=color,
            direction=self.mode if color == self.metric else _direction_or_min(color),
            title=self._title(),
        )

    def _title(self):
        rounds = f" in {len(self.rounds)} rounds" if len(self.rounds) > 1 else ""
        best = f"; best {self.metric.replace('_', ' ')}: {self.best.value:.4g}" if self.best else ""
        return f"Search: {len(self.trials)} trials{rounds}{best}"

    @property
    def edges(self) -> dict[str, str]:
        """Ranges that may not hold the optimum: a dictionary from parameters to sentences about them.

        A parameter is named if its range was widened, or if the best trial lies in the outer 15% of all that was
        searched.
        """
        edges: dict[str, list[str]] = {}
        for number, searched in enumerate(self.rounds, start=1):
            for name, remark in searched["remarks"].items():
                edges.setdefault(name, []).append(f"round {number} was {remark}")
        best = self.best
        for name, value in best.parameters.items() if best else ():
            spaces = [searched["space"].parameters for searched in self.rounds]
            ranges = [parameters[name] for parameters in spaces if name in parameters]
            if isinstance(ranges[0], Range):
                ends = {
                    "low": min(searched.low for searched in ranges),
                    "high": max(searched.high for searched in ranges),
                }
                searched = dataclasses.replace(ranges[0], **ends)
                if side := searched.edge(value):
                    limit = searched.limits[side == "upper"]
                    end = searched.low if side == "lower" else searched.high
                    advice = f"its limit is {limit:.4g}" if end == limit else "search on from `result.space`"
                    text = f"the best, {value:.4g}, lies at the {side} edge of all that was searched, "
                    edges.setdefault(name, []).append(f"{text}{searched.interval()}: {advice}")
        return {name: "; ".join(sentences) for name, sentences in edges.items()}

    def __str__(self):
        best = self.best
        if best is None:
            outcome = "none complete"
        else:
            parameters = ", ".join(f"{name}={_shown(value)}" for name, value in best.parameters.items())
            outcome = f"best {self.metric} {best.value:.4g} with {parameters}"
        ended = " (interrupted)" if self.interrupted else ""
        lines = [f"SearchResult: {len(self.trials)} trials in {len(self.rounds)} rounds{ended}, {outcome}"]
        return "\n".join([*lines, *(f"- {name}: {text}" for name, text in self.edges.items())])

    __repr__ = __str__


def _shown(value):
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def _direction_or_min(metric) -> Literal["min", "max"]:
    """Returns which colours are good; a quantity of an unknown kind is drawn as if smaller were better."""
    try:
        return direction_of(metric)
    except ValueError:
        return "min"
