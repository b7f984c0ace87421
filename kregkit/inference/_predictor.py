"""The Keras model behind an ensemble."""

import keras
from keras import ops

from kregkit._core.tasks import output_tasks
from kregkit.inference._reduction import Reduction, common_task


class _Untracked:
    """Holds what Keras shouldn't look into: a model tracks every layer and list that is set on it."""

    def __init__(self, **held):
        vars(self).update(held)


class Predictor(keras.Model):
    """Predicts by a function of the inputs, with weights that Keras doesn't see.

    Being a Keras model, it has Keras's `predict` and `evaluate`, for every kind of data, and reads the data once.

    Args:
        models: List of the Keras models that `run` calls.
        run: Callable from one batch of inputs to outputs.
    """

    def __init__(self, models, run):
        # The members cast their inputs themselves, each by its own policy.
        super().__init__(autocast=False, name="predictor")
        models = list({id(model): model for model in models}.values())
        self._held = _Untracked(run=run)
        self.supports_masking = True
        self.supports_jit = all(layer.supports_jit for model in models for layer in model._flatten_layers())
        # Metrics of several outputs are named after them.
        self.output_names = next((m.output_names for m in models if getattr(m, "output_names", None)), None)
        self.run_eagerly = any(model.run_eagerly for model in models)
        self.built = True

    def call(self, inputs):
        return self._held.run(inputs)


def run_together(states, combine):
    """Returns a function that runs several `State`s on the inputs and combines the list of their outputs."""
    return lambda inputs: combine([state(inputs) for state in states])


class Combination:
    """Combines members' outputs into one, in structure and meaning like the members' own.

    Works on real and on symbolic tensors.

    Args:
        models: One model per member, whose losses and activations tell what the outputs mean.
        weights: One weight per member; they sum to 1.
        outputs, reduce: As in `Ensemble`.
    """

    def __init__(self, models, weights, outputs, reduce):
        self.models, self.weights, self.outputs, self.reduce = models, weights, outputs, reduce

    def tasks(self, structures):
        """Returns, per flat output, the list of the members' tasks."""
        per_member = [output_tasks(model, structure, self.outputs) for model, structure in zip(self.models, structures)]
        if len({len(tasks) for tasks in per_member}) > 1:
            raise ValueError(f"Members have different numbers of outputs: {[len(tasks) for tasks in per_member]}")
        return list(zip(*per_member))

    def reductions(self, structures):
        """Returns one `Reduction` per flat output."""
        return [Reduction(self.reduce, common_task(list(tasks))) for tasks in self.tasks(structures)]

    def __call__(self, structures):
        if len(structures) == 1:
            # Nothing to average: the member's numbers, bit for bit.
            return structures[0]
        combined = []
        flat = zip(*(keras.tree.flatten(structure) for structure in structures))
        for ys, tasks, reduction in zip(flat, self.tasks(structures), self.reductions(structures)):
            shapes = {tuple(y.shape[1:]) for y in ys}
            if len(shapes) > 1:
                raise ValueError(f"Members' outputs differ in shape: {sorted(shapes, key=str)}")
            result = reduction.finish(self._mean([reduction.transform(y, task) for y, task in zip(ys, tasks)]))
            mask = getattr(ys[0], "_keras_mask", None)
            if mask is not None:
                result._keras_mask = mask
            combined.append(result)
        return keras.tree.pack_sequence_as(structures[0], combined)

    def _mean(self, terms):
        if len(set(self.weights)) == 1:
            return ops.multiply(_sum(terms), 1.0 / len(terms))
        return _sum([ops.multiply(term, weight) for term, weight in zip(terms, self.weights)])


def _sum(terms):
    total = terms[0]
    for term in terms[1:]:
        total = ops.add(total, term)
    return total
