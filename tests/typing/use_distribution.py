"""What a user writes to train on several machines; read by the type checker, never run."""

from typing import assert_type

import keras
import numpy as np
import tensorflow as tf

from kregkit import callbacks, data, distribution


def train(build, x: np.ndarray, y: np.ndarray) -> keras.Model:
    mended = distribution.enable_multi_worker()
    assert_type(mended, tuple[str, ...])
    assert_type(distribution.enable_loss_scaling(), bool)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model: keras.Model = build()
        names = distribution.synchronize_batch_normalization(model)
        assert_type(names, list[str])
    batches = data.pipeline((x, y), 64, [data.RandomFlip()], seed=1)
    writes = distribution.is_chief(strategy)
    assert_type(writes, bool)
    listed: list[keras.callbacks.Callback] = [callbacks.Resume("run"), callbacks.CosineDecay()]
    if writes:
        listed.append(keras.callbacks.CSVLogger("log.csv"))
    model.fit(batches, epochs=3, callbacks=listed)
    return model
