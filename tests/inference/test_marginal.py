import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from inference import models as zoo
from inference.enumeration import SIGMAS, assert_converges, each_draw, masks
from inference.models import functional
from keras import layers

from kregkit._core.replacing import replaced
from kregkit.data import Augment, Flips, MixUp, MultiScale, RandomCrop, RandomFlip, TenCrop, Views
from kregkit.inference import Ensemble, marginalize
from kregkit.layers import DropConnect, FractionalMaxPooling2D, StochasticDepth

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]

X, LABELS = zoo.X, zoo.LABELS


class TestAgainstEnumeration:
    def test_the_neuron_with_two_inputs_and_four_masks(self):
        """E[a] = w1 x + w2 y for dropout with p = 1/2, inverted: inference is exact for a linear neuron, no more."""
        for activation in (None, "relu"):
            neuron = layers.Dense(1, activation=activation)
            model = functional(layers.Dropout(0.5), neuron, shape=(2,))
            neuron.set_weights([np.array([[1.5], [-2.0]]), np.zeros(1)])
            x = np.array([[2.0, 1.0]], "float32")
            values = [[[0.0]], [[2 * 1.5 * 2.0]], [[2 * -2.0 * 1.0]], [[2 * 1.5 * 2.0 - 2 * 2.0 * 1.0]]]
            if activation:
                values = np.maximum(values, 0)
            assert_converges(model, x, values, outputs="values")
            expected = model.predict(x, verbose=0)
            assert np.isclose(np.mean(values), expected) == (activation is None)

    @pytest.mark.parametrize("mode", ["batch", "sample", "subset"])
    def test_all_depths_of_four_blocks(self, mode):
        survival = [0.9, 0.8, 0.6, 0.5]
        blocks = [StochasticDepth(layers.Dense(3, activation="tanh"), p, mode=mode) for p in survival]
        model = functional(*blocks, shape=(3,))
        x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
        values, probabilities = [], []
        for kept in itertools.product([0, 1], repeat=4):
            h = x.astype("float64")
            for one, p, block in zip(kept, survival, blocks):
                kernel, bias = (weight.numpy() for weight in block.branch.weights)
                h = h + one * np.tanh(h @ kernel + bias) / p
            values.append(h)
            probabilities.append(np.prod([p if one else 1 - p for one, p in zip(kept, survival)]))
        assert_converges(model, x, values, np.array(probabilities), outputs="values")
        assert [block.mode for block in blocks] == [mode] * 4

    @pytest.mark.parametrize("regions", ["random", "pseudorandom"])
    @pytest.mark.parametrize("share", ["batch", "example"])
    def test_all_regions_of_fractional_max_pooling(self, regions, share):
        """8 to 5: increments 1, 2, 2, 2, 1 in any order, or in the order of Graham's formula."""
        pool = FractionalMaxPooling2D(8 / 5, regions=regions, share=share, data_format="channels_last")
        x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype("float32")
        if regions == "random":
            orders = sorted(set(itertools.permutations([1, 1, 2, 2, 2])))
            axis, shares = [np.cumsum([0, *order]) for order in orders], np.full(10, 0.1)
        else:
            # u below the cap at which the last or the first increment would be 3.
            points = (np.arange(20000) + 0.5) / 20000
            edges = [[0, *(int(np.ceil(1.6 * (i + u))) - 1 for i in range(1, 5)), 8] for u in points]
            edges = [tuple(e) for e in edges if set(np.diff(e)) == {1, 2}]
            axis = sorted(set(edges))
            shares = np.array([edges.count(e) for e in axis]) / len(edges)

        def pooled(rows, columns):
            windows = [[x[:, a : b + 1, c : d + 1].max(axis=(1, 2)) for c, d in itertools.pairwise(columns)]
                       for a, b in itertools.pairwise(rows)]  # fmt: skip
            return np.moveaxis(np.array(windows), 2, 0)

        values = [pooled(rows, columns) for rows in axis for columns in axis]
        probabilities = np.outer(shares, shares).ravel()
        model = functional(pool, shape=(8, 8, 1))
        assert_converges(model, x, values, probabilities, draws=2000, outputs="values")
        assert pool.share == share

    @pytest.mark.parametrize("mask", ["example", "batch", "exact"])
    def test_all_masks_of_dropped_connections(self, mask):
        dense = layers.Dense(2, activation="relu")
        model = functional(DropConnect(dense, 0.5, mask=mask), shape=(2,))
        dense.bias.assign([0.3, -0.4])
        x = np.random.default_rng(0).normal(size=(3, 2)).astype("float32")
        kernel, bias = dense.get_weights()
        values = [np.maximum(x @ (kernel * bits[:4].reshape(2, 2)) + bias * bits[4:], 0) for bits in masks(6, 0.5)[0]]
        assert_converges(model, x, values, draws=1500, outputs="values")
        expected = marginalize(model, draws=3, outputs="values").predict(x, verbose=0)
        for examples in (1, 2):
            found = marginalize(model, draws=3, outputs="values").predict(x, batch_size=examples, verbose=0)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


