"""What a user writes with the optimizers and schedules; read by the type checker, never run."""

from typing import assert_type

import keras
import numpy as np

from kregkit import optimizers, schedules


def train(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    schedule = schedules.Warmup(schedules.CosineCycles(0.1, 1000, cycles=4), 100)
    model.compile(optimizers.Momentum(schedule, nesterov=True, weight_decay=1e-4), "mse")
    model.compile(optimizers.SOAP(3e-3, precondition_frequency=5, clipnorm=1.0), "mse")
    layerwise = optimizers.LayerwiseLearningRate(optimizers.Adam(1e-3), {"backbone/.*": 0.1})
    assert_type(layerwise, optimizers.LayerwiseLearningRate)
    assert_type(layerwise.factors, dict[str, float])
    by_depth = optimizers.LayerwiseLearningRate.by_depth(optimizers.Adam(1e-3), model, decay=0.8)
    model.compile(by_depth, "mse")
    optimizers.minimize(model, x, y, "mse", max_iterations=10, sample_weight=np.ones(len(x)))
    found = optimizers.curvature(model, x, y, "mse", k=3)
    assert_type(found, optimizers.Curvature)
    assert_type(found.negative, int)
    return found.condition
