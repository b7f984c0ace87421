"""Replicas agree on the steps that loss scaling skips."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kregkit import distribution
from kregkit._core import keras_internals
from kregkit.callbacks import PolyakAveraging


@pytest.fixture
def scaled():
    """Returns a model of two replicas under loss scaling, and puts back what is mended."""
    plain = keras.optimizers.LossScaleOptimizer.check_finite
    keras.optimizers.LossScaleOptimizer.check_finite = getattr(plain, "__wrapped__", plain)
    keras.config.set_dtype_policy("mixed_float16")
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1, dtype="float32")])
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=1024.0)
        model.compile(optimizer, "mse", jit_compile=False)
    yield model
    keras.optimizers.LossScaleOptimizer.check_finite = plain


def overflowing():
    """Returns two batches of 16; in the first, the second replica's gradients overflow in half precision."""
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    y = x.sum(1, keepdims=True)
    y[12] = 1e4
    return x, y


def test_keras_asks_the_first_replica_only(scaled):
    x, y = overflowing()
    if not distribution.enable_loss_scaling():
        pytest.skip("Keras has mended it")
    keras.optimizers.LossScaleOptimizer.check_finite = keras.optimizers.LossScaleOptimizer.check_finite.__wrapped__
    scaled.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    assert not np.isfinite(scaled.get_weights()[0]).all()


def test_all_replicas_skip_the_step(scaled):
    distribution.enable_loss_scaling()
    distribution.enable_loss_scaling()
    x, y = overflowing()
    scaled.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    assert all(np.isfinite(value).all() for value in scaled.get_weights())
    # One step of two, and half the scale.
    assert keras.ops.convert_to_numpy(scaled.optimizer.iterations) == 1
    assert keras.ops.convert_to_numpy(scaled.optimizer.dynamic_scale) == 512.0


def test_one_replica_trains_as_before():
    keras.config.set_dtype_policy("mixed_float16")
    x, y = overflowing()
    results = []
    for mend in (False, True):
        if mend:
            distribution.enable_loss_scaling()
        model = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones", dtype="mixed_float16")]
        )
        model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), 1024.0), "mse", jit_compile=False)
        model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
        results.append(model.get_weights())
    for one, other in zip(*results):
        np.testing.assert_array_equal(one, other)


def test_callbacks_refuse_what_is_not_mended(scaled):
    x, y = overflowing()
    if keras_internals.loss_scaling_asks_one_replica():
        with pytest.raises(
            ValueError, match=r"distribution.enable_loss_scaling.*Received: optimizer=.* with 2 replicas"
        ):
            scaled.fit(x, y, batch_size=16, shuffle=False, verbose=0, callbacks=[PolyakAveraging(0.5)])
    distribution.enable_loss_scaling()
    average = PolyakAveraging(0.5)
    scaled.fit(x, y, batch_size=16, shuffle=False, verbose=0, callbacks=[average])
    # The skipped step moves no average.
    assert average.get_state()["updates"] == 1
