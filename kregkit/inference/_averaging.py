"""How several predictions of one thing become one: probabilities, logits, weighted means and their spread."""

import keras
import tensorflow as tf
from keras import ops

from kregkit._core.keras_internals import set_mask
from kregkit._core.output_kinds import Task
from kregkit.inference._moments import UNSEEN, Maximum, Moments, like

REDUCTIONS = ("probabilities", "logits", "geometric")
# Of views and members too, which aren't samples of anything.
MERGES = (*REDUCTIONS, "maximum")


def common_task(tasks):
    """Returns the form in which several members' predictions of one output are given back: theirs, if they agree."""
    first = tasks[0]
    if all(task == first for task in tasks):
        return first
    if any(task.link != first.link for task in tasks):
        raise ValueError(f"Members' outputs differ in what they mean. Received: tasks={tasks}")
    return Task("probabilities", first.link)


# Above the smallest normal float32, which some machines flush to zero.
_TINY = 1e-37


def _log(probability):
    return ops.log(ops.maximum(probability, _TINY))


class Reduction:
    """The mean of several predictions of one output: `finish(mean over members of transform(prediction))`.

    Being a plain mean, it can be summed up over any number of members in constant memory. With `p_m` a member's
    probabilities and `z_m` its logits,

        "probabilities"  p = mean p_m
        "geometric"      p = softmax(mean log p_m)
        "logits"         z = mean z_m

    The last two are the same distribution; they differ in that "geometric" gives logits back normalised. Values are
    always averaged as they are. Everything is computed in float32 at least. `"maximum"` takes `max p_m`, normalised,
    of yes/no questions the largest logit and of values the largest value; there `mean` is the maximum.

    Args:
        reduce: One of `MERGES`.
        task: The `Task` of the result. Logits are given back as logits: `log p`, or `log p - log(1 - p)`.
    """

    def __init__(self, reduce, task):
        self.reduce = reduce
        self.task = task
        # A logit of p near 1 needs 1 - p, which rounding has eaten; so both are averaged.
        self.paired = reduce == "probabilities" and task == Task("logits", "sigmoid")

    def transform(self, y, task):
        """Returns what is averaged, from a prediction `y` that means `task`."""
        y = ops.cast(y, keras.backend.result_type(y.dtype, "float32"))
        if task.kind == "values":
            return y
        logits = task.kind == "logits"
        if self.reduce == "maximum":
            return probabilities(y, task) if task.link == "softmax" else y if logits else _log(y) - _log(1.0 - y)
        if self.reduce == "probabilities":
            if self.paired:
                return ops.stack([ops.sigmoid(y), ops.sigmoid(-y)], axis=-1)
            return probabilities(y, task)
        if task.link == "sigmoid":
            return y if logits else _log(y) - _log(1.0 - y)
        if not logits:
            return _log(y)
        return ops.log_softmax(y, axis=-1) if self.reduce == "geometric" else y

    def finish(self, mean):
        """Returns the result, in the form of `self.task`."""
        kind, link = self.task.kind, self.task.link
        if kind == "values":
            return mean
        if self.reduce == "maximum" and link == "softmax":
            p = mean / ops.sum(mean, axis=-1, keepdims=True)
            return p if kind == "probabilities" else _log(p)
        if self.reduce == "probabilities":
            if self.paired:
                return _log(mean[..., 0]) - _log(mean[..., 1])
            return mean if kind == "probabilities" else _log(mean)
        if link == "sigmoid":
            return mean if kind == "logits" else ops.sigmoid(mean)
        if kind == "probabilities":
            return ops.softmax(mean, axis=-1)
        return ops.log_softmax(mean, axis=-1) if self.reduce == "geometric" else mean


def probabilities(y, task):
    """Returns the probabilities that a prediction `y` stands for."""
    if task.kind != "logits":
        return y
    return ops.softmax(y, axis=-1) if task.link == "softmax" else ops.sigmoid(y)


class Quantities:
    """What is averaged over an output's draws: by name, a function of one prediction and its `Moments`.

    Args:
        settings: `Settings`.
        task: The output's `Task`.
        auto: Boolean, whether the number of draws depends on the spread.
    """

    def __init__(self, settings, task, auto):
        self.task = task
        reduction = Reduction(settings.reduce, task)
        running = Maximum() if settings.reduce == "maximum" else Moments(squares=False)
        self._parts = {"result": (lambda y: reduction.transform(y, task), running)}
        if settings.spread or auto:
            self._parts["prediction"] = self._prediction, Moments(squares=True)
        if settings.spread and task.kind != "values":
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


def mixture(settings, runs):
    """Returns the weighted mean of several runs, or `(mean, spread)` where `settings` ask for it.

    Args:
        settings: `Settings`.
        runs: List of `(weight, RunResult)`; the weights sum to 1.
    """
    _, first = runs[0]
    outputs, spreads = [], []
    for index, mask in enumerate(first.masks):
        parts = [(weight, run.tasks[index], run.count, run.states[index]) for weight, run in runs]
        result = _result(settings.reduce, parts)
        set_mask(result, mask)
        outputs.append(result)
        if settings.spread:
            spreads.append(_spread(settings, parts))
    mean = keras.tree.pack_sequence_as(first.structure, outputs)
    if not settings.spread:
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
        return [_packed(part, leaves) for part in structure]
    return next(leaves)


def _result(reduce, parts):
    if reduce == "maximum":
        tasks = [task for _, task, _, _ in parts]
        common, raw = Reduction(reduce, common_task(tasks)), [states["result"] for _, _, _, states in parts]
        # What is compared means the same for logits and probabilities.
        return common.finish(Maximum.value(raw))
    finished = [Reduction(reduce, task).finish(states["result"][0]) for _, task, _, states in parts]
    if len(parts) == 1:
        return finished[0]
    # Members may give other forms than the first; a mean of means, each in the common one, is the mean of all.
    common = Reduction(reduce, common_task([task for _, task, _, _ in parts]))
    terms = [weight * common.transform(y, task) for y, (weight, task, _, _) in zip(finished, parts)]
    return common.finish(tf.add_n(terms))


def _spread(settings, parts):
    _, task, _, _ = parts[0]
    mean = tf.add_n([weight * states["prediction"][0] for weight, _, _, states in parts])
    # Within the runs, and between them.
    variance = tf.add_n(
        [
            weight * (tf.math.divide_no_nan(squares, like(states["count"], squares)) + (own - mean) ** 2)
            for weight, _, _, states in parts
            for own, squares in [states["prediction"]]
        ]
    )
    spread = {"std": tf.sqrt(variance)}
    if task.kind != "values":
        spread["entropy"] = entropy(mean, task)
        expected = tf.add_n([weight * states["entropy"][0] for weight, _, _, states in parts])
        spread["mutual_information"] = tf.maximum(spread["entropy"] - expected, 0.0)
    if settings.draws == "auto":
        spread["draws"] = tf.add_n([count for _, _, count, _ in parts])
    return spread
