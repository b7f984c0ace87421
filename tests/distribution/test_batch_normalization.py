"""BatchNormalization over all replicas."""

import keras
import numpy as np
import tensorflow as tf

from kregkit import distribution


def build(strategy):
    with strategy.scope():
        inner = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(momentum=0.5)])
        model = keras.Sequential([keras.Input((3,)), inner, keras.layers.Dense(1, kernel_initializer="ones")])
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    return model


def test_replicas_train_as_one_device():
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    x[::2] += 3.0
    x = np.concatenate([x[::2], x[1::2]])  # the replicas' halves of the one batch differ
    y = x.sum(1, keepdims=True)
    one = build(tf.distribute.get_strategy())
    two = build(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()))
    one.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    two.fit(x, y, batch_size=32, epochs=1, shuffle=False, verbose=0)
    start = build(tf.distribute.get_strategy()).get_weights()
    two.set_weights(start)
    # After a fit, too: the step is traced anew.
    assert distribution.synchronize_batch_normalization(two) == [two.layers[0].layers[0].name]
    two.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    for value, expected in zip(two.get_weights(), one.get_weights()):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
