import keras
import numpy as np
import pytest
from inference import models as zoo
from keras import layers

from kregkit.inference import Ensemble, calibrate, marginalize

X, LABELS = zoo.X, zoo.LABELS


def test_measures_and_disagreement_against_loops():
    models = [zoo.classifier(0), zoo.classifier(1, activation=None)]
    p = [models[0].predict(X, verbose=0), zoo.softmax(models[1].predict(X, verbose=0))]
    report = Ensemble(models).report((X, LABELS))
    for found, one in [*zip(report.members, p), (report.ensemble, np.mean(p, axis=0))]:
        assert found["error"] == pytest.approx(sum(row.argmax() != y for row, y in zip(one, LABELS)) / 40)
        assert found["log loss"] == pytest.approx(-sum(np.log(row[y]) for row, y in zip(one, LABELS)) / 40, rel=1e-5)
        gap = 0.0
        for low in range(15):
            inside = [(row.max(), row.argmax() == y) for row, y in zip(one, LABELS) if low < 15 * row.max() <= low + 1]
            if inside:
                gap += abs(sum(c for c, _ in inside) - sum(right for _, right in inside)) / 40
        assert found["calibration error"] == pytest.approx(gap, rel=1e-4)
    differ = np.mean(p[0].argmax(-1) != p[1].argmax(-1))
    np.testing.assert_allclose(report.disagreement, [[0, differ], [differ, 0]])
    text = str(report)
    assert "member 2" in text and "ensemble" in text and "disagreement" in text


def test_sample_weights_and_one_hot_targets():
    models = [zoo.classifier(0), zoo.classifier(1)]
    ensemble = Ensemble(models)
    weight = np.zeros(40)
    weight[:10] = 2.0
    part = ensemble.report((X[:10], LABELS[:10]))
    whole = ensemble.report((X, np.eye(3)[LABELS], weight))
    for key, value in part.ensemble.items():
        assert whole.ensemble[key] == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(whole.disagreement, part.disagreement)


def test_binary_and_values():
    models = [zoo.classifier(seed, "sigmoid", head=1, loss="binary_crossentropy") for seed in range(2)]
    yes = (LABELS > 0).astype(int)
    p = np.mean([model.predict(X, verbose=0)[:, 0] for model in models], axis=0)
    report = Ensemble(models).report((X, yes))
    assert report.ensemble["error"] == pytest.approx(np.mean((p > 0.5) != yes))
    assert report.ensemble["log loss"] == pytest.approx(-np.log(np.where(yes, p, 1 - p)).mean(), rel=1e-5)
    models = [zoo.classifier(seed, None, head=1, loss="mse") for seed in range(2)]
    y = [model.predict(X, verbose=0)[:, 0] for model in models]
    report = Ensemble(models).report((X, X[:, 0]))
    assert report.ensemble["mean squared error"] == pytest.approx(np.mean((np.mean(y, 0) - X[:, 0]) ** 2), rel=1e-5)
    assert report.disagreement[0, 1] == pytest.approx(np.sqrt(np.mean((y[0] - y[1]) ** 2)), rel=1e-4)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_targets_that_are_no_class_are_refused(wrong):
    labels = LABELS.copy()
    labels[0] = wrong
    with pytest.raises(ValueError, match=rf"from 0 to 2;.* Received: targets from .*{wrong}"):
        Ensemble([zoo.classifier(0), zoo.classifier(1)]).report((X, labels))


def test_brier_score_and_bins_of_equal_mass_against_loops():
    model = zoo.classifier(0)
    p = model.predict(X, verbose=0).astype("float64")
    found = Ensemble([model]).report((X, LABELS)).ensemble
    expected = sum((row[c] - (c == y)) ** 2 for row, y in zip(p, LABELS) for c in range(3)) / 40
    assert found["Brier score"] == pytest.approx(expected, rel=1e-5)
    ranks = sorted(range(40), key=lambda i: p[i].max())
    gap = 0.0
    for index in range(15):
        inside = [i for rank, i in enumerate(ranks) if int((rank + 0.5) / 40 * 15) == index]
        gap += abs(sum(p[i].max() - (p[i].argmax() == LABELS[i]) for i in inside)) / 40
    assert found["equal-mass calibration error"] == pytest.approx(gap, rel=1e-4)


def test_the_brier_score_of_a_binary_output_is_the_squared_error():
    model = zoo.classifier(0, "sigmoid", head=1, loss="binary_crossentropy")
    yes = (LABELS > 0).astype(int)
    score = Ensemble([model]).report((X, yes)).ensemble["Brier score"]
    assert score == pytest.approx(np.mean((model.predict(X, verbose=0)[:, 0] - yes) ** 2), rel=1e-5)


