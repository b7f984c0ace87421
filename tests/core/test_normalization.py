"""BatchNormalization by the batch, although nothing is trained."""

import keras
import numpy as np

from kregkit._core.normalization import batch_normalizations, batch_statistics_in_inference


def test_the_batch_s_statistics_are_used_and_with_no_momentum_remembered():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(epsilon=1e-6)])
    model = keras.Sequential([keras.Input((3,)), inner])
    x = np.random.default_rng(0).normal(2.0, 3.0, (64, 3)).astype("float32")
    layers = batch_normalizations(model)
    with batch_statistics_in_inference(layers, momentum=0.0):
        outputs = keras.ops.convert_to_numpy(model(x, training=False))
    np.testing.assert_allclose(outputs, (x - x.mean(0)) / x.std(0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(layers[0].moving_mean.numpy(), x.mean(0), rtol=1e-5)
    assert layers[0].momentum == 0.99 and "call" not in vars(layers[0])


def test_frozen_and_unbuilt_layers_keep_their_statistics():
    frozen = keras.layers.BatchNormalization(trainable=False)
    model = keras.Sequential([keras.Input((3,)), frozen])
    assert batch_normalizations(model) == []
    assert batch_normalizations(keras.Sequential([keras.layers.BatchNormalization()])) == []
