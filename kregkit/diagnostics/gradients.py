"""Gradients against centred differences."""

import keras
import numpy as np

from kregkit._core import rules
from kregkit._core.checks import check_integer
from kregkit._core.types import Data
from kregkit.diagnostics._double import DoubleLoss, double_precision
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem

# Large steps show small gradients, whose differences rounding would hide; small ones stay clear of kinks nearby.
_STEPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
# Beyond so many variables, directions go through several of them at once; through fewer where those meet kinks.
_MANY, _GROUP, _SMALL_GROUP = 40, 32, 8


@rules.checked(seed=rules.seed)
def gradient_check(
    model: keras.Model, data: Data, num_weights: int = 6, num_examples: int = 8, seed: int = 0
) -> Finding:
    """Checks gradients by centred differences in float64: on a sample of weights, and along whole gradients.

    ```
    numeric = (loss(w + h d) - loss(w - h d)) / (2 h)
    error = |gradient . d - numeric| / max(|gradient . d|, |numeric|)
    ```

    The model's layers, penalties and losses compute in float64 for the check. The directions `d` are, for each
    trainable variable, its own gradient and single weights: half of the sample are the entries with the largest
    gradients, half are random. In models of more than 40 variables they are, for groups of up to 32, their gradients
    and random vectors, in proportion to the sizes of the weights. A group whose directions all meet kinks is checked
    in halves, down to 8; where a group is wrong, its variables are checked one by one.

    Steps `h` from 1e-1 to 1e-8 are tried. How far rounding moves the loss is measured, and the change from one step to
    the next bounds the error of the larger one; the verdict is that of the most certain steps. An error below 1e-6
    passes, above 1e-3 it fails. Directions in which no step tells the slope from rounding are counted as too small to
    check. Where the two one-sided differences disagree however small `h` is, the loss has a kink (ReLU at zero, max
    pooling between equals) and no one slope is right: they are counted apart.

    A wrong gradient spoils those of all layers before it. So the problem names the last layer that is wrong: the
    fault lies in it, or between it and the next.

    Args:
        model: A compiled Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`.
        num_weights: Integer >= 1, the sample per variable. Defaults to `6`.
        num_examples: Integer >= 1, the size of the batch. Defaults to `8`.
        seed: Integer, which weights and which directions.

    Returns:
        A `Finding`. Its problems are named `"wrong gradient"`, `"imprecise gradient"` and `"no float64"` (a layer
        that can't compute in it; nothing was checked). Details: per variable `"error"`, `"checked"`, `"kinks"` and
        `"too_small"`.

    Raises:
        ValueError: An argument is out of range, the model is not compiled, or `data` is an iterator.

    Example:

    >>> import keras, numpy as np
    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(1)]
    >>> model = keras.Sequential(layers)
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> finding = gradient_check(model, (x, x[:, :1]))
    >>> finding.status, finding.details["largest_error"] < 1e-6
    ('pass', True)
    """
    check_integer("num_weights", num_weights, 1)
    check_integer("num_examples", num_examples, 1)
    with probing(model, data) as probe:
        if probe.time_left() <= 0:
            probe.cut = "not begun"
            return Finding("gradient_check", "not checked", "error < 1e-6")
        batch = probe.first(num_examples)
        order = _order(probe.observation.records)
        # Builds the compiled loss, whose parts change their type for the check.
        probe.loss(*batch[:2], model(batch[0], training=False), batch[2], training=False)
        try:
            with double_precision(model):
                comparison = _Comparison(probe, DoubleLoss(probe, batch), order, num_weights, seed)
                rows = comparison.rows()
        except Exception as error:
            remedy = "let the layer compute in its `compute_dtype` rather than in a fixed type"
            reason = str(error).strip().splitlines()
            figure = f"{type(error).__name__}: {reason[0][:120] if reason else ''}"
            problem = Problem("no float64", "warn", figure, "layers that follow their dtype policy", remedy)
            return Finding("gradient_check", "not checked", "error < 1e-6", (problem,), {})
    worst = max((row["error"] for row in rows.values()), default=0.0)
    checked, kinks, small = (comparison.counts[kind] for kind in ("checked", "kinks", "too_small"))
    details = {"largest_error": worst, "checked": checked, "kinks": kinks, "too_small": small, "variables": rows}
    figure = f"{worst:.1e}" if worst else "within rounding"
    figure += f" over {checked} directions"
    figure += (f", {kinks} at kinks" if kinks else "") + (f", {small} too small to check" if small else "")
    return Finding("gradient_check", figure, "error < 1e-6", tuple(_problems(rows)), details)


