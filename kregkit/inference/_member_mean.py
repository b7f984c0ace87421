"""The mean of an ensemble's members, whatever their outputs mean: probabilities, logits or values."""

import keras
from keras import ops

from kregkit._core.keras_internals import get_mask, set_mask
from kregkit._core.output_kinds import output_tasks
from kregkit.inference._averaging import Reduction, common_task


class MemberMean:
    """The mean of members' outputs, in structure and meaning like the members' own.

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
            set_mask(result, get_mask(ys[0]))
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