class TestReductionsAndSpread:
    @pytest.fixture(scope="class")
    @staticmethod
    def draws():
        model = zoo.classifier(0)
        return model, each_draw(model, X, 6)

    def test_spread_against_numpy(self, draws):
        model, p = draws
        mean, spread = marginalize(model, draws=6, spread=True)(X)
        np.testing.assert_allclose(mean, p.mean(0), rtol=1e-5)
        np.testing.assert_allclose(spread["std"], p.std(0), rtol=1e-3, atol=1e-5)
        whole = -np.sum(p.mean(0) * np.log(p.mean(0)), axis=-1)
        parts = -np.sum(p * np.log(p), axis=-1).mean(0)
        np.testing.assert_allclose(spread["entropy"], whole, rtol=1e-4)
        np.testing.assert_allclose(spread["mutual_information"], whole - parts, rtol=1e-2, atol=2e-5)

    def test_geometric_mean(self, draws):
        model, p = draws
        product = np.prod(p, axis=0) ** (1 / 6)
        for reduce in ("geometric", "logits"):
            result = marginalize(model, draws=6, reduce=reduce)(X)
            np.testing.assert_allclose(result, product / product.sum(-1, keepdims=True), rtol=1e-4)

    def test_logits_come_back_as_logits(self, draws):
        model, p = draws
        linear = zoo.classifier(0, activation=None)
        linear.set_weights(model.get_weights())
        np.testing.assert_allclose(zoo.softmax(marginalize(linear, draws=6)(X)), p.mean(0), rtol=1e-4)

    def test_binary_from_logits(self):
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        model = zoo.classifier(0, activation=None, head=1, loss=loss)
        z = each_draw(model, X, 5, reduce="logits")
        mean, spread = marginalize(model, draws=5, spread=True)(X)
        p = zoo.sigmoid(z)
        np.testing.assert_allclose(zoo.sigmoid(mean), p.mean(0), rtol=1e-4)
        np.testing.assert_allclose(spread["std"], p.std(0), rtol=1e-2, atol=1e-4)
        whole = -p.mean(0) * np.log(p.mean(0)) - (1 - p.mean(0)) * np.log(1 - p.mean(0))
        np.testing.assert_allclose(spread["entropy"], whole, rtol=1e-4)

    def test_auto_draws_stop_by_the_standard_error(self):
        model = zoo.classifier(0)
        _, spread = marginalize(model, draws="auto", tolerance=0.01, spread=True)(X)
        counts = np.asarray(spread["draws"])
        assert set(counts % 8) == {0} and counts.min() < counts.max() < 1024
        for count in np.unique(counts):
            mean, fixed = marginalize(model, draws=int(count), spread=True)(X)
            error = np.asarray(fixed["std"]).max(-1) / np.sqrt(count - 1)
            assert (error[counts == count] <= 0.01 + 1e-6).all()
            assert (error[counts > count] > 0.01 - 1e-6).all()
            auto = marginalize(model, draws="auto", tolerance=0.01)(X)
            np.testing.assert_allclose(np.asarray(auto)[counts == count], np.asarray(mean)[counts == count], rtol=1e-5)
        _, spread = marginalize(model, draws="auto", tolerance=1e-9, max_draws=40, spread=True)(X)
        assert set(np.asarray(spread["draws"])) == {40}


