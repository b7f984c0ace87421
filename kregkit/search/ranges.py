"""What a hyperparameter may be: a range of numbers on a scale, or one of several options."""

import dataclasses
import math

from kregkit._core.checks import check_integer, check_number
from kregkit._core.optional import import_optional

# A best value within this fraction of a range's width from an end sits at its edge.
EDGE = 0.05
# At an edge the range grows by this fraction of its width.
GROWTH = 0.5
# One round never narrows a range to less than this fraction of its width: a round's best trials are few.
NARROWEST = 0.1


@dataclasses.dataclass(frozen=True)
class _Parameter:
    condition: tuple = dataclasses.field(default=(), kw_only=True)

    def when(self, **options):
        """Returns this parameter, to be drawn only where each named choice has the value, or one of the values, given.

        >>> uniform(0.8, 0.99, limits=(0, 0.999)).when(optimizer="sgd").condition
        (('optimizer', ('sgd',)),)
        """
        if not options:
            raise ValueError(f"`when` needs the name of a choice and its options. Received: options={options}")
        condition = tuple(
            (name, tuple(values) if isinstance(values, (list, tuple)) else (values,))
            for name, values in options.items()
        )
        return dataclasses.replace(self, condition=(*self.condition, *condition))

    def _condition_to_json(self):
        return {"when": [[name, list(options)] for name, options in self.condition]} if self.condition else {}


@dataclasses.dataclass(frozen=True)
class Range(_Parameter):
    """A range of numbers. Made by `uniform`, `log_uniform` and `integer`.

    Args:
        low, high: Numbers, the ends, both of them possible values.
        log: Boolean, whether the scale is logarithmic.
        whole: Boolean, whether the values are integers.
        limits: `(lowest, highest)`: the ends never move beyond these, however good the values there.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    limits: tuple = (-math.inf, math.inf)

    def place(self, value):
        """Returns where `value` stands on the range's own scale: 0 at `low`, 1 at `high`."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low) if high > low else 0.5

    def value(self, place):
        """Returns the value at `place`: the inverse of `place`, rounded for integers."""
        value = self._unscaled(place)
        return round(value) if self.whole else value

    def points(self, num):
        """Returns `num` values at equal distances on the range's scale, both ends among them; fewer for integers."""
        places = [index / (num - 1) for index in range(num)] if num > 1 else [0.5]
        return sorted({self.value(place) for place in places})

    def distribution(self):
        """Returns the range as an Optuna distribution."""
        distributions = import_optional("optuna.distributions", "kregkit.search")
        kind = distributions.IntDistribution if self.whole else distributions.FloatDistribution
        return kind(self.low, self.high, log=self.log)

    def suggest(self, trial, name):
        """Returns the value that an Optuna trial draws."""
        suggest = trial.suggest_int if self.whole else trial.suggest_float
        return suggest(name, self.low, self.high, log=self.log)

    def around(self, values, best):
        """Returns `(range, remark)`: the range to search next, and what there is to say of it.

        With `k` of the best values, of which the outermost are `a` and `b` on the range's own scale, the new ends are
        `a - (b - a) / (k - 1)` and `b + (b - a) / (k - 1)`, the unbiased estimates of an interval's ends from `k`
        uniform draws, but within the old range and at least a tenth as wide. Where `best` is within a twentieth of an
        end, the range keeps its other end and grows by half its width beyond this one, as far as `limits` allow.

        >>> log_uniform(1e-4, 1e-2).around([9e-3, 2e-3, 5e-3], best=9e-3)
        (log_uniform(0.0001, 0.1), 'widened: the best, 0.009, is at the upper edge of [0.0001, 0.01]')
        """
        # None: the best trial has no such parameter.
        best_place = 0.5 if best is None else self.place(best)
        for at_edge, side, places in (
            (best_place <= EDGE, "lower", (-GROWTH, 1.0)),
            (best_place >= 1 - EDGE, "upper", (0.0, 1 + GROWTH)),
        ):
            if at_edge:
                wider = self._between(*places, beyond=True)
                # Where the limits allow no growth, the range narrows as any other.
                if (wider.low, wider.high) != (self.low, self.high):
                    return wider, f"widened: the best, {best:.4g}, is at the {side} edge of {self._interval()}"
        if len(values) < 2:
            return self, ""
        places = sorted(self.place(value) for value in values)
        margin = (places[-1] - places[0]) / (len(places) - 1)
        margin = max(margin, (NARROWEST - places[-1] + places[0]) / 2)
        # Cut at an end, an interval of the least width moves inwards.
        low = min(max(places[0] - margin, 0.0), 1 - NARROWEST)
        high = max(min(places[-1] + margin, 1.0), NARROWEST)
        return self._between(low, high, beyond=False), ""

    def _between(self, low, high, beyond):
        ends = []
        for place, away in ((low, math.floor), (high, math.ceil)):
            value = self._unscaled(place)
            value = away(value) if self.whole else value
            ends.append(min(max(value, self.limits[0]), self.limits[1]))
        if not beyond:
            ends = [max(ends[0], self.low), min(ends[1], self.high)]
        return dataclasses.replace(self, low=ends[0], high=ends[1])

    def _scaled(self, value):
        return math.log(value) if self.log else value

    def _unscaled(self, place):
        if place in (0, 1):
            return self.high if place else self.low
        low, high = self._scaled(self.low), self._scaled(self.high)
        value = low + place * (high - low)
        # Twelve digits: so that values read 0.1, not 0.10000000000000002.
        return float(f"{math.exp(value) if self.log else value:.12g}")

    def _interval(self):
        return f"[{self.low:.4g}, {self.high:.4g}]"

    def __str__(self):
        return self._interval() + (" log" if self.log else "")

    def __repr__(self):
        name = "integer" if self.whole else "log_uniform" if self.log else "uniform"
        return f"{name}({self.low:.6g}, {self.high:.6g}{', log=True' if self.whole and self.log else ''})"

    def to_json(self):
        """Returns what identifies the range, as JSON values."""
        kind = {"log": self.log, "whole": self.whole}
        limits = [end if math.isfinite(end) else None for end in self.limits]
        return {"low": self.low, "high": self.high, **kind, "limits": limits, **self._condition_to_json()}


