"""Stages inside one fit, against the same stages fitted one after the other."""

import itertools

import contracts
import keras
import numpy as np
import pytest
from transfer.models import convolutional, dense, images, values, vectors

from kregkit.callbacks import CosineDecay
from kregkit.optimizers import LayerwiseLearningRate
from kregkit.transfer import GradualUnfreeze, freeze, unfreeze

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]

STAGES = [(0, "head"), (1, "middle"), (2, "low")]


class Record(keras.callbacks.Callback):
    """Keeps all weights at every epoch's end, and raises at one of them."""

    def __init__(self, stop=None):
        super().__init__()
        self.stop, self.states = stop, []

    def on_epoch_end(self, epoch, logs=None):
        self.states.append(values(self.model))
        if epoch == self.stop:
            raise KeyboardInterrupt


def fit(model, epochs, *callbacks, **arguments):
    x, y = vectors()
    return model.fit(
        x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks), **arguments
    )


def changed(before, after):
    return {name.split("/")[0] for name in before if before[name] != after[name]}


def test_each_stage_trains_its_layers_and_nothing_else():
    model, record = dense(keras.optimizers.Adam(0.01)), Record()
    states = [values(model)]
    history = fit(model, 4, GradualUnfreeze(STAGES, 0.5), record)
    states += record.states
    assert [changed(*pair) for pair in itertools.pairwise(states)] == [
        {"head"},
        {"middle", "head"},
        {"low", "norm", "middle", "head"},
        {"low", "norm", "middle", "head"},
    ]
    np.testing.assert_allclose(history.history["learning_rate"], [0.01, 0.005, 0.005, 0.005], rtol=1e-6)
    assert all(layer.trainable for layer in model.layers) and float(model.optimizer.learning_rate) == pytest.approx(
        0.01
    )


def test_equals_stages_fitted_by_hand_bit_for_bit():
    one, other = dense(keras.optimizers.Adam(0.01)), dense(keras.optimizers.Adam(0.01))
    fit(one, 4, GradualUnfreeze(STAGES, 0.5))
    freeze(other, "middle")
    fit(other, 1)
    other.optimizer.learning_rate = 0.005
    unfreeze(other, "middle")
    fit(other, 1)
    unfreeze(other, "low")
    fit(other, 2)
    assert values(one) == values(other)
    for slot, same in zip(one.optimizer.variables[2:], other.optimizer.variables[2:]):
        np.testing.assert_array_equal(np.array(slot), np.array(same))


@pytest.mark.parametrize("mode", ["steps_per_execution", "jit", "mirrored", "gradient_accumulation", "mixed_float16"])
def test_frozen_layers_keep_their_bits_in_mode(mode):
    # That every mode trains to the same weights is in the contracts.
    record = Record()
    stages = [(0, "head"), (1, 2)]

    def model():
        layers = [keras.Input((8,)), keras.layers.Dense(3, name="body"), keras.layers.BatchNormalization(name="norm")]
        return keras.Sequential([*layers, keras.layers.Dense(1, name="head", dtype="float32")])

    built = []

    def make():
        built.append(model())
        return built[-1]

    start = Record()
    start.on_train_begin = lambda logs=None: start.states.append(values(start.model))
    contracts.train(mode, make, lambda: keras.optimizers.Adam(0.01), [start, GradualUnfreeze(stages), record])
    states = [start.states[0], *record.states]
    assert [changed(*pair) for pair in itertools.pairwise(states)] == [{"head"}, {"body", "norm", "head"}]


def test_with_layerwise_learning_rates_and_another_rate_callback():
    optimizer = LayerwiseLearningRate(keras.optimizers.SGD(0.1), {"low/.*": 0.0, "middle/.*": 0.1})
    model, record = dense(optimizer), Record()
    states = [values(model)]
    history = fit(model, 3, GradualUnfreeze([(0, 1), (1, "low")], 0.5), CosineDecay(), record)
    states += record.states
    # A factor of 0 keeps a thawed layer as it is.
    assert [changed(*pair) for pair in itertools.pairwise(states)] == [{"head"}, *[{"norm", "middle", "head"}] * 2]
    steps = np.array([2, 5, 8])
    expected = 0.1 * (1 + np.cos(np.pi * steps / 9)) / 2 * [1, 0.5, 0.5]
    np.testing.assert_allclose(history.history["learning_rate"], expected, rtol=1e-5)


