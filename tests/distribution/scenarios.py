"""Trainings that one process and several run alike: functions of a strategy, a directory and the worker's number.

Each returns a dictionary of arrays. The global batch is the same under any strategy.
"""

import contextlib
import signal
import os

import keras
import numpy as np

from kregkit import callbacks, data

BATCH = 16


def regression(num=64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num, 6)).astype("float32")
    return x, x.sum(1, keepdims=True) ** 2


def build(strategy, synchronized=None, optimizer=None):
    """Returns a compiled model; `synchronized` says whether it has a BatchNormalization, and which."""
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        kernel = keras.initializers.GlorotUniform(seed=1)
        layers = [keras.Input((6,)), keras.layers.Dense(8, activation="tanh", kernel_initializer=kernel)]
        if synchronized is not None:
            layers.append(keras.layers.BatchNormalization(momentum=0.5, synchronized=synchronized))
        model = keras.Sequential([*layers, keras.layers.Dense(1, kernel_initializer=kernel)])
        model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", metrics=["mae"], jit_compile=False)
    return model


def flat(history):
    return {name: np.asarray(values) for name, values in history.history.items()}


def weights(model):
    return np.concatenate([value.ravel() for value in model.get_weights()])


def everything(strategy, directory, index=0):
    """Arrays, validation, `evaluate`, `predict`; then snapshots, averages and rates; then BatchNormalization."""
    results = {}
    x, y = regression()
    model = build(strategy)
    history = model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, validation_data=(x, y), verbose=0)
    results["plain_loss"], results["plain_weights"] = history.history["loss"], weights(model)
    results["plain_val"] = history.history["val_loss"]
    results["evaluate"] = model.evaluate(x, y, batch_size=BATCH, verbose=0)
    results["predict"] = model.predict(x, batch_size=BATCH, verbose=0)

    model = build(strategy)
    average = callbacks.PolyakAveraging(0.5)
    history = model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=4,
        shuffle=False,
        verbose=0,
        callbacks=[callbacks.SnapshotEnsemble(directory / "snapshots", cycles=2), average, callbacks.UpdateRatio()],
    )
    results["rates"], results["callback_loss"] = history.history["learning_rate"], history.history["loss"]
    results["average"] = weights(model)
    with average.raw():
        results["raw"] = weights(model)

    for synchronized in (True, False):
        model = build(strategy, synchronized)
        history = model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
        results[f"normalized_loss_{synchronized}"] = history.history["loss"]
        results[f"normalized_weights_{synchronized}"] = weights(model)
        results[f"statistics_{synchronized}"] = np.stack([keras.ops.convert_to_numpy(v) for v in model.layers[1].non_trainable_variables])
    return results


SCENARIOS = {"everything": everything}
