"""`kregkit.inference.noise.own_numbers`: what a model draws and remembers in inference by itself."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from kregkit.inference import Ensemble, marginalize
from kregkit.layers import DropConnect, FractionalMaxPooling2D, StochasticDepth

pytestmark = pytest.mark.one_in(2)

ZEROS = np.zeros((12, 3), "float32")


@keras.saving.register_keras_serializable(package="kregkit_tests")
class Sampling(layers.Layer):
    """Adds normal noise, always: from a generator of its own, without a seed, or by TensorFlow."""

    def __init__(self, source="generator", rows=True, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.source, self.rows, self.seed = source, rows, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs):
        shape = ops.shape(inputs) if self.rows else (1, inputs.shape[-1])
        if self.source == "tensorflow":
            return inputs + tf.random.normal(shape)
        seed = self.seed_generator if self.source == "generator" else None
        return inputs + keras.random.normal(shape, seed=seed)

    def get_config(self):
        return {**super().get_config(), "source": self.source, "rows": self.rows, "seed": self.seed}


class Drawing(keras.Model):
    """A subclass whose own call draws."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3, kernel_initializer="zeros")
        self.generator = keras.random.SeedGenerator(0)

    def call(self, inputs):
        mean = self.dense(inputs)
        return mean + keras.random.normal(ops.shape(mean), seed=self.generator)


def sequential(*stack):
    return keras.Sequential([keras.Input((3,)), *stack])


def subclassed(*_):
    model = Drawing()
    model(ZEROS)
    return model


MODELS = {
    "layer": lambda: sequential(Sampling()),
    "nested": lambda: sequential(sequential(Sampling())),
    "unseeded": lambda: sequential(Sampling("none")),
    "lambda": lambda: sequential(layers.Lambda(lambda x: x + keras.random.normal(ops.shape(x)))),
    "subclass": subclassed,
    "tensorflow": lambda: sequential(Sampling("tensorflow")),
}