@dataclasses.dataclass(frozen=True)
class Choice(_Parameter):
    """One of several options. Made by `choice`.

    Args:
        options: Dictionary from what is stored (a string, a number, a Boolean or None) to the value that it stands for.
    """

    options: dict

    def points(self, num):
        """Returns all options, whatever `num`."""
        return list(self.options)

    def distribution(self):
        """Returns the choice as an Optuna distribution."""
        return import_optional("optuna.distributions", "kregkit.search").CategoricalDistribution(tuple(self.options))

    def suggest(self, trial, name):
        """Returns the option that an Optuna trial draws."""
        return trial.suggest_categorical(name, tuple(self.options))

    def around(self, values, best):
        """Returns `(choice, remark)`: the options that are among the best values, in their old order.

        >>> choice(["sgd", "adam", "rmsprop"]).around(["adam", "sgd", "adam"], best="adam")
        (choice(['sgd', 'adam']), '')
        """
        kept = {option: value for option, value in self.options.items() if option in values}
        return dataclasses.replace(self, options=kept), ""

    def __str__(self):
        return " | ".join(map(str, self.options))

    def __repr__(self):
        return f"choice({list(self.options)})"

    def to_json(self):
        """Returns what identifies the choice, as JSON values."""
        return {"options": list(self.options), **self._condition_to_json()}


def _limits(limits, low, high, default):
    limits = default if limits is None else limits
    if len(limits) != 2 or not limits[0] <= low <= high <= limits[1]:
        raise ValueError(f"`limits` must enclose [{low}, {high}]. Received: limits={limits}")
    return tuple(limits)


def uniform(low, high, limits=None):
    """Returns a range of floats, drawn uniformly.

    Args:
        low, high: Floats, the ends; `low < high`.
        limits: `(lowest, highest)` that widening keeps to. By default what is never negative stays so, and a range
            within [0, 1], taken for a fraction, stays within it.

    >>> uniform(0.0, 0.5)
    uniform(0, 0.5)
    """
    low = check_number("low", low)
    high = check_number("high", high, low, low_open=True)
    lowest = 0.0 if low >= 0 else -math.inf
    return Range(low, high, limits=_limits(limits, low, high, (lowest, 1.0 if low >= 0 and high <= 1 else math.inf)))


def log_uniform(low, high, limits=None):
    """Returns a range of positive floats whose logarithm is drawn uniformly, for learning rates and regularisation.

    Args:
        low, high: Floats, the ends; `0 < low < high`.
        limits: `(lowest, highest)` that widening keeps to. By default there are none.

    >>> log_uniform(1e-5, 1e-1).value(0.25)
    0.0001
    """
    low = check_number("low", low, 0, low_open=True)
    high = check_number("high", high, low, low_open=True)
    return Range(low, high, log=True, limits=_limits(limits, low, high, (0.0, math.inf)))


def integer(low, high, log=False, limits=None):
    """Returns a range of integers, both ends among them.

    Args:
        low, high: Integers, the ends; `low < high`.
        log: Boolean, whether the scale is logarithmic; then `low >= 1`.
        limits: `(lowest, highest)` that widening keeps to. By default what is never negative stays so, and what is
            never zero stays positive.

    >>> integer(16, 256, log=True).points(5)
    [16, 32, 64, 128, 256]
    """
    low = check_integer("low", low, 1 if log else None)
    high = check_integer("high", high, low + 1)
    lowest = 1 if low >= 1 else 0 if low == 0 else -math.inf
    return Range(low, high, log=bool(log), whole=True, limits=_limits(limits, low, high, (lowest, math.inf)))


def choice(options):
    """Returns a choice among options.

    Args:
        options: List of strings, numbers, Booleans or None; or a dictionary from such names to any values.

    >>> choice({"shallow": (64,), "deep": (64, 64)})
    choice(['shallow', 'deep'])
    """
    named = dict(options) if isinstance(options, dict) else {option: option for option in options}
    if not named or not all(name is None or isinstance(name, (str, bool, int, float)) for name in named):
        raise ValueError(
            "`options` must be a list of strings, numbers, Booleans or None, or a dictionary from such names. "
            f"Received: options={options!r}"
        )
    return Choice(named)
