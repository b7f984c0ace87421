"""A model's loss in float64, as a function of weights that can be nudged one at a time."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from kregkit._core.weights import copy_values
from kregkit.diagnostics._calls import quiet


class DoubleLoss:
    """The quiet loss of one batch, penalties included, computed in float64. Use inside `double_precision` only.

    Attributes:
        weights: List of float64 `tf.Variable`, stand-ins for the model's trainable variables.
    """

    def __init__(self, probe, batch):
        model = probe.model
        self.variables = list(model.trainable_variables)
        self.weights = [tf.Variable(value.astype("float64")) for value in copy_values(self.variables)]
        others = [variable for variable in model.variables if all(variable is not one for one in self.variables)]
        fixed = [
            (variable, tf.constant(value.astype("float64") if np.issubdtype(value.dtype, np.floating) else value))
            for variable, value in zip(others, copy_values(others))
        ]
        x, y, weight = batch

        def loss():
            scope = keras.StatelessScope()
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

        self._loss = probe.compiled(loss)
        self._gradient = probe.compiled(gradient)

    def value(self):
        return float(self._loss())

    def gradients(self):
        """Returns one array per weight; None where the loss doesn't depend on it."""
        _, known, attached = self._gradient()
        known = iter(known)
        return [next(known).numpy() if one else None for one in attached]

    def nudged(self, index, position, amount):
        """Returns the loss with one entry of one weight moved by `amount`."""
        weight = self.weights[index]
        before = weight.numpy()
        after = before.copy()
        after.flat[position] += amount
        weight.assign(after)
        try:
            return self.value()
        finally:
            weight.assign(before)


@contextlib.contextmanager
def double_precision(model):
    """Lets a model's layers and losses compute in float64 for a block."""
    policy = keras.DTypePolicy("float64")
    layers = model._flatten_layers(include_self=True)
    layers = list({id(layer): layer for layer in layers}.values())
    policies = [layer._dtype_policy for layer in layers]
    compiled = model._compile_loss
    losses = [] if compiled is None else [compiled, *(one.loss for one in compiled._flat_losses or ())]
    losses = [loss for loss in losses if hasattr(loss, "_dtype")]
    types = [loss._dtype for loss in losses]
    floatx = keras.config.floatx()
    try:
        keras.config.set_floatx("float64")
        for layer in layers:
            layer._dtype_policy = policy
        for loss in losses:
            loss._dtype = "float64"
        yield
    finally:
        keras.config.set_floatx(floatx)
        for layer, old in zip(layers, policies):
            layer._dtype_policy = old
        for loss, old in zip(losses, types):
            loss._dtype = old
