"""Adam over all weights at once makes the steps of Keras's own."""

import keras
import numpy as np
import tensorflow as tf

from kregkit.diagnostics._flat_adam import FlatAdam

RNG = np.random.default_rng(0)
START = [RNG.normal(size=shape).astype("float32") for shape in ((3, 4), (4,), (2, 1, 2))]


def variables():
    constraint = keras.constraints.MaxNorm(0.5)
    made = [keras.Variable(value, dtype="float32") for value in START]
    made[0].constraint = constraint
    return made


def test_steps_are_those_of_keras():
    ours, theirs = variables(), variables()
    flat, own = FlatAdam(), keras.optimizers.Adam(0.05)
    flat.build(ours)
    flat.restart(0.05)
    own.build(theirs)
    step = tf.function(lambda *gradients: flat.apply(list(gradients), ours[:2]), autograph=False)
    for _ in range(4):
        gradients = [tf.constant(RNG.normal(size=value.shape) * 3, "float32") for value in START[:2]]
        step(*gradients)
        own.apply(gradients, theirs[:2])
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)
    # The third has no gradient.
    np.testing.assert_array_equal(ours[2].numpy(), START[2])


def test_restart_forgets():
    ours = variables()
    flat, gradients = FlatAdam(), [tf.ones(value.shape) for value in START]
    flat.build(ours)
    flat.restart(0.1)
    flat.apply(gradients, ours)
    flat.restart(0.01)
    before = ours[1].numpy()
    flat.apply(gradients, ours)
    # The first step of Adam is as long as the rate.
    np.testing.assert_allclose(before - ours[1].numpy(), 0.01, rtol=1e-4)
