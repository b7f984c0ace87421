"""BatchNormalization statistics for weights that no training step has seen."""

import numpy as np

from kregkit._core.backends import require_tensorflow
from kregkit._core.weights import assign_values
from kregkit.inference._batch_statistics import BatchStatistics, normalizations
from kregkit.inference._batches import batches


def recompute_batch_normalization(model, data, batch_size=None, steps=None):
    """Replaces BatchNormalization's moving statistics by those of `data` under the present weights.

    Averaged weights need it: the statistics that training left behind belong to other weights. With `n_b`, `m_b` and
    `v_b` the count, mean and variance that a layer meets in batch `b`,

        n = sum n_b,   mean = sum n_b m_b / n,   variance = sum n_b (v_b + (m_b - mean)^2) / n

    which are the moments of everything the layer met, exactly and whatever the sizes of the batches; Keras's running
    means, and the mean of the batches' variances, leave out how the batches differ. During the pass the layers
    normalise by the batch, as in training, and everything else, dropout included, is in inference mode: deeper layers'
    statistics hence depend on the batches, less so for larger ones. Frozen layers keep their statistics.

    Nothing but the moving statistics changes: other weights, optimizer, seeds and the layers' settings stay as they
    are, bit for bit; and if the pass fails, these do as well.

    Args:
        model: A built Keras model, of any kind, nested ones included.
        data: `x` or `(x, ...)` of arrays, a `tf.data.Dataset` or a `keras.utils.PyDataset`, of which one pass is used.
        batch_size: Integer, for arrays. Defaults to 32; larger is better.
        steps: Integer, at most how many batches to use. Defaults to all.

    Returns:
        `model`.

    Raises:
        ValueError: The model isn't built, or `data` is empty.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()])
    >>> layer = recompute_batch_normalization(model, np.array([[1.0], [3.0], [8.0]]), batch_size=2).layers[0]
    >>> print(np.asarray(layer.moving_mean), np.round(np.asarray(layer.moving_variance), 4))
    [4.] [8.6667]

    Reference: [Wu and Johnson, 2021](https://arxiv.org/abs/2105.07576)
    """
    require_tensorflow("recompute_batch_normalization")
    if not model.built:
        raise ValueError(f"The model must be built. Received: model={model.name!r}, which is not built")
    layers = normalizations(model)
    if not layers:
        return model
    run = BatchStatistics(model, layers)
    totals = [_Moments() for _ in layers]
    seen = 0
    for x, _, _ in batches(data, batch_size):
        if steps is not None and seen >= steps:
            break
        seen += 1
        for total, calls in zip(totals, run(x)):
            for count, mean, variance in calls:
                total.add(float(count), np.asarray(mean, "float64"), np.asarray(variance, "float64"))
    if not seen:
        raise ValueError("`data` is empty: the model is as it was")
    used = [(layer, total) for layer, total in zip(layers, totals) if total.count > 0]
    assign_values(
        [variable for layer, _ in used for variable in (layer.moving_mean, layer.moving_variance)],
        [value for _, total in used for value in (total.mean, total.variance)],
    )
    return model


class _Moments:
    """Count, mean and variance of all that was added (Chan et al. 1979)."""

    def __init__(self):
        self.count, self.mean, self.variance = 0.0, 0.0, 0.0

    def add(self, count, mean, variance):
        if count == 0:
            return
        total = self.count + count
        difference = mean - self.mean
        share = count / total
        self.variance = (1 - share) * self.variance + share * variance + share * (1 - share) * difference**2
        self.mean = self.mean + share * difference
        self.count = total
