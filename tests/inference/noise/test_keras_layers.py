"""`kregkit.inference.noise.keras_layers`: the noise of Keras's own layers, against every outcome of it."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from inference import models as zoo
from inference.enumeration import SIGMAS, assert_converges, each_draw, masks
from inference.models import functional
from keras import layers

from kregkit.inference import marginalize
from kregkit.inference.noise import keras_layers
from kregkit.inference.noise.random_numbers import Draws


class Pooling(layers.GlobalMaxPooling2D):
    """May compute anything in a `call` of its own."""


def perturbed(layer, inputs):
    """Returns what a layer makes of one draw for each row of its inputs."""
    draws = Draws(0, tf.constant([0], "int64"), len(inputs), tf.constant(0, "int64"), False)
    return np.asarray(keras_layers.perturbed(layer, draws, 0, tf.constant(inputs)))


class TestKinds:
    @pytest.mark.parametrize(
        ("layer", "noisy", "elementwise"),
        [
            (layers.Dropout(0.5), True, True),
            (layers.Dropout(0.0), False, False),
            (layers.SpatialDropout1D(0.5), True, True),
            (layers.GaussianDropout(0.5), True, True),
            (layers.GaussianNoise(0.5), True, True),
            (layers.GaussianNoise(0.0), False, False),
            (layers.AlphaDropout(0.5), True, True),
            (layers.Attention(dropout=0.5), True, False),
            (layers.Attention(), False, False),
            (layers.AdditiveAttention(dropout=0.5), True, False),
            (layers.LSTMCell(2, dropout=0.5), True, False),
            (layers.GRUCell(2, recurrent_dropout=0.5), True, False),
            (layers.SimpleRNNCell(2), False, False),
            (layers.Dense(2), False, False),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_which_have_noise(self, layer, noisy, elementwise):
        assert keras_layers.is_noisy(layer) == noisy
        assert keras_layers.is_elementwise(layer) == elementwise

    def test_which_are_unbiased(self):
        dropouts = [layers.Dropout(0.5), layers.SpatialDropout2D(0.5), layers.GaussianDropout(0.5)]
        unbiased = [*dropouts, layers.GaussianNoise(0.5), layers.Attention(), layers.AdditiveAttention()]
        assert all(keras_layers.has_expectation(layer) for layer in unbiased)
        assert not any(keras_layers.has_expectation(layer) for layer in (layers.AlphaDropout(0.5), layers.LSTMCell(2)))

    @pytest.mark.parametrize(
        "pooling",
        [functools.partial(layers.AveragePooling2D, 2), layers.MaxPooling2D, layers.GlobalMaxPooling2D],
        ids=["average", "maximum", "global"],
    )
    def test_which_poolings_commute_with_dropped_channels(self, pooling):
        options = ({}, {"data_format": "channels_first"})
        for one in options:
            for other in options:
                commute = keras_layers.commutes(layers.SpatialDropout2D(0.5, **one), pooling(**other))
                assert commute == (one == other)
        # Single units that are dropped are other ones behind the pooling, and a subclass may pool in any way.
        assert not keras_layers.commutes(layers.Dropout(0.5), pooling())
        assert not keras_layers.commutes(layers.SpatialDropout2D(0.5), Pooling())


class TestElementwise:
    def test_all_dropout_masks_of_eight_units(self):
        model = functional(layers.Dropout(0.3), layers.Dense(3, activation="softmax"))
        x = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
        kernel, bias = model.layers[-1].get_weights()
        every, probabilities = masks(8, 0.3)
        values = [zoo.softmax((x * mask) @ kernel + bias) for mask in every]
        assert_converges(model, x, values, probabilities)

    def test_spatial_dropout(self):
        x = np.random.default_rng(0).normal(size=(2, 3, 3, 2)).astype("float32")
        every, probabilities = masks(2, 0.4)
        model = functional(layers.SpatialDropout2D(0.4), shape=(3, 3, 2))
        assert_converges(model, x, [x * mask for mask in every], probabilities, outputs="values")
        model = functional(layers.SpatialDropout1D(0.4), shape=(9, 2))
        assert_converges(
            model, x.reshape(2, 9, 2), [x.reshape(2, 9, 2) * mask for mask in every], probabilities, outputs="values"
        )
        model = functional(layers.SpatialDropout3D(0.5), shape=(2, 2, 2, 3))
        for draw in each_draw(model, np.ones((4, 2, 2, 2, 3)), 4, outputs="values"):
            assert np.ptp(np.round(draw, 5).reshape(4, 8, 3), axis=1).max() == 0

    def test_dropout_with_a_noise_shape(self):
        x = np.random.default_rng(0).normal(size=(2, 4, 2)).astype("float32")
        every, probabilities = masks(2, 0.25)
        model = functional(layers.Dropout(0.25, noise_shape=(None, 1, 2)), shape=(4, 2))
        assert_converges(model, x, [x * mask for mask in every], probabilities, outputs="values")
        model = functional(layers.Dropout(0.5, noise_shape=(1, 4, 2)), shape=(4, 2))
        draws = each_draw(model, np.ones((3, 4, 2)), 6, outputs="values")
        np.testing.assert_allclose(draws[:, 0], draws[:, 1], atol=1e-5)
        assert len({np.round(draw, 3).tobytes() for draw in draws}) > 1

    def test_channels_first(self):
        drawn = perturbed(layers.SpatialDropout2D(0.5, data_format="channels_first"), np.ones((8, 6, 3, 3), "float32"))
        assert np.ptp(drawn, axis=(2, 3)).max() == 0 and set(np.unique(drawn)) == {0.0, 2.0}
        assert len({channels.tobytes() for channels in drawn[:, :, 0, 0]}) > 1

    @pytest.mark.parametrize("kind", [layers.Dropout, layers.SpatialDropout1D])
    def test_a_rate_of_1_leaves_nothing(self, kind):
        x = np.ones((4, 3, 2), "float32")
        np.testing.assert_array_equal(perturbed(kind(1.0), x), np.zeros_like(x))

    @pytest.mark.parametrize("kind", [layers.Dropout, layers.AlphaDropout])
    def test_numbers_of_a_noise_shape_are_repeated(self, kind):
        drawn = perturbed(kind(0.5, noise_shape=(None, 1, 4)), np.ones((8, 3, 4), "float32"))
        assert np.ptp(drawn, axis=1).max() == 0 and len(np.unique(drawn)) == 2

    @pytest.mark.parametrize("kind", [layers.Dropout, layers.SpatialDropout1D, layers.AlphaDropout])
    def test_values_are_those_that_keras_draws(self, kind):
        layer, x = kind(0.3), np.ones((8, 4, 4), "float32")
        expected = np.unique(layer(x, training=True))
        np.testing.assert_allclose(np.unique(perturbed(layer, x)), expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    @pytest.mark.parametrize("kind", [kind for types, _ in keras_layers._KINDS for kind in np.atleast_1d(types)])
    def test_the_inputs_type_stays(self, kind, dtype):
        assert perturbed(kind(0.5), np.ones((4, 2, 2), dtype)).dtype == dtype

    def test_alpha_dropout(self):
        x = np.array([[0.5, -0.3]], "float32")
        rate, low = 0.3, -1.0507009873554805 * 1.6732632423543772
        a = ((1 - rate) * (1 + rate * low**2)) ** -0.5
        every, probabilities = masks(2, rate)
        values = [np.where(mask > 0, a * x, a * low) - a * low * rate for mask in every]
        model = functional(layers.AlphaDropout(rate), shape=(2,))
        assert_converges(model, x, values, probabilities, outputs="values")

    def test_gaussian_noise_and_dropout(self):
        x = np.array([[1.0, -2.0, 0.5, 3.0, 1.0]], "float32")
        for layer, deviation in (
            (layers.GaussianNoise(0.5), np.full_like(x, 0.5)),
            (layers.GaussianDropout(0.2), 0.5 * np.abs(x)),
        ):
            model = functional(layer, shape=(5,))
            mean, spread = marginalize(model, draws=20000, outputs="values", spread=True)(x)
            np.testing.assert_allclose(mean, x, rtol=0, atol=SIGMAS * deviation.max() / np.sqrt(20000))
            np.testing.assert_allclose(spread["std"], deviation, rtol=SIGMAS / np.sqrt(2 * 20000))


class TestRecurrentCells:
    @pytest.mark.one_in(2)
    @pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU, layers.SimpleRNN])
    def test_dropout_on_a_recurrent_layer_s_inputs(self, kind):
        """One mask holds for all steps, so it may as well multiply the sequence."""
        model = functional(kind(3, dropout=0.5), shape=(4, 2))
        plain = functional(kind(3), shape=(4, 2))
        plain.set_weights([weight for weight in model.get_weights() if weight.dtype == np.float32])
        x = np.random.default_rng(0).normal(size=(3, 4, 2)).astype("float32")
        values = [plain.predict(x * mask.astype("float32"), verbose=0) for mask in masks(2, 0.5)[0]]
        assert_converges(model, x, values, draws=2000, outputs="values")

    def test_dropout_on_a_recurrent_layer_s_state(self):
        cell_kernel = np.array([[0.7]])
        model = functional(layers.SimpleRNN(1, recurrent_dropout=0.5, activation="tanh"), shape=(3, 1))
        model.layers[-1].cell.kernel.assign(cell_kernel)
        model.layers[-1].cell.recurrent_kernel.assign([[1.3]])
        x = np.array([[[1.0], [-0.5], [0.8]]], "float32")
        values = []
        for mask in (0.0, 2.0):
            state = 0.0
            for step in x[0, :, 0]:
                state = np.tanh(0.7 * step + 1.3 * mask * state)
            values.append([[state]])
        assert_converges(model, x, values, draws=2000, outputs="values")

    @pytest.mark.parametrize("unroll", [False, True])
    @pytest.mark.parametrize(("rate", "expected"), [("dropout", {0.0, 6.0}), ("recurrent_dropout", {1.0, 7.0})])
    def test_a_mask_holds_for_all_steps(self, rate, expected, unroll):
        """Three steps that add 1: all of them or none doubled, as are the sums before; or left out."""
        sums = layers.SimpleRNN(
            1, None, kernel_initializer="ones", recurrent_initializer="ones", unroll=unroll, **{rate: 0.5}
        )
        drawn = marginalize(functional(sums, shape=(3, 1)), draws=1, outputs="values")(np.ones((64, 3, 1), "float32"))
        assert set(np.unique(drawn)) == expected

    def test_gates_have_masks_of_their_own(self):
        """Where Keras multiplies each gate's inputs: 16 masks of the input, 16 of the state."""
        model = functional(
            layers.LSTM(1, dropout=0.5, recurrent_dropout=0.25, implementation=1, bias_initializer="normal"),
            shape=(3, 1),
        )
        kernel, recurrent, bias = (weight.ravel() for weight in model.get_weights() if weight.dtype == np.float32)
        x = np.array([1.0, -0.5, 2.0])
        values, probabilities = [], []
        every, of_state = masks(4, 0.5), masks(4, 0.25)
        for mask in every[0]:
            for state_mask, probability in zip(*of_state):
                state = memory = 0.0
                for step in x:
                    gates = kernel * step * mask + recurrent * state * state_mask + bias
                    into, forget, _, out = zoo.sigmoid(gates)
                    memory = forget * memory + into * np.tanh(gates[2])
                    state = out * np.tanh(memory)
                values.append([[state]])
                probabilities.append(probability / len(every[0]))
        assert_converges(model, x.reshape(1, 3, 1), values, np.array(probabilities), draws=2000, outputs="values")

    def test_cells_in_other_layers(self):
        x = np.random.default_rng(0).normal(size=(2, 3, 1)).astype("float32")
        both = layers.Bidirectional(layers.SimpleRNN(2, dropout=0.5))
        model = functional(both, shape=(3, 1))
        halves = [functional(half, shape=(3, 1)) for half in (both.forward_layer, both.backward_layer)]
        values = [
            np.concatenate([half.predict(m * x, verbose=0) for half, m in zip(halves, factors)], axis=-1)
            for factors in np.array(np.meshgrid([0.0, 2.0], [0.0, 2.0])).reshape(2, 4).T
        ]
        assert_converges(model, x, values, draws=1000, outputs="values")
        cells = [layers.SimpleRNNCell(2), layers.SimpleRNNCell(2, dropout=0.5)]
        stacked = functional(layers.RNN(cells), shape=(3, 1))
        first = functional(layers.RNN(cells[0], return_sequences=True), shape=(3, 1)).predict(x, verbose=0)
        second = functional(layers.RNN(cells[1]), shape=(3, 2))
        values = [second.predict(first * mask.astype("float32"), verbose=0) for mask in masks(2, 0.5)[0]]
        assert_converges(stacked, x, values, draws=1000, outputs="values")

    def test_a_mask_holds_for_one_use_of_the_layer(self):
        inputs = keras.Input((3, 4))
        shared = layers.LSTM(2, dropout=0.5)
        model = keras.Model(inputs, shared(inputs) - shared(inputs))
        drawn = marginalize(model, draws=1, outputs="values")(np.ones((4, 3, 4), "float32"))
        assert np.abs(drawn).max() > 1e-3

    @pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU, layers.SimpleRNN])
    def test_other_cells_stay_without_noise(self, kind):
        inputs = keras.Input((3, 2))
        chosen, other = (kind(2, dropout=0.5) for _ in range(2))
        model = keras.Model(inputs, [chosen(inputs), other(inputs)])
        x = np.ones((4, 3, 2), "float32")
        expected, plain = model(x)
        noisy, found = marginalize(model, draws=1, noise=[chosen], outputs="values")(x)
        np.testing.assert_allclose(found, plain, rtol=1e-6)
        assert np.abs(noisy - expected).max() > 1e-3

    @pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU])
    def test_the_layer_chooses_the_kernel_of_training(self, kind):
        """On a GPU another kernel takes no masks."""
        layer, seen = kind(2, dropout=0.5), []
        model, loop = functional(layer, shape=(3, 2)), layer.inner_loop
        layer.inner_loop = lambda *a, training=None: (seen.append(training), loop(*a, training=training))[1]
        marginalize(model, draws=1, outputs="values")(np.ones((4, 3, 2), "float32"))
        assert seen and all(seen)


