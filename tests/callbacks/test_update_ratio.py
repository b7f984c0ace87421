"""Update ratios against NumPy."""

import keras
import numpy as np
import pytest
from keras import layers

from kregkit.callbacks import UpdateRatio

pytestmark = pytest.mark.trains

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


@pytest.mark.parametrize("recurrent", [layers.LSTM, layers.GRU])
def test_kernels_of_a_layer_count_together(recurrent):
    # The bias of a GRU is a matrix, too.
    model = keras.Sequential([keras.Input((5, 1)), recurrent(3, name="memory"), layers.Dense(1, name="top")])
    keras.utils.set_random_seed(0)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    weights = Weights()
    model.fit(X[:, :, None], Y, 48, 1, verbose=0, callbacks=[UpdateRatio(1), weights])
    before, after = ([w.astype("float64") for w in weights.weights[step][:2]] for step in (0, 1))
    moved = np.sqrt(sum(np.sum((b - a) ** 2) for a, b in zip(before, after)))
    expected = moved / np.sqrt(sum(np.sum(a**2) for a in before))
    name = next(key for key in weights.logs[0] if key.startswith("update_ratio/") and "top" not in key)
    assert float(weights.logs[0][name]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("every", "measured"), [(1, [2, 5]), (3, [2, 5]), (4, [2, 5]), (6, [2])])
def test_accumulated_batches_leave_the_measurement_to_the_next_update(every, measured):
    # Updates are made in the batches 2 and 5, and none of them is a multiple of `every` beyond 1.
    seen = fit(every, gradient_accumulation_steps=3)
    last = 0.0
    for step, logs in enumerate(seen.logs):
        if step in measured:
            before, after = (seen.weights[index][0].astype("float64") for index in (step, step + 1))
            last = np.linalg.norm(after - before) / np.linalg.norm(before)
            assert last > 0
        assert float(logs["update_ratio/one"]) == pytest.approx(last, rel=1e-4), step


def test_weights_that_become_nan_are_measured():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(1, name="one")])
    model.compile(keras.optimizers.SGD(1e30), "mse")
    history = model.fit(X, Y, 8, 1, verbose=0, callbacks=[UpdateRatio(every=5)])
    assert not np.isfinite(history.history["update_ratio/one"][0])


def test_model_without_kernels_trains():
    model = keras.Sequential([keras.Input((5,)), layers.LayerNormalization()])
    model.compile("sgd", "mse")
    history = model.fit(X, X, 8, 1, verbose=0, callbacks=[UpdateRatio(every=2)])
    assert list(history.history) == ["loss"]


def test_frozen_layers_are_left_out_and_blocks_are_named():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="one")], name="inner")
    first = layers.Dense(4, name="frozen", trainable=False)
    model = keras.Sequential(
        [keras.Input((5,)), first, layers.Dense(4, name="one"), inner, layers.Dense(1, name="two")]
    )
    names = [name for name in fit(1, model).logs[0] if name.startswith("update_ratio/")]
    assert sorted(names) == ["update_ratio/inner/one", "update_ratio/one", "update_ratio/two"]


@pytest.mark.parametrize("every", [0, 1.5])
def test_bad_argument(every):
    with pytest.raises(ValueError, match=f"Received: every={every}"):
        UpdateRatio(every=every)
