"""Scheduled rates are those of layers made with them, act in the train step alone, and are gone afterwards."""

import copy

import keras
import numpy as np
import pytest
from contracts import strategy
from keras import layers, ops

from kregkit.callbacks import NoiseSchedule
from kregkit.layers import DropBlock2D, DropConnect, DropPath, StochasticDepth

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]
SCHEDULES = keras.optimizers.schedules
X = np.random.default_rng(0).normal(size=(24, 6)).astype("float32")


def constant(rate):
    return SCHEDULES.PiecewiseConstantDecay([0], [rate, rate])


def growing(steps=8, end=0.8):
    return SCHEDULES.PolynomialDecay(0.0, decay_steps=steps, end_learning_rate=end)


@keras.saving.register_keras_serializable(package="kregkit_tests")
class Zeros(layers.Layer):
    """Keeps the fraction of zeros in its inputs for each training step."""

    def build(self, input_shape):
        self.shares = self.add_weight(shape=(16,), initializer="zeros", trainable=False)
        self.count = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False)

    def call(self, inputs, training=False):
        if training:
            share = ops.mean(ops.cast(ops.equal(inputs, 0), "float32"))
            self.shares.assign(ops.where(ops.arange(16) == self.count, share, self.shares))
            self.count.assign_add(1)
        return inputs


def counting_model(layer, **arguments):
    class Counting(keras.Model):
        traces = 0

        def train_step(self, data):
            Counting.traces += 1
            return super().train_step(data)

    inputs = keras.Input((2000,))
    model = Counting(inputs, layers.Dense(1)(Zeros(name="zeros")(layer(inputs))))
    model.compile(keras.optimizers.SGD(1e-6), "mse", **{"jit_compile": False, **arguments})
    return model


def ones(steps=8):
    return np.ones((4 * steps, 2000), "float32"), np.ones((4 * steps, 1), "float32")