class TestAttention:
    def test_attention(self):
        attention = layers.MultiHeadAttention(1, 2, dropout=0.5, use_bias=False)
        inputs = keras.Input((2, 3))
        model = keras.Model(inputs, attention(inputs, inputs))
        x = np.random.default_rng(0).normal(size=(2, 2, 3)).astype("float32")
        query, key, value, output = (weight.squeeze() for weight in attention.get_weights()[:4])
        scores = zoo.softmax((x @ query) @ np.swapaxes(x @ key, 1, 2) / np.sqrt(2))
        values = [(scores * mask.reshape(2, 2)) @ (x @ value) @ output for mask in masks(4, 0.5)[0]]
        assert_converges(model, x, values, outputs="values")

    def test_attention_that_drops_its_weights_itself(self):
        x = np.random.default_rng(0).normal(size=(2, 2, 3)).astype("float32")
        pairs = x[:, :, None] + x[:, None]
        for attention, scores in (
            (layers.Attention(dropout=0.5), x @ np.swapaxes(x, 1, 2)),
            (layers.AdditiveAttention(dropout=0.5, use_scale=False), np.tanh(pairs).sum(-1)),
        ):
            inputs = keras.Input((2, 3))
            model = keras.Model(inputs, attention([inputs, inputs]))
            values = [(zoo.softmax(scores) * mask.reshape(2, 2)) @ x for mask in masks(4, 0.5)[0]]
            assert_converges(model, x, values, outputs="values")
            # Linear in the mask, so inference is the mean.
            analytic = marginalize(model, draws="analytic", outputs="values")(x)
            np.testing.assert_allclose(analytic, np.mean(values, axis=0), rtol=1e-5, atol=1e-6)
            assert "_apply_scores" not in vars(attention)

    @pytest.mark.parametrize("draws", [3, "analytic"])
    @pytest.mark.parametrize("kind", [layers.Attention, layers.AdditiveAttention])
    def test_masked_steps_are_not_attended_to(self, kind, draws):
        inputs, mask = keras.Input((3, 2)), keras.Input((3,), dtype="bool")
        model = keras.Model([inputs, mask], kind(dropout=0.5)([inputs, inputs], mask=[None, mask]))
        x = np.random.default_rng(0).normal(size=(4, 3, 2)).astype("float32")
        seen = np.repeat([[True, True, False]], 4, axis=0)
        marginal = marginalize(model, draws=draws, outputs="values")
        other = x.copy()
        other[:, 2] = 100.0
        np.testing.assert_allclose(marginal([x, seen])[:, :2], marginal([other, seen])[:, :2], rtol=1e-5)
        if draws == "analytic":
            np.testing.assert_allclose(marginal([x, seen]), model([x, seen]), rtol=1e-5)