class TestAnalytic:
    def test_is_exact_where_all_that_follows_is_linear(self):
        model = functional(
            layers.Dropout(0.5), StochasticDepth(layers.Dense(8), 0.7, scale="test"), layers.GaussianNoise(0.1),
            layers.Dense(1),
        )  # fmt: skip
        x = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
        analytic = marginalize(model, draws="analytic", outputs="values")(x)
        np.testing.assert_allclose(analytic, model.predict(x, verbose=0), rtol=1e-5)
        mean, spread = marginalize(model, draws=3000, spread=True, outputs="values")(x)
        assert np.all(np.abs(mean - analytic) < SIGMAS * spread["std"] / np.sqrt(3000))

    def test_the_gaussian_of_dropped_connections(self):
        dense = layers.Dense(3, activation="relu")
        layer = DropConnect(dense, 0.5)
        model = functional(layer, shape=(50,))
        x = np.random.default_rng(0).normal(size=(4, 50)).astype("float32")
        kernel, bias = dense.get_weights()
        mean = x @ kernel + bias
        deviation = np.sqrt(x**2 @ kernel**2 + bias**2)
        normal = mean + deviation * np.random.default_rng(1).normal(size=(200000, 1, 1))
        analytic = marginalize(model, draws="analytic", outputs="values")(x)
        np.testing.assert_allclose(analytic, np.maximum(normal, 0).mean(0), atol=SIGMAS * deviation.max() / 447)
        assert layer.inference == "mean"

    def test_has_no_form_for_everything(self):
        model = functional(layers.AlphaDropout(0.5), layers.LSTM(2, dropout=0.5), shape=(3, 2))
        with pytest.raises(ValueError, match="AlphaDropout, LSTMCell"):
            marginalize(model, draws="analytic", outputs="values")
        with pytest.raises(ValueError, match="has no draws"):
            marginalize(zoo.classifier(0), draws="analytic", spread=True)


class TestSameAnswer:
    # How passes are cut is asked in all sizes once; the others in sizes that cut draws and examples.
    @pytest.mark.parametrize("arguments", [{}, {"shared": True}, {"spread": True}, {"draws": "auto"}], ids=str)
    def test_at_any_batch_size(self, arguments):
        model = zoo.classifier(0)
        arguments = {"draws": 21, **arguments}
        expected = keras.tree.flatten(marginalize(model, **arguments)(X))
        sizes = ((1, 40), (7, 3), (64, 16), (1000, 40))
        for batch_size, examples in sizes if arguments == {"draws": 21} else sizes[1:3]:
            marginal = marginalize(model, batch_size=batch_size, **arguments)
            found = keras.tree.flatten(marginal.predict(X, batch_size=examples, verbose=0))
            for one, other in zip(found, expected):
                np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)

    def test_again_and_by_other_ways(self):
        marginal = marginalize(zoo.classifier(0), draws=5)
        expected = marginal.predict(X, verbose=0)
        np.testing.assert_array_equal(marginal.predict(X, verbose=0), expected)
        dataset = tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(16)
        np.testing.assert_allclose(marginal.predict(dataset, verbose=0), expected, rtol=1e-5)
        np.testing.assert_allclose(marginal(X), expected, rtol=1e-5)
        other = marginalize(zoo.classifier(0), draws=5, seed=1).predict(X, verbose=0)
        assert np.abs(other - expected).max() > 1e-3
        p = np.asarray(expected, "float64")
        loss, accuracy = marginal.evaluate(X, LABELS, verbose=0)
        assert loss == pytest.approx(-np.log(p[np.arange(40), LABELS]).mean(), rel=1e-5)
        assert accuracy == pytest.approx(np.mean(p.argmax(-1) == LABELS))
        found = marginalize(zoo.classifier(0), draws=5, spread=True).evaluate(dataset, verbose=0)
        assert found == pytest.approx([loss, accuracy], rel=1e-5)

    def test_noise_shared_by_all_examples_or_not(self):
        model = zoo.classifier(0)
        same = np.repeat(X[:1], 6, axis=0)
        together = np.asarray(marginalize(model, draws=3, shared=True)(same))
        np.testing.assert_allclose(together, np.repeat(together[:1], 6, axis=0), rtol=1e-6)
        apart = np.asarray(marginalize(model, draws=3)(same))
        assert len(np.unique(apart[:, 0])) > 1

    def test_without_noise_and_views_bit_for_bit(self):
        for model in (zoo.classifier(0), zoo.classifier(1, activation=None), zoo.subclassed(2)):
            result = marginalize(model, noise=None).predict(X, verbose=0)
            np.testing.assert_array_equal(result, model.predict(X, verbose=0))
        ensemble = Ensemble([zoo.classifier(0), zoo.classifier(1)])
        result = marginalize(ensemble, noise=None).predict(X, verbose=0)
        np.testing.assert_array_equal(result, ensemble.predict(X, verbose=0))
        # Large enough that rows of one product are rounded otherwise than those of another.
        model = functional(layers.Dense(100, activation="relu"), layers.Dropout(0.5), layers.Dense(10), shape=(64,))
        x = np.random.default_rng(1).normal(size=(1000, 64)).astype("float32")
        result = marginalize(model, noise=None).predict(x, verbose=0)
        np.testing.assert_array_equal(result, model.predict(x, verbose=0))

    def test_draws_are_independent_between_layers_examples_and_draws(self):
        model = functional(layers.Dropout(0.5), layers.Dropout(0.5), layers.Reshape((64,)), shape=(64,))
        draws = np.round(each_draw(model, np.ones((50, 64)), 4, outputs="values") / 4)
        assert draws.mean() == pytest.approx(0.25, abs=SIGMAS * np.sqrt(0.25 * 0.75 / draws.size))
        flat = draws.reshape(4 * 50, 64) - 0.25
        correlation = (flat @ flat.T) / 64 / (0.25 * 0.75)
        np.fill_diagonal(correlation, 0)
        assert np.abs(correlation).max() < SIGMAS / np.sqrt(64)