class TestRandomNumbersOfOnesOwn:
    @pytest.mark.parametrize("kind", MODELS)
    def test_ensembles_draw_others_in_every_batch(self, kind):
        model = MODELS[kind]()
        ensemble = Ensemble([model, model], outputs="values")
        first, again = (ensemble.predict(ZEROS, batch_size=4, verbose=0) for _ in range(2))
        assert len(np.unique(first)) == first.size
        # TensorFlow's own numbers follow its seeds alone.
        if kind != "tensorflow":
            # Members have numbers of their own: the mean of two has half the variance.
            assert abs(np.var(first) - 0.5) < 6.5 * 0.5 * np.sqrt(2 / first.size)
            np.testing.assert_array_equal(first, again)

    def test_seeds_of_layers_count(self):
        one, other, same = (
            Ensemble([sequential(Sampling(seed=seed))], outputs="values").predict(ZEROS, verbose=0)
            for seed in (1, 2, 1)
        )
        np.testing.assert_array_equal(one, same)
        assert np.abs(one - other).min() > 0

    def test_reports_draw_others_in_every_batch(self):
        ensemble = Ensemble([sequential(Sampling())] * 2, outputs="values")
        report = ensemble.report((ZEROS, ZEROS), batch_size=3)
        whole = Ensemble([sequential(Sampling())], outputs="values").predict(ZEROS, batch_size=3, verbose=0)
        np.testing.assert_allclose(report.members[0]["mean squared error"], np.mean(whole**2), rtol=1e-5)
        assert len(np.unique(whole)) == whole.size

    @pytest.mark.parametrize("kind", MODELS)
    def test_draws_have_numbers_of_their_own(self, kind):
        marginal = marginalize(MODELS[kind](), draws=400, spread=True, outputs="values")
        mean, spread = marginal.predict(ZEROS, batch_size=6, verbose=0)
        assert np.abs(mean).max() < 6.5 / np.sqrt(400)
        assert len(np.unique(mean)) == mean.size
        np.testing.assert_allclose(spread["std"], 1, atol=6.5 / np.sqrt(800))
        if kind != "tensorflow":
            np.testing.assert_array_equal(marginal.predict(ZEROS, batch_size=6, verbose=0)[0], mean)

    @pytest.mark.parametrize("source", ["generator", "none", "tensorflow"])
    def test_before_other_noise_and_for_whole_batches(self, source):
        """What the noise of another layer doesn't reach isn't computed once, and its draws share no pass."""
        model = sequential(Sampling(source, rows=False), layers.GaussianNoise(1.0))
        _, spread = marginalize(model, draws=400, spread=True, outputs="values")(ZEROS)
        np.testing.assert_allclose(np.asarray(spread["std"]) ** 2, 2, atol=6.5 * 2 * np.sqrt(2 / 400))

    def test_automatic_number_of_draws(self):
        arguments = {"draws": "auto", "tolerance": 0.2, "spread": True, "outputs": "values"}
        _, spread = marginalize(sequential(Sampling()), **arguments)(ZEROS)
        assert np.asarray(spread["draws"]).min() >= 16

    def test_can_be_chosen(self):
        layer = Sampling()
        model = sequential(layer, layers.Dense(1))
        for noise in ([layer], [Sampling], [model]):
            assert marginalize(model, draws=2, noise=noise, outputs="values")(ZEROS).shape == (12, 1)

    def test_layers_that_draw_nothing_cost_no_draws(self):
        """Views of a model with code of its own are each predicted once, whatever `draws` says."""
        rows = []

        class Plain(layers.Layer):
            def call(self, inputs):
                rows.append(inputs.shape[0])
                return inputs

        model = sequential(Plain())
        rows.clear()
        mean = marginalize(model, views=lambda x: [x, -x], draws=16, outputs="values", batch_size=12)(ZEROS + 1)
        np.testing.assert_array_equal(mean, ZEROS)
        assert set(rows) == {12}

    def test_without_noise_each_batch_is_drawn_once(self):
        model = sequential(Sampling())
        one = marginalize(model, noise=None).predict(ZEROS, batch_size=4, verbose=0)
        assert len(np.unique(one)) == one.size
        assert abs(np.var(one) - 1) < 6.5 * np.sqrt(2 / one.size)

    def test_in_a_file(self, tmp_path):
        marginal = marginalize(sequential(Sampling()), draws=3, outputs="values")
        marginal.to_model().save(tmp_path / "own.keras")
        loaded = keras.models.load_model(tmp_path / "own.keras")
        expected = marginal.predict(ZEROS, batch_size=4, verbose=0)
        np.testing.assert_array_equal(loaded.predict(ZEROS, batch_size=4, verbose=0), expected)

    def test_refusals(self):
        with pytest.raises(ValueError, match=r"no analytic form for the random numbers.*Received: draws='analytic'"):
            marginalize(sequential(Sampling()), draws="analytic", outputs="values")(ZEROS)

        class OnlyInTraining(layers.Layer):
            def call(self, inputs, training=None):
                return inputs + keras.random.normal(ops.shape(inputs)) if training else inputs

        with pytest.raises(ValueError, match="draw nothing in inference"):
            marginalize(sequential(OnlyInTraining()), outputs="values")(ZEROS)
        model = sequential(OnlyInTraining(), layers.Dropout(0.5))
        assert marginalize(model, draws=2, outputs="values")(ZEROS).shape == (12, 3)


