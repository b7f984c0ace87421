"""Update ratios against NumPy."""

import keras
import numpy as np
import pytest
from keras import layers

from kregkit.callbacks import UpdateRatio

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 5)).astype("float32")
Y = RNG.normal(size=(48, 1)).astype("float32")


class Weights(keras.callbacks.Callback):
    """Keeps the weights before the first and after every step, and the logs."""

    def on_train_begin(self, logs=None):
        self.weights, self.logs = [self.model.get_weights()], []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(self.model.get_weights())
        self.logs.append(dict(logs))


def fit(every, model=None, **arguments):
    keras.utils.set_random_seed(0)
    if model is None:
        model = keras.Sequential([keras.Input((5,)), layers.Dense(4, "tanh", name="one"), layers.Dense(1, name="two")])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, **arguments), "mse")
    weights = Weights()
    model.fit(X, Y, 8, 1, shuffle=False, verbose=0, callbacks=[UpdateRatio(every=every), weights])
    return weights


@pytest.mark.parametrize("every", [1, 3])
def test_against_numpy(every):
    seen = fit(every)
    assert [sorted(key for key in logs if "/" in key) for logs in seen.logs] == [
        ["update_ratio/one", "update_ratio/two"]
    ] * 6
    for step, logs in enumerate(seen.logs):
        # The last measured step: biases, at 1 and 3, are left out.
        measured = step - step % every
        for kernel, name in ((0, "one"), (2, "two")):
            before, after = (seen.weights[index][kernel].astype("float64") for index in (measured, measured + 1))
            expected = np.linalg.norm(after - before) / np.linalg.norm(before)
            assert float(logs[f"update_ratio/{name}"]) == pytest.approx(expected, rel=1e-4), (step, name)


def test_kernels_of_a_layer_count_together():
    model = keras.Sequential([keras.Input((5, 1)), layers.LSTM(3, name="memory"), layers.Dense(1, name="top")])
    keras.utils.set_random_seed(0)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    weights = Weights()
    model.fit(X[:, :, None], Y, 48, 1, verbose=0, callbacks=[UpdateRatio(1), weights])
    before, after = ([w.astype("float64") for w in weights.weights[step][:2]] for step in (0, 1))
    moved = np.sqrt(sum(np.sum((b - a) ** 2) for a, b in zip(before, after)))
    expected = moved / np.sqrt(sum(np.sum(a**2) for a in before))
    name = next(key for key in weights.logs[0] if key.startswith("update_ratio/") and "top" not in key)
    assert float(weights.logs[0][name]) == pytest.approx(expected, rel=1e-4)


def test_accumulated_batches_have_no_update():
    seen = fit(1, gradient_accumulation_steps=3)
    ratios = [float(logs["update_ratio/one"]) for logs in seen.logs]
    assert [ratio > 0 for ratio in ratios] == [False, False, True] * 2


def test_frozen_layers_are_left_out_and_names_stay_apart():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="one")], name="inner")
    first = layers.Dense(4, name="frozen", trainable=False)
    model = keras.Sequential(
        [keras.Input((5,)), first, layers.Dense(4, name="one"), inner, layers.Dense(1, name="two")]
    )
    names = [name for name in fit(1, model).logs[0] if name.startswith("update_ratio/")]
    assert sorted(names) == ["update_ratio/one", "update_ratio/one_", "update_ratio/two"]


@pytest.mark.parametrize("every", [0, 1.5])
def test_bad_argument(every):
    with pytest.raises(ValueError, match=f"Received: every={every}"):
        UpdateRatio(every=every)
