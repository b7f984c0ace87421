"""A small model and data for it."""

import keras
import numpy as np
from keras import layers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(128, 5)).astype("float32")


def dense(outputs=3, activation=None, loss="mse", optimizer="sgd", **arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(16, "relu"), layers.Dense(outputs, activation, **arguments)]
    )
    model.compile(optimizer, loss)
    return model
