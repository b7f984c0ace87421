import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kregkit.inference import Ensemble, calibrate, laplace, loss_along, recompute_batch_normalization, soup

_RANDOM = np.random.default_rng(0)
_X = _RANDOM.normal(size=(64, 4)).astype("float32")
_LABELS = _RANDOM.integers(0, 3, 64)


def _sparse(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def _two_outputs(as_dictionary):
    """Returns a model whose outputs are called otherwise than in the order of their letters."""
    inputs = keras.Input((4,))
    outputs = {name: layers.Dense(3, name=name)(inputs) for name in ("zebra", "ape")}
    model = keras.Model(inputs, outputs if as_dictionary else list(outputs.values()))
    model.compile("sgd", {name: _sparse() for name in outputs})
    return model


def _of_steps(loss=None, mask=False):
    embedding = layers.Embedding(8, 4, mask_zero=mask)
    model = keras.Sequential([keras.Input((6,)), embedding, layers.Dense(3, kernel_initializer="glorot_normal")])
    model.compile("sgd", loss or _sparse())
    model.layers[1].kernel.assign(20 * model.layers[1].kernel)
    model.layers[0].embeddings.assign(20 * model.layers[0].embeddings)
    return model


def _padded():
    """Returns token numbers of which the last three steps are padding, and labels that are right in none of these."""
    tokens = _RANDOM.integers(1, 8, (128, 6))
    tokens[:, 3:] = 0
    return tokens, _RANDOM.integers(0, 3, (128, 6))


class TestMatching:
    @pytest.mark.parametrize("as_dictionary", [False, True])
    def test_a_dictionary_of_targets_goes_by_the_outputs_names(self, as_dictionary):
        model = _two_outputs(as_dictionary)
        y = {"zebra": _LABELS, "ape": (_LABELS + 1) % 3}
        expected = model.evaluate(_X, y, verbose=0, return_dict=True)
        report = Ensemble([model]).report((_X, y))
        for name in y:
            assert np.isclose(report.ensemble[f"{name} log loss"], expected[f"{name}_loss"], rtol=1e-5)
        line = loss_along(model, model, (_X, y), points=3)
        assert np.allclose(line.losses, expected["loss"], rtol=1e-5)

    @pytest.mark.parametrize("as_dictionary", [False, True])
    def test_each_output_has_the_weights_of_its_name(self, as_dictionary):
        model = _two_outputs(as_dictionary)
        y = {"zebra": _LABELS, "ape": (_LABELS + 1) % 3}
        weight = {"zebra": np.repeat([1.0, 0.0], 32), "ape": np.repeat([0.0, 1.0], 32)}
        found = Ensemble([model]).report((_X, y, weight)).ensemble
        first, last = (model.evaluate(_X[rows], {n: y[n][rows] for n in y}, verbose=0, return_dict=True)
                       for rows in (slice(32), slice(32, 64)))  # fmt: skip
        assert np.isclose(found["zebra log loss"], first["zebra_loss"], rtol=1e-5)
        assert np.isclose(found["ape log loss"], last["ape_loss"], rtol=1e-5)
        with pytest.warns(UserWarning, match="64 examples"):
            calibrated = calibrate(model, (_X, y, weight))
        assert len(calibrated.calibrators) == 2
        soup([model, model], (_X, y, weight))
        Ensemble([model, model]).select((_X, y, weight))

    def test_an_output_without_targets_is_left_out(self):
        report = Ensemble([_two_outputs(False)]).report((_X, {"zebra": _LABELS}))
        assert {name.split()[0] for name in report.ensemble} == {"zebra"}

    def test_other_names_and_other_numbers_are_told(self):
        model = _two_outputs(False)
        with pytest.raises(ValueError, match="called otherwise than the model's outputs.*horse.*zebra"):
            Ensemble([model]).report((_X, {"horse": _LABELS, "cow": _LABELS}))
        with pytest.raises(ValueError, match="2 outputs. Received: 1 arrays"):
            Ensemble([model]).report((_X, _LABELS))


def test_sparse_inputs_are_measured_as_dense_ones_are():
    inputs = keras.Input((4,), sparse=True)
    model = keras.Model(inputs, layers.Dense(3)(inputs))
    model.compile("sgd", _sparse())
    dataset = tf.data.Dataset.from_tensor_slices((_X, _LABELS)).batch(20)
    sparse = dataset.map(lambda x, y: (tf.sparse.from_dense(x), y))
    for measure in (
        lambda data: Ensemble([model]).report(data).ensemble["log loss"],
        lambda data: laplace(model, data).mean,
    ):
        np.testing.assert_allclose(measure(sparse), measure(dataset), rtol=1e-5)


class TestWeights:
    def test_masked_steps_weigh_nothing(self):
        model, (tokens, labels) = _of_steps(mask=True), _padded()
        whole, seen = (tokens, labels), (tokens[:, :3], labels[:, :3])
        two = Ensemble([model, model])
        assert np.isclose(two.report(whole).ensemble["log loss"], model.evaluate(*whole, verbose=0), rtol=1e-5)
        for one in (two.report(whole).ensemble, two.report(whole).members[1]):
            assert np.isclose(one["log loss"], two.report(seen).ensemble["log loss"], rtol=1e-6)
            assert one["error"] == pytest.approx(two.report(seen).ensemble["error"])
        temperatures = [calibrate(two, data).calibrators[0].parameters["temperature"] for data in (whole, seen)]
        assert np.isclose(*temperatures, rtol=1e-6)
        first, second = (laplace(model, data, prior_precision=1.0).covariance() for data in (whole, seen))
        np.testing.assert_allclose(first, second, rtol=1e-10)

    def test_a_step_has_its_own_weight(self):
        model, (tokens, labels) = _of_steps(), _padded()
        weight = np.repeat([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]], 128, axis=0)
        whole, seen = (tokens, labels, weight), (tokens[:, :3], labels[:, :3])
        reports = [Ensemble([model]).report(data).ensemble["log loss"] for data in (whole, seen)]
        assert np.isclose(*reports, rtol=1e-6)
        first, second = (laplace(model, data, prior_precision=1.0) for data in (whole, seen))
        np.testing.assert_allclose(first.covariance(), second.covariance(), rtol=1e-10)
        assert np.isclose(*(one.information["log_marginal_likelihood"] for one in (first, second)))

    @pytest.mark.parametrize("ignored", [0, 255])
    def test_labels_that_the_loss_ignores_weigh_nothing(self, ignored):
        model, (tokens, _) = _of_steps(_sparse(ignore_class=ignored)), _padded()
        labels = _RANDOM.integers(1, 3, (128, 6))
        labels[:, 3:] = ignored
        seen = tokens[:, :3], labels[:, :3]
        for one in (labels, labels[:, :, None]):
            whole = tokens, one
            reports = [Ensemble([model]).report(data).ensemble["log loss"] for data in (whole, seen)]
            assert np.isclose(*reports, rtol=1e-6)
            first, second = (laplace(model, data, prior_precision=1.0).covariance() for data in (whole, seen))
            np.testing.assert_allclose(first, second, rtol=1e-10)

    def test_weights_of_0_alone_are_an_error(self):
        model = _of_steps()
        data = (*_padded(), np.zeros(128))
        for measure in (
            Ensemble([model]).report,
            lambda data: calibrate(model, data),
            lambda data: laplace(model, data),
        ):
            with pytest.raises(ValueError, match="weight 0"):
                measure(data)


class TestDataWithoutEnd:
    @pytest.mark.parametrize("reader", ["report", "select", "calibrate", "laplace", "soup", "loss_along", "statistics"])
    def test_is_told(self, reader):
        model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(), layers.Dense(3)])
        model.compile("sgd", _sparse())
        endless = tf.data.Dataset.from_tensor_slices((_X, _LABELS)).batch(20).repeat()
        readers = {
            "report": Ensemble([model]).report,
            "select": Ensemble([model, model]).select,
            "calibrate": lambda data: calibrate(model, data),
            "laplace": lambda data: laplace(model, data),
            "soup": lambda data: soup([model, model], (_X, _LABELS), data=data),
            "loss_along": lambda data: loss_along(model, model, data, normalization_data=_X),
            "statistics": lambda data: recompute_batch_normalization(model, data),
        }
        with pytest.raises(ValueError, match="must end.*repeat"):
            readers[reader](endless)

    def test_steps_are_an_end(self):
        model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
        endless = tf.data.Dataset.from_tensor_slices(_X).batch(16).repeat()
        recompute_batch_normalization(model, endless, steps=4)
        np.testing.assert_allclose(model.layers[0].moving_mean, _X.mean(axis=0), atol=1e-6)