def test_intervals_are_those_of_the_mean():
    # A mean's bootstrap interval is 1.96 standard errors wide on either side, to the order of 1 / sqrt(examples).
    x, labels = np.tile(X, (20, 1)), np.tile(LABELS, 20)
    model = zoo.classifier(0)
    right = model.predict(x, verbose=0).argmax(-1) == labels
    report = Ensemble([model]).report((x, labels))
    low, high = report.intervals["error"]
    assert high - low == pytest.approx(2 * 1.96 * np.std(right) / np.sqrt(len(x)), rel=0.15)
    assert low < report.ensemble["error"] < high and "95% from" in str(report)


def test_an_examples_decisions_are_drawn_together():
    # Eight pixels that are right or wrong together say no more than one does; the first eight are always right.
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(1, 1, activation="sigmoid", use_bias=False)])
    model.compile("sgd", "binary_crossentropy")
    sign = np.where(np.random.default_rng(0).uniform(size=400) < 0.3, -1.0, 1.0)
    sign *= np.sign(model.layers[0].kernel.numpy()).ravel()
    x = np.repeat(sign, 16).reshape(400, 4, 4, 1).astype("float32")
    x[:, :2] = np.sign(model.layers[0].kernel.numpy()).ravel()
    report = Ensemble([model]).report((x, np.ones((400, 4, 4, 1))))
    low, high = report.intervals["error"]
    error = report.ensemble["error"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(error * (0.5 - error) / 400), rel=0.15)


def test_disagreement_counts_weights_of_examples():
    models = [zoo.classifier(0), zoo.classifier(3)]
    differ = np.subtract(*(model.predict(X, verbose=0).argmax(-1) for model in models)) != 0
    assert 0 < differ.mean() < 1
    report = Ensemble(models).report((X, LABELS, differ.astype(float)))
    assert report.disagreement[0, 1] == pytest.approx(1)


def test_every_predictor_has_a_report():
    marginal = marginalize(zoo.classifier(0), draws=2, spread=True)
    report = marginal.report((X, LABELS))
    p = marginal.predict(X, verbose=0)[0]
    assert report.ensemble["log loss"] == pytest.approx(-np.log(p[np.arange(40), LABELS]).mean(), rel=1e-4)
    assert report.members == [] and report.disagreement is None and str(report).count("\n") == 3


_TWO_INPUTS = {"image": np.ones((40, 4, 4, 1), "float32"), "features": X}
_TWO_TARGETS = {"kind": LABELS, "size": X[:, 0]}


class TestAnOutputThatWeighsNothing:
    @pytest.mark.parametrize("without", ["kind", "size"])
    def test_is_named_and_the_others_are_measured(self, without):
        other = {"kind": "size", "size": "kind"}[without]
        ensemble = Ensemble([zoo.two_headed(0), zoo.two_headed(1)])
        weight = {without: np.zeros(40), other: np.linspace(0.0, 1.0, 40)}
        predictors = ensemble, marginalize(ensemble, draws=1), marginalize(zoo.two_headed(0), noise=None)
        for predictor in predictors:
            report = predictor.report((_TWO_INPUTS, _TWO_TARGETS, weight))
            expected = predictor.report((_TWO_INPUTS, {other: _TWO_TARGETS[other]}, {other: weight[other]}))
            assert report.unweighed == [without] and expected.unweighed == []
            assert report.ensemble == expected.ensemble and report.intervals == expected.intervals
            assert report.members == expected.members
            assert str(report).endswith(f"\n\n{without}: not measured, all its examples have weight 0 or are masked")
        disagreement = ensemble.report((_TWO_INPUTS, _TWO_TARGETS, weight)).disagreement
        assert list(disagreement) == [other] and disagreement[other][0, 1] > 0

    def test_without_targets_it_has_no_disagreement(self):
        ensemble = Ensemble([zoo.two_headed(0), zoo.two_headed(1)])
        weight = {"kind": np.ones(40), "size": np.zeros(40)}
        report = ensemble.report((_TWO_INPUTS, {"kind": LABELS}, weight))
        assert list(report.disagreement) == ["kind"] and report.unweighed == []

    def test_other_calls_refuse_it(self):
        ensemble = Ensemble([zoo.two_headed(0), zoo.two_headed(1)])
        nothing = {"kind": np.zeros(40), "size": np.zeros(40)}
        not_numbers = {"kind": np.full(40, np.nan), "size": np.ones(40)}
        for measure, weight in (
            (ensemble.report, nothing),
            (ensemble.report, not_numbers),
            (ensemble.select, {"kind": np.zeros(40), "size": np.ones(40)}),
            (lambda data: calibrate(ensemble, data), {"kind": np.zeros(40), "size": np.ones(40)}),
        ):
            with pytest.raises(ValueError, match="nothing to measure by.*Received: weights that sum to"):
                measure((_TWO_INPUTS, _TWO_TARGETS, weight))
