"""Means over draws, views and members, in memory that doesn't grow with their number."""

import dataclasses
import math

import keras
import tensorflow as tf

from kregkit._core.tasks import output_tasks
from kregkit.inference._noise import Draws, NotFoldableError, drawing, expecting
from kregkit.inference._reduction import Reduction, common_task, probabilities
from kregkit.inference._views import repeated

# Draws between two looks at the standard error; a multiple of every number of draws in a pass there.
_ROUND = 8
# Rows of a pass if no batch size is given: so many numbers in a model's largest activation (8 MB), within bounds. More
# rows spread the cost of a pass over more draws, until activations leave the processor's caches.
_MOST_DRAWS = 64
_NUMBERS, _ROWS = 2**21, (32, 4096)


def default_rows(model):
    """Returns how many rows a pass has if no batch size is given."""
    shapes = [
        tensor.shape
        for layer in model._flatten_layers()
        for node in layer._inbound_nodes
        for tensor in (*node.input_tensors, *node.output_tensors)
    ]
    # Nothing is known of the activations of a subclassed model but that there are some.
    largest = max((math.prod(size or 1 for size in shape[1:]) for shape in shapes), default=2**13)
    return min(max(_NUMBERS // largest, _ROWS[0]), _ROWS[1])


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is averaged, and how; the arguments of `marginalize`."""

    draws: object
    tolerance: float
    max_draws: int
    reduce: str
    outputs: object
    spread: bool
    seed: int
    shared: bool
    batch_size: object


class NoisyForward:
    """A model in inference mode but for its noise: `forward(values, inputs, samples, start)`.

    Takes one batch per draw, folded, and gives the outputs and their masks as the model does. Traced once per shape.

    Args:
        forward: A `Forward`.
        places: The noisy layers, as `select_noise` gives them.
        plan: A `Plan`.
    """

    def __init__(self, forward, places, plan):
        self.forward, self.places, self.plan = forward, places, plan
        self._traced = {}

    def _call(self, values, inputs, samples, start):
        rows = keras.tree.flatten(inputs)[0]
        rows = tf.shape(rows)[0] if rows.shape[0] is None else rows.shape[0]
        draws = Draws(self.plan.seed, samples, rows // samples.shape[0], start, self.plan.shared)
        model = self.forward.model
        with (
            keras.StatelessScope(state_mapping=list(zip(self.forward.variables, values))),
            expecting(model, self.places) if self.plan.draws == "analytic" else drawing(model, self.places, draws),
        ):
            outputs = model(inputs, **self.forward.arguments)
        return outputs, keras.tree.map_structure(lambda y: getattr(y, "_keras_mask", None), outputs)

    def __call__(self, values, inputs, samples, start):
        if self.forward.model.run_eagerly:
            return self._call(values, inputs, samples, start)
        # One function per number of draws, which must stay static when the batch's size doesn't.
        k = samples.shape[0]
        if k not in self._traced:
            self._traced[k] = tf.function(self._call, autograph=False, reduce_retracing=True)
        return self._traced[k](values, inputs, samples, start)


class Moments:
    """Running mean, and sum of squared distances from it, of tensors `(batch, ...)` (Chan et al. 1979).

    The state is a plain tuple, which a loop can carry: `(mean,)` or `(mean, squares)`.
    """

    def __init__(self, squares):
        self.squares = squares

    def of_pass(self, y, weight):
        """Returns the state after one pass: `y` is `(k, batch, ...)`, `weight` `(k, batch)` of zeros and ones."""
        weight = _like(weight, y)
        count = tf.maximum(tf.reduce_sum(weight, 0), 1.0)
        mean = tf.reduce_sum(weight * y, 0) / count
        return (mean, tf.reduce_sum(weight * (y - mean) ** 2, 0)) if self.squares else (mean,)

    def merge(self, state, count, other, other_count):
        """Returns the state after both; counts are `(batch,)`."""
        share = _like(other_count / tf.maximum(count + other_count, 1.0), state[0])
        difference = other[0] - state[0]
        mean = state[0] + share * difference
        if not self.squares:
            return (mean,)
        return mean, state[1] + other[1] + difference**2 * share * _like(count, state[0])


def _like(weight, y):
    """Returns `weight` cast and with trailing axes of size 1, so that it multiplies `y`."""
    for _ in range(y.shape.rank - weight.shape.rank):
        weight = weight[..., tf.newaxis]
    return tf.cast(weight, y.dtype)


def entropy(p, task):
    """Returns the entropy of a prediction in nats, per decision."""

    def part(q):
        return -q * tf.math.log(tf.maximum(q, 1e-37))

    return tf.reduce_sum(part(p), axis=-1) if task.link == "softmax" else part(p) + part(1.0 - p)


class Sampler:
    """Averages a model's predictions over draws of its noise, over views and over members.

    Args:
        states: List of `State`, the members.
        weights: Their shares.
        places: Per member, its noisy layers.
        views: `InputViews`, or `None`.
        plan: A `Plan`.
    """

    def __init__(self, states, weights, places, views, plan):
        self.states, self.weights, self.views, self.plan = states, weights, views, plan
        forwards = {}
        for state, own in zip(states, places):
            forwards.setdefault((id(state.forward), tuple(own)), NoisyForward(state.forward, own, plan))
        self._forwards = [forwards[id(state.forward), tuple(own)] for state, own in zip(states, places)]
        self._foldable = all(_free_batch(state.forward.model) for state in states)

    def __call__(self, inputs, start):
        """Returns the mean, or `(mean, spread)`.

        Args:
            inputs: One batch of inputs.
            start: Integer scalar tensor, the number of the batch's first example in the data set.
        """
        try:
            return self._average(inputs, start)
        except NotFoldableError:
            self._foldable = False
            return self._average(inputs, start)

    def _average(self, inputs, start):
        parts = []
        for index, (state, forward, weight) in enumerate(zip(self.states, self._forwards, self.weights)):
            groups = [(1, None)]
            if self.views is not None:
                groups = self.views.groups(inputs, state.forward.model)
            noisy = bool(forward.places) and self.plan.draws != "analytic"
            noisy = noisy or (self.views is not None and self.views.endless)
            total = sum(number for number, _ in groups)
            for group, (number, make) in enumerate(groups):
                # Members and views of other shapes draw from far-off counters.
                stream = (index * len(groups) + group) << 40
                run = _Run(self.plan, forward, state, inputs, number, make, noisy, start, stream, self._foldable)
                parts.append((weight * number / total, run))
        return _mixture(self.plan, [(weight, run, run.statistics()) for weight, run in parts])


def _free_batch(model):
    inputs = getattr(model, "inputs", None) or []
    return all(tensor.shape[0] is None for tensor in inputs)


def _leaf(structure):
    return keras.tree.flatten(structure)[0]


class _Run:
    """All draws and views of one shape, for one member and one batch."""

    def __init__(self, plan, forward, state, inputs, num_views, make, noisy, start, stream, foldable):
        self.plan, self.forward, self.state = plan, forward, state
        self.inputs, self.num_views, self.make = inputs, num_views, make
        self.start, self.stream = start, stream
        leaf = _leaf(inputs)
        self.batch = leaf.shape[0] if leaf.shape[0] is not None else tf.shape(leaf)[0]
        self.auto = plan.draws == "auto" and noisy
        self.structure = self.tasks = None
        draws = plan.max_draws if self.auto else plan.draws
        self.samples = num_views * (draws if noisy else 1)
        self.per_pass = self._draws_per_pass(foldable)

    def _draws_per_pass(self, foldable):
        if not foldable:
            return 1
        rows = self.plan.batch_size or default_rows(self.forward.forward.model)
        # A batch of unknown size is the last, shorter one of some, or one of Keras's default size.
        most = max(1, rows // (self.batch if isinstance(self.batch, int) else 32))
        # The noise of each draw in a pass is an operation of its own.
        most = min(most, _MOST_DRAWS)
        if self.auto:
            return 2 ** int(math.log2(min(most, _ROUND)))
        # Equal passes, so that little of the last one is idle.
        return math.ceil(self.samples / math.ceil(self.samples / most))

    def statistics(self):
        """Returns `(counts, per-output states)`, after all draws or, where that is asked for, enough of them."""
        k = self.per_pass
        count, states, self.masks = self._pass(tf.constant(0, "int64"), None)
        passes = math.ceil(self.samples / k)
        if passes == 1:
            return count, states

        def more(index, active, count, states):
            return tf.logical_and(index < passes, tf.reduce_any(active))

        def body(index, active, count, states):
            new_count, new_states, _ = self._pass(tf.cast(index, "int64"), active)
            states = [
                {name: moments.merge(state[name], count, new[name], new_count) for name, moments in self._moments(task)}
                for state, new, task in zip(states, new_states, self.tasks)
            ]
            count = count + new_count
            return index + 1, self._active(index + 1, active, count, states), count, states

        start = (tf.constant(1), self._active(1, tf.fill([self.batch], True), count, states), count, states)
        _, _, count, states = tf.while_loop(more, body, start, parallel_iterations=1)
        return count, states

    def _pass(self, index, active):
        k = self.per_pass
        samples = index * k + tf.range(k, dtype="int64")
        if self.make is None:
            inputs = keras.tree.map_structure(lambda x: repeated(x, k), self.inputs)
        else:
            inputs = self.make(samples, self.start)
        outputs, masks = self.forward(self.state.values, inputs, samples + self.stream, self.start)
        ys = [self._unfold(y) for y in keras.tree.flatten(outputs)]
        masks = [None if mask is None else self._unfold(mask)[0] for mask in keras.tree.flatten(masks)]
        if self.tasks is None:
            self.structure = keras.tree.map_structure(lambda _: 0, outputs)
            self.tasks = output_tasks(self.forward.forward.model, outputs, self.plan.outputs)
        weight = tf.cast(samples < self.samples, "float32")[:, None] * tf.ones([1, self.batch])
        if active is not None:
            weight = weight * tf.cast(active, "float32")
        count = tf.reduce_sum(weight, 0)
        states = [
            {name: moments.of_pass(self._quantity(name, y, task), weight) for name, moments in self._moments(task)}
            for y, task in zip(ys, self.tasks)
        ]
        return count, states, masks

    def _unfold(self, y):
        batch = self.batch if isinstance(self.batch, int) else None
        folded = tf.reshape(y, tf.concat([tf.stack([self.per_pass, self.batch]), tf.shape(y)[1:]], 0))
        return tf.ensure_shape(folded, [self.per_pass, batch, *y.shape[1:]])

    def _moments(self, task):
        """Yields the quantities whose moments are kept for an output, by name."""
        found = [("result", Moments(squares=False))]
        if self.plan.spread or self.auto:
            found.append(("prediction", Moments(squares=True)))
        if self.plan.spread and task.kind != "values":
            found.append(("entropy", Moments(squares=False)))
        return found

    def _quantity(self, name, y, task):
        if name == "result":
            return Reduction(self.plan.reduce, task).transform(y, task)
        p = tf.cast(probabilities(y, task), "float32")
        return p if name == "prediction" else entropy(p, task)

    def _active(self, index, active, count, states):
        """Returns which examples need more draws."""
        if not self.auto:
            return active
        worst = tf.zeros([self.batch])
        for state in states:
            # Of the mean of `count` draws, by their sample variance.
            _, squares = state["prediction"]
            weight = _like(count, squares)
            error = tf.sqrt(squares / tf.maximum(weight - 1.0, 1.0) / tf.maximum(weight, 1.0))
            worst = tf.maximum(worst, tf.reduce_max(tf.reshape(error, [self.batch, -1]), axis=-1))
        look = tf.equal(tf.cast(index, "int64") * self.per_pass % (_ROUND * self.num_views), 0)
        return tf.logical_and(active, tf.logical_or(tf.logical_not(look), worst > self.plan.tolerance))


def _mixture(plan, parts):
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
            weight * (squares / tf.maximum(_like(count, squares), 1.0) + (own - mean) ** 2)
            for weight, _, count, (own, squares) in ((*run[:3], run[3]["prediction"]) for run in runs)
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
