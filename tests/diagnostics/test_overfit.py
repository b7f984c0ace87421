"""What can and what can't learn a small batch by heart."""

import keras
import numpy as np
import pytest
from small_models import X, dense

from kregkit import diagnostics as room


def test_overfit_finds_what_can_not_learn():
    model = dense(1, "sigmoid")
    finding = room.overfit_small_batch(model, (X, X[:, :1] * 3))  # values that a sigmoid can't take
    assert finding.faults == ["can't overfit"]
    assert room.overfit_small_batch(dense(1), (X, X[:, :1])).status == "pass"


def test_overfit_knows_the_floor_of_smoothed_labels():
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    finding = room.overfit_small_batch(dense(3, loss=loss), (X, np.eye(3)[(X[:, 0] > 0) * 1].astype("float32")))
    soft = np.array([0.2 / 3 + 0.8, 0.2 / 3, 0.2 / 3])
    assert finding.details["floor"] == pytest.approx(-np.sum(soft * np.log(soft)), rel=1e-6)
    assert finding.status == "pass"
