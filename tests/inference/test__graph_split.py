import keras
import numpy as np
import pytest
from inference import models as zoo
from keras import layers

from kregkit.inference import marginalize
from kregkit.inference._graph_split import can_be_split
from kregkit.layers import DropConnect

pytestmark = pytest.mark.one_in(2)

IMAGES = np.random.default_rng(0).normal(size=(5, 8, 8, 2)).astype("float32")


@pytest.fixture
def whole(monkeypatch):
    """Predicts without a cut: every draw from the model's inputs on, by the model itself."""

    def predict(model, x, **arguments):
        with monkeypatch.context() as patch:
            patch.setattr("kregkit.inference._graph_split.can_be_split", lambda model: False)
            return marginalize(model, outputs="values", **arguments)(x)

    return predict


def count_calls(monkeypatch, layer):
    """Returns the list to which each call of a layer adds how many rows it was for."""
    rows, original = [], layer.call

    def call(inputs, *arguments, **options):
        rows.append(next(iter(inputs.shape)))
        return original(inputs, *arguments, **options)

    monkeypatch.setattr(layer, "call", call)
    return rows


def sequential(*tail, shape=(8, 8, 2)):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input(shape), *tail])


def branches():
    """Noise on one of two branches, a layer used on both sides of it, and an output that no noise reaches."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    shared = layers.Conv2D(2, 3, padding="same", activation="tanh")
    clean = shared(inputs)
    noisy = shared(layers.Dropout(0.5)(clean)) + layers.GaussianNoise(0.5)(clean)
    return keras.Model(inputs, {"noisy": layers.Flatten()(noisy + inputs), "clean": layers.Flatten()(clean)})


def two_uses():
    drop = layers.AlphaDropout(0.4)
    inputs = keras.Input((8, 8, 2))
    return keras.Model(inputs, drop(inputs) - 3 * drop(inputs))


def two_inputs():
    keras.utils.set_random_seed(0)
    image, other = keras.Input((8, 8, 2), name="image"), keras.Input((8, 8, 2), name="other")
    noisy, pool = layers.SpatialDropout2D(0.5)(layers.Conv2D(2, 1)(image)), layers.MaxPooling2D()
    # Used once more, where there is no noise.
    return keras.Model({"other": other, "image": image}, pool(noisy) + pool(other))


POOLINGS = [
    lambda: [layers.MaxPooling2D()],
    lambda: [layers.AveragePooling2D(3, padding="same")],
    lambda: [layers.GlobalMaxPooling2D()],
    lambda: [layers.GlobalAveragePooling2D(keepdims=True)],
    # Those that don't commute with it.
    lambda: [layers.Dropout(0.2), layers.MaxPooling2D()],
    lambda: [layers.MaxPooling2D(data_format="channels_first")],
]


class TestSameAsWhole:
    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize("noisy_before", [False, True])
    def test_channels_dropped_behind_a_pooling(self, pooling, noisy_before, whole):
        model = sequential(
            layers.GaussianNoise(0.3 * noisy_before), layers.Conv2D(4, 3, padding="same", activation="relu"),
            layers.SpatialDropout2D(0.5), *pooling(), layers.Flatten(), layers.Dense(2),
        )  # fmt: skip
        result = marginalize(model, draws=5, outputs="values", batch_size=15)(IMAGES)
        np.testing.assert_allclose(result, whole(model, IMAGES, draws=5), rtol=1e-5, atol=1e-6)
        assert np.abs(result - model(IMAGES)).max() > 1e-3

    def test_a_result_with_another_use_stays(self, whole):
        inputs = keras.Input((8, 8, 2))
        dropped = layers.SpatialDropout2D(0.5)(inputs)
        model = keras.Model(inputs, [layers.MaxPooling2D()(dropped), dropped])
        results, expected = marginalize(model, draws=3, outputs="values")(IMAGES), whole(model, IMAGES, draws=3)
        for one, other in zip(results, expected):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        # The pooled channels are those that were dropped.
        np.testing.assert_array_equal(
            np.abs(np.asarray(results[0])).max((1, 2)) == 0, np.abs(np.asarray(results[1])).max((1, 2)) == 0
        )

    @pytest.mark.parametrize(
        "noise", [layers.Dropout, layers.GaussianDropout, layers.GaussianNoise, layers.AlphaDropout]
    )
    def test_each_kind_where_draws_part(self, noise, whole):
        model = sequential(layers.Dense(4), noise(0.3), layers.Dense(2))
        result = marginalize(model, draws=4, outputs="values")(IMAGES)
        np.testing.assert_allclose(result, whole(model, IMAGES, draws=4), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("make", [branches, two_uses, two_inputs])
    def test_graphs(self, make, whole):
        model = make()
        x = {"image": IMAGES, "other": IMAGES[::-1]} if make is two_inputs else IMAGES
        expected = keras.tree.flatten(whole(model, x, draws=6))
        for arguments in ({}, {"batch_size": 10}, {"batch_size": 1}):
            found = marginalize(model, draws=6, outputs="values", **arguments).predict(x, batch_size=2, verbose=0)
            for one, other in zip(keras.tree.flatten(found), expected):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)

    def test_what_no_noise_reaches_is_the_prediction(self):
        model = branches()
        mean, spread = marginalize(model, draws=6, outputs="values", spread=True)(IMAGES)
        np.testing.assert_allclose(mean["clean"], model(IMAGES)["clean"], rtol=1e-6)
        assert np.abs(spread["clean"]["std"]).max() < 1e-5 < np.asarray(spread["noisy"]["std"]).max()

    def test_masks_go_along(self, whole):
        keras.utils.set_random_seed(0)
        model = sequential(layers.Masking(0.0), layers.Dropout(0.3), layers.LSTM(3), shape=(4, 2))
        x = np.ones((3, 4, 2), "float32")
        x[1, 2:] = 0
        result = marginalize(model, draws=5, outputs="values")(x)
        np.testing.assert_allclose(result, whole(model, x, draws=5), rtol=1e-5, atol=1e-6)
        # Steps of zeros are left out: two steps give what two steps give.
        np.testing.assert_allclose(
            marginalize(model, noise=None).predict(x[1:2], verbose=0), model.predict(x[1:2, :2], verbose=0), rtol=1e-5
        )

    def test_outputs_keep_their_masks(self):
        """The loss leaves steps of zeros out."""
        model = sequential(layers.Masking(0.0), layers.Dropout(1e-9), layers.Dense(1), shape=(4, 2))
        model.compile(loss="mse")
        x, y = np.ones((3, 4, 2), "float32"), np.zeros((3, 4, 1))
        x[1, 2:], y[1, 2:] = 0, 100
        expected = model.evaluate(x, y, verbose=0)
        assert expected < 100
        assert marginalize(model, draws=3).evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-5)

    def test_examples_split_into_windows_before_the_noise(self, whole):
        inputs = keras.Input((4, 3))
        windows = layers.Dropout(0.5)(keras.ops.reshape(inputs, (-1, 2, 3)))
        model = keras.Model(inputs, keras.ops.reshape(windows, (-1, 4, 3)))
        x = np.ones((5, 4, 3), "float32")
        result = marginalize(model, draws=4, outputs="values")(x)
        np.testing.assert_allclose(result, whole(model, x, draws=4), rtol=1e-6)
        assert len(np.unique(np.asarray(result), axis=0)) == 5

    def test_half_precision(self):
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model = sequential(layers.Conv2D(4, 3), layers.SpatialDropout2D(0.5), layers.MaxPooling2D())
        finally:
            keras.config.set_dtype_policy("float32")
        single = sequential(layers.Conv2D(4, 3), layers.SpatialDropout2D(0.5), layers.MaxPooling2D())
        single.set_weights(model.get_weights())
        half = marginalize(model, draws=6, outputs="values")(IMAGES)
        np.testing.assert_allclose(half, marginalize(single, draws=6, outputs="values")(IMAGES), atol=1e-2)


class TestWork:
    def test_what_no_noise_reaches_is_computed_once(self, monkeypatch):
        first, second = layers.Conv2D(2, 3), layers.Conv2D(2, 3)
        model = sequential(layers.Rescaling(2.0), first, layers.Dropout(0.5), second)
        once, each = count_calls(monkeypatch, first), count_calls(monkeypatch, second)
        marginalize(model, draws=8, outputs="values", batch_size=20)(IMAGES)
        assert set(once) == {5} and set(each) == {20}

    def test_channels_are_dropped_behind_the_pooling(self, monkeypatch):
        pooling = layers.MaxPooling2D()
        model = sequential(layers.SpatialDropout2D(0.5), pooling)
        rows = count_calls(monkeypatch, pooling)
        marginalize(model, draws=8, outputs="values")(IMAGES)
        assert set(rows) == {5}

    @pytest.mark.parametrize("mask", ["example", "batch"])
    def test_draws_of_dropped_connections_share_batches(self, mask, monkeypatch):
        behind = layers.Dense(2)
        model = sequential(DropConnect(layers.Conv2D(3, 3), 0.5, mask=mask), layers.Flatten(), behind)
        rows = count_calls(monkeypatch, behind)
        expected = marginalize(model, draws=6, outputs="values")(IMAGES)
        assert set(rows) == {30}
        alone = marginalize(model, draws=6, outputs="values", batch_size=5)(IMAGES)
        np.testing.assert_allclose(alone, expected, rtol=1e-4, atol=1e-5)

    def test_leaves_the_graph_as_it_was(self):
        model = branches()
        nodes = [len(layer._inbound_nodes) for layer in model.layers]
        config = model.get_config()
        marginalize(model, draws=3, outputs="values")(IMAGES)
        assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
        assert model.get_config() == config


class TestCanBeCut:
    def test_graphs_that_say_it_all(self):
        assert can_be_split(branches()) and can_be_split(zoo.classifier(0))

    def test_models_with_a_call_of_their_own(self):
        class Doubled(keras.Model):
            def call(self, inputs, training=None):
                return 2 * super().call(inputs, training=training)

        inputs = keras.Input((8, 8, 2))
        model = Doubled(inputs, layers.Dropout(0.5)(inputs))
        assert not can_be_split(model) and not can_be_split(zoo.subclassed(0))
        plain = keras.Model(inputs, model.layers[-1](inputs))
        np.testing.assert_allclose(
            marginalize(model, draws=3, outputs="values")(IMAGES),
            2 * marginalize(plain, draws=3, outputs="values")(IMAGES),
        )
        plain.call = lambda inputs, training=None: inputs
        assert not can_be_split(plain)

    def test_tensors_without_examples_are_not_handed_on(self):
        inputs = keras.Input((3,))
        total = layers.Dropout(0.5)(keras.ops.sum(inputs, axis=0, keepdims=True))
        model = keras.Model(inputs, inputs + total)
        forward = marginalize(model, draws=2, outputs="values")
        assert forward(np.ones((4, 3), "float32")).shape == (4, 3)