class Forced(layers.Dropout):
    """Monte Carlo dropout as it is usually written."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


IMAGES = np.random.default_rng(0).uniform(0.5, 1.5, size=(3, 4, 4, 2)).astype("float32")


def linear_behind(noise, forced):
    """A functional model in which all that follows the noise is linear, so its mean is known."""
    inputs = keras.Input((4, 4, 2))
    outputs = noise(inputs, **({} if forced else {"training": True}))
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(outputs))


ALWAYS_ON = {
    "dropout": (lambda: layers.Dropout(0.5), False),
    "spatial": (lambda: layers.SpatialDropout2D(0.5), False),
    "gaussian": (lambda: layers.GaussianNoise(0.5), False),
    "gaussian dropout": (lambda: layers.GaussianDropout(0.3), False),
    "forced": (lambda: Forced(0.5), True),
    "depth": (lambda: StochasticDepth(layers.Rescaling(1.0), 0.5), False),
    "connect": (lambda: DropConnect(layers.Dense(2, kernel_initializer="identity"), 0.5), False),
}


class TestNoiseThatIsAlwaysOn:
    @pytest.mark.parametrize("kind", ALWAYS_ON)
    def test_mean_and_expectation(self, kind):
        make, forced = ALWAYS_ON[kind]
        model = linear_behind(make(), forced)
        expected = IMAGES.mean((1, 2)) * (2 if kind == "depth" else 1)
        mean, spread = marginalize(model, draws=600, spread=True, outputs="values")(IMAGES)
        deviation = np.asarray(spread["std"])
        assert deviation.min() > 0
        assert (np.abs(mean - expected) < 6.5 * deviation / np.sqrt(600)).all()
        # Drawn on top of a frozen draw, it would vary less or more.
        off = keras.Model(model.inputs, layers.GlobalAveragePooling2D()(make()(model.inputs[0])))
        _, plain = marginalize(off, draws=600, spread=True, outputs="values")(IMAGES)
        np.testing.assert_allclose(deviation, plain["std"], rtol=6.5 / np.sqrt(600))
        analytic = marginalize(model, draws="analytic", outputs="values")(IMAGES)
        np.testing.assert_allclose(analytic, expected, rtol=1e-5)

    @pytest.mark.parametrize("make", [lambda model: sequential_of(model), lambda model: calling(model)])
    def test_in_other_models(self, make):
        """Nested, and in a subclass; saved as well."""
        model = make(linear_behind(Forced(0.5), True))
        expected = IMAGES.mean((1, 2))
        mean = marginalize(model, draws=600, outputs="values").predict(IMAGES, verbose=0)
        assert np.abs(mean - expected).max() < 6.5 * 1.5 / np.sqrt(16 * 600)

    def test_saved(self):
        marginal = marginalize(linear_behind(layers.Dropout(0.5), False), draws=5, outputs="values")
        expected = marginal.predict(IMAGES, verbose=0)
        np.testing.assert_allclose(marginal.to_model().predict(IMAGES, verbose=0), expected, rtol=1e-6)

    def test_pooling_has_no_expectation(self):
        model = linear_behind(FractionalMaxPooling2D(1.5, data_format="channels_last"), False)
        mean, spread = marginalize(model, draws=200, spread=True, outputs="values")(IMAGES)
        off = keras.Model(model.inputs, layers.GlobalAveragePooling2D()(model.layers[1](model.inputs[0])))
        other, _ = marginalize(off, draws=200, spread=True, outputs="values")(IMAGES)
        np.testing.assert_allclose(mean, other, rtol=1e-5)
        assert np.asarray(spread["std"]).min() > 0

    def test_what_is_not_chosen_stays_as_the_model_has_it(self):
        """Another layer's noise is averaged; that which is always on is fresh in every draw."""
        model = sequential(Forced(0.5), layers.GaussianNoise(1.0))
        arguments = {"draws": 600, "noise": [layers.GaussianNoise], "spread": True, "outputs": "values"}
        _, spread = marginalize(model, **arguments)(ZEROS + 2)
        np.testing.assert_allclose(np.asarray(spread["std"]) ** 2, 1 + 4, rtol=0.4)

    def test_ensembles_draw_it_in_every_batch(self):
        model = sequential(Forced(0.5))
        predictions = Ensemble([model], outputs="values").predict(ZEROS + 1, batch_size=1, verbose=0)
        assert len(np.unique(predictions, axis=0)) > 2


def sequential_of(model):
    return keras.Sequential([keras.Input((4, 4, 2)), model])


def calling(model):
    class Calling(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = model

        def call(self, inputs):
            return self.inner(inputs)

    outer = Calling()
    outer(IMAGES)
    return outer


@keras.saving.register_keras_serializable(package="kregkit_tests")
class Counting(layers.Layer):
    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, inputs):
        self.count.assign_add(1.0)
        return inputs + self.count


class OwnVariable(layers.Layer):
    def __init__(self):
        super().__init__()
        self.count = tf.Variable(0.0, trainable=False)

    def call(self, inputs):
        return inputs + self.count.assign_add(1.0)


def stateful(kind):
    inputs = keras.Input(batch_shape=(2, 1, 3))
    return keras.Model(inputs, layers.Dropout(0.5)(kind(2, stateful=True)(inputs)))


