"""What a user writes with the callbacks; read by the type checker, never run."""

from typing import Literal

import keras
import numpy as np

from kregkit import callbacks


def train(model: keras.Model, x: np.ndarray, y: np.ndarray, unit: Literal["epoch", "step"]) -> list[float]:
    average = callbacks.PolyakAveraging(decay=[0.99, "uniform"], monitor="val_accuracy", mode="max")
    listed: list[keras.callbacks.Callback] = [
        callbacks.Warmup(2, unit=unit),
        callbacks.CosineDecay(floor=0.01),
        callbacks.PlateauDecay("val_loss", factor=0.5, patience=3),
        callbacks.SnapshotEnsemble("members", cycles=3, max_learning_rate=0.1),
        callbacks.Resume("run", save_freq=100, seconds=60.0),
        callbacks.UpdateRatio(every=10),
        callbacks.SharpnessAware(rho=0.05, every=2),
        average,
    ]
    history = model.fit(x, y, callbacks=listed)
    with average.applied("uniform"):
        model.evaluate(x, y)
    with average.raw():
        model.evaluate(x, y)
    rates = callbacks.simulate([callbacks.OneCycle()], epochs=3, steps_per_epoch=10, learning_rate=0.1)
    return [*history.history["loss"], float(len(rates))]