def trained(make, schedule, shape, **arguments):
    """Returns the weights of a model that was trained with layers of one rate."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(shape), *make(), layers.Flatten(), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.05), "mse", **{"jit_compile": False, **arguments})
    callbacks = [] if schedule is None else [NoiseSchedule(".*", schedule)]
    x = np.random.default_rng(0).normal(size=(24, *shape)).astype("float32")
    model.fit(x, X[:, :1], batch_size=8, epochs=1, shuffle=False, verbose=0, callbacks=callbacks)
    return model.get_weights()


def keras_layers(rate):
    return [
        layers.Dropout(rate, seed=1),
        layers.Dropout(rate, noise_shape=(None, 1, 4, None), seed=2),
        layers.SpatialDropout2D(rate, seed=3),
        layers.AlphaDropout(rate, seed=4),
        layers.GaussianDropout(rate, seed=5),
        layers.GaussianNoise(rate, seed=6),
        layers.Reshape((4, 8)),
        layers.SpatialDropout1D(rate, seed=7),
    ]


def own_layers(rate):
    dense = [layers.Dense(2) for _ in range(4)]
    return [
        DropPath(rate, seed=1),
        DropBlock2D(rate, 2, "channels_last", seed=2),
        DropConnect(dense[0], rate, seed=3),
        *(StochasticDepth(layer, 1 - rate, mode, seed=4) for layer, mode in zip(dense[1:], ("batch", "sample"))),
        StochasticDepth(dense[3], 1 - rate, "subset", seed=5),
    ]


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("make", [keras_layers, own_layers])
def test_a_constant_schedule_is_a_layer_of_that_rate(make, eager):
    shape = (4, 4, 2)
    expected = trained(lambda: make(0.3), None, shape)
    assert all(np.isfinite(weight).all() for weight in expected)
    for one, other in zip(trained(lambda: make(0.125), constant(0.3), shape, run_eagerly=eager), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    # The seeds alone don't give these weights.
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(trained(lambda: make(0.125), None, shape), expected))


@pytest.mark.parametrize(
    "arguments", [{}, {"steps_per_execution": 2}, {"jit_compile": True}], ids=["graph", "executions", "jit"]
)
def test_each_step_has_its_rate(arguments):
    model = counting_model(layers.Dropout(0.5, seed=0), **arguments)
    x, y = ones()
    logs = model.fit(x, y, batch_size=4, verbose=0, callbacks=[NoiseSchedule("dropout.*", growing())]).history
    shares = np.asarray(model.get_layer("zeros").shares)[:8]
    rates = 0.1 * np.arange(8)
    assert shares[0] == 0
    np.testing.assert_array_less(np.abs(shares - rates), 5 * np.sqrt(rates * (1 - rates) / 8000) + 1e-6)
    assert logs["noise_rate"] == pytest.approx([0.7])


def test_replicas_have_the_rate():
    with strategy().scope():
        model = counting_model(DropPath(0.5, seed=0))
    x, y = ones()
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[NoiseSchedule("drop_path.*", constant(0.0))])
    assert float(np.max(model.get_layer("zeros").shares)) == 0
    model.fit(x, y, batch_size=4, verbose=0)
    assert float(np.max(model.get_layer("zeros").shares)) > 0
    assert isinstance(model.layers[1].rate, float)


def test_factors_of_each_layers_own_rate_in_epochs():
    layer = StochasticDepth(DropPath(0.25), 0.3, mode="sample")
    model = counting_model(layers.Dropout(0.5, seed=0))
    callback = NoiseSchedule(layer, growing(steps=2, end=1.0), relative=True, unit="epoch")
    with pytest.raises(ValueError, match="must match a stochastic layer"):
        model.fit(*ones(), verbose=0, callbacks=[callback])
    model = keras.Sequential([keras.Input((2000,)), layer, Zeros(name="zeros"), layers.Dense(1)])
    model.compile("sgd", "mse")
    seen = []
    draw = layer.draw_call
    layer.draw_call = lambda *a, **k: (seen.append((layer.survival_probability, layer.branch.rate)), draw(*a, **k))[1]
    model.run_eagerly = True
    model.fit(*ones(2), batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    np.testing.assert_allclose(np.array(seen), [[1 - 0.7 * f, 0.25 * f] for f in (0, 0.25, 0.5, 0.75)], rtol=1e-6)


def test_later_fits_trace_nothing():
    model = counting_model(layers.GaussianNoise(0.5))
    x, y = ones(4)
    kind = type(model)

    def fit(end, epochs):
        before = kind.traces
        callbacks = [NoiseSchedule(".*", growing(steps=2, end=end), unit="epoch")]
        history = model.fit(x, y, batch_size=4, epochs=epochs, verbose=0, callbacks=callbacks)
        return kind.traces - before, history.history["noise_rate"][0]

    assert fit(0.4, 1)[0] > 0
    assert fit(0.4, 2) == (0, pytest.approx(0.2 * 0.75))
    model.fit(x, y, batch_size=4, verbose=0)
    assert fit(0.4, 3)[0] == 0
    assert fit(0.8, 1) == (1, pytest.approx(0.4 * 0.75))


@pytest.mark.parametrize("fails", [False, True])
def test_the_layer_has_its_own_rate_outside_of_the_step(fails, tmp_path):
    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.rates = [layer.rate for layer in noise]
            self.model.save(tmp_path / "model.keras")
            if fails:
                raise OSError

    noise = [layers.Dropout(0.25), DropPath(0.5)]
    model = counting_model(keras.Sequential(noise, name="noise"))
    model = keras.Sequential([keras.Input((6,)), *noise, layers.Dense(1)])
    model.compile("sgd", "mse")
    before = [set(vars(layer)) for layer in noise]
    look = Look()
    callbacks = [NoiseSchedule(noise, constant(0.9)), look]
    try:
        model.fit(X, X[:, :1], validation_data=(X, X[:, :1]), verbose=0, callbacks=callbacks)
    except OSError:
        assert fails
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for rates in (look.rates, [layer.rate for layer in noise], [layer.rate for layer in loaded.layers[:2]]):
        assert rates == [0.25, 0.5] and all(type(rate) is float for rate in rates)
    assert [set(vars(layer)) for layer in noise] == before
    assert copy.copy(callbacks[0]).layers == noise


def test_a_step_that_fails_leaves_the_layer_its_call():
    def fail(*_, **__):
        raise RuntimeError("in the step")

    noise = [layers.Dropout(0.25), DropPath(0.5)]
    model = keras.Sequential([*noise, layers.Dense(1)])
    model.build((None, 6))
    model.compile("sgd", "mse")
    model.layers[-1].call = fail
    with pytest.raises(RuntimeError, match="in the step"):
        model.fit(X, X[:, :1], verbose=0, callbacks=[NoiseSchedule(".*", constant(0.9))])
    assert "call" not in vars(noise[0]) and noise[1].rate == 0.5


class TestRefusedBeforeTheFirstStep:
    def refused(self, layer, match, *callbacks, **arguments):
        model = keras.Sequential([keras.Input((6,)), layer, layers.Dense(1, name="out")], name="net")
        model.compile("sgd", "mse", **arguments)
        weights = model.get_weights()
        with pytest.raises(ValueError, match=match):
            model.fit(X, X[:, :1], batch_size=4, verbose=0, callbacks=list(callbacks))
        for one, other in zip(model.get_weights(), weights):
            np.testing.assert_array_equal(one, other)

    def test_unmatched(self):
        drop = layers.Dropout(0.1, name="drop")
        self.refused(drop, r"\['net/drop'\]. Received: layers='out'", NoiseSchedule("out", constant(0.1)))

    def test_rates(self):
        for schedule in (growing(3, 1.0), growing(3, -0.1), constant(float("nan"))):
            self.refused(layers.Dropout(0.1), r"rates in \[0, 1\)", NoiseSchedule(".*", schedule))

    def test_rate_zero(self):
        self.refused(layers.Dropout(0.0), "made with rate=0", NoiseSchedule(".*", growing()))

    def test_twice(self):
        one, two = (NoiseSchedule(pattern, growing()) for pattern in ("drop.*", ".*"))
        self.refused(layers.Dropout(0.1, name="drop"), "Two NoiseSchedules are for 'net/drop'", one, two)

    def test_subset_under_xla(self):
        layer = StochasticDepth(layers.Dense(6), 0.5, mode="subset")
        self.refused(layer, "known size", NoiseSchedule(".*", growing()), jit_compile=True)
