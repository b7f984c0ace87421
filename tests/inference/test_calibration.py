import warnings

import keras
import numpy as np
import pytest
from inference import models as zoo
from keras import layers
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from kregkit.callbacks import UpdateRatio
from kregkit.data import Flips
from kregkit.inference import Calibrated, Ensemble, calibrate, marginalize
from kregkit.inference._calibrators import Calibrator

rng = np.random.default_rng(1)
X = rng.normal(size=(240, 6)).astype("float32")
# What the models predict is nearly true of these, at half the temperature.
LABELS = np.array([rng.choice(3, p=p) for p in zoo.softmax(2 * zoo.classifier(0, None)(X).numpy())])
YES = (rng.uniform(size=240) < zoo.sigmoid(2 * zoo.classifier(0, None, head=1)(X).numpy()[:, 0])).astype(int)


class Logits(ClassifierMixin, BaseEstimator):
    """What scikit-learn calibrates: a classifier whose decisions are given."""

    def __init__(self, classes=3):
        self.classes = classes

    def fit(self, x, y):
        self.classes_ = np.arange(self.classes)
        return self

    def decision_function(self, x):
        return np.asarray(x, "float64")

    def predict(self, x):
        raise NotImplementedError


def by_sklearn(logits, labels, method):
    classes = 3 if logits.shape[-1] == 3 else 2
    logits = logits if classes == 3 else logits[:, 0]
    frozen = pytest.importorskip("sklearn.frozen", reason="scikit-learn before 1.6 refits the classifier")
    known = frozen.FrozenEstimator(Logits(classes).fit(None, None))
    return CalibratedClassifierCV(known, method=method).fit(logits, labels).predict_proba(logits)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_temperature_against_scikit_learn(activation):
    model = zoo.classifier(0, activation)
    raw = model.predict(X, verbose=0)
    calibrated = calibrate(model, (X, LABELS))
    result = calibrated.predict(X, verbose=0)
    logits = raw if activation is None else np.log(raw)
    result = zoo.softmax(result) if activation is None else result
    np.testing.assert_allclose(result, by_sklearn(logits, LABELS, "temperature"), rtol=1e-4)
    assert (result.argmax(-1) == raw.argmax(-1)).all()


def test_temperature_of_a_binary_output_against_scikit_learn():
    model = zoo.classifier(0, "sigmoid", head=1, loss="binary_crossentropy")
    p = model.predict(X, verbose=0).astype("float64")
    result = calibrate(model, (X, YES)).predict(X, verbose=0)
    # Of a binary classifier it takes the logits for half of them, (-z, z), which only names the temperature otherwise.
    expected = by_sklearn(np.log(p) - np.log1p(-p), YES, "temperature")
    np.testing.assert_allclose(result[:, 0], expected[:, 1], rtol=1e-4)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_isotonic_against_scikit_learn(activation):
    model = zoo.classifier(1, activation)
    raw = model.predict(X, verbose=0)
    result = calibrate(model, (X, LABELS), "isotonic").predict(X, verbose=0)
    p = zoo.softmax(raw) if activation is None else raw
    rising = [IsotonicRegression(out_of_bounds="clip").fit(p[:, c], c == LABELS).predict(p[:, c]) for c in range(3)]
    expected = np.stack(rising, axis=-1)
    expected /= expected.sum(axis=-1, keepdims=True)
    result = zoo.softmax(result) if activation is None else result
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_isotonic_between_and_outside_of_the_knots_against_scikit_learn():
    model = zoo.classifier(0, "sigmoid", head=1, loss="binary_crossentropy")
    calibrated = calibrate(model, (X[:150], YES[:150]), "isotonic")
    p = model.predict(X, verbose=0)[:, 0]
    known = IsotonicRegression(out_of_bounds="clip").fit(p[:150], YES[:150])
    # Between two knots that lie close the line is steep: what float32 rounds in p may move the answer along it.
    low, high = known.predict(p - 1e-6), known.predict(p + 1e-6)
    found = calibrated.predict(X, verbose=0)[:, 0]
    assert np.all(found >= low - 1e-6) and np.all(found <= high + 1e-6)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_isotonic_of_equal_predictions_with_weights_against_scikit_learn(activation):
    loss = keras.losses.BinaryCrossentropy(from_logits=activation is None)
    model = zoo.classifier(0, activation, head=1, loss=loss)
    # Four examples have the same prediction, with other answers and weights.
    x, weight = np.tile(X[:60], (4, 1)), rng.integers(0, 5, 240).astype("float64")
    calibrated = calibrate(model, (x, YES, weight), "isotonic")
    raw = model.predict(X[:60], verbose=0)[:, 0]
    p = zoo.sigmoid(raw) if activation is None else raw
    known = IsotonicRegression(out_of_bounds="clip").fit(np.tile(p, 4), YES, sample_weight=weight)
    found = calibrated.predict(X[:60], verbose=0)[:, 0]
    np.testing.assert_allclose(zoo.sigmoid(found) if activation is None else found, known.predict(p), atol=1e-4)
    assert found.std() > 0.05


