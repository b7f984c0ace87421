import pathlib
import sys

import keras
import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import _trains

from kregkit.search import Space, cross_validate, fold_indices, log_uniform, mean_interval, search

pytestmark = pytest.mark.trains


def test_folds_are_a_partition_with_each_class_in_its_share():
    labels = np.random.default_rng(0).choice(4, 203, p=[0.5, 0.3, 0.15, 0.05])
    folds = fold_indices(labels, 5, seed=1)
    assert sorted(np.concatenate(folds).tolist()) == list(range(203))
    # As even as scikit-learn's: each class differs by at most one between folds.
    for parts in (folds, [held_out for _, held_out in StratifiedKFold(5).split(labels, labels)]):
        counts = np.array([np.bincount(labels[part], minlength=4) for part in parts])
        assert (np.ptp(counts, axis=0) <= 1).all()
    assert np.ptp([len(fold) for fold in folds]) <= 1
    plain = fold_indices(labels, 5, seed=1, stratify=False)
    assert sorted(np.concatenate(plain).tolist()) == list(range(203)) and np.ptp([len(fold) for fold in plain]) <= 1
    assert any(
        (one != other).any() for one, other in zip(folds, fold_indices(labels, 5, seed=2)) if len(one) == len(other)
    )


def linear(parameters):
    model = _trains.build({"rate": parameters.get("rate", 0.1)})
    model.layers[0].kernel.assign(np.zeros((4, 1)))
    return model


def test_each_fold_is_validated_on_what_it_was_not_trained_on():
    x, y = _trains.data()
    result = cross_validate(linear, (x, y), folds=4, epochs=3, shuffle=False, batch_size=64)
    for held_out, value, history in zip(result.indices, result.values, result.folds):
        # Full-batch descent on the mean of (xw + b - y)^2, in float64.
        rest = np.setdiff1d(np.arange(64), held_out)
        design = np.hstack([x, np.ones((64, 1))]).astype("float64")
        weights, losses = np.zeros((5, 1)), []
        for _ in range(3):
            error = design[rest] @ weights - y[rest]
            weights -= 0.1 * 2 * design[rest].T @ error / len(rest)
            losses.append(np.mean((design[held_out] @ weights - y[held_out]) ** 2))
        np.testing.assert_allclose(history["val_loss"], losses, rtol=1e-4)
        assert value == pytest.approx(min(losses), rel=1e-4)
    assert (result.mean, result.low, result.high) == mean_interval(result.values)
    np.testing.assert_allclose(result.history["val_loss"], np.mean([one["val_loss"] for one in result.folds], axis=0))


@pytest.mark.parametrize("metric", ["accuracy", keras.metrics.AUC(name="ap")])
def test_interval_of_a_fraction_stays_in_it(metric):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2)).astype("float32")
    y = (x[:, :1] + 0.7 * rng.normal(size=(60, 1)) > 0).astype("float32")

    def build(parameters):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, "sigmoid")])
        model.compile(keras.optimizers.Adam(0.3), "binary_crossentropy", metrics=[metric], run_eagerly=True)
        return model

    name = f"val_{metric if isinstance(metric, str) else metric.name}"
    result = cross_validate(build, (x, y), folds=5, epochs=2, metric=name, stratify=False)
    assert max(result.values) > min(result.values)
    assert 0 <= result.low <= result.mean <= result.high <= 1
    assert f"5 folds, {name} {result.mean:.4g}, 95% interval" in repr(result)
    assert result.values == [max(history[name]) for history in result.folds]


def test_search_by_cross_validation():
    x, y = _trains.data()
    rates = []

    def train(parameters, epochs, callbacks):
        rates.append(parameters["rate"])
        return cross_validate(
            linear, (x, y), folds=2, parameters=parameters, epochs=epochs, callbacks=callbacks, batch_size=32
        )

    result = search(train, Space(rate=log_uniform(1e-3, 100.0)), [6], epochs=[2], verbose=0)
    hopeless = [trial for trial in result.trials if trial.state == "pruned"]
    # They never came to their second fold.
    assert hopeless and all(trial.epochs <= 2 for trial in hopeless)
    assert {trial.epochs for trial in result.trials if trial.state == "complete"} == {4}
    assert result.best.parameters["rate"] < min(trial.parameters["rate"] for trial in hopeless)


@pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match the expected structure")
def test_structures_of_arrays():
    x, y = _trains.data()
    result = cross_validate(linear, ([x], y, np.ones(64)), folds=2)
    assert len(result.values) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"folds": 1}, "folds"),
        ({"data": (np.ones((3, 4)), np.ones((3, 1))), "folds": 4}, "folds"),
        ({"data": np.ones((3, 4))}, "data"),
        ({"data": (np.ones((3, 4)), np.ones(4))}, "lengths"),
        ({"epochs": 0}, "epochs"),
        ({"direction": "up"}, "direction"),
        ({"metric": "val_f1"}, "direction"),
        ({"metric": "val_mae"}, "val_mae"),
        ({"stratify": "yes"}, "stratify"),
    ],
)
def test_bad_arguments_are_refused(arguments, text):
    with pytest.raises(ValueError, match="Received: ") as error:
        cross_validate(**{"build": linear, "data": _trains.data(), "folds": 2, **arguments})
    assert text in str(error.value)
