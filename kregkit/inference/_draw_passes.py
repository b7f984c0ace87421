"""Passes over draws, views and members: how many rows each has, and which draws it takes."""

import dataclasses
import functools
import math

import keras
import tensorflow as tf

from kregkit._core.output_kinds import output_tasks
from kregkit.inference._averaging import Quantities, mixture
from kregkit.inference._enough_draws import ROUND, still_uncertain
from kregkit.inference._graph_split import NoisyModel
from kregkit.inference._layouts import output_layouts, restored_prediction
from kregkit.inference.noise import NotFoldableError

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
        must_draw: Boolean, whether a model that turns out to draw nothing is an error. Defaults to `False`.
    """

    def __init__(self, members, weights, layer_indices, views, settings, must_draw=False):
        self.members, self.weights, self.views, self.settings = members, weights, views, settings
        self.must_draw = must_draw
        keys = [(id(member.architecture), tuple(indices)) for member, indices in zip(members, layer_indices)]
        noisy_models = {}
        for key, member, indices in zip(keys, members, layer_indices):
            if key not in noisy_models:
                noisy_models[key] = NoisyModel(member.architecture, indices, settings)
        self._noisy_models = [noisy_models[key] for key in keys]
        # A `DrawCounter` of `_enough_draws.py`, or None.
        self.counter = None
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
        results, counts = [], []
        for index, (member, noisy_model, weight) in enumerate(zip(self.members, self._noisy_models, self.weights)):
            groups = [None] if self.views is None else self.views.groups(inputs, member.architecture.model)
            noisy = bool(noisy_model.layer_indices) and self.settings.draws != "analytic"
            noisy = noisy or (self.views is not None and self.views.endless)
            numbers = [1 if group is None else group.number for group in groups]
            for group_index, (group, number) in enumerate(zip(groups, numbers)):
                # Members and views of other shapes draw from far-off counters.
                stream = (index * len(groups) + group_index) << 40
                batch = _Batch(inputs, self.views, group, start, stream)
                run = _Run(self.settings, noisy_model, member.values, batch, noisy)
                result = run.result(run.draws_per_pass(self._foldable))
                results.append((weight * number / sum(numbers), result))
                counts.append((result.count, run.samples))
        if self.must_draw and not any(noisy_model.draws for noisy_model in self._noisy_models):
            raise ValueError(
                f"Model {self.members[0].architecture.model.name!r} has no noise that could be averaged out: its own "
                "layers draw nothing in inference. A layer that draws only in training must say how it is drawn, by "
                "`draw_call` (docs/inference.md, 'Noise layers of your own'). Received: views=None"
            )
        if self.counter is not None:
            self.counter.add(counts)
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


@dataclasses.dataclass(frozen=True)
class _Batch:
    """What a run predicts.

    Args:
        inputs: One batch of inputs.
        views: `InputViews` or `None`.
        group: `ViewGroup`, the views of one shape, or `None`.
        start: Integer scalar tensor, the number of the batch's first example in the data set.
        stream: Integer, the number of the run's first draw.
    """

    inputs: object
    views: object
    group: object
    start: object
    stream: int


class _Run:
    """All draws and views of one shape, for one member and one batch."""

    def __init__(self, settings, noisy_model, values, batch, noisy):
        self.settings, self.noisy_model, self.values = settings, noisy_model, values
        self.inputs, self.views, self.group = batch.inputs, batch.views, batch.group
        self.start, self.stream = batch.start, batch.stream
        self.num_views = 1 if self.group is None else self.group.number
        leaf = keras.tree.flatten(self.inputs)[0]
        self.batch = leaf.shape[0] if leaf.shape[0] is not None else tf.shape(leaf)[0]
        self.auto = settings.draws == "auto" and noisy
        draws = settings.max_draws if self.auto else settings.draws
        self.samples = self.num_views * (draws if noisy else 1)

    def draws_per_pass(self, foldable):
        """Returns how many draws share a pass; one where they can't."""
        if not foldable:
            return 1
        largest = self.noisy_model.largest_tensor(views=self.group is not None)
        rows = self.settings.batch_size or default_rows(largest)
        # A batch of unknown size is the last, shorter one of some, or one of Keras's default size.
        most = max(1, rows // (self.batch if isinstance(self.batch, int) else 32))
        most = min(most, _MOST_DRAWS)
        if self.auto:
            return 2 ** int(math.log2(min(most, ROUND)))
        # Equal passes, so that little of the last one is idle.
        return math.ceil(self.samples / math.ceil(self.samples / most))

    def result(self, k):
        """Returns a `RunResult` after all draws or, where `draws="auto"`, enough of them; `k` draws share a pass."""
        common = self.noisy_model.once(self.values, self.inputs) if self.group is None else None
        first = tf.constant(0, "int64")
        outputs, masks = self._predict(k, first, common)
        model = self.noisy_model.architecture.model
        if not (self.noisy_model.draws or model.run_eagerly or (self.views is not None and self.views.endless)):
            # Layers that might have drawn didn't: all other draws would be the same.
            self.samples = self.num_views
        tasks = output_tasks(model, outputs, self.settings.outputs)
        layouts = None if self.group is None else output_layouts(self.views.layout, model, outputs)
        quantities = [Quantities(self.settings, task, self.auto) for task in tasks]
        count, states = self._summarise(k, first, None, outputs, quantities, layouts)
        masks = [None if mask is None else self._unfold(k, mask)[0] for mask in keras.tree.flatten(masks)]
        make_result = functools.partial(RunResult, keras.tree.map_structure(lambda _: 0, outputs), tasks, masks)
        passes = math.ceil(self.samples / k)
        if passes == 1:
            return make_result(count, states)

        def more(index, active, count, states):
            return tf.logical_and(index < passes, tf.reduce_any(active))

        def body(index, active, count, states):
            number = tf.cast(index, "int64")
            outputs, _ = self._predict(k, number, common)
            new_count, new_states = self._summarise(k, number, active, outputs, quantities, layouts)
            states = [each.merge(state, new) for each, state, new in zip(quantities, states, new_states)]
            return index + 1, self._active(k, index + 1, active, states), count + new_count, states

        active = self._active(k, 1, tf.fill([self.batch], True), states)
        _, _, count, states = tf.while_loop(more, body, (tf.constant(1), active, count, states), parallel_iterations=1)
        return make_result(count, states)

    def _samples(self, k, index):
        """Returns the numbers `(k,)` of the draws of pass number `index`."""
        return index * k + tf.range(k, dtype="int64")

    def _predict(self, k, index, common):
        """Returns the outputs and masks of pass number `index`, folded."""
        samples = self._samples(k, index)
        position = (samples + self.stream, self.start, self.batch)
        if self.group is None:
            return self.noisy_model(self.values, common, *position)
        return self.noisy_model.of_views(self.values, self.group.make(samples, self.start), *position)

    def _summarise(self, k, index, active, outputs, quantities, layouts):
        """Returns how many draws of a pass count for each example, and the states of its outputs.

        Draws past the last one don't count, nor do those of examples that have enough.
        """
        samples = self._samples(k, index)
        weight = tf.cast(samples < self.samples, "float32")[:, None] * tf.ones([1, self.batch])
        if active is not None:
            weight = weight * tf.cast(active, "float32")
        ys = keras.tree.flatten(outputs)
        seen = [None] * len(ys)
        if self.group is not None:
            # Each view's prediction, where the image's pixels are.
            restored = [
                restored_prediction(self.group, y, layout, each.task, samples, self.start)
                for y, layout, each in zip(ys, layouts, quantities)
            ]
            ys, seen = zip(*restored)
        states = [
            each.of_pass(self._unfold(k, y), weight, None if shown is None else self._unfold(k, shown))
            for each, y, shown in zip(quantities, ys, seen)
        ]
        return tf.reduce_sum(weight, 0), states

    def _unfold(self, k, y):
        batch = self.batch if isinstance(self.batch, int) else None
        folded = tf.reshape(y, tf.concat([tf.stack([k, self.batch]), tf.shape(y)[1:]], 0))
        return tf.ensure_shape(folded, [k, batch, *y.shape[1:]])

    def _active(self, k, index, active, states):
        """Returns which examples need more draws after `index` passes: with `draws="auto"`, the less certain ones."""
        if not self.auto:
            return active
        look = tf.equal(tf.cast(index, "int64") * k % (ROUND * self.num_views), 0)
        return still_uncertain(active, look, states, self.settings.tolerance)
