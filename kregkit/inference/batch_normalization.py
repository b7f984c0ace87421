"""BatchNormalization statistics for weights that no training step has seen."""

import contextlib
import itertools
from typing import Any

import keras
import numpy as np
from keras import ops

from kregkit._core import rules
from kregkit._core.backends import require_tensorflow
from kregkit._core.batches import read_batches
from kregkit._core.normalization import batch_normalizations, batch_statistics_in_inference
from kregkit._core.replacing import replaced_all
from kregkit._core.types import Data, Tensor
from kregkit._core.weights import assign_values
from kregkit.inference._architecture import Architecture, as_tensors, current_values
from kregkit.inference._moments import Moments


@rules.checked(model=rules.model, data=rules.data, steps=rules.whole(1, none=True))
def recompute_batch_normalization(
    model: keras.Model, data: Data, batch_size: int | None = None, steps: int | None = None
) -> Any:
    """Replaces BatchNormalization's moving statistics by those of `data` under the present weights.

    Averaged weights need it: the statistics that training left behind belong to other weights. With `n_b`, `m_b` and
    `v_b` the count, mean and variance that a layer meets in batch `b`,

        n = sum n_b,   mean = sum n_b m_b / n,   variance = sum n_b (v_b + (m_b - mean)^2) / n

    which are the exact moments of all that the layer received, whatever the sizes of the batches; Keras's running
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
    layers = batch_normalizations(model)
    if not layers:
        return model
    batches = (x for x, _, _ in itertools.islice(read_batches(data, batch_size, endless=steps is not None), steps))
    measured = BatchStatistics(Architecture(model), layers).measured(current_values(model), batches)
    if measured is None:
        raise ValueError("`data` is empty: the model is as it was")
    assign_values([variable for variable, _ in measured], [value for _, value in measured])
    return model


class BatchStatistics:
    """Measures the moments that BatchNormalization layers meet in some batches, under any weights of a model.

    The layers normalise by the batch, as in training. Everything else is in inference mode, except for noise that is
    asked for. Nothing is written.

    Args:
        architecture: `Architecture` of the model.
        layers: List of its BatchNormalization layers.
        noise: Callable `(draw, rows)` to a context manager in which the model's noise is drawn, or `None`.
    """

    def __init__(self, architecture: Any, layers: Any, noise: Any = None) -> None:
        self.architecture, self.layers, self.noise = architecture, layers, noise
        self._traced = architecture.traced(self._run)

    def measured(self, values: Tensor, batches: Any, draw: Tensor = 0) -> Any:
        """Returns a list of pairs of a moving statistic and its value; `None` where there is no batch.

        Args:
            values: List, the weights and states.
            batches: Iterable of batches of inputs.
            draw: Integer, the number of the noise's draw.
        """
        moments = Moments(squares=True)
        # Per layer: how many numbers, and the state of `moments`.
        totals: list[Any] = [(np.float64(0), (np.zeros(layer.moving_mean.shape),) * 2) for layer in self.layers]
        empty = True
        for x in batches:
            empty = False
            for index, calls in enumerate(self._traced(values, as_tensors(x), ops.convert_to_tensor(draw, "int64"))):
                for count, mean, variance in calls:
                    count, mean, variance = (np.asarray(part, "float64") for part in (count, mean, variance))
                    total, state = totals[index]
                    totals[index] = total + count, moments.merge(state, total, (mean, variance * count), count)
        if empty:
            return None
        used = [(layer, count, state) for layer, (count, state) in zip(self.layers, totals) if count > 0]
        return [
            pair
            for layer, count, (mean, squares) in used
            for pair in ((layer.moving_mean, mean), (layer.moving_variance, squares / count))
        ]

    def _run(self, values, x, draw):
        records = [[] for _ in self.layers]
        zeros = [
            (variable, ops.zeros(variable.shape, variable.dtype))
            for layer in self.layers
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        # With no momentum and nothing remembered, the moving statistics are the batch's.
        mapping = [*zip(self.architecture.variables, values), *zeros]
        rows = ops.shape(keras.tree.flatten(x)[0])[0]
        noise = contextlib.nullcontext() if self.noise is None else self.noise(draw, rows)
        with (
            keras.StatelessScope(state_mapping=mapping) as scope,
            noise,
            batch_statistics_in_inference(self.layers, 0.0),
            replaced_all([
                (layer, "call", _recording(layer, record, scope)) for layer, record in zip(self.layers, records)
            ]),
        ):  # fmt: skip
            self.architecture.model(x, **self.architecture.arguments)
        return records


def _recording(layer, record, scope):
    """Returns a `call` that appends the batch's moments to `record`."""
    original = layer.call

    def call(inputs, training=None, mask=None):
        outputs = original(inputs, training=training, mask=mask)
        mean = scope.get_current_value(layer.moving_mean)
        variance = scope.get_current_value(layer.moving_variance)
        if mask is None:
            count = ops.size(inputs)
        else:
            seen = ops.broadcast_to(ops.expand_dims(mask, -1), ops.shape(inputs)) if mask.ndim < inputs.ndim else mask
            count = ops.sum(ops.cast(seen, "float32"))
        record.append((ops.cast(count, "float32") / mean.shape[0], mean, variance))
        return outputs

    return call
