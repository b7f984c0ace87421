"""Where Momentum equals Keras's SGD and where it doesn't. The rule itself is in test_rules.py."""

import keras
import numpy as np
import pytest

from kregkit.optimizers import Momentum

pytestmark = pytest.mark.trains


def descend(optimizer, steps=30, rates=None):
    """Returns the path on a small ill-conditioned bowl."""
    curvature = np.array([1.0, 0.1, 0.01], "float32")
    x = keras.Variable(np.ones(3, "float32"))
    path = []
    for step in range(steps):
        if rates is not None:
            optimizer.learning_rate = rates(step)
        optimizer.apply([curvature * x], [x])
        path.append(keras.ops.convert_to_numpy(x).copy())
    return np.array(path)


@pytest.mark.parametrize("nesterov", [False, True])
def test_equals_sgd_at_a_constant_rate(nesterov):
    ours = descend(Momentum(0.1, momentum=0.9, nesterov=nesterov))
    theirs = descend(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=nesterov))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_differs_from_sgd_at_a_decaying_rate(nesterov):
    def decay(step):
        return 0.1 * 0.8**step

    ours = descend(Momentum(0.1, momentum=0.9, nesterov=nesterov), rates=decay)
    theirs = descend(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=nesterov), rates=decay)
    assert np.abs(ours - theirs).max() > 0.05
    # SGD's velocity goes on at its old rates.
    assert np.abs(np.diff(theirs[-5:], axis=0)).max() > 10 * np.abs(np.diff(ours[-5:], axis=0)).max()


def test_a_rate_of_zero_stands_still():
    path = descend(Momentum(0.1), rates=lambda step: 0.1 if step < 5 else 0.0)
    np.testing.assert_array_equal(path[5:], np.tile(path[4], (25, 1)))
    drifting = descend(keras.optimizers.SGD(0.1, momentum=0.9), rates=lambda step: 0.1 if step < 5 else 0.0)
    assert np.abs(drifting[5] - drifting[4]).max() > 0.05


def test_sparse_gradients_of_an_embedding():
    x = np.array([[1, 2], [2, 5]])
    weights = []
    for optimizer in (Momentum(0.1, momentum=0.5), keras.optimizers.SGD(0.1, momentum=0.5)):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Embedding(7, 3), keras.layers.Flatten()])
        model.compile(optimizer, "mse")
        model.fit(x, np.ones((2, 6)), epochs=5, verbose=0)
        weights.append(model.get_weights()[0])
    np.testing.assert_allclose(*weights, rtol=0, atol=1e-6)