class TestState:
    @pytest.mark.parametrize("kind", [layers.SimpleRNN, layers.LSTM, layers.GRU])
    def test_recurrent_layers_are_refused(self, kind):
        model, x = stateful(kind), np.ones((4, 1, 3), "float32")
        before = [np.asarray(state) for state in model.layers[1].states]
        for predictor in (Ensemble([model], outputs="values"), marginalize(model, outputs="values")):
            with pytest.raises(ValueError, match=rf"keeps state .*{model.layers[1].name}.states.*stateless"):
                predictor.predict(x, batch_size=2, verbose=0)
        for state, value in zip(model.layers[1].states, before):
            np.testing.assert_array_equal(state, value)

    @pytest.mark.parametrize(("kind", "name"), [(Counting, "count"), (OwnVariable, r"a tf\.Variable")])
    def test_variables_that_a_call_changes_are_refused(self, kind, name):
        model = sequential(kind(), layers.Dropout(0.5))
        for predictor in (Ensemble([model], outputs="values"), marginalize(model, outputs="values")):
            with pytest.raises(ValueError, match=rf"keeps state from one batch to the next, in .*{name}"):
                predictor.predict(ZEROS, verbose=0)

    def test_batch_normalization_that_is_always_in_training_is_the_batch_s(self):
        """Its moving statistics are no state that its outputs depend on; and each draw is normalised by itself."""
        inputs = keras.Input((3,))
        model = keras.Model(inputs, Normalizing()(layers.GaussianNoise(1.0)(inputs)))
        x = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
        alone = Ensemble([model], outputs="values").predict(x, verbose=0)
        np.testing.assert_allclose(alone.std(0), 1, atol=1e-2)
        together = marginalize(model, draws=3, outputs="values")(x)
        apart = marginalize(model, draws=3, outputs="values", batch_size=1)(x)
        np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)


class Normalizing(layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=True, mask=mask)


class Halved(keras.Model):
    def __init__(self):
        super().__init__()
        self.drop = layers.Dropout(0.5)

    def call(self, inputs, training=None):
        return self.drop(inputs, training=training)


class OwnStep(Halved):
    def predict_step(self, data):
        return self(data) / 2


class OwnFunction(Halved):
    def make_predict_function(self, force=False):
        return super().make_predict_function(force)


class OwnPredict(Halved):
    def predict(self, x, **arguments):
        return super().predict(x, **arguments) / 2


class TestOwnPrediction:
    @pytest.mark.parametrize(
        ("kind", "name"),
        [(OwnStep, "predict_step"), (OwnFunction, "make_predict_function"), (OwnPredict, "predict")],
    )
    def test_is_refused(self, kind, name):
        model = kind()
        model(ZEROS)
        for make in (lambda: Ensemble([model]), lambda: marginalize(model)):
            with pytest.raises(ValueError, match=rf"has a `{name}` of its own.*Received: model="):
                make()

    def test_of_one_object_is_refused(self):
        model = sequential(layers.Dropout(0.5))
        model.predict_step = lambda data: model(data)
        with pytest.raises(ValueError, match="has a `predict_step` of its own"):
            Ensemble([sequential(layers.Dropout(0.5)), model])

    def test_what_measures_by_itself_needs_a_measure_for_the_mean(self):
        class OwnMeasure(Halved):
            def compute_loss(self, x=None, y=None, y_pred=None, **arguments):
                return keras.ops.mean(y_pred) + 5.0

        model = OwnMeasure()
        model(ZEROS)
        model.compile("sgd", "mse")
        for one in (Ensemble([model]), marginalize(model, draws=2)):
            with pytest.raises(
                ValueError, match=r"measures by a `compute_loss` of its own.*`compile\(loss, metrics\)`"
            ):
                one.evaluate(ZEROS, ZEROS + 2.0, verbose=0)
            one.compile("mae")
            assert one.evaluate(ZEROS, ZEROS + 2.0, verbose=0) == pytest.approx(2.0)

    def test_a_subclass_without_one_is_taken(self):
        model = Halved()
        model(ZEROS)
        assert Ensemble([model]).predict(ZEROS, verbose=0).shape == (12, 3)