def with_shared_and_nested():
    keras.utils.set_random_seed(0)
    block = keras.Sequential([keras.Input((6,)), layers.Dense(6, activation="relu"), layers.Dropout(0.4)])
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(block(block(inputs))))
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@keras.saving.register_keras_serializable(package="kregkit_tests")
class NoisySubclass(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = keras.Sequential([layers.Dense(5, activation="relu"), layers.BatchNormalization()])
        self.drop = layers.Dropout(0.5)
        self.head = layers.Dense(3, activation="softmax")

    def call(self, inputs, training=None):
        if training:
            raise AssertionError("everything but the chosen layers must be in inference mode")
        return self.head(self.drop(self.block(inputs), training=training))


def noisy_subclass():
    keras.utils.set_random_seed(0)
    model = NoisySubclass()
    model(X[:2])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


KINDS = {"sequential": lambda: zoo.classifier(0), "nested": with_shared_and_nested, "subclassed": noisy_subclass}


class TestTheModel:
    @pytest.mark.parametrize("kind", KINDS)
    def test_is_left_as_it_is(self, kind):
        model = KINDS[kind]()
        before = [variable.numpy().tobytes() for variable in model.variables]
        expected = model.predict(X, verbose=0)
        attributes = [set(vars(layer)) for layer in model._flatten_layers()]
        mean, spread = marginalize(model, draws=8, spread=True)(X)
        assert np.asarray(spread["std"]).max() > 1e-3
        assert np.abs(np.asarray(mean) - expected).max() > 1e-4
        np.testing.assert_array_equal(model.predict(X, verbose=0), expected)
        assert [variable.numpy().tobytes() for variable in model.variables] == before
        assert [set(vars(layer)) for layer in model._flatten_layers()] == attributes
        # Also what Keras traces anew.
        model.make_predict_function(force=True)
        np.testing.assert_array_equal(model.predict(X, verbose=0), expected)

    @pytest.mark.parametrize("where", ["between batches", "while it is traced"])
    def test_is_left_as_it_is_by_an_interrupt(self, where):
        """And the next pass over the data is a whole one, with the same noise for each example."""

        class Press(keras.callbacks.Callback):
            def on_predict_batch_end(self, batch, logs=None):
                if batch == 1:
                    raise KeyboardInterrupt

            on_test_batch_end = on_predict_batch_end

        def pressed(inputs, **_):
            raise KeyboardInterrupt

        model = functional(layers.Dropout(0.5), layers.Dense(3, activation="softmax"), shape=(6,))
        model.compile(loss="sparse_categorical_crossentropy")
        other = keras.models.clone_model(model)
        before = [variable.numpy().tobytes() for variable in model.variables]
        attributes = [set(vars(layer)) for layer in model._flatten_layers()]
        for make in (lambda: Ensemble([model, other]), lambda: marginalize(model, draws=3)):
            expected, predictor = make().predict(X, batch_size=8, verbose=0), make()
            if where == "between batches":
                with pytest.raises(KeyboardInterrupt):
                    predictor.predict(X, batch_size=8, verbose=0, callbacks=[Press()])
                with pytest.raises(KeyboardInterrupt):
                    predictor.evaluate(X, LABELS, batch_size=8, verbose=0, callbacks=[Press()])
            else:
                with replaced(model.layers[-1], "call", pressed), pytest.raises(KeyboardInterrupt):
                    predictor.predict(X, batch_size=8, verbose=0)
            assert [variable.numpy().tobytes() for variable in model.variables] == before
            assert [set(vars(layer)) for layer in model._flatten_layers()] == attributes
            np.testing.assert_array_equal(predictor.predict(X, batch_size=8, verbose=0), expected)
            assert predictor.evaluate(X, LABELS, verbose=0) == pytest.approx(make().evaluate(X, LABELS, verbose=0))

    def test_is_left_as_it_is_by_a_failing_call(self):
        model = functional(layers.Dropout(0.5), layers.Dense(4), layers.Dropout(0.5), layers.Dense(3), shape=(6,))
        bad = model.layers[-1]
        expected = model.predict(X, verbose=0)
        attributes = [set(vars(layer)) for layer in model._flatten_layers()]

        def broken(inputs, **_):
            raise RuntimeError("half-way")

        bad.call = broken
        try:
            with pytest.raises(RuntimeError, match="half-way"):
                marginalize(model, outputs="values")(X)
        finally:
            del bad.call
        assert [set(vars(layer)) for layer in model._flatten_layers()] == attributes
        model.make_predict_function(force=True)
        np.testing.assert_array_equal(model.predict(X, verbose=0), expected)

    def test_may_train_on_without_changing_the_predictor(self):
        model = zoo.classifier(0)
        marginal = marginalize(model, draws=4)
        expected = marginal.predict(X, verbose=0)
        model.fit(X, LABELS, verbose=0)
        np.testing.assert_array_equal(marginal.predict(X, verbose=0), expected)

    def test_batch_normalization_stays_in_inference_mode(self):
        model = functional(layers.BatchNormalization(), layers.Dropout(0.5), shape=(6,))
        model.layers[1].moving_mean.assign(np.full(6, 3.0))
        draws = each_draw(model, X, 3, outputs="values")
        inference = (X - 3.0) / np.sqrt(1.001)
        kept = np.where(np.abs(draws) > 1e-4, draws, 2 * inference)
        np.testing.assert_allclose(kept, np.broadcast_to(2 * inference, draws.shape), atol=1e-4)

    def test_shared_layers_draw_anew_at_each_use(self):
        drop = layers.Dropout(0.5)
        inputs = keras.Input((200,))
        model = keras.Model(inputs, drop(inputs) - drop(inputs))
        assert np.abs(marginalize(model, draws=1, outputs="values")(np.ones((2, 200)))).max() == 2

    def test_several_inputs_and_outputs(self):
        keras.utils.set_random_seed(0)
        image, features = keras.Input((4, 4, 1), name="image"), keras.Input((6,), name="features")
        x = layers.Concatenate()([layers.Flatten()(image), layers.Dropout(0.5)(features)])
        outputs = {"size": layers.Dense(1, name="size")(x), "kind": layers.Dense(3, name="kind")(x)}
        model = keras.Model({"image": image, "features": features}, outputs)
        loss = {"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "size": "mse"}
        model.compile("sgd", loss, metrics={"kind": ["accuracy"]})
        data = {"image": np.ones((40, 4, 4, 1), "float32"), "features": X}
        mean, spread = marginalize(model, draws=300, spread=True).predict(data, verbose=0)
        assert set(mean) == set(spread) == {"kind", "size"}
        assert set(spread["size"]) == {"std"} and spread["kind"]["entropy"].shape == (40,)
        # The regression is linear in the noise, so its mean is the plain prediction.
        plain = model.predict(data, verbose=0)["size"]
        assert (np.abs(mean["size"] - plain) < SIGMAS * spread["size"]["std"] / np.sqrt(300) + 1e-4).all()
        logs = marginalize(model, draws=4).evaluate(
            data, {"kind": LABELS, "size": X[:, :1]}, return_dict=True, verbose=0
        )
        assert "kind_accuracy" in logs

    def test_fixed_batch_size_and_noise_without_a_batch_axis(self):
        inputs = keras.Input(batch_shape=(4, 6))
        model = keras.Model(inputs, layers.Dropout(0.5)(inputs))
        assert marginalize(model, draws=3, outputs="values")(X[:4]).shape == (4, 6)

        class Scaled(keras.layers.Layer):
            def build(self, shape):
                self.scale = self.add_weight(shape=(1, shape[-1]), initializer="ones")
                self.drop = layers.Dropout(0.5)

            def call(self, inputs):
                return inputs * self.drop(self.scale + 0.0)

        model = functional(Scaled(), shape=(6,))
        draws = np.round(each_draw(model, np.ones((5, 6)), 6, outputs="values"), 3)
        assert (draws == draws[:, :1]).all() and len({draw.tobytes() for draw in draws}) > 2
        assert set(np.unique(draws)) == {0.0, 2.0}

    def test_half_precision(self):
        keras.config.set_dtype_policy("mixed_float16")
        model = zoo.classifier(0)
        keras.config.set_dtype_policy("float32")
        single = zoo.classifier(0)
        single.set_weights(model.get_weights())
        half = np.asarray(marginalize(model, draws=6)(X))
        np.testing.assert_allclose(half, marginalize(single, draws=6)(X), atol=5e-3)

    @pytest.mark.parametrize("kind", KINDS)
    def test_to_model_survives_a_file(self, kind, tmp_path):
        marginal = marginalize(KINDS[kind](), draws=5, seed=3)
        marginal.to_model().save(tmp_path / "marginal.keras")
        loaded = keras.models.load_model(tmp_path / "marginal.keras")
        expected = marginal.predict(X, verbose=0)
        for _ in range(2):
            np.testing.assert_allclose(loaded.predict(X, verbose=0), expected, rtol=1e-6)
        assert loaded.evaluate(X, LABELS, verbose=0) == pytest.approx(marginal.evaluate(X, LABELS, verbose=0))
        np.testing.assert_allclose(loaded(X), expected, rtol=1e-5)


class TestWhichNoise:
    def test_nothing_to_average(self):
        with pytest.raises(ValueError, match=r"no noise that could be averaged out.*Received: noise='all'"):
            marginalize(functional(layers.Dense(2)))

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"draws": 0}, "draws=0"),
            ({"draws": "many"}, "draws='many'"),
            ({"noise": "dropout"}, "noise='dropout'"),
            ({"reduce": "mean"}, "reduce='mean'"),
            ({"outputs": "softmax"}, "outputs='softmax'"),
            ({"seed": -1}, "seed=-1"),
            ({"batch_size": 0}, "batch_size=0"),
            ({"tolerance": 0}, "tolerance=0"),
            ({"max_draws": 4}, "max_draws=4"),
            ({"views": 3}, "views=3"),
        ],
        ids=str,
    )
    def test_bad_arguments(self, arguments, text):
        with pytest.raises(ValueError, match=rf"Received: {text}"):
            marginalize(zoo.classifier(0), **arguments)

    def test_bad_models(self):
        with pytest.raises(ValueError, match=r"Received: model="):
            marginalize([zoo.classifier(0)])
        with pytest.raises(ValueError, match="must be built"):
            marginalize(keras.Sequential([layers.Dropout(0.5)]))


