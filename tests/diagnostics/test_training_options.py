"""Settings of optimizers, one wrong at a time."""

import keras
import numpy as np
import pytest
from small_models import X, dense

from kregkit import diagnostics as room

Decay = keras.optimizers.schedules.ExponentialDecay


@pytest.mark.parametrize(
    ("optimizer", "fault"),
    [
        (lambda: keras.optimizers.SGD(0.01, clipnorm=1.0), []),
        (lambda: keras.optimizers.SGD(0.01, clipnorm=1e-6), ["clipping too tight"]),
        (lambda: keras.optimizers.SGD(0.01, global_clipnorm=1e-6), ["clipping too tight"]),
        (lambda: keras.optimizers.SGD(0.01, clipvalue=1e-6), ["clipping too tight"]),
        # Adam divides by the size of the gradient, unless its epsilon of 1e-7 is larger.
        (lambda: keras.optimizers.Adam(clipvalue=1e-5), []),
        (lambda: keras.optimizers.Adam(clipvalue=1e-9), ["clipping too tight"]),
        (lambda: keras.optimizers.AdamW(1e-3, weight_decay=0.1), []),
        (lambda: keras.optimizers.AdamW(1e-3, weight_decay=10.0), ["weight decay too strong"]),
        # Of 4 batches: a rate that is halved per step falls to a sixteenth, at a thousandth per step to 1e-12.
        (lambda: keras.optimizers.SGD(Decay(0.1, 1, 0.5)), []),
        (lambda: keras.optimizers.SGD(Decay(0.1, 1, 1e-3)), ["learning rate falls too soon"]),
        (lambda: keras.optimizers.SGD(0.0), ["learning rate is not above 0"]),
    ],
)
def test_settings(optimizer, fault):
    assert room.optimizer_settings(dense(1, optimizer=optimizer()), (X, X[:, :1])).faults == fault


def test_optimizers_within_others():
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01, clipnorm=1e-6))
    assert room.optimizer_settings(dense(1, optimizer=scaled), (X, X[:, :1])).faults == ["clipping too tight"]


def test_gradient_beside_which_clipping_is_judged():
    model = dense(1, optimizer=keras.optimizers.SGD(0.01, global_clipnorm=1e-6))
    problem = room.optimizer_settings(model, (X, X[:, :1])).problems[0]
    kernel, bias, top, offset = (weight.astype("float64") for weight in model.get_weights())
    before = X @ kernel + bias
    slope = 2 * (np.maximum(before, 0) @ top + offset - X[:, :1]) / 128
    back = (slope @ top.T) * (before > 0)
    parts = [X.T @ back, back.sum(0), np.maximum(before, 0).T @ slope, slope.sum(0)]
    size = np.sqrt(sum(np.sum(part**2) for part in parts))
    assert float(problem.figure.split()[-1]) == pytest.approx(size, rel=0.05)
