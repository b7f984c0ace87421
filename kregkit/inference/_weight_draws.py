"""Draws of weights: members whose weights come from a posterior, or whose statistics from a mini-batch, or both."""

import itertools

import keras
import numpy as np
import tensorflow as tf

from kregkit._core.batches import is_arrays, num_examples, read_batches, take_examples, unpack
from kregkit._core.normalization import batch_normalizations
from kregkit._core.seeds import derived_seed
from kregkit.inference.batch_normalization import BatchStatistics
from kregkit.inference.noise import drawing
from kregkit.inference.noise.random_numbers import Draws


def split_noise(models, noise):
    """Returns, per model, the BatchNormalization layers that `noise` names, and `noise` without them.

    Raises:
        ValueError: `noise` names BatchNormalization, and no model has any that training updates.
    """
    if not isinstance(noise, (list, tuple)):
        return [[] for _ in models], noise
    kind = keras.layers.BatchNormalization
    named = [
        entry for entry in noise if isinstance(entry, kind) or (isinstance(entry, type) and issubclass(entry, kind))
    ]
    # By identity: layers that compare equal are others.
    others = [entry for entry in noise if not any(entry is one for one in named)]
    chosen = [
        [
            layer
            for layer in batch_normalizations(model)
            if any(layer is one or (isinstance(one, type) and isinstance(layer, one)) for one in named)
        ]
        for model in models
    ]
    if named and not any(chosen):
        raise ValueError(
            "`noise` names BatchNormalization, and no model has one whose statistics training updates (frozen ones "
            f"keep theirs). Received: noise={list(noise)!r}"
        )
    return chosen, others or None


def mini_batches(data, batch_size, seed):
    """Yields batches of inputs without end: of arrays, shuffled anew in each pass; of a data set, its own.

    Raises:
        ValueError: A second pass is needed, and the data give no second one.
    """
    if is_arrays(data):
        inputs = unpack(data)[:1]
        num, batch_size = num_examples(inputs), batch_size or 32
        for epoch in itertools.count():
            order = np.random.default_rng([seed, epoch]).permutation(num)
            # A last, smaller batch has other noise than those that training used most.
            for start in range(0, max(num - batch_size, 0) + 1, batch_size):
                yield take_examples(inputs, order[start : start + batch_size])[0]
    while True:
        empty = True
        for x, _, _ in read_batches(data, endless=True):
            empty = False
            yield x
        if empty:
            raise ValueError(
                "`data` holds fewer batches than there are draws, and can't be read again. Pass arrays or a data set. "
                f"Received: data={type(data).__name__}"
            )


class WeightDraws:
    """What is drawn of a model's weights, and how many times.

    Args:
        number: Integer, draws per member.
        posteriors: List of one `WeightPosterior` or `None` per member.
        normalizations: Per member, the BatchNormalization layers whose statistics are a mini-batch's in each draw.
        data: Where the statistics come from, or `None`.
        batch_size: Integer or `None`, examples in a mini-batch, for arrays.
        seed: Integer.
        layer_indices: Per member, the layers whose noise is drawn as well, also in a mini-batch's pass.
    """

    def __init__(self, number, posteriors, normalizations, data, batch_size, seed, layer_indices):
        self.number, self.posteriors, self.normalizations = number, posteriors, normalizations
        self.data, self.batch_size, self.seed, self.layer_indices = data, batch_size, seed, layer_indices

    def members(self, members):
        """Returns, per member, a list of dictionaries from indices in `architecture.variables` to drawn tensors."""
        batches = (
            mini_batches(self.data, self.batch_size, derived_seed(self.seed, 0)) if self.data is not None else None
        )
        return [self._draws_of(index, member, batches) for index, member in enumerate(members)]

    def _draws_of(self, index, member, batches):
        architecture, posterior = member.architecture, self.posteriors[index]
        places = {id(variable): place for place, variable in enumerate(architecture.variables)}
        noisy = self.normalizations[index]
        layers = noisy or (batch_normalizations(architecture.model) if posterior is not None else [])
        statistics = None
        if layers and self.data is not None:
            # As in training, a mini-batch meets the other noise too.
            noise = self._noise(architecture.model, index) if noisy and self.layer_indices[index] else None
            statistics = BatchStatistics(architecture, layers, noise)
        weights, drawn = architecture.model.weights, []
        for draw in range(self.number):
            values = {}
            if posterior is not None:
                sample = posterior.draw([self.seed, index, draw])
                values = {places[id(weights[at])]: array for at, array in sample.items()}
            if statistics is not None:
                now = [values.get(place, value) for place, value in enumerate(member.values)]
                now = [tf.cast(value, variable.dtype) for value, variable in zip(now, architecture.variables)]
                used = [next(batches)] if noisy else (x for x, _, _ in read_batches(self.data, self.batch_size))
                measured = statistics.measured(now, used, index * self.number + draw)
                values |= {places[id(variable)]: array for variable, array in measured}
            variables = architecture.variables
            drawn.append({at: tf.cast(value, variables[at].dtype) for at, value in values.items()})
        return drawn

    def _noise(self, model, index):
        seed = derived_seed(self.seed, 1)

        def noise(draw, rows):
            draws = Draws(seed, draw[None], rows, tf.constant(0, "int64"))
            return drawing(model, self.layer_indices[index], draws)

        return noise