def flips(images):
    return [images, images[:, :, ::-1]]


@keras.saving.register_keras_serializable(package="kregkit_tests")
class Turned(Views):
    def __init__(self, num_views):
        self.num_views = num_views

    def each(self, images):
        return [keras.ops.rot90(images, turns, axes=(1, 2)) for turns in range(self.num_views)]

    def get_config(self):
        return {"num_views": self.num_views}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class TestViewsAndMembers:
    def image_model(self, seed=0, dropout=0.0):
        keras.utils.set_random_seed(seed)
        model = functional(
            layers.Conv2D(3, 3, activation="relu"), layers.Dropout(dropout), layers.Flatten(),
            layers.Dense(3, activation="softmax"), shape=(5, 5, 1), seed=seed,
        )  # fmt: skip
        return model

    images = np.random.default_rng(0).normal(size=(9, 5, 5, 1)).astype("float32")

    def test_views_alone(self):
        model = self.image_model()
        expected = np.mean([model.predict(view, verbose=0) for view in flips(self.images)], axis=0)
        result = marginalize(model, views=flips, draws=7, batch_size=4).predict(self.images, verbose=0)
        np.testing.assert_allclose(result, expected, rtol=1e-5)

    def test_views_of_several_shapes(self):
        inputs = keras.Input((None, None, 1))
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3, activation="relu")(inputs))
        model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))

        def scales(images):
            return [images, images[:, ::-1], images[:, :4, :4]]

        expected = np.mean([model.predict(view, verbose=0) for view in scales(self.images)], axis=0)
        np.testing.assert_allclose(marginalize(model, views=scales)(self.images), expected, rtol=1e-5)

    def test_products_of_members_views_and_noise(self):
        models = [self.image_model(seed, dropout=0.5) for seed in range(2)]
        ensemble = Ensemble(models)
        view_means = []
        for model in models:
            kernel, bias = model.layers[-1].get_weights()
            hidden = keras.Model(model.inputs, model.layers[1].output)
            features = [hidden.predict(view, verbose=0).reshape(9, -1) for view in flips(self.images)]
            mask = np.random.default_rng(0).integers(0, 2, size=(20000, 27)) * 2
            view_means += [zoo.softmax((f[:, None] * mask) @ kernel + bias).mean(1) for f in features]
        result, spread = marginalize(ensemble, views=flips, draws=2000, spread=True)(self.images)
        expected = np.mean(view_means, axis=0)
        deviation = np.asarray(spread["std"]).max()
        np.testing.assert_allclose(result, expected, rtol=0, atol=SIGMAS * deviation * (1 / 63 + 1 / 140))
        no_noise = marginalize(ensemble, views=flips, noise=None)(self.images)
        expected = np.mean([model.predict(view, verbose=0) for model in models for view in flips(self.images)], axis=0)
        np.testing.assert_allclose(no_noise, expected, rtol=1e-5)

    def test_weighted_members(self):
        """The deviation is that of all members' predictions for all views, each with its member's share."""
        models = [zoo.classifier(0), zoo.classifier(1)]
        p = np.array([[model.predict(view, verbose=0) for view in (X, -X)] for model in models], "float64")
        target = (2 * p[0, 0] + p[1, 0]) / 3
        chosen = Ensemble(models).select((X, LABELS), loss=lambda y, pred: np.abs(pred - target).mean())
        np.testing.assert_allclose(chosen.weights, [2 / 3, 1 / 3])
        result, spread = marginalize(chosen, views=lambda x: [x, -x], noise=None, spread=True)(X)
        shares = np.array([1 / 3, 1 / 3, 1 / 6, 1 / 6])
        p = p.reshape(4, 40, 3)
        mean = np.tensordot(shares, p, 1)
        np.testing.assert_allclose(result, mean, rtol=1e-5)
        deviation = np.sqrt(np.tensordot(shares, (p - mean) ** 2, 1))
        np.testing.assert_allclose(spread["std"], deviation, rtol=1e-3, atol=1e-5)
        whole, parts = (-(q * np.log(q)).sum(-1) for q in (mean, p))
        expected = whole - np.tensordot(shares, parts, 1)
        np.testing.assert_allclose(spread["mutual_information"], expected, rtol=1e-2, atol=2e-5)

    def test_members_alone_in_another_mean_than_the_ensemble_s(self):
        models = [zoo.classifier(0), zoo.classifier(1)]
        result = marginalize(Ensemble(models), noise=None, reduce="geometric")(X)
        expected = Ensemble(models, reduce="geometric").predict(X, verbose=0)
        np.testing.assert_allclose(result, expected, rtol=1e-5)
        # Without noise in any, the members are what is averaged.
        models = [functional(layers.Dense(3, activation="softmax"), shape=(6,), seed=seed) for seed in (0, 1)]
        np.testing.assert_allclose(marginalize(Ensemble(models))(X), Ensemble(models)(X), rtol=1e-6)

    def test_ten_crop_against_a_loop_in_numpy(self, tmp_path):
        model = self.image_model()
        photographs = np.random.default_rng(1).normal(size=(6, 7, 8, 1)).astype("float32")
        expected = np.zeros((6, 3))
        for top, left in ((0, 0), (0, 3), (2, 0), (2, 3), (1, 1)):
            crop = photographs[:, top : top + 5, left : left + 5]
            expected += (model.predict(crop, verbose=0) + model.predict(crop[:, :, ::-1], verbose=0)) / 10
        marginal = marginalize(model, views=TenCrop(5))
        np.testing.assert_allclose(marginal.predict(photographs, verbose=0), expected, rtol=1e-5)
        marginal.to_model().save(tmp_path / "ten.keras")
        loaded = keras.models.load_model(tmp_path / "ten.keras")
        np.testing.assert_allclose(loaded.predict(photographs, verbose=0), expected, rtol=1e-5)

    def test_several_scales(self, tmp_path):
        model = self.image_model()
        with pytest.raises(ValueError, match="accepts any size"):
            marginalize(model, views=MultiScale((5, 7)))(self.images)
        views = MultiScale((5, 7), TenCrop(5))
        expected = np.mean([model.predict(np.asarray(view), verbose=0) for view in views.each(self.images)], axis=0)
        marginal = marginalize(model, views=views)
        np.testing.assert_allclose(marginal(self.images), expected, rtol=1e-5)
        marginal.to_model().save(tmp_path / "scales.keras")
        loaded = keras.models.load_model(tmp_path / "scales.keras")
        np.testing.assert_allclose(loaded(self.images), expected, rtol=1e-5)

    def test_random_augmentation(self):
        """A flip has two outcomes; each draw has a key of its own, whatever the batches."""
        model = self.image_model()
        augment = Augment([RandomFlip()])
        outcomes = [model.predict(view, verbose=0) for view in flips(self.images)]
        assert_converges(model, self.images, outcomes, draws=2000, views=augment)
        for views in (augment, augment.views(6, seed=3)):
            expected = marginalize(model, views=views, draws=6)(self.images)
            result = marginalize(model, views=views, draws=6, batch_size=4).predict(
                self.images, batch_size=2, verbose=0
            )
            np.testing.assert_allclose(result, expected, rtol=1e-5)

    def test_members_in_different_forms(self):
        probabilities, logits = zoo.classifier(0), zoo.classifier(1, activation=None)
        result = marginalize(Ensemble([probabilities, logits]), draws=6)(X)
        p = [each_draw(probabilities, X, 6).mean(0), marginalize(logits, draws=600)(X)]
        assert np.abs(result - (p[0] + zoo.softmax(p[1])) / 2).max() < 0.1
        np.testing.assert_allclose(np.sum(result, axis=-1), 1, rtol=1e-5)

    def test_views_need_to_know_their_input(self):
        image, other = keras.Input((5, 5, 1), name="image"), keras.Input((5, 5, 1), name="other")
        flat = layers.Flatten()(layers.Concatenate()([image, other]))
        model = keras.Model({"image": image, "other": other}, layers.Dense(3, activation="softmax")(flat))
        x = {"image": self.images, "other": self.images}
        with pytest.raises(ValueError, match="one input of images"):
            marginalize(model, views=flips)(x)
        result = marginalize(model, views={"image": flips})(x)
        both = [x, {"image": self.images[:, :, ::-1], "other": self.images}]
        np.testing.assert_allclose(result, np.mean([model.predict(v, verbose=0) for v in both], axis=0), rtol=1e-5)

    def test_views_find_their_input_by_name(self):
        """Keras flattens a dictionary by its sorted keys, which need not be the order of the model's inputs."""
        image, features = keras.Input((5, 5, 1), name="image"), keras.Input((3,), name="features")
        flat = layers.Concatenate()([layers.Flatten()(image), features])
        model = keras.Model([image, features], layers.Dense(3, activation="softmax")(flat))
        x = {"image": self.images, "features": np.ones((9, 3), "float32")}
        both = [x, {**x, "image": self.images[:, :, ::-1]}]
        expected = np.mean([model.predict(view, verbose=0) for view in both], axis=0)
        for views in (Flips(), {"image": Flips()}):
            np.testing.assert_allclose(marginalize(model, views=views)(x), expected, rtol=1e-5)
        with pytest.raises(ValueError, match=r"takes inputs of shape \(5, 5, 1\) only"):
            marginalize(model, views=lambda images: [images, images[:, 1:]])(x)

    @pytest.mark.parametrize("number", [None, 3])
    def test_random_views_survive_a_file(self, number, tmp_path):
        augment = Augment([RandomCrop(1), RandomFlip(probability=0.3)], value_range=(-9.0, 9.0))
        marginal = marginalize(self.image_model(), draws=3, views=augment.views(number, 2) if number else augment)
        marginal.to_model().save(tmp_path / "random.keras")
        loaded = keras.models.load_model(tmp_path / "random.keras")
        np.testing.assert_allclose(loaded(self.images), marginal(self.images), rtol=1e-6)

    def test_views_of_one_s_own_survive_a_file(self, tmp_path):
        marginal = marginalize(self.image_model(), views=Turned(2))
        marginal.to_model().save(tmp_path / "own.keras")
        loaded = keras.models.load_model(tmp_path / "own.keras")
        np.testing.assert_allclose(loaded(self.images), marginal(self.images), rtol=1e-6)

    def test_views_that_mix_examples_are_refused(self):
        with pytest.raises(ValueError, match=r"must not mix examples.*Received: views=Augment"):
            marginalize(self.image_model(), views=Augment([MixUp(num_classes=3)]))


def test_a_functional_model_with_a_predict_of_its_own_is_told_what_to_give():
    class Task(keras.Model):
        def predict(self, *args, **kwargs):
            return super().predict(*args, **kwargs)

    inputs = keras.Input((2,))
    task = Task(inputs, keras.layers.Dropout(0.5)(inputs))
    with pytest.raises(ValueError, match=r"give `keras.Model\(model.inputs, model.outputs\)`"):
        marginalize(task, draws=2)
    assert marginalize(keras.Model(task.inputs, task.outputs), draws=2, outputs="values").predict(
        np.ones((1, 2)), verbose=0
    ).shape == (
        1,
        2,
    )
