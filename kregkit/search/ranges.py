"""Hyperparameters that are numbers of a range, and the range to search next."""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any

from kregkit._core import rules
from kregkit._core.checks import check_integer, check_number
from kregkit._core.optional import import_optional
from kregkit.search._parameter import Parameter

# Limits of a range that looks like fractions: dropout rates, momenta, survival probabilities.
FRACTION = (0.0, 1.0)
# A best value within this fraction of a range's width from an end lies at its edge.
EDGE = 0.15
# The best value and the median of the good ones within this fraction lie near it.
NEAR = 0.25
# One round never narrows a range to less than this fraction of its width: a round's best trials are few.
NARROWEST = 0.1
# With fewer trials, where the best one lies is chance.
FEWEST = 3
# A range of fractions, such as dropout rates, grows beyond this only if two of the three best trials lie at its edge.
HIGH_FRACTION = 0.8


@dataclasses.dataclass(frozen=True)
class Range(Parameter):
    """A range of numbers. Made by `uniform`, `log_uniform` and `integer`.

    Args:
        low, high: Numbers, the ends, both of them possible values.
        log: Boolean, whether the scale is logarithmic.
        whole: Boolean, whether the values are integers.
        limits: `(lowest, highest)`: the ends never move beyond these, however good the values there.
        step: Integer, the distance between neighbouring integers.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    limits: tuple = (-math.inf, math.inf)
    step: int = 1

    def to_unit(self, value: Any) -> float:
        """Returns where `value` lies on the range's own scale: 0 at `low`, 1 at `high`."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low) if high > low else 0.5

    def from_unit(self, unit: float) -> float:
        """Returns the value at `unit`: the inverse of `to_unit`, rounded to a possible value for integers."""
        value = self._unscaled(unit)
        return self._on_grid(value, round) if self.whole else value

    def points(self, num: int) -> list[Any]:
        """Returns `num` values at equal distances on the range's scale, both ends among them; fewer for integers."""
        units = [index / (num - 1) for index in range(num)] if num > 1 else [0.5]
        return sorted({self.from_unit(unit) for unit in units})

    def holds(self, value: Any) -> bool:
        """Returns whether `value` may be drawn."""
        inside = isinstance(value, numbers.Real) and self.low <= float(value) <= self.high
        return inside and (not self.whole or (value - self.low) % self.step == 0)

    def distribution(self) -> Any:
        """Returns the range as an Optuna distribution."""
        distributions = import_optional("optuna.distributions", "kregkit.search")
        if self.whole:
            return distributions.IntDistribution(self.low, self.high, log=self.log, step=self.step)
        return distributions.FloatDistribution(self.low, self.high, log=self.log)

    def suggest(self, trial: Any, name: str) -> Any:
        """Returns the value that an Optuna trial draws."""
        if self.whole:
            return trial.suggest_int(name, self.low, self.high, log=self.log, step=self.step)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def edge(self, value: Any) -> str | None:
        """Returns `"lower"` or `"upper"` for a value in the outer 15% of the range, else None."""
        unit = self.to_unit(value)
        return "lower" if unit <= EDGE else "upper" if unit >= 1 - EDGE else None

    def _growing_side(self, values, best, trend):
        """Returns `(side, remark)`: the edge at which the best values lie, or `(None, "")`."""
        if best is None or len(values) < FEWEST:
            return None, ""
        side, best_unit, median = self.edge(best), self.to_unit(best), self.to_unit(sorted(values)[len(values) // 2])
        where = "is at"
        if side is None:
            # With several parameters the very best trial may lie further inside than the optimum of one of them.
            low, high = max(best_unit, median) <= NEAR, min(best_unit, median) >= 1 - NEAR
            side, where = "lower" if low else "upper" if high else None, "and most good values are near"
        if side is None and trend is not None:
            side, where = trend, "is inside, but values improve towards"
        if side is None:
            return None, ""
        return side, f"widened: the best, {best:.4g}, {where} the {side} edge of {self.interval()}"

    def around(self, values: Sequence[float], best: Any, trend: Any = None) -> tuple[Any, Any]:
        """Returns `(range, remark)`: the range to search next, and a sentence if it was widened, else an empty string.

        With `k` of the best values, of which the outermost are `a` and `b` on the range's own scale, the new ends are
        `a - (b - a) / (k - 1)` and `b + (b - a) / (k - 1)`, the unbiased estimates of an interval's ends from `k`
        uniform draws, but within the old range and at least a tenth as wide.

        Where `best` lies in the outer 15% of the range, or both `best` and the median in the outer 25%, or where there
        is a `trend`, the optimum may lie beyond. The range then keeps its other end and grows by its whole width beyond
        this one, as far as `limits` allow. A range of fractions (its limits are 0 and 1) grows by half the way to 1 at
        most, and beyond 0.8 only where two of the three best values lie at that edge.
        Fewer than three values never widen a range.

        Args:
            values: List of numbers, the best values, best first.
            best: Number, the value of the very best trial, or None if that one has no such parameter.
            trend: `"lower"` or `"upper"`, the end towards which all trials together improve, or None.

        >>> log_uniform(1e-4, 1e-2).around([9e-3, 2e-3, 5e-3], best=9e-3)
        (log_uniform(0.0001, 0.505), 'widened: the best, 0.009, is at the upper edge of [0.0001, 0.01]')
        """
        side, remark = self._growing_side(values, best, trend)
        if side is not None:
            wider = self._widened(side, [self.edge(value) for value in values[:3]].count(side) > 1)
            # Where the limits allow no growth, the range narrows as any other.
            if (wider.low, wider.high) != (self.low, self.high):
                return wider, remark
        if len(values) < 2:
            return self, ""
        units = sorted(self.to_unit(value) for value in values)
        margin = (units[-1] - units[0]) / (len(units) - 1)
        margin = max(margin, (NARROWEST - units[-1] + units[0]) / 2)
        # Cut at an end, an interval of the least width moves inwards.
        low = min(max(units[0] - margin, 0.0), 1 - NARROWEST)
        high = max(min(units[-1] + margin, 1.0), NARROWEST)
        narrow = self._between(low, high)
        return dataclasses.replace(narrow, low=max(narrow.low, self.low), high=min(narrow.high, self.high)), ""

    def _widened(self, side, certain):
        if side == "lower":
            return self._between(-1.0, 1.0)
        wider = self._between(0.0, 2.0)
        if self.limits != FRACTION or self.high >= 1:
            return wider
        # Half the way to 1 each time, but not to where rounding makes it 1.
        high = max(self.high, min(wider.high, (1 + self.high) / 2, 0.999))
        if not certain and high > HIGH_FRACTION:
            high = max(self.high, HIGH_FRACTION)
        return dataclasses.replace(self, high=high)

    def _between(self, low, high):
        """Returns the range between two units of this one's scale, within the limits; integers round outwards."""
        ends = []
        for unit, outwards, inwards in ((low, math.floor, math.ceil), (high, math.ceil, math.floor)):
            value = self._unscaled(unit)
            value = self._on_grid(value, outwards) if self.whole else value
            if not self.limits[0] <= value <= self.limits[1]:
                value = min(max(value, self.limits[0]), self.limits[1])
                value = self._on_grid(value, inwards) if self.whole else value
            ends.append(value)
        return dataclasses.replace(self, low=ends[0], high=ends[1])

    def _on_grid(self, value, rounding):
        return self.low + self.step * rounding((value - self.low) / self.step)

    def _scaled(self, value):
        return math.log(value) if self.log else value

    def _unscaled(self, unit):
        if unit in (0, 1):
            return self.high if unit else self.low
        low, high = self._scaled(self.low), self._scaled(self.high)
        value = low + unit * (high - low)
        # Twelve digits: so that values read 0.1, not 0.10000000000000002. Neither 0 nor infinity has a logarithm.
        return float(f"{math.exp(min(max(value, -700), 700)) if self.log else value:.12g}")

    def interval(self) -> str:
        """Returns the ends as text."""
        return f"[{self.low:.4g}, {self.high:.4g}]"

    def __str__(self):
        return self.interval() + (" log" if self.log else f" step {self.step}" if self.step > 1 else "")

    def __repr__(self):
        name = "integer" if self.whole else "log_uniform" if self.log else "uniform"
        scale = ", log=True" if self.whole and self.log else f", step={self.step}" if self.step > 1 else ""
        return f"{name}({self.low:.6g}, {self.high:.6g}{scale})"

    def to_json(self) -> Any:
        """Returns what identifies the range, as JSON values."""
        kind = {"log": self.log, "whole": self.whole, **({"step": self.step} if self.step > 1 else {})}
        limits = [end if math.isfinite(end) else None for end in self.limits]
        return {"low": self.low, "high": self.high, **kind, "limits": limits, **self.condition_to_json()}


def _checked_limits(limits, low, high, default):
    limits = default if limits is None else limits
    pair = isinstance(limits, (tuple, list)) and len(limits) == 2
    if not pair or not limits[0] <= low <= high <= limits[1]:
        raise ValueError(f"`limits` must be a pair that encloses [{low}, {high}]. Received: limits={limits}")
    return tuple(limits)


def _check_order(low, high):
    if not low < high:
        raise ValueError(f"`low` must be less than `high`. Received: low={low}, high={high}")


def uniform(low: float, high: float, limits: tuple[float, float] | None = None) -> Range:
    """Returns a range of floats, drawn uniformly.

    Args:
        low, high: Floats, the ends; `low < high`.
        limits: `(lowest, highest)` that widening keeps to. By default a range that has no negative values gets none,
            and a range within [0, 1], taken for one of fractions such as dropout rates, stays below 1.

    >>> uniform(0.0, 0.5)
    uniform(0, 0.5)
    """
    low, high = check_number("low", low), check_number("high", high)
    _check_order(low, high)
    default = (-math.inf, math.inf) if low < 0 else FRACTION if high <= 1 else (0.0, math.inf)
    return Range(low, high, limits=_checked_limits(limits, low, high, default))


def log_uniform(low: float, high: float, limits: tuple[float, float] | None = None) -> Range:
    """Returns a range of positive floats whose logarithm is drawn uniformly, for learning rates and regularisation.

    Args:
        low, high: Floats, the ends; `0 < low < high`.
        limits: `(lowest, highest)` that widening keeps to. By default a range below 1 stays below 1, since it may be
            one of fractions: for a learning rate that may be larger, pass `limits=(0, 10)`.

    >>> log_uniform(1e-5, 1e-1).from_unit(0.25)
    0.0001
    """
    low, high = check_number("low", low, 0, low_open=True), check_number("high", high, 0, low_open=True)
    _check_order(low, high)
    default = FRACTION if high < 1 else (0.0, math.inf)
    return Range(low, high, log=True, limits=_checked_limits(limits, low, high, default))


@rules.checked(log=rules.boolean)
def integer(low: int, high: int, log: bool = False, limits: tuple[int, int] | None = None, step: int = 1) -> Range:
    """Returns a range of integers, both ends among them.

    Args:
        low, high: Integers, the ends; `low < high`.
        log: Boolean, whether the scale is logarithmic; then `low >= 1`, and every integer is possible.
        limits: `(lowest, highest)` that widening keeps to. By default a range that has no negative values gets none,
            and a range that has no zero gets none.
        step: Integer >= 1, the distance between neighbouring values: `integer(16, 128, step=16)` draws multiples of 16.
            The distance of the ends must be a multiple of it.

    >>> integer(16, 256, log=True).points(5)
    [16, 32, 64, 128, 256]
    """
    step = check_integer("step", step, 1)
    low = check_integer("low", low, 1 if log else None)
    high = check_integer("high", high)
    _check_order(low, high)
    if log and step > 1:
        raise ValueError(f"`step` must be 1 on a logarithmic scale. Received: step={step}, log={log}")
    if (high - low) % step:
        raise ValueError(f"`high - low` must be a multiple of `step`. Received: low={low}, high={high}, step={step}")
    lowest = 1 if low >= 1 else 0 if low == 0 else -math.inf
    limits = _checked_limits(limits, low, high, (lowest, math.inf))
    return Range(low, high, log=bool(log), whole=True, limits=limits, step=step)
