"""The moments that each BatchNormalization layer meets in one batch."""

import contextlib
import inspect

import keras
import tensorflow as tf
from keras import ops

from kregkit.inference._forward import as_tensors


def normalizations(model):
    """Returns the model's BatchNormalization layers that training would update; a frozen one keeps its statistics."""
    # A shared layer is listed once per place.
    layers = {id(layer): layer for layer in model._flatten_layers()}.values()
    return [
        layer
        for layer in layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and layer.built
    ]


class BatchStatistics:
    """`statistics(x)` runs one batch and returns, per layer and call, `(count, mean, variance)`.

    The layers normalise by the batch, as in training; everything else is in inference mode. Nothing is written.
    """

    def __init__(self, model, layers):
        self.model = model
        self.layers = layers
        self._arguments = {"training": False} if "training" in inspect.signature(model.call).parameters else {}
        self._traced = tf.function(self._run, autograph=False, reduce_retracing=True)

    def __call__(self, x):
        return (self._run if self.model.run_eagerly else self._traced)(as_tensors(x))

    def _run(self, x):
        met = [[] for _ in self.layers]
        zeros = [
            (variable, tf.zeros(variable.shape, variable.dtype))
            for layer in self.layers
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        with contextlib.ExitStack() as stack:
            scope = stack.enter_context(keras.StatelessScope(state_mapping=zeros))
            for layer, calls in zip(self.layers, met):
                stack.enter_context(_recording(layer, calls, scope))
            self.model(x, **self._arguments)
        return met


@contextlib.contextmanager
def _recording(layer, calls, scope):
    """Makes `layer` normalise by the batch and append the batch's moments to `calls`, for the block."""
    original, momentum = layer.call, layer.momentum

    def call(inputs, training=None, mask=None):
        outputs = original(inputs, training=True, mask=mask)
        # With no momentum and nothing remembered, the moving statistics are the batch's.
        mean = scope.get_current_value(layer.moving_mean)
        variance = scope.get_current_value(layer.moving_variance)
        if mask is None:
            count = ops.size(inputs)
        else:
            seen = ops.broadcast_to(ops.expand_dims(mask, -1), ops.shape(inputs)) if mask.ndim < inputs.ndim else mask
            count = ops.sum(ops.cast(seen, "float32"))
        calls.append((ops.cast(count, "float32") / mean.shape[0], mean, variance))
        return outputs

    layer.call = call
    layer.momentum = 0.0
    try:
        yield
    finally:
        del layer.call
        layer.momentum = momentum
