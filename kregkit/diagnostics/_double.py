"""A model's loss in float64, as a function of weights that can be moved a little."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from kregkit._core import keras_internals
from kregkit._core.weights import copy_values
from kregkit.diagnostics._calls import quiet


class DoubleLoss:
    """The quiet loss of one batch, penalties included, computed in float64. Use inside `double_precision` only.

    Attributes:
        variables: The model's trainable variables.
        weights: List of float64 `tf.Variable`, stand-ins for them.
        values: Their values, arrays, to which every move is relative.
    """

    def __init__(self, probe, batch):
        model = probe.model
        self.variables = list(model.trainable_variables)
        self.values = [value.astype("float64") for value in copy_values(self.variables)]
        self.weights = [tf.Variable(value) for value in self.values]
        others = [variable for variable in model.variables if all(variable is not one for one in self.variables)]
        fixed = [
            (variable, tf.constant(value.astype("float64") if np.issubdtype(value.dtype, np.floating) else value))
            for variable, value in zip(others, copy_values(others))
        ]
        x, y, weight = batch

        def loss():
            scope = keras.StatelessScope(collect_losses=True)
            # Its constructor would cast the values to the variables' own types.
            for variable, value in [*zip(self.variables, [w.read_value() for w in self.weights]), *fixed]:
                scope.state_mapping[id(variable)] = value
            with scope, quiet(model):
                prediction = model(x, training=False)
                value = model.compute_loss(x=x, y=y, y_pred=prediction, sample_weight=weight, training=False)
            return tf.cast(value, tf.float64)

        def gradient():
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(self.weights)
                value = loss()
            slopes = tape.gradient(value, self.weights)
            known = [tf.convert_to_tensor(slope) for slope in slopes if slope is not None]
            return value, known, [slope is not None for slope in slopes]

        self.compiled_loss = probe.compiled(loss)
        self.compiled_gradient = probe.compiled(gradient)

    def value(self):
        return float(self.compiled_loss())

    def gradients(self):
        """Returns one array per weight; None where the loss doesn't depend on it."""
        _, known, attached = self.compiled_gradient()
        known = iter(known)
        return [next(known).numpy() if one else None for one in attached]

    def along(self, direction, amount):
        """Returns the loss with some weights moved: `direction` maps their index to an array of their shape."""
        try:
            for index, step in direction.items():
                self.weights[index].assign(self.values[index] + amount * step)
            return self.value()
        finally:
            for index in direction:
                self.weights[index].assign(self.values[index])

    def rounding(self, rng):
        """Returns how far rounding moves the loss: its spread while every weight moves by its own last bits."""
        middle, spread = self.value(), 0.0
        for _ in range(4):
            signs = {
                index: rng.integers(-2, 3, value.shape) * np.spacing(value) for index, value in enumerate(self.values)
            }
            spread = max(spread, abs(self.along(signs, 1.0) - middle))
        return max(spread, np.spacing(abs(middle)))


@contextlib.contextmanager
def double_precision(model):
    """Lets a model's layers and losses compute in float64 for a block."""
    losses = [loss for loss in keras_internals.flat_losses(model) if isinstance(loss, keras.losses.Loss)]
    compiled = keras_internals.compiled_loss(model)
    losses = list({id(loss): loss for loss in [*([] if compiled is None else [compiled]), *losses]}.values())
    floatx = keras.config.floatx()
    rewriting = tf.config.optimizer.get_experimental_options()["disable_meta_optimizer"]
    try:
        keras.config.set_floatx("float64")
        # TensorFlow's rewriting for oneDNN, which has no float64, writes a line to the terminal for every operation.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        with keras_internals.computing_in("float64", keras_internals.flatten_layers(model), losses):
            yield
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": rewriting})
        keras.config.set_floatx(floatx)
