"""`kregkit.inference.noise`: which layers count as noise, and the protocol of layers of one's own."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kregkit.inference import Ensemble, marginalize
from kregkit.layers import DropBlock2D, DropConnect, DropPath, FractionalMaxPooling1D, StochasticDepth

pytestmark = pytest.mark.one_in(2)


class Gain(layers.Layer):
    """Follows the protocol's required part; `shape` gives the shape of its noise."""

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(0)
        self.shape = shape

    def uniform(self, shape, per_replica=True):
        return keras.random.uniform(shape, seed=self.seed_generator)

    def call(self, inputs, training=None):
        return self.draw_call(inputs) if training else inputs

    def draw_call(self, inputs, training=None):
        return 2 * inputs * self.uniform(self.shape(inputs))


class FoldableGain(Gain):
    noise_source = None

    def expected_call(self, inputs, training=None):
        return inputs


class GeneratorGain(layers.Layer):
    """Has no `uniform`: its numbers come from the generator directly."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, inputs, training=None):
        return self.draw_call(inputs) if training else inputs

    def draw_call(self, inputs, training=None):
        return 2 * inputs * keras.random.uniform(ops.shape(inputs), seed=self.seed_generator)


def of_features(inputs):
    return (inputs.shape[-1],)


def model_of(layer, features=5):
    return keras.Sequential([keras.Input((features,)), layer])


def values(model, rows, batch_size, draws=3, **arguments):
    marginal = marginalize(model, draws=draws, outputs="values", **arguments)
    return marginal.predict(np.ones((rows, 5), "float32"), batch_size=batch_size, verbose=0)


class TestProtocol:
    def test_noise_of_a_whole_batch(self):
        """Also for a batch of as many rows as the noise has numbers, and a partial last one."""
        model = model_of(Gain(of_features))
        expected = values(model, 33, 16)
        np.testing.assert_allclose(expected, np.repeat(expected[:1], 33, axis=0), rtol=1e-6)
        assert len(np.unique(np.round(expected[0], 4))) == 5
        np.testing.assert_allclose(values(model, 33, 11), expected, rtol=1e-6)
        together = marginalize(model, draws=3, outputs="values")(np.ones((5, 5), "float32"))
        assert np.shape(together) == (5, 5)

    @pytest.mark.parametrize("kind", [Gain, FoldableGain])
    def test_noise_of_each_example(self, kind):
        model = model_of(kind(ops.shape))
        expected = values(model, 7, 7)
        assert len(np.unique(expected)) == 35
        np.testing.assert_allclose(values(model, 7, 3), expected, rtol=1e-6)
        mean = values(model, 40, 20, draws=600)
        assert np.abs(mean - 1).max() < 6.5 * np.sqrt(1 / 3 / 600)

    def test_numbers_of_the_generator_alone(self):
        model = model_of(GeneratorGain())
        expected = values(model, 7, 4)
        assert len(np.unique(expected)) == 35
        np.testing.assert_array_equal(values(model, 7, 4), expected)
        assert np.abs(values(model, 7, 4, seed=1) - expected).min() > 0

    def test_draws_share_a_pass_where_the_layer_knows_its_rows(self):
        sizes = []

        def shape(inputs):
            sizes.append(inputs.shape[0])
            return ops.shape(inputs)

        for kind, expected in ((FoldableGain, {12}), (Gain, {12, 4})):
            sizes.clear()
            marginalize(model_of(kind(shape)), draws=3, outputs="values")(np.ones((4, 5), "float32"))
            assert set(sizes) == expected

    def test_expectation(self):
        x = np.ones((2, 5), "float32")
        analytic = marginalize(model_of(FoldableGain(ops.shape)), draws="analytic", outputs="values")
        np.testing.assert_array_equal(analytic(x), x)
        with pytest.raises(ValueError, match=r"no analytic form for Gain.*Received: draws='analytic'"):
            marginalize(model_of(Gain(ops.shape)), draws="analytic", outputs="values")


def members_of(*noise, shape=(8,)):
    """Two members with the same weights and seeds."""
    members = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        members.append(keras.Sequential([keras.Input(shape), *(make() for make in noise)]))
        members[-1].set_weights([np.ones_like(weight) for weight in members[-1].get_weights()])
    return members


@pytest.mark.parametrize(
    ("noise", "shape"),
    [
        (lambda: layers.Dropout(0.5, seed=1), (8,)),
        (lambda: layers.GaussianNoise(1.0, seed=1), (8,)),
        (lambda: layers.LSTM(8, dropout=0.5, seed=1), (2, 8)),
        (lambda: StochasticDepth(layers.Dense(8), 0.5, seed=1), (8,)),
        (lambda: FractionalMaxPooling1D(1.5, seed=1), (9, 4)),
        (lambda: DropConnect(layers.Dense(8), seed=1), (8,)),
        (lambda: DropConnect(layers.Dense(8), mask="batch", seed=1), (8,)),
        (lambda: DropConnect(layers.Dense(8), mask="exact", seed=1), (8,)),
        (GeneratorGain, (8,)),
        (lambda: DropPath(0.5, seed=1), (8,)),
        (lambda: DropBlock2D(0.5, 2, seed=1), (4, 4, 2)),
    ],
    ids=["dropout", "gaussian", "lstm", "depth", "pooling", "example", "batch", "exact", "own", "path", "block"],
)
def test_members_share_no_noise(noise, shape):
    """Members that are equal in everything: their draws differ, so their mean isn't the first one's draw."""
    members = members_of(noise, shape=shape)
    x = np.random.default_rng(0).normal(size=(6, *shape)).astype("float32")
    alone = marginalize(members[0], draws=1, outputs="values")(x)
    together = marginalize(Ensemble(members, outputs="values"), draws=1)(x)
    assert np.abs(np.asarray(together) - np.asarray(alone)).max() > 1e-3


@pytest.mark.parametrize(
    ("make", "shape"), [(lambda: DropPath(0.4), (3,)), (lambda: DropBlock2D(0.4, 2, "channels_last"), (5, 4, 3))]
)
def test_dropped_paths_and_blocks_share_batches_and_have_a_mean(make, shape):
    x = np.random.default_rng(0).uniform(1, 2, (6, *shape)).astype("float32")
    model = keras.Sequential([keras.Input(shape), make()])
    sizes = []
    draw = model.layers[0].draw_call
    model.layers[0].draw_call = lambda inputs, **options: (sizes.append(inputs.shape[0]), draw(inputs, **options))[1]
    noisy = marginalize(model, draws=300, outputs="values", seed=1)
    mean = np.asarray(noisy(x))
    # Each draw is x / 0.6 or 0. Five deviations of the mean of 300.
    np.testing.assert_array_less(np.abs(mean - x), 5 * x * np.sqrt(0.4 / 0.6 / 300))
    assert max(size for size in sizes if size is not None) > 6
    np.testing.assert_array_equal(np.asarray(noisy(x)), mean)
    analytic = marginalize(model, draws="analytic", outputs="values")
    np.testing.assert_array_equal(np.asarray(analytic(x)), x)
