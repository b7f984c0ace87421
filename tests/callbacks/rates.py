"""A fit whose weight tells every step's learning rate."""

import math

import keras
import numpy as np
import probes

STEPS, EPOCHS = 7, 3
BASE = 0.5


def half_cosine(progress):
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def fit_rates(callbacks, model=None, **arguments):
    """Returns the rates of all steps as the weight's moves tell them, and as the optimizer held them."""
    model = model or probes.slope_model(keras.optimizers.SGD(BASE))
    record = probes.Record(lambda model: [model.optimizer.learning_rate, model.weights[0]])
    start = float(model.get_weights()[0][0, 0])
    data = probes.ones(STEPS)
    history = model.fit(
        data, data, **{"batch_size": 1, "epochs": EPOCHS, "verbose": 0, **arguments}, callbacks=[*callbacks, record]
    )
    held, weights = record.rows.T
    used = -np.diff([start, *weights])
    np.testing.assert_allclose(used, held, atol=3e-7 * max(1, abs(weights).max()))
    return held, history
