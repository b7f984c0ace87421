"""Passes over draws, views and members: how many rows each has, and when there are enough draws."""

import dataclasses
import functools
import math

import keras
import tensorflow as tf

from kregkit._core.tasks import output_tasks
from kregkit.inference._averaging import Quantities, mixture
from kregkit.inference._graph_split import NoisyModel
from kregkit.inference._moments import standard_error
from kregkit.inference.noise import NotFoldableError

# Draws between two looks at the standard error; a multiple of every number of draws in a pass there.
_ROUND = 8
# The noise of each draw in a pass is an operation of its own.
_MOST_DRAWS = 64
# Rows of a pass if no batch size is given: so many numbers in the largest activation (8 MB), within bounds. More rows
# spread the cost of a pass over more draws, until activations leave the processor's caches.
_NUMBERS, _ROWS = 2**21, (32, 4096)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to average: the arguments of `marginalize` other than model, noise and views."""

    draws: object
    tolerance: float
    max_draws: int
    reduce: str
    outputs: object
    spread: bool
    seed: int
    shared: bool
    batch_size: object


def default_rows(largest):
    """Returns how many rows a pass has whose largest activation holds so many numbers per row."""
    return min(max(_NUMBERS // largest, _ROWS[0]), _ROWS[1])


class Sampler:
    """Averages a model's predictions over draws of its noise, over views and over members.

    Args:
        members: List of objects with an `architecture` and `values`.
        weights: The members' weights in the mean; they sum to 1.
        layer_indices: Per member, its noisy layers.
        views: `InputViews`, or `None`.
        settings: `Settings`.
    """

    def __init__(self, members, weights, layer_indices, views, settings):
        self.members, self.weights, self.views, self.settings = members, weights, views, settings
        keys = [(id(member.architecture), tuple(indices)) for member, indices in zip(members, layer_indices)]
        noisy_models = {}
        for key, member, indices in zip(keys, members, layer_indices):
            if key not in noisy_models:
                noisy_models[key] = NoisyModel(member.architecture, indices, settings)
        self._noisy_models = [noisy_models[key] for key in keys]
        self._foldable = all(_free_batch(member.architecture.model) for member in members)

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
        results = []
        for index, (member, noisy_model, weight) in enumerate(zip(self.members, self._noisy_models, self.weights)):
            groups = [(1, None)]
            if self.views is not None:
                groups = self.views.groups(inputs, member.architecture.model)
            noisy = bool(noisy_model.layer_indices) and self.settings.draws != "analytic"
            noisy = noisy or (self.views is not None and self.views.endless)
            total = sum(number for number, _ in groups)
            for group, (number, make) in enumerate(groups):
                # Members and views of other shapes draw from far-off counters.
                stream = (index * len(groups) + group) << 40
                run = _Run(self.settings, noisy_model, member.values, inputs, number, make, noisy, start, stream)
                results.append((weight * number / total, run.result(run.draws_per_pass(self._foldable))))
        return mixture(self.settings, results)


def _free_batch(model):
    inputs = getattr(model, "inputs", None) or []
    return all(tensor.shape[0] is None for tensor in inputs)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The means over one run's draws.

    Args:
        structure: The structure of the model's outputs, with a number at each leaf.
        tasks: One `Task` per flat output.
        masks: One mask or `None` per flat output.
        count: Tensor `(batch,)`, how many draws each example has.
        states: One dictionary of states per flat output, as `Quantities` keeps them.
    """

    structure: object
    tasks: list
    masks: list
    count: object
    states: list