@pytest.mark.parametrize("backup_first", [True, False])
def test_resumes_with_backup_and_restore_bit_for_bit(tmp_path, backup_first):
    def callbacks(*others):
        pair = [keras.callbacks.BackupAndRestore(str(tmp_path)), GradualUnfreeze(STAGES, 0.5)]
        return [*(pair if backup_first else pair[::-1]), *others]

    def begin():
        # BackupAndRestore alone would build an optimizer without this layer.
        model = dense(keras.optimizers.Adam(0.01))
        model.get_layer("low").trainable = False
        return model

    straight = begin()
    fit(straight, 4, GradualUnfreeze(STAGES, 0.5))

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(begin(), 4, *callbacks(Stop()))
    resumed = begin()
    history = fit(resumed, 4, *callbacks())
    assert history.epoch == [2, 3]
    assert values(resumed) == values(straight)
    np.testing.assert_allclose(history.history["learning_rate"], [0.005, 0.005], rtol=1e-6)


def test_flags_are_put_back_however_the_fit_ends():
    inner = convolutional()
    model = keras.Sequential([keras.Input((8, 8, 1)), inner, keras.layers.Dense(2, name="last")])
    inner.trainable = False
    inner.get_layer("conv_2").trainable = True
    model.compile("sgd", "mse")
    flags = [(layer.name, layer.trainable) for layer in (model, inner, *inner.layers, model.layers[-1])]
    x, y = images(), np.zeros((12, 2), "float32")
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, epochs=3, verbose=0, callbacks=[GradualUnfreeze([(0, 1), (1, "conv_1")]), Record(stop=1)])
    assert [(layer.name, layer.trainable) for layer in (model, inner, *inner.layers, model.layers[-1])] == flags


def test_a_later_plain_fit_has_its_own_step_back():
    model = dense(keras.optimizers.SGD(0.1))
    fit(model, 1)
    step = model.train_function
    fit(model, 2, GradualUnfreeze([(0, "head"), (1, "low")]))
    # Without tracing again, and with what trained before.
    assert model.train_function is step
    before = values(model)
    fit(model, 1)
    assert changed(before, values(model)) == {"low", "norm", "middle", "head"}


def test_initial_epoch_begins_in_its_stage():
    model = dense(keras.optimizers.SGD(0.1))
    before = values(model)
    fit(model, 2, GradualUnfreeze(STAGES), initial_epoch=1)
    assert changed(before, values(model)) == {"middle", "head"}


def test_one_stage_has_the_base_rate():
    history = fit(dense(keras.optimizers.SGD(0.1)), 2, GradualUnfreeze([(0, "head")], 0.5))
    np.testing.assert_allclose(history.history["learning_rate"], [0.1, 0.1], rtol=1e-6)


def test_refuses_before_any_harm():
    model = dense(keras.optimizers.SGD(0.1))
    before = values(model)
    with pytest.raises(ValueError, match="Received: stages='absent'"):
        fit(model, 2, GradualUnfreeze([(0, 1), (1, "absent")]))
    built = dense(keras.optimizers.Adam(0.1))
    built.layers[0].trainable = False
    fit(built, 1)
    with pytest.raises(ValueError, match="compile the model again"):
        fit(built, 2, GradualUnfreeze(STAGES))
    assert not built.layers[0].trainable
    deferred = keras.Sequential([keras.layers.Dense(2, name="head")])
    deferred.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Input"):
        fit(deferred, 1, GradualUnfreeze([(0, 1)]))
    assert values(model) == before and all(layer.trainable for layer in model.layers)
