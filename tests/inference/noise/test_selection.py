"""`kregkit.inference.noise.selection`: which layers of a model count as noise."""

import keras
import numpy as np
import pytest
from inference import models as zoo
from inference.models import functional
from keras import layers

from kregkit._core.keras_internals import flatten_layers
from kregkit.inference import Ensemble, marginalize
from kregkit.inference.noise import drawn_layers, select_noise, selection
from kregkit.layers import StochasticDepth

X = zoo.X


class Protocol(layers.Layer):
    """Has the parts of the protocol that it is told to have."""

    def __init__(self, *parts):
        super().__init__()
        for part in parts:
            setattr(self, part, keras.random.SeedGenerator(0) if part == "seed_generator" else self.call)

    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("parts", "noisy"),
    [((), False), (("draw_call",), False), (("seed_generator",), False), (("draw_call", "seed_generator"), True)],
)
def test_the_protocol_needs_both_parts(parts, noisy):
    layer = Protocol(*parts)
    assert selection.follows_protocol(layer) == selection.is_noisy(layer) == noisy


def test_without_noise_no_layer_of_any_model_is_chosen():
    models = [zoo.classifier(0), functional(layers.Dropout(0.5))]
    assert select_noise(models, None) == [[], []]


@pytest.mark.parametrize("noise", ["none", "ALL", ""])
def test_other_words_are_refused(noise):
    with pytest.raises(ValueError, match=rf"must be 'all', None or a list.*Received: noise='{noise}'"):
        select_noise([zoo.classifier(0)], noise)


class TestCodeOfOnesOwn:
    """May draw in inference, which nothing tells before it runs."""

    def models(self):
        own, dropout = Protocol(), layers.Dropout(0.5)
        model = functional(layers.Dense(8), own, layers.Lambda(lambda x: x), dropout)
        return model, flatten_layers(model)

    def test_belongs_to_all_and_is_not_drawn_here(self):
        model, every = self.models()
        (indices,) = select_noise([model], "all")
        assert [type(every[index]) for index in indices] == [Protocol, layers.Lambda, layers.Dropout]
        assert [type(every[index]) for index in drawn_layers(model, indices)] == [layers.Dropout]

    def test_belongs_to_an_entry_in_which_nothing_else_is_noisy(self):
        model, every = self.models()
        for entry in (Protocol, model.layers[2]):
            (indices,) = select_noise([model], [entry])
            assert [type(every[index]) for index in indices] == [Protocol]
        # Dropout is noise for sure, and stands for a type that all layers are of.
        (indices,) = select_noise([model], [layers.Layer])
        assert [type(every[index]) for index in indices] == [layers.Dropout]


class TestEntries:
    def test_each_adds_its_layers_in_the_models_order(self):
        model = functional(layers.GaussianNoise(1.0), layers.SpatialDropout1D(0.5), layers.Dropout(0.5), shape=(4, 8))
        for noise, expected in (
            ([layers.SpatialDropout1D, model.layers[1]], [1, 2]),
            # A type stands for its subclasses.
            ([layers.Dropout], [2, 3]),
            ([model.layers[3], layers.Dropout, layers.GaussianNoise], [1, 2, 3]),
        ):
            (indices,) = select_noise([model], noise)
            assert [flatten_layers(model)[index] for index in indices] == [model.layers[index] for index in expected]

    def test_without_noise_are_refused(self):
        for entry in (layers.GaussianNoise, layers.Dropout(0.5), layers.Dense, "dropout"):
            with pytest.raises(ValueError, match=r"must be a noisy layer of model '.*', or.*of which .* is not"):
                select_noise([zoo.classifier(0)], [layers.Dropout, entry])

    def test_layers_and_types(self):
        one, other = layers.Dropout(0.5), layers.GaussianNoise(1.0)
        model = functional(one, other, shape=(6,))
        x = np.full((20, 6), 10.0, "float32")
        only = marginalize(model, draws=1, noise=[one], outputs="values")(x)
        assert set(np.unique(only)) == {0.0, 20.0}
        only = np.asarray(marginalize(model, draws=1, noise=[layers.GaussianNoise], outputs="values")(x))
        assert 0 < np.abs(only - 10).max() < 10
        both = np.asarray(marginalize(model, draws=1, noise=[one, layers.GaussianNoise], outputs="values")(x))
        np.testing.assert_allclose(both, marginalize(model, draws=1, outputs="values")(x))

    def test_a_recurrent_layer_stands_for_its_cell(self):
        model = functional(layers.LSTM(3, dropout=0.5), layers.Dropout(0.5), shape=(4, 2))
        x = np.ones((3, 4, 2))
        lstm = marginalize(model, draws=2, noise=[model.layers[1]], outputs="values")(x)
        by_type = marginalize(model, draws=2, noise=[layers.LSTM], outputs="values")(x)
        np.testing.assert_array_equal(lstm, by_type)

    def test_what_has_no_noise_of_its_own_stands_for_all_inside(self):
        attention = layers.MultiHeadAttention(1, 2, dropout=0.5)
        nested = keras.Sequential([layers.Dense(3), layers.Dropout(0.5)])
        depth = StochasticDepth(keras.Sequential([layers.Dense(3), layers.Dropout(0.5)]), 0.5)
        inputs = keras.Input((2, 3))
        model = keras.Model(inputs, depth(nested(attention(inputs, inputs))))
        inside = {
            attention: [attention._dropout_layer],
            nested: nested.layers[-1:],
            # Noisy itself, so it stands for itself.
            depth: [depth],
        }
        every = flatten_layers(model)
        for layer, noisy in inside.items():
            assert [every[place] for place in select_noise([model], [layer])[0]] == noisy
            if layer is not nested:
                assert [every[place] for place in select_noise([model], [type(layer)])[0]] == noisy

    def test_of_an_ensemble(self):
        """A type may be in some members only; a layer is one member's."""
        one = functional(layers.Dropout(0.5), layers.Dense(1), shape=(6,))
        other = functional(layers.Dropout(0.5), layers.GaussianNoise(1.0), layers.Dense(1), shape=(6,))
        for first, second, noise in ((other, one, [layers.GaussianNoise]), (one, other, [one.layers[1]])):
            ensemble = Ensemble([first, second], outputs="values")
            alone = marginalize(first, draws=2, noise=noise, outputs="values")(X)
            assert np.abs(alone - first(X)).max() > 1e-2
            result = marginalize(ensemble, draws=2, noise=noise)(X)
            np.testing.assert_allclose(result, (alone + second(X)) / 2, rtol=1e-5, atol=1e-6)
        with pytest.raises(ValueError, match=r"must be a noisy layer of model '.*', '.*', or.*Received: noise="):
            marginalize(ensemble, noise=[layers.SpatialDropout2D])
