"""Means over draws, views and members, in memory that doesn't grow with their number."""

import dataclasses
import math

import keras
import tensorflow as tf

from kregkit._core.tasks import output_tasks
from kregkit.inference._draws import NotFoldableError
from kregkit.inference._moments import Quantities, mixture, standard_error
from kregkit.inference._noisy_forward import NoisyForward

# Draws between two looks at the standard error; a multiple of every number of draws in a pass there.
_ROUND = 8
# The noise of each draw in a pass is an operation of its own.
_MOST_DRAWS = 64


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
            groups = [None] if self.views is None else self.views.groups(inputs, state.forward.model)
            noisy = bool(forward.places) and self.plan.draws != "analytic"
            noisy = noisy or (self.views is not None and self.views.endless)
            numbers = [1 if group is None else group.number for group in groups]
            for number, (group_index, group) in zip(numbers, enumerate(groups)):
                # Members and views of other shapes draw from far-off counters.
                stream = (index * len(groups) + group_index) << 40
                run = _Run(self.plan, forward, state, inputs, self.views, group, noisy, start, stream, self._foldable)
                parts.append((weight * number / sum(numbers), run))
        return mixture(self.plan, [(weight, run, run.statistics()) for weight, run in parts])


def _free_batch(model):
    inputs = getattr(model, "inputs", None) or []
    return all(tensor.shape[0] is None for tensor in inputs)


class _Run:
    """All draws and views of one shape, for one member and one batch."""

    def __init__(self, plan, forward, state, inputs, views, group, noisy, start, stream, foldable):
        self.plan, self.forward, self.state = plan, forward, state
        self.inputs, self.views, self.group = inputs, views, group
        self.num_views = 1 if group is None else group.number
        self.start, self.stream = start, stream
        leaf = keras.tree.flatten(inputs)[0]
        self.batch = leaf.shape[0] if leaf.shape[0] is not None else tf.shape(leaf)[0]
        self.auto = plan.draws == "auto" and noisy
        self.structure = self.tasks = None
        draws = plan.max_draws if self.auto else plan.draws
        self.samples = self.num_views * (draws if noisy else 1)
        self.per_pass = self._draws_per_pass(foldable)

    def _draws_per_pass(self, foldable):
        if not foldable:
            return 1
        rows = self.plan.batch_size or self.forward.default_rows(views=self.group is not None)
        # A batch of unknown size is the last, shorter one of some, or one of Keras's default size.
        most = max(1, rows // (self.batch if isinstance(self.batch, int) else 32))
        most = min(most, _MOST_DRAWS)
        if self.auto:
            return 2 ** int(math.log2(min(most, _ROUND)))
        # Equal passes, so that little of the last one is idle.
        return math.ceil(self.samples / math.ceil(self.samples / most))

    def statistics(self):
        """Returns `(counts, per-output states)`, after all draws or, where that is asked for, enough of them."""
        k = self.per_pass
        if self.group is None:
            self.common = self.forward.once(self.state.values, self.inputs)
        count, states, self.masks = self._pass(tf.constant(0, "int64"), None)
        passes = math.ceil(self.samples / k)
        if passes == 1:
            return count, states

        def more(index, active, count, states):
            return tf.logical_and(index < passes, tf.reduce_any(active))

        def body(index, active, count, states):
            new_count, new_states, _ = self._pass(tf.cast(index, "int64"), active)
            merged = zip(self.quantities, states, new_states)
            states = [quantities.merge(state, new) for quantities, state, new in merged]
            return index + 1, self._active(index + 1, active, states), count + new_count, states

        start = (tf.constant(1), self._active(1, tf.fill([self.batch], True), states), count, states)
        _, _, count, states = tf.while_loop(more, body, start, parallel_iterations=1)
        return count, states

    def _pass(self, index, active):
        k = self.per_pass
        samples = index * k + tf.range(k, dtype="int64")
        place = (samples + self.stream, self.start, self.batch)
        if self.group is None:
            outputs, masks = self.forward(self.state.values, self.common, *place)
        else:
            outputs, masks = self.forward.of_views(self.state.values, self.group.make(samples, self.start), *place)
        flat = keras.tree.flatten(outputs)
        masks = [None if mask is None else self._unfold(mask)[0] for mask in keras.tree.flatten(masks)]
        if self.tasks is None:
            self.structure = keras.tree.map_structure(lambda _: 0, outputs)
            self.tasks = output_tasks(self.forward.forward.model, outputs, self.plan.outputs)
            self.quantities = [Quantities(self.plan, task, self.auto) for task in self.tasks]
            if self.group is not None:
                self.layouts = self.views.layouts(self.forward.forward.model, outputs)
        seen = [None] * len(flat)
        if self.group is not None:
            # Each view's prediction, where the image's pixels are.
            pairs = [
                self.group.restored(y, layout, task, samples, self.start)
                for y, layout, task in zip(flat, self.layouts, self.tasks)
            ]
            flat, seen = zip(*pairs)
        ys = [self._unfold(y) for y in flat]
        seen = [None if one is None else self._unfold(one) for one in seen]
        weight = tf.cast(samples < self.samples, "float32")[:, None] * tf.ones([1, self.batch])
        if active is not None:
            weight = weight * tf.cast(active, "float32")
        count = tf.reduce_sum(weight, 0)
        states = [quantities.of_pass(y, weight, one) for quantities, y, one in zip(self.quantities, ys, seen)]
        return count, states, masks

    def _unfold(self, y):
        batch = self.batch if isinstance(self.batch, int) else None
        folded = tf.reshape(y, tf.concat([tf.stack([self.per_pass, self.batch]), tf.shape(y)[1:]], 0))
        return tf.ensure_shape(folded, [self.per_pass, batch, *y.shape[1:]])

    def _active(self, index, active, states):
        """Returns which examples need more draws."""
        if not self.auto:
            return active
        errors = [standard_error(state["prediction"], state["count"]) for state in states]
        worst = tf.reduce_max(tf.stack(errors), axis=0)
        look = tf.equal(tf.cast(index, "int64") * self.per_pass % (_ROUND * self.num_views), 0)
        return tf.logical_and(active, tf.logical_or(tf.logical_not(look), worst > self.plan.tolerance))
