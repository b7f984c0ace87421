"""The hyperparameters of a search, each with its range."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kregkit._core.checks import check_integer, check_number
from kregkit._core.notebook import Notebook
from kregkit.search.choices import Choice
from kregkit.search.ranges import Range


class Space(Notebook):
    """Named ranges of hyperparameters.

    Args:
        **parameters: What `uniform`, `log_uniform`, `integer` and `choice` return. One that ends in
            `.when(name=value)` is drawn only where the choice or integer `name`, given before it, has that value, or
            one of a list or `range` of values. An integer that others depend on is never widened: its new values would
            have none of them.

    Raises:
        ValueError: A value is not a range, or a condition names no earlier choice or integer, or a value that it lacks.

    Example:

    >>> from kregkit.search import choice, integer, log_uniform, uniform
    >>> space = Space(
    ...     learning_rate=log_uniform(1e-5, 1e-1),
    ...     units=integer(16, 256, log=True),
    ...     optimizer=choice(["sgd", "adam"]),
    ...     momentum=uniform(0.5, 0.99, limits=(0, 0.999)).when(optimizer="sgd"),
    ... )
    >>> len(space.grid(2))
    12
    """

    def __init__(self, **parameters: Any) -> None:
        if not parameters:
            raise ValueError(f"A space needs at least one parameter. Received: parameters={parameters}")
        self.parameters = {}
        for name, parameter in parameters.items():
            if not isinstance(parameter, (Range, Choice)):
                raise ValueError(
                    f"`{name}` must come from `uniform`, `log_uniform`, `integer` or `choice`. "
                    f"Received: {name}={parameter!r}"
                )
            condition = tuple((other, self._values_of(name, other, values)) for other, values in parameter.condition)
            self.parameters[name] = dataclasses.replace(parameter, condition=condition)

    def _values_of(self, name, other, values):
        """Returns the values of the parameter `other` for which `name` is drawn, options by their names."""
        parent = self.parameters.get(other)
        if isinstance(parent, Choice):
            known = list(parent.options)
            # A tuple may be one option or several.
            names = [parent.name_of(values)] if parent.has(values) else None
            lacks = [] if names else [value for value in values if not parent.has(value)]
        elif isinstance(parent, Range) and parent.whole:
            known, names = str(parent), None
            lacks = [value for value in values if isinstance(value, bool) or not parent.holds(value)]
        else:
            raise ValueError(
                f"`{name}` depends on {other!r}, which must be a choice or an integer that stands before it. "
                f"Received: {name}={values!r}"
            )
        if lacks or not values:
            raise ValueError(
                f"`{name}` depends on values that {other!r} lacks: it has {known}. Received: {name}={lacks!r}"
            )
        if isinstance(parent, Choice):
            return tuple(names or map(parent.name_of, values))
        return tuple(map(int, values))

    def draw(self, trial: Any) -> dict[str, Any]:
        """Returns what an Optuna trial draws, as a dictionary from names to stored values."""
        drawn: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if _active(parameter, drawn):
                drawn[name] = parameter.suggest(trial, name)
        return drawn

    def values(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """Returns `drawn` with the names of options replaced by their values."""
        return {
            name: parameter.options[drawn[name]] if isinstance(parameter, Choice) else drawn[name]
            for name, parameter in self.parameters.items()
            if name in drawn
        }

    def middle(self) -> dict[str, Any]:
        """Returns one setting: the middle of each range and the first option of each choice."""
        setting: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if _active(parameter, setting):
                setting[name] = parameter.points(1)[0]
        return setting

    def grid(self, points: int | Mapping[str, int]) -> list[dict[str, Any]]:
        """Returns all combinations of values at equal distances on each range's scale, as a list of dictionaries.

        Args:
            points: Integer, how many values each range has, or a dictionary from names to integers. Choices have
                all of their options.
        """
        counts: dict[str, Any] = points if isinstance(points, dict) else {
            name: points for name, parameter in self.parameters.items() if isinstance(parameter, Range)
        }  # fmt: skip
        for name, parameter in self.parameters.items():
            if isinstance(parameter, Range):
                if name not in counts:
                    raise ValueError(f"`points` lacks {name!r}. Received: points={points}")
                check_integer("points", counts[name], 1)
        unknown = set(counts) - set(self.parameters)
        if unknown:
            raise ValueError(f"`points` names {sorted(unknown)}, which the space lacks. Received: points={points}")
        combinations: list[dict[str, Any]] = [{}]
        for name, parameter in self.parameters.items():
            longer = []
            for drawn in combinations:
                if _active(parameter, drawn):
                    longer += [{**drawn, name: value} for value in parameter.points(counts.get(name, 1))]
                else:
                    longer.append(drawn)
            combinations = longer
        return combinations

    def around(self, trials: Sequence[Any], mode: str, quantile: float = 0.2) -> tuple[Any, Any]:
        """Returns `(space, remarks)`: the space of the next round, and a dictionary of what to say of each parameter.

        A parameter's new range lies around its values in the best trials, counted among those that have it. It is
        widened where the very best trial has a value at its edge, or where the trials improve towards an edge. See
        `Range.around` and `Choice.around`.

        Args:
            trials: List of `(drawn, score)`, the finished trials of a round.
            mode: `"min"` or `"max"`, which scores are better.
            quantile: Float in (0, 1], the fraction of trials that counts as the best, at least three of them.
        """
        check_number("quantile", quantile, 0, 1, low_open=True)
        ranked = sorted(trials, key=lambda trial: trial[1], reverse=mode == "max")
        parents = {other for parameter in self.parameters.values() for other, _ in parameter.condition}
        trends = self._trends(ranked)
        new, remarks = {}, {}
        for name, parameter in self.parameters.items():
            values = [drawn[name] for drawn, _ in ranked if name in drawn]
            top = values[: max(3, math.ceil(quantile * len(values)))]
            # Among the trials that have it, the best of a dependent parameter may be a poor trial: no reason to widen.
            best = ranked[0][0].get(name) if ranked else None
            if name in parents and isinstance(parameter, Range):
                parameter = dataclasses.replace(parameter, limits=(parameter.low, parameter.high))
            if not top:
                new[name], remark = parameter, ""
            elif isinstance(parameter, Choice):
                new[name], remark = parameter.around(top, best)
            else:
                new[name], remark = parameter.around(top, best, trends.get(name))
            if remark:
                remarks[name] = remark
        return Space(**_without_dropped(new)), remarks

    def _trends(self, ranked):
        """Returns the ends of ranges towards which trials clearly improve: a dictionary to `"lower"` or `"upper"`.

        With several parameters the best trial is often inside a range whose optimum lies beyond. A quadratic in all of
        them, fitted to the ranks by least squares, tells: its slope in the middle differs from zero by more than three
        standard errors, and still leads outwards at the end.
        """
        names = [name for name, one in self.parameters.items() if isinstance(one, Range) and not one.condition]
        num = 1 + 2 * len(names)
        if not names or len(ranked) < 2 * num:
            return {}
        units = np.array([[self.parameters[name].to_unit(drawn[name]) for name in names] for drawn, _ in ranked]) - 0.5
        design = np.hstack([np.ones((len(units), 1)), units, units**2])
        # Ranks, since losses of bad trials are of any size. The best is first, so that a falling rank improves.
        rank = np.arange(len(ranked)) / len(ranked)
        inverse = np.linalg.pinv(design.T @ design)
        weights = inverse @ design.T @ rank
        variance = np.sum((rank - design @ weights) ** 2) / (len(rank) - num)
        trends = {}
        for index, name in enumerate(names, start=1):
            slope, curvature = weights[index], weights[index + len(names)]
            error = np.sqrt(variance * inverse[index, index])
            # Half a width from the middle the slope is `slope ± curvature`.
            if abs(slope) > max(3 * error, curvature):
                trends[name] = "lower" if slope > 0 else "upper"
        return trends

    def to_json(self) -> Any:
        """Returns what identifies the space, as JSON values."""
        return {name: parameter.to_json() for name, parameter in self.parameters.items()}

    def _notebook_text(self) -> str:
        rows = [("parameter", "range"), *((name, str(range)) for name, range in self.parameters.items())]
        width = max(len(name) for name, _ in rows) + 2
        return "\n".join(name.ljust(width) + shown for name, shown in rows)

    def __repr__(self):
        return f"Space({', '.join(f'{name}={parameter!r}' for name, parameter in self.parameters.items())})"


def _active(parameter, drawn):
    return all(name in drawn and drawn[name] in options for name, options in parameter.condition)


def _without_dropped(parameters):
    """Leaves out what depends on values that are no longer there."""
    kept = {}
    for name, parameter in parameters.items():
        condition = [
            (other, tuple(value for value in values if other in kept and kept[other].holds(value)))
            for other, values in parameter.condition
        ]
        if all(values for _, values in condition):
            kept[name] = dataclasses.replace(parameter, condition=tuple(condition))
    return kept
