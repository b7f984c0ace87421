"""What a user writes with data, and averages of noise and members; read by the type checker, never run."""

from typing import assert_type

import keras
import numpy as np

from kregkit import data, inference


def train_and_average(x: np.ndarray, y: np.ndarray, model: keras.Model) -> np.ndarray:
    operations = [data.RandomFlip(), data.RandomCrop(padding=4), data.TrivialAugment(), data.CutMix(num_classes=10)]
    train = data.pipeline((x, y), 32, operations, seed=1, shuffle=True, cache=True)
    model.fit(train, epochs=3)
    marginal = inference.marginalize(model, draws=16, views=data.TenCrop(24), noise="all", seed=3)
    assert_type(marginal, inference.Marginal)
    assert_type(marginal.spread, bool)
    ensemble = inference.Ensemble.from_directory("members", last=3)
    ensemble.save("ensemble.keras")
    best = ensemble.select((x, y))
    print(best.weights, marginal.report((x, y)))
    inference.recompute_batch_normalization(model, x, steps=10)
    calibrated = inference.calibrate(marginal, (x, y), method="temperature")
    return calibrated.predict(x)
