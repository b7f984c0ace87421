"""The compiled rate beside the sweep."""

import keras
import pytest
from keras import layers
from small_models import X, dense

from kregkit import diagnostics as room

pytestmark = pytest.mark.trains


@pytest.mark.parametrize(
    ("rate", "fault"), [(0.05, []), (50.0, ["learning rate too high"]), (1e-7, ["learning rate too low"])]
)
def test_learning_rate(rate, fault):
    assert room.learning_rate(dense(1, optimizer=keras.optimizers.SGD(rate)), (X, X[:, :1])).faults == fault


def test_no_rate_helps_where_nothing_can_be_learned():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(1, trainable=False)])
    model.compile("sgd", "mse")
    assert room.learning_rate(model, (X, X[:, :1])).faults == ["no learning rate helps"]
