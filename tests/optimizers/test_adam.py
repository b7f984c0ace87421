"""What bias correction does. The rules themselves are in test_rules.py."""

import keras
import numpy as np

from kregkit.optimizers import Adam


def step_lengths(optimizer, steps):
    """Returns the lengths of the steps under a constant gradient, in learning rates."""
    x = keras.Variable(0.0)
    path = [0.0]
    for _ in range(steps):
        optimizer.apply([keras.ops.ones(())], [x])
        path.append(float(x))
    return -np.diff(path) / float(optimizer.learning_rate)


def test_uncorrected_steps_are_too_long():
    lengths = step_lengths(Adam(0.01, bias_correction=False), 60)
    assert abs(lengths[0] - 0.1 / np.sqrt(0.001)) < 1e-3
    assert np.argmax(lengths) + 1 == 12
    assert 6.55 < lengths.max() < 6.65


def test_corrected_steps_are_one_learning_rate_long():
    np.testing.assert_allclose(step_lengths(Adam(0.01), 60), 1, rtol=1e-3)


def test_with_correction_it_is_keras_adam_bit_for_bit():
    paths = []
    for rule in (Adam, keras.optimizers.Adam):
        x = keras.Variable(np.linspace(-1, 1, 7, dtype="float32"))
        optimizer = rule(0.03, beta_1=0.8, beta_2=0.95, amsgrad=True, weight_decay=0.1)
        for _ in range(10):
            optimizer.apply([keras.ops.sin(x)], [x])
        paths.append(keras.ops.convert_to_numpy(x))
    np.testing.assert_array_equal(*paths)