def _order(records):
    """Returns the index of the call in which each variable is used, by the variable's identity."""
    order = {}
    for index, record in enumerate(records):
        for variable in record.layer.trainable_variables:
            # Inner layers return before those that hold them.
            order.setdefault(id(variable), index)
    return order


class _Comparison:
    """Slopes by backpropagation beside slopes by differences, for one batch."""

    def __init__(self, probe, loss, order, num_weights, seed):
        self.probe, self.loss, self.num_weights = probe, loss, num_weights
        self.rng = np.random.default_rng(seed)
        self.gradients = loss.gradients()
        self.middle, self.rounding = loss.value(), 4 * loss.rounding(self.rng)
        self.counts = {"checked": 0, "kinks": 0, "too_small": 0}
        self.order = [order.get(id(variable), -1) for variable in loss.variables]

    def rows(self):
        """Returns a dictionary from each variable's path to what was measured."""
        attached = [index for index, gradient in enumerate(self.gradients) if gradient is not None]
        if len(attached) <= _MANY:
            measured = {index: self.variable(index, self.num_weights) for index in attached}
        else:
            measured = self.grouped(sorted(attached, key=lambda index: self.order[index]))
        return {self.loss.variables[index].path: {**row, "call": self.order[index]} for index, row in measured.items()}

    def grouped(self, indices):
        groups, rows, waiting = [], {}, indices
        slopes = {index: abs(self.slope({index: self.gradient_direction(index)})) for index in indices}
        while waiting:
            chunks = [waiting[start : start + _GROUP] for start in range(0, len(waiting), _GROUP)]
            waiting = []
            for chunk in chunks:
                # Beside a slope a hundred times theirs, nothing could be said of the others.
                least = 0.01 * max(slopes[index] for index in chunk)
                groups.append([index for index in chunk if slopes[index] >= least])
                waiting += [index for index in chunk if slopes[index] < least]
        while groups:
            if self.probe.time_left() <= 0:
                self.probe.cut = f"{len(rows)} of {len(indices)} variables"
                break
            group = groups.pop(0)
            directions = [self.gradient_direction, self.random_direction]
            row = self.measure([{i: make(i) for i in group} for make in directions])
            if row["kinks"] and not row["checked"] and len(group) > _SMALL_GROUP:
                # Fewer weights that move pass fewer kinks.
                groups = [group[: len(group) // 2], group[len(group) // 2 :], *groups]
                continue
            # One by one: which of the group is it?
            rows |= {i: self.variable(i, 0) for i in group} if row["error"] > 1e-6 else dict.fromkeys(group, row)
        return rows

    def variable(self, index, num_weights):
        directions = [{index: self.gradient_direction(index)}] if np.any(self.gradients[index]) else []
        for position in self.choose(np.abs(self.gradients[index]).ravel(), num_weights):
            direction = np.zeros(self.gradients[index].shape)
            direction.flat[position] = 1.0
            directions.append({index: direction})
        return self.measure(directions)

    def choose(self, sizes, num):
        if not num:
            return []
        largest = np.argsort(sizes)[::-1][: -(-num // 2)]
        return np.unique(
            np.concatenate([largest, self.rng.choice(sizes.size, min(num // 2, sizes.size), replace=False)])
        )

    def gradient_direction(self, index):
        """Returns the variable's gradient, as long as the variable is."""
        return self.scaled(self.gradients[index], index)

    def random_direction(self, index):
        """Returns a random vector as long as the variable, uphill, so that variables don't cancel each other out."""
        direction = self.rng.normal(size=self.gradients[index].shape)
        return self.scaled(direction * (1.0 if np.sum(direction * self.gradients[index]) >= 0 else -1.0), index)

    def scaled(self, direction, index):
        size, length = np.linalg.norm(direction), np.linalg.norm(self.loss.values[index])
        return direction * ((length or 1.0) / size) if size > 0 else direction

    def slope(self, direction):
        return sum(float(np.sum(self.gradients[index] * step)) for index, step in direction.items())

    def measure(self, directions):
        """Returns the largest error over directions, how many were checked, at kinks, and too small."""
        row = {"error": 0.0, "checked": 0, "kinks": 0, "too_small": 0}
        for direction in directions:
            error, kind = self.error(direction)
            row[kind] += 1
            self.counts[kind] += 1
            row["error"] = max(row["error"], error)
        return row

    def error(self, direction):
        """Returns `(error, "checked")`, or 0 and `"kinks"` or `"too_small"`, for one direction."""
        slope, sides = self.slope(direction), {}

        def numeric(step):
            up, down = (self.loss.along(direction, sign * step) for sign in (1, -1))
            sides[step] = ((up - self.middle) / step, (self.middle - down) / step)
            return (up - down) / (2 * step)

        # The smallest step beside which rounding is small, and one that most losses bear.
        ample = [step for step in _STEPS if self.rounding / step <= 1e-7 * abs(slope)]
        values = {}
        for step in dict.fromkeys((min(ample, default=1e-5), 1e-5)):
            values[step] = numeric(step)
            noise, scale, gap = self.rounding / step, max(abs(slope), abs(values[step])), abs(slope - values[step])
            # Nothing but a right gradient agrees so well.
            if noise < 1e-3 * scale and gap <= 1e-7 * scale + min(noise, 1e-4 * scale):
                return max(0.0, gap - noise) / scale, "checked"
        for step in _STEPS:
            # From here on, steps are smaller and tell the slope from rounding even less.
            if self.rounding / step > max(abs(slope), *map(abs, values.values())):
                break
            values[step] = values[step] if step in values else numeric(step)
        steps = [step for step in _STEPS if step in values]
        values = np.array([values[step] for step in steps])
        noises = self.rounding / np.array(steps)
        # What a smaller step changes bounds the larger one's own error; the smallest has its noise.
        doubt = noises + np.append(np.abs(np.diff(values)), 0.0)
        best = int(np.argmin(doubt))
        scale = max(abs(slope), abs(values[best]))
        if not scale > 0 or doubt[best] > 0.1 * scale:
            return 0.0, "too_small"
        # Steps that are about as certain; and those that plainly see another slope, as on this side of a kink.
        certain = doubt <= 10 * doubt[best]
        other = (doubt <= 0.1 * scale) & (np.abs(values - values[best]) > 3 * doubt)
        errors = np.maximum(np.abs(slope - values) - doubt, 0.0) / np.maximum(np.abs(values), abs(slope))
        error = float(errors[certain | other].min())
        if error > 1e-6 and self.is_kink(sides):
            return 0.0, "kinks"
        return error, "checked"

    def is_kink(self, sides):
        """Returns whether the one-sided slopes go on differing as the step shrinks: of a smooth loss they meet.

        The gradient need not lie between them, since the step may pass several kinks, as where all activations are
        tiny.
        """
        for coarse, fine in ((1e-4, 1e-5), (1e-5, 1e-6), (1e-6, 1e-7)):
            if coarse not in sides or fine not in sides:
                continue
            up, down = sides[fine]
            gap = abs(up - down)
            plain = gap > 10 * self.rounding / fine and gap > 1e-4 * max(abs(up), abs(down))
            # The gap of a smooth loss is in proportion to the step.
            if plain and gap > abs(sides[coarse][0] - sides[coarse][1]) / 3:
                return True
        return False


def _problems(rows):
    wrong = {path: row for path, row in rows.items() if row["error"] > 1e-3}
    coarse = {path: row for path, row in rows.items() if 1e-6 < row["error"] <= 1e-3}
    if wrong:
        last = max(wrong, key=lambda path: wrong[path]["call"])
        yield Problem(
            "wrong gradient",
            "fail",
            f"relative error {wrong[last]['error']:.1e}; {len(wrong)} of {len(rows)} variables are wrong",
            "< 1e-6",
            "this is the last layer whose gradient is wrong: check the custom gradient in it or right after it",
            last,
        )
    elif coarse:
        last = max(coarse, key=lambda path: coarse[path]["error"])
        remedy = "some operation there computes in less than float64, or has an approximate gradient"
        yield Problem("imprecise gradient", "warn", f"{coarse[last]['error']:.1e}", "< 1e-6", remedy, last)
