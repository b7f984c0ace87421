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
from kregkit.inference._variance_shares import SOURCES, RunSource, SampleOrder
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
        # Per member, the number of the one that its weights are drawn of, and that of the draw.
        bases = [id(getattr(member, "base", member)) for member in members]
        numbers = {base: number for number, base in enumerate(dict.fromkeys(bases))}
        self._places = [(numbers[base], bases[:index].count(base)) for index, base in enumerate(bases)]
        self._drawn = any(getattr(member, "drawn", ()) for member in members)
        drawn = [(member.architecture, at) for member in members for at in getattr(member, "drawn", ())]
        statistics = all(architecture.is_statistic(at) for architecture, at in drawn)
        self._drawn_source = "noise" if drawn and statistics else "weights"
        self._sources = self._averaged_over() if settings.spread else ()
        self._foldable = all(_free_batch(member.architecture.model) for member in members)

    def _averaged_over(self):
        """Returns the names of the sources that differ, if there are two or more."""
        noisy = any(noisy_model.layer_indices for noisy_model in self._noisy_models)
        differ = {
            "noise": noisy or (self._drawn and self._drawn_source == "noise"),
            "views": self.views is not None,
            "members": len({member for member, _ in self._places}) > 1,
            "weights": self._drawn and self._drawn_source == "weights",
        }
        found = tuple(name for name in SOURCES if differ[name])
        return found if len(found) > 1 else ()

    def _order(self, index, noisy_model, num_views):
        """Returns the `SampleOrder` of a run of member number `index`, and whether it draws noise."""
        endless = self.views is not None and self.views.endless
        drawing = bool(noisy_model.layer_indices) and self.settings.draws != "analytic"
        auto = self.settings.draws == "auto"
        draws = (self.settings.max_draws if auto else self.settings.draws) if drawing or endless else 1
        hidden = self._drawn and (endless or (drawing and self._drawn_source == "weights"))
        order = SampleOrder(
            draws,
            num_views,
            endless,
            paired=bool(self._sources) and drawing and self.views is not None,
            twice=bool(self._sources) and hidden,
            # Members, and draws of their weights, have other versions each.
            first_view=index * draws,
        )
        return order, drawing

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
            numbers = [1 if group is None else group.number for group in groups]
            for group_index, (group, number) in enumerate(zip(groups, numbers)):
                # Members and views of other shapes draw from far-off counters.
                stream = (index * len(groups) + group_index) << 40
                batch = _Batch(inputs, self.views, group, start, stream)
                order, drawing = self._order(index, noisy_model, number)
                source = RunSource(*self._places[index], order, drawing, group is not None)
                run = _Run(self.settings, noisy_model, member.values, batch, source, bool(self._sources))
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
        return mixture(self.settings, results, self._sources, self._drawn_source)


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
        source: `RunSource`.
    """

    structure: object
    tasks: list
    masks: list
    count: object
    states: list
    source: RunSource


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

    def __init__(self, settings, noisy_model, values, batch, source, shares):
        self.settings, self.noisy_model, self.values = settings, noisy_model, values
        self.inputs, self.views, self.group = batch.inputs, batch.views, batch.group
        self.start, self.stream = batch.start, batch.stream
        self.source, self.order, self.shares = source, source.order, shares
        leaf = keras.tree.flatten(self.inputs)[0]
        self.batch = leaf.shape[0] if leaf.shape[0] is not None else tf.shape(leaf)[0]
        self.auto = settings.draws == "auto" and (source.noisy or self.order.endless)
        # How many samples share a batch of the model; a pass of several that can't is several batches.
        self.together = 1

    @property
    def samples(self):
        """Integer, how many samples the mean is taken over."""
        return self.order.samples

    def draws_per_pass(self, foldable):
        """Returns how many draws share a pass; one where they can't, or a pair."""
        pair = 2 if self.order.paired else 1
        if not foldable:
            return pair
        largest = self.noisy_model.largest_tensor(views=self.group is not None)
        rows = self.settings.batch_size or default_rows(largest)
        # A batch of unknown size is the last, shorter one of some, or one of Keras's default size.
        most = max(1, rows // (self.batch if isinstance(self.batch, int) else 32))
        most = min(most, _MOST_DRAWS)
        if most < pair:
            return pair
        if self.auto:
            self.together = 2 ** int(math.log2(min(most, ROUND)))
        else:
            # Equal passes, so that little of the last one is idle.
            most -= most % pair
            self.together = math.ceil(self.order.total / math.ceil(self.order.total / most))
            self.together += self.together % pair
        return self.together

    def result(self, k):
        """Returns a `RunResult` after all draws or, where `draws="auto"`, enough of them; `k` draws share a pass."""
        common = self.noisy_model.once(self.values, self.inputs) if self.group is None else None
        first = tf.constant(0, "int64")
        outputs, masks = self._predict(k, first, common)
        model = self.noisy_model.architecture.model
        if not (self.noisy_model.draws or model.run_eagerly or (self.views is not None and self.views.endless)):
            # Layers that might have drawn didn't: all other draws would be the same.
            self.order = dataclasses.replace(self.order, draws=1)
        tasks = output_tasks(model, outputs, self.settings.outputs)
        layouts = None if self.group is None else output_layouts(self.views.layout, model, outputs)
        order = self.order if self.shares else None
        quantities = [Quantities(self.settings, task, self.auto, order) for task in tasks]
        count, states = self._summarise(k, first, None, outputs, quantities, layouts)
        masks = [None if mask is None else self._unfold(k, mask)[0] for mask in keras.tree.flatten(masks)]
        structure = keras.tree.map_structure(lambda _: 0, outputs)
        make_result = functools.partial(RunResult, structure, tasks, masks, source=self.source)
        passes = math.ceil(self.order.total / k)
        if passes == 1:
            return make_result(count=count, states=states)

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
        return make_result(count=count, states=states)

    def _samples(self, k, index):
        """Returns the numbers `(k,)` of the samples of pass number `index`."""
        return index * k + tf.range(k, dtype="int64")

    def _predict(self, k, index, common):
        """Returns the outputs and masks of pass number `index`, folded."""
        samples = self._samples(k, index)
        if self.together == k:
            return self._predict_together(samples, common)
        parts = [self._predict_together(samples[at : at + self.together], common) for at in range(0, k, self.together)]
        return keras.tree.map_structure(lambda *ys: None if ys[0] is None else tf.concat(ys, 0), *parts)

    def _predict_together(self, samples, common):
        position = (self.order.noise(samples) + self.stream, self.start, self.batch)
        if self.group is None:
            return self.noisy_model(self.values, common, *position)
        views = self.group.make(self.order.views(samples), self.start)
        return self.noisy_model.of_views(self.values, views, *position)

    def _summarise(self, k, index, active, outputs, quantities, layouts):
        """Returns how many draws of a pass count for each example, and the states of its outputs.

        Draws past the last one don't count, nor do those of examples that have enough.
        """
        samples = self._samples(k, index)
        every = tf.cast(samples < self.order.total, "float32")[:, None] * tf.ones([1, self.batch])
        if active is not None:
            every = every * tf.cast(active, "float32")
        weight = every * tf.cast(self.order.counts(samples), "float32")[:, None]
        ys = keras.tree.flatten(outputs)
        seen = [None] * len(ys)
        if self.group is not None:
            # Each view's prediction, where the image's pixels are.
            views = self.order.views(samples)
            restored = [
                restored_prediction(self.group, y, layout, each.task, views, self.start)
                for y, layout, each in zip(ys, layouts, quantities)
            ]
            ys, seen = zip(*restored)
        states = [
            each.of_pass(self._unfold(k, y), weight, None if shown is None else self._unfold(k, shown), every)
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
        look = tf.equal(tf.cast(index, "int64") * k % (ROUND * self.order.per_draw), 0)
        return still_uncertain(active, look, states, self.settings.tolerance)
