"""Adam over all weights of a model joined into one vector."""

import numpy as np
import tensorflow as tf


class FlatAdam:
    """The steps of `keras.optimizers.Adam`, in a dozen operations for the whole model instead of a dozen per variable.

    Tracing Keras's own for MobileNetV2 takes as long as twenty steps of training; a check takes a few steps only. It
    has the methods that `Probe.trainer` calls. Constraints of variables are kept.
    """

    beta_1, beta_2, epsilon = 0.9, 0.999, 1e-7

    def build(self, variables):
        self.variables = list(variables)
        self.sizes = [int(np.prod(variable.shape)) for variable in self.variables]
        self.dtype = "float64" if any(variable.dtype == "float64" for variable in self.variables) else "float32"
        self.rate, self.count = (tf.Variable(0.0, dtype=self.dtype) for _ in range(2))
        self.mean, self.square = (tf.Variable(tf.zeros(sum(self.sizes), self.dtype)) for _ in range(2))

    def restart(self, learning_rate):
        """Forgets all steps, and sets the learning rate."""
        self.rate.assign(learning_rate)
        for variable in (self.count, self.mean, self.square):
            variable.assign(tf.zeros_like(variable))

    def scale_loss(self, loss):
        return loss

    def apply(self, gradients, variables):
        """Makes a step. Variables that aren't among `variables` stay as they are."""
        known = {id(variable): gradient for variable, gradient in zip(variables, gradients)}
        gradient = tf.concat(
            [
                tf.reshape(tf.cast(tf.convert_to_tensor(known[id(one)]), self.dtype), [-1])
                if id(one) in known
                else tf.zeros(size, self.dtype)
                for one, size in zip(self.variables, self.sizes)
            ],
            axis=0,
        )
        count = self.count.assign_add(1.0)
        mean = self.mean.assign(self.beta_1 * self.mean + (1 - self.beta_1) * gradient)
        square = self.square.assign(self.beta_2 * self.square + (1 - self.beta_2) * gradient**2)
        rate = self.rate * tf.sqrt(1 - self.beta_2**count) / (1 - self.beta_1**count)
        steps = tf.split(rate * mean / (tf.sqrt(square) + self.epsilon), self.sizes)
        for variable, step in zip(self.variables, steps):
            if id(variable) in known:
                value = variable.value - tf.cast(tf.reshape(step, variable.shape), variable.dtype)
                variable.assign(value if variable.constraint is None else variable.constraint(value))
