"""What the callbacks' tests look through: a model whose weight tells the rate, and a record of every step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kregkit.callbacks import TracedCallback

HAS_MULTI_OPTIMIZER = hasattr(keras.optimizers, "MultiOptimizer")
needs_multi_optimizer = pytest.mark.skipif(not HAS_MULTI_OPTIMIZER, reason="MultiOptimizer came with Keras 3.15")


def prediction_itself(y, prediction):
    return prediction


def slope_model(optimizer, **compile_arguments):
    """Returns a compiled model with one weight from 0, whose loss is `weight * x`, so that its gradient is `x`.

    With SGD and `x = 1`, each update moves the weight by the negative rate.
    """
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(optimizer, prediction_itself, **{"jit_compile": False, **compile_arguments})
    return model


def ones(num):
    return np.ones((num, 1), "float32")


def regression(num=14, seed=0):
    """Returns `x` of shape `(num, 2)` and `y` of shape `(num, 1)` with some noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num, 2)).astype("float32")
    return x, (x[:, :1] - 0.5 * x[:, 1:] + rng.normal(size=(num, 1))).astype("float32")


def small_model(optimizer=None, batch_normalization=False, **compile_arguments):
    """Returns a compiled model of one dense layer, perhaps with BatchNormalization before it."""
    layers = [keras.Input((2,))]
    if batch_normalization:
        layers.append(keras.layers.BatchNormalization(momentum=0.5))
    layers.append(keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1)))
    model = keras.Sequential(layers)
    model.compile(optimizer or keras.optimizers.SGD(0.05), "mse", **{"jit_compile": False, **compile_arguments})
    return model


class Record(TracedCallback):
    """Writes what `read(model)` returns into one row per step that ran, within the step.

    Args:
        read: Function from the model to a list of scalar or small tensors, called in the step after training.
        capacity: Integer, the most steps.

    Attributes:
        rows: Float64 array `(steps, width)`, once the fit has begun.
    """

    def __init__(self, read, capacity=64):
        super().__init__()
        self.read, self.capacity = read, capacity
        self._rows = self._count = None

    def _values(self):
        values = [tf.reshape(tf.cast(tf.convert_to_tensor(value), tf.float64), [-1]) for value in self.read(self.model)]
        return tf.concat(values, 0)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._rows = tf.Variable(tf.zeros((self.capacity, int(self._values().shape[0])), tf.float64))
        self._count = tf.Variable(0, dtype=tf.int64)

    def after_step(self, step, logs):
        self._rows.scatter_nd_update([[self._count]], [self._values()])
        self._count.assign_add(1)

    @property
    def rows(self):
        return self._rows.numpy()[: int(self._count.numpy())]


def record_rate(capacity=64):
    """Returns a `Record` of each step's rate, as the optimizer holds it."""
    return Record(lambda model: [model.optimizer.learning_rate], capacity)


def record_weights(capacity=64):
    """Returns a `Record` of all weights after each step, flattened, and the number of updates before them."""
    return Record(lambda model: [model.optimizer.iterations, *model.weights], capacity)