def test_isotonic_gives_each_class_the_same_where_none_is_left():
    task = ("probabilities", "softmax")
    never = [[0.5, 0.6], [0.0, 1.0]]
    calibrator = Calibrator("isotonic", task, {"knots": [never] * 3})
    np.testing.assert_allclose(calibrator(np.array([[0.3, 0.3, 0.4], [0.6, 0.2, 0.2]])), [[1 / 3] * 3, [1, 0, 0]])


def test_vector_against_logistic_regression():
    model = zoo.classifier(0, None, head=1, loss=keras.losses.BinaryCrossentropy(from_logits=True))
    z = model.predict(X, verbose=0).astype("float64")
    found = calibrate(model, (X, YES), "vector")
    platt = LogisticRegression(C=np.inf, tol=1e-8).fit(z, YES)
    np.testing.assert_allclose(found.calibrators[0].parameters["scale"], platt.coef_[0], rtol=1e-3)
    np.testing.assert_allclose(found.predict(X, verbose=0)[:, 0], platt.decision_function(z), atol=1e-3)


def test_vector_is_where_the_loss_is_flat():
    model = zoo.classifier(0)
    calibrated = calibrate(model, (X, LABELS), "vector")
    p = calibrated.predict(X, verbose=0).astype("float64")
    z, slope = np.log(model.predict(X, verbose=0)), p - np.eye(3)[LABELS]
    np.testing.assert_allclose(slope.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose((slope * z).mean(0), 0, atol=1e-5)


def test_sample_weights_are_copies():
    model = zoo.classifier(2)
    weight = rng.integers(0, 3, len(X)).astype("float64")
    copies = np.repeat(np.arange(len(X)), weight.astype(int))
    for method in ("temperature", "isotonic"):
        weighted = calibrate(model, (X, LABELS, weight), method).predict(X, verbose=0)
        repeated = calibrate(model, (X[copies], LABELS[copies]), method).predict(X, verbose=0)
        np.testing.assert_allclose(weighted, repeated, atol=1e-5)


def test_of_an_average_comes_last_and_saves(tmp_path):
    ensemble = Ensemble([zoo.classifier(0), zoo.classifier(1, None)])
    marginal = marginalize(zoo.classifier(0, None), draws=3)
    for predictor in (ensemble, marginal):
        calibrated = calibrate(predictor, (X, LABELS))
        assert isinstance(calibrated, Calibrated) and "temperature" in repr(calibrated)
        y = predictor.predict(X, verbose=0)
        temperature = calibrated.calibrators[0].parameters["temperature"]
        logits = np.log(y) if predictor is ensemble else y
        expected = zoo.softmax(logits / temperature)
        result = calibrated.predict(X, verbose=0)
        np.testing.assert_allclose(zoo.softmax(result) if predictor is marginal else result, expected, rtol=1e-4)
        assert calibrated.report((X, LABELS)).ensemble["log loss"] <= predictor.report((X, LABELS)).ensemble["log loss"]
        loss, _ = calibrated.evaluate(X, LABELS, verbose=0)
        assert loss == pytest.approx(calibrated.report((X, LABELS)).ensemble["log loss"], rel=1e-4)
        calibrated.to_model().save(tmp_path / "calibrated.keras")
        loaded = keras.models.load_model(tmp_path / "calibrated.keras")
        np.testing.assert_allclose(loaded.predict(X, verbose=0), result, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(calibrated(X[:4]), result[:4], rtol=1e-4, atol=1e-5)


def test_one_output_per_pixel_and_several_outputs(tmp_path):
    image = keras.Input((4, 4, 1))
    mask = layers.Conv2D(3, 1, activation="softmax", name="mask")(image)
    yes = layers.Conv2D(1, 1, activation="sigmoid", name="yes")(image)
    labels = layers.Dense(2, activation="sigmoid", name="labels")(layers.Flatten()(image))
    size = layers.Dense(1, name="size")(layers.Flatten()(image))
    model = keras.Model(image, {"mask": mask, "yes": yes, "labels": labels, "size": size})
    losses = {"mask": "sparse_categorical_crossentropy", "yes": "binary_crossentropy"}
    model.compile("sgd", {**losses, "labels": "binary_crossentropy", "size": "mse"})
    x = rng.normal(size=(120, 4, 4, 1)).astype("float32")
    y = {"mask": rng.integers(0, 3, (120, 4, 4)), "yes": rng.integers(0, 2, (120, 4, 4, 1))}
    y |= {"labels": rng.integers(0, 2, (120, 2)), "size": rng.normal(size=(120, 1))}
    raw = model.predict(x, verbose=0)
    calibrated = calibrate(model, (x, y), "vector")
    shapes = [None if each is None else len(each.parameters["scale"]) for each in calibrated.calibrators]
    assert shapes == [2, 3, None, 1]  # labels, mask, size, yes
    result = calibrated.predict(x, verbose=0)
    np.testing.assert_array_equal(result["size"], raw["size"])
    platt = LogisticRegression(C=np.inf, tol=1e-8)
    for name, column in [("labels", 1), ("yes", 0)]:
        p, target = raw[name][..., column].reshape(-1, 1).astype("float64"), y[name][..., column].reshape(-1)
        z = np.log(p) - np.log1p(-p)
        expected = platt.fit(z, target).predict_proba(z)[:, 1]
        np.testing.assert_allclose(result[name][..., column].reshape(-1), expected, atol=1e-3)
    views = calibrate(marginalize(model, views=Flips(), noise=None), (x, y))
    views.to_model().save(tmp_path / "views.keras")
    loaded = keras.models.load_model(tmp_path / "views.keras").predict(x, verbose=0)
    for name, value in views.predict(x, verbose=0).items():
        np.testing.assert_allclose(loaded[name], value, atol=1e-5)


def test_refusals():
    model = zoo.classifier(0)
    with pytest.raises(ValueError, match="Received: method='platt'"):
        calibrate(model, (X, LABELS), "platt")
    with pytest.raises(ValueError, match="Received: predictor="):
        calibrate(model.predict, (X, LABELS))
    with pytest.raises(ValueError, match="spread=False.* Received: spread=True"):
        calibrate(marginalize(model, spread=True), (X, LABELS))
    with pytest.raises(ValueError, match="no output is a classification"):
        calibrate(zoo.classifier(0, None, loss="mse"), (X, X[:, :3]))
    with pytest.raises(ValueError, match="must hold targets"):
        calibrate(model, X)
    with pytest.warns(UserWarning, match="fitted on 99 examples"):
        calibrate(model, (X[:99], LABELS[:99]))


@pytest.mark.trains
def test_what_was_trained_on_is_refused():
    model = zoo.classifier(0)
    train, held = X[:120], X[120:]
    model.fit(train, LABELS[:120], verbose=0, callbacks=[UpdateRatio()])
    for same in (train, train.copy(), X, X[60:180]):
        for predictor in (model, Ensemble([zoo.classifier(1), model]), marginalize(model)):
            with pytest.raises(ValueError, match="not trained on.* Received: validation with arrays of shape"):
                calibrate(predictor, (same, LABELS[: len(same)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrate(model, (held, LABELS[120:]))