class _Run:
    """All draws and views of one shape, for one member and one batch."""

    def __init__(self, settings, noisy_model, values, inputs, num_views, make, noisy, start, stream):
        self.settings, self.noisy_model, self.values = settings, noisy_model, values
        self.inputs, self.num_views, self.make = inputs, num_views, make
        self.start, self.stream = start, stream
        leaf = keras.tree.flatten(inputs)[0]
        self.batch = leaf.shape[0] if leaf.shape[0] is not None else tf.shape(leaf)[0]
        self.auto = settings.draws == "auto" and noisy
        draws = settings.max_draws if self.auto else settings.draws
        self.samples = num_views * (draws if noisy else 1)

    def draws_per_pass(self, foldable):
        """Returns how many draws share a pass; one where they can't."""
        if not foldable:
            return 1
        largest = self.noisy_model.largest_tensor(views=self.make is not None)
        rows = self.settings.batch_size or default_rows(largest)
        # A batch of unknown size is the last, shorter one of some, or one of Keras's default size.
        most = max(1, rows // (self.batch if isinstance(self.batch, int) else 32))
        most = min(most, _MOST_DRAWS)
        if self.auto:
            return 2 ** int(math.log2(min(most, _ROUND)))
        # Equal passes, so that little of the last one is idle.
        return math.ceil(self.samples / math.ceil(self.samples / most))

    def result(self, k):
        """Returns a `RunResult` after all draws or, where `draws="auto"`, enough of them; `k` draws share a pass."""
        common = self.noisy_model.once(self.values, self.inputs) if self.make is None else None
        structure, ys, masks = self._predict(k, tf.constant(0, "int64"), common)
        tasks = output_tasks(self.noisy_model.architecture.model, structure, self.settings.outputs)
        quantities = [Quantities(self.settings, task, self.auto) for task in tasks]
        count, states = self._summarise(quantities, ys, self._weight(k, tf.constant(0, "int64"), None))
        make_result = functools.partial(RunResult, keras.tree.map_structure(lambda _: 0, structure), tasks, masks)
        passes = math.ceil(self.samples / k)
        if passes == 1:
            return make_result(count, states)

        def more(index, active, count, states):
            return tf.logical_and(index < passes, tf.reduce_any(active))

        def body(index, active, count, states):
            _, ys, _ = self._predict(k, tf.cast(index, "int64"), common)
            weight = self._weight(k, tf.cast(index, "int64"), active)
            new_count, new_states = self._summarise(quantities, ys, weight)
            merged = zip(quantities, states, new_states)
            states = [each.merge(state, count, new, new_count) for each, state, new in merged]
            count = count + new_count
            return index + 1, self._active(k, index + 1, active, count, states), count, states

        active = self._active(k, 1, tf.fill([self.batch], True), count, states)
        _, _, count, states = tf.while_loop(more, body, (tf.constant(1), active, count, states), parallel_iterations=1)
        return make_result(count, states)

    def _predict(self, k, index, common):
        """Returns pass number `index`: the outputs, and flat lists of the outputs `(k, batch, ...)` and their masks."""
        samples = index * k + tf.range(k, dtype="int64")
        position = (samples + self.stream, self.start, self.batch)
        if self.make is None:
            outputs, masks = self.noisy_model(self.values, common, *position)
        else:
            outputs, masks = self.noisy_model.of_views(self.values, self.make(samples, self.start), *position)
        ys = [self._unfold(k, y) for y in keras.tree.flatten(outputs)]
        masks = [None if mask is None else self._unfold(k, mask)[0] for mask in keras.tree.flatten(masks)]
        return outputs, ys, masks

    def _unfold(self, k, y):
        batch = self.batch if isinstance(self.batch, int) else None
        folded = tf.reshape(y, tf.concat([tf.stack([k, self.batch]), tf.shape(y)[1:]], 0))
        return tf.ensure_shape(folded, [k, batch, *y.shape[1:]])

    def _weight(self, k, index, active):
        """Returns `(k, batch)`: 1 for the draws of a pass that count, 0 for those past the last and idle examples."""
        samples = index * k + tf.range(k, dtype="int64")
        weight = tf.cast(samples < self.samples, "float32")[:, None] * tf.ones([1, self.batch])
        return weight if active is None else weight * tf.cast(active, "float32")

    def _summarise(self, quantities, ys, weight):
        return tf.reduce_sum(weight, 0), [each.of_pass(y, weight) for each, y in zip(quantities, ys)]

    def _active(self, k, index, active, count, states):
        """Returns which examples need more draws after `index` passes: with `draws="auto"`, the less certain ones."""
        if not self.auto:
            return active
        errors = [standard_error(state["prediction"], count) for state in states]
        worst = tf.reduce_max(tf.stack(errors), axis=0)
        look = tf.equal(tf.cast(index, "int64") * k % (_ROUND * self.num_views), 0)
        return tf.logical_and(active, tf.logical_or(tf.logical_not(look), worst > self.settings.tolerance))
