"""The hyperparameters of a search, each with its range."""

import dataclasses
import math

from kregkit._core.checks import check_integer, check_number
from kregkit.search.ranges import Choice, Range


class Space:
    """Named ranges of hyperparameters.

    Args:
        **parameters: What `uniform`, `log_uniform`, `integer` and `choice` return. One that ends in
            `.when(name=option)` is drawn only where the choice `name`, given before it, has that option.

    Raises:
        ValueError: A value is not a range, or a condition names no earlier choice, or an option that it lacks.

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

    def __init__(self, **parameters):
        if not parameters:
            raise ValueError(f"A space needs at least one parameter. Received: parameters={parameters}")
        earlier = {}
        for name, parameter in parameters.items():
            if not isinstance(parameter, (Range, Choice)):
                raise ValueError(
                    f"`{name}` must come from `uniform`, `log_uniform`, `integer` or `choice`. "
                    f"Received: {name}={parameter!r}"
                )
            for other, options in parameter.condition:
                if not isinstance(earlier.get(other), Choice):
                    raise ValueError(
                        f"`{name}` depends on {other!r}, which must be a choice that stands before it. "
                        f"Received: {name}={parameter!r}"
                    )
                unknown = [option for option in options if option not in earlier[other].options]
                if unknown:
                    raise ValueError(
                        f"`{name}` depends on options that {other!r} lacks: it has {list(earlier[other].options)}. "
                        f"Received: {name}={unknown!r}"
                    )
            earlier[name] = parameter
        self.parameters = parameters

    def draw(self, trial):
        """Returns what an Optuna trial draws, as a dictionary from names to stored values."""
        drawn = {}
        for name, parameter in self.parameters.items():
            if _active(parameter, drawn):
                drawn[name] = parameter.suggest(trial, name)
        return drawn

    def values(self, drawn):
        """Returns `drawn` with the names of options replaced by what they stand for."""
        return {
            name: parameter.options[drawn[name]] if isinstance(parameter, Choice) else drawn[name]
            for name, parameter in self.parameters.items()
            if name in drawn
        }

    def grid(self, points):
        """Returns all combinations of values at equal distances on each range's scale, as a list of dictionaries.

        Args:
            points: Integer, how many values each range has, or a dictionary from names to integers. Choices have
                all of their options.
        """
        counts = points if isinstance(points, dict) else {
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
        combinations = [{}]
        for name, parameter in self.parameters.items():
            longer = []
            for one in combinations:
                if _active(parameter, one):
                    longer += [{**one, name: value} for value in parameter.points(counts.get(name))]
                else:
                    longer.append(one)
            combinations = longer
        return combinations

    def around(self, trials, mode, quantile=0.2):
        """Returns `(space, remarks)`: the space of the next round, and a dictionary of what to say of each parameter.

        A parameter's new range lies around its values in the best trials, counted among those that have it; it is
        widened where the very best trial has a value at its edge. See `Range.around` and `Choice.around`.

        Args:
            trials: List of `(drawn, score)`, the finished trials of a round.
            mode: `"min"` or `"max"`, which scores are better.
            quantile: Float in (0, 1], the fraction of trials that counts as the best, at least three of them.
        """
        check_number("quantile", quantile, 0, 1, low_open=True)
        ranked = sorted(trials, key=lambda trial: trial[1], reverse=mode == "max")
        new, remarks = {}, {}
        for name, parameter in self.parameters.items():
            values = [drawn[name] for drawn, _ in ranked if name in drawn]
            top = values[: max(3, math.ceil(quantile * len(values)))]
            # Among the trials that have it, the best of a dependent parameter may be a poor trial: no reason to widen.
            best = ranked[0][0].get(name) if ranked else None
            new[name], remark = parameter.around(top, best) if top else (parameter, "")
            if remark:
                remarks[name] = remark
        return Space(**_without_dropped(new)), remarks

    def to_json(self):
        """Returns what identifies the space, as JSON values."""
        return {name: parameter.to_json() for name, parameter in self.parameters.items()}

    def __repr__(self):
        return f"Space({', '.join(f'{name}={parameter!r}' for name, parameter in self.parameters.items())})"


def _active(parameter, drawn):
    return all(name in drawn and drawn[name] in options for name, options in parameter.condition)


def _without_dropped(parameters):
    """Leaves out what depends on options that are no longer there."""
    kept = {}
    for name, parameter in parameters.items():
        condition = [
            (other, tuple(option for option in options if other in kept and option in kept[other].options))
            for other, options in parameter.condition
        ]
        if all(options for _, options in condition):
            kept[name] = dataclasses.replace(parameter, condition=tuple(condition))
    return kept
