"""Running means of predictions, and what they say together."""

import keras
import tensorflow as tf

from kregkit.inference._reduction import Reduction, common_task, probabilities

# The weight of a prediction for a place that its view doesn't show: less than the rounding of a sum in float32.
UNSEEN = 1e-8


class Moments:
    """Running mean, and sum of squared distances from it, of tensors `(batch, ...)` (Chan et al. 1979).

    The state is a plain tuple, which a loop can carry: `(mean,)` or `(mean, squares)`.
    """

    def __init__(self, squares):
        self.squares = squares

    def of_pass(self, y, weight):
        """Returns the state after one pass: `y` is `(k, batch, ...)`, `weight` `(k, batch)` or more of its axes."""
        weight = like(weight, y)
        mean = tf.math.divide_no_nan(tf.reduce_sum(weight * y, 0), tf.reduce_sum(weight, 0))
        return (mean, tf.reduce_sum(weight * (y - mean) ** 2, 0)) if self.squares else (mean,)

    def merge(self, state, count, other, other_count):
        """Returns the state after both; counts are sums of weights."""
        share = like(tf.math.divide_no_nan(other_count, count + other_count), state[0])
        difference = other[0] - state[0]
        mean = state[0] + share * difference
        if not self.squares:
            return (mean,)
        return mean, state[1] + other[1] + difference**2 * share * like(count, state[0])


def like(weight, y):
    """Returns `weight` cast and with trailing axes of size 1, so that it multiplies `y`."""
    for _ in range(y.shape.rank - weight.shape.rank):
        weight = weight[..., tf.newaxis]
    return weight if y.dtype == tf.bool else tf.cast(weight, y.dtype)


class Quantities:
    """What is averaged over an output's draws: by name, a function of one prediction and its `Moments`.

    Args:
        plan: A `Plan`.
        task: The output's `Task`.
        auto: Boolean, whether the number of draws depends on the spread.
    """

    def __init__(self, plan, task, auto):
        self.task = task
        reduction = Reduction(plan.reduce, task)
        self._parts = {"result": (lambda y: reduction.transform(y, task), Moments(squares=False))}
        if plan.spread or auto:
            self._parts["prediction"] = self._prediction, Moments(squares=True)
        if plan.spread and task.kind != "values":
            self._parts["entropy"] = lambda y: entropy(self._prediction(y), task), Moments(squares=False)

    def _prediction(self, y):
        return tf.cast(probabilities(y, self.task), "float32")

    def of_pass(self, y, weight, seen=None):
        """Returns the states after one pass, by name; see `Moments`.

        Args:
            y: `(k, batch, ...)`.
            weight: `(k, batch)` of zeros and ones.
            seen: Booleans `(k, batch, ...)` of some of the axes of `y`: which predictions are of something that the
                view shows. The others count only where no view shows anything. `None` where all do.
        """
        if seen is not None:
            weight = like(weight, seen) * tf.where(seen, 1.0, UNSEEN)
        states = {name: moments.of_pass(function(y), weight) for name, (function, moments) in self._parts.items()}
        return {**states, "count": tf.reduce_sum(weight, 0)}

    def merge(self, states, others):
        """Returns the states after both."""
        counts = states["count"], others["count"]
        merged = {
            name: moments.merge(states[name], counts[0], others[name], counts[1])
            for name, (_, moments) in self._parts.items()
        }
        return {**merged, "count": counts[0] + counts[1]}


def entropy(p, task):
    """Returns the entropy of a prediction in nats, per decision."""

    def part(q):
        return -q * tf.math.log(tf.maximum(q, 1e-37))

    return tf.reduce_sum(part(p), axis=-1) if task.link == "softmax" else part(p) + part(1.0 - p)


def standard_error(state, count):
    """Returns that of the mean of `count` `(batch,)` draws, by their sample variance: the largest per example."""
    _, squares = state
    weight = like(count, squares)
    error = tf.sqrt(squares / tf.maximum(weight - 1.0, 1.0) / tf.maximum(weight, 1.0))
    return tf.reduce_max(tf.reshape(error, [tf.shape(error)[0], -1]), axis=-1)


def mixture(plan, parts):
    """Returns the weighted mean of several runs, with its spread where asked for.

    Args:
        plan: A `Plan`.
        parts: List of `(weight, run, (count, states))`; the weights sum to 1.
    """
    _, first, _ = parts[0]
    outputs, spreads = [], []
    for index, mask in enumerate(first.masks):
        runs = [(weight, run.tasks[index], count, states[index]) for weight, run, (count, states) in parts]
        result = _result(plan.reduce, runs)
        if mask is not None:
            result._keras_mask = mask
        outputs.append(result)
        if plan.spread:
            spreads.append(_spread(plan, runs))
    mean = keras.tree.pack_sequence_as(first.structure, outputs)
    if not plan.spread:
        return mean
    if not keras.tree.is_nested(first.structure):
        return mean, spreads[0]
    return mean, _packed(first.structure, iter(spreads))


def _packed(structure, leaves):
    """Returns dictionaries in the places of the outputs; `pack_sequence_as` would take them for structure."""
    if isinstance(structure, dict):
        # Keras flattens dictionaries by sorted keys.
        filled = {key: _packed(structure[key], leaves) for key in sorted(structure)}
        return {key: filled[key] for key in structure}
    if isinstance(structure, (list, tuple)):
        return [_packed(one, leaves) for one in structure]
    return next(leaves)


def _result(reduce, runs):
    finished = [Reduction(reduce, task).finish(states["result"][0]) for _, task, _, states in runs]
    if len(runs) == 1:
        return finished[0]
    # Members may give other forms than the first; a mean of means, each in the common one, is the mean of all.
    common = Reduction(reduce, common_task([task for _, task, _, _ in runs]))
    terms = [weight * common.transform(y, task) for y, (weight, task, _, _) in zip(finished, runs)]
    return common.finish(tf.add_n(terms))


def _spread(plan, runs):
    _, task, _, _ = runs[0]
    mean = tf.add_n([weight * states["prediction"][0] for weight, _, _, states in runs])
    # Within the runs, and between them.
    variance = tf.add_n(
        [
            weight * (tf.math.divide_no_nan(squares, like(states["count"], squares)) + (own - mean) ** 2)
            for weight, _, _, states in runs
            for own, squares in [states["prediction"]]
        ]
    )
    spread = {"std": tf.sqrt(variance)}
    if task.kind != "values":
        spread["entropy"] = entropy(mean, task)
        expected = tf.add_n([weight * states["entropy"][0] for weight, _, _, states in runs])
        spread["mutual_information"] = tf.maximum(spread["entropy"] - expected, 0.0)
    if plan.draws == "auto":
        spread["draws"] = tf.add_n([count for _, _, count, _ in runs])
    return spread
