"""Whether a larger or a smaller value of a metric is better."""

import inspect
import math

import keras
import numpy as np
import pytest

from kregkit._core.metrics import bounds, direction, has_one_value, is_better, one_value


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss", "min"),
        ("val_loss", "min"),
        ("val_accuracy", "max"),
        ("val_acc", "max"),
        ("sparse_top_k_categorical_accuracy", "max"),
        ("val_AUC", "max"),
        ("auc_1", "max"),
        ("precision_at_recall", "max"),
        ("mean_io_u", "max"),
        ("sensitivity_at_specificity", "max"),
        ("true_positives", "max"),
        ("val_false_positives_3", "min"),
        ("pearson_correlation", "max"),
        ("mae", "min"),
        ("val_logcosh", "min"),
        ("root_mean_squared_error", "min"),
        ("accuracy_loss", "min"),
        ("r2_score", "max"),
        ("f1_score", "max"),
    ],
)
def test_names_of_keras(name, expected):
    assert direction(name) == expected


@pytest.mark.parametrize(
    "name",
    # Letters of "acc", "auc", "iou", "hit" or "recall" inside a name say nothing, nor does a metric's name behind
    # another word.
    ["val_backlog", "vacancy", "inaccuracy", "sauce_error", "white_noise", "various", "recalled", "not_accuracy"]
    + ["val_ap", "dice", "mean", "learning_rate", "lossless", "auc_x", "val_tower2_mse", "head_accuracy"],
)
def test_other_names_are_asked_for(name):
    with pytest.raises(ValueError, match=f"larger or a smaller '{name}'.*Pass `way=\"max\".*Received: way='auto'"):
        direction(name, argument="way")
    assert direction(name, "max") == "max"


def test_every_metric_of_keras_is_known():
    for name, known in inspect.getmembers(keras.metrics, inspect.isclass):
        if name in ("Metric", "Mean", "Sum", "MeanMetricWrapper"):
            continue
        arguments = {"IoU": (2, [0]), "MeanIoU": (2,), "OneHotIoU": (2, [0]), "OneHotMeanIoU": (2,)}.get(name)
        metric = known(*arguments or ((0.5,) if "At" in name else ()))
        by_name = direction(metric.name)
        renamed = type(metric).from_config({**metric.get_config(), "name": "renamed"})
        assert direction("val_renamed", model=compiled([renamed])) == by_name == direction(name)
        assert by_name == {"up": "max", "down": "min"}.get(getattr(metric, "_direction", None), by_name)


def compiled(metrics, outputs=1, **arguments):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, [keras.layers.Dense(1, name=f"tower{i}")(inputs) for i in range(outputs)])
    model.compile("sgd", "mse", metrics=metrics, **arguments)
    return model


class Mine(keras.metrics.Mean):
    larger_is_better = True


class ErrorRate(keras.metrics.BinaryAccuracy):
    def result(self):
        return 1 - super().result()


class Lower(ErrorRate):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self._direction = "down"


class AnotherDefault(keras.metrics.AUC):
    def __init__(self, name="ap", curve="PR", **arguments):
        super().__init__(name=name, curve=curve, **arguments)


def of_users(y_true, y_pred):
    return y_pred


def marked(y_true, y_pred):
    return y_pred


marked.larger_is_better = False


@pytest.mark.parametrize(
    ("metric", "monitor", "expected"),
    [
        (keras.metrics.AUC(curve="PR", name="ap"), "val_ap", "max"),
        (AnotherDefault(), "val_ap", "max"),
        # The object counts, not its name.
        (keras.metrics.MeanSquaredError(name="accuracy"), "val_accuracy", "min"),
        (keras.losses.cosine_similarity, "cosine_similarity", "min"),
        ("cosine_similarity", "cosine_similarity", "max"),
        (keras.losses.Dice(name="overlap"), "val_overlap", "min"),
        (keras.losses.dice, "dice", "min"),
        (keras.metrics.MeanMetricWrapper(keras.losses.huber, name="mine"), "mine", "min"),
        (keras.metrics.MeanMetricWrapper(keras.metrics.binary_accuracy, name="mine"), "mine", "max"),
        (keras.metrics.binary_accuracy, "val_binary_accuracy", "max"),
        (Mine(name="mine"), "mine", "max"),
        (marked, "val_marked", "min"),
        (Lower(name="wrong"), "wrong", "min"),
        (keras.metrics.Mean(name="accuracy"), "accuracy", "max"),
        # Unknown, whatever is known of a class that it derives from, or of a word in its name.
        (ErrorRate(), "binary_accuracy", None),
        (ErrorRate(name="wrong"), "wrong", None),
        (of_users, "of_users", None),
        (keras.metrics.Mean(name="mine"), "mine", None),
        (keras.metrics.MeanMetricWrapper(of_users, name="mine"), "mine", None),
    ],
)
def test_metrics_of_a_model(metric, monitor, expected):
    model = compiled([metric])
    if expected is None:
        with pytest.raises(ValueError, match="Pass `mode="):
            direction(monitor, model=model)
    else:
        assert direction(monitor, model=model) == expected


def test_metrics_that_a_model_keeps_itself():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.ap = keras.metrics.AUC(name="ap")

    model = Model()
    assert direction("val_ap", model=model) == "max"
    with pytest.raises(ValueError, match="Pass"):
        direction("val_other", model=model)


@pytest.mark.parametrize("fitted", [False, True])
def test_several_outputs(fitted):
    metrics = {"tower0": [keras.metrics.AUC(name="ap"), "mae"], "tower1": ["mse", keras.metrics.AUC(name="ap")]}
    model = compiled(metrics, outputs=2, weighted_metrics=["mae", [marked]])
    expected = {"tower0_ap": "max", "tower0_mae": "min", "tower1_mse": "min", "tower1_ap": "max", "tower0_loss": "min"}
    expected |= {"tower0_weighted_mae": "min", "tower1_marked": "min", "loss": "min"}
    if fitted:
        logs = model.fit(np.ones((2, 2)), [np.ones((2, 1))] * 2, verbose=0).history
        assert set(expected) <= set(logs), logs
    else:
        expected |= {"tower0_weighted_mae": "min"}
    for name, mode in expected.items():
        assert direction(f"val_{name}", model=model) == mode, name
    with pytest.raises(ValueError, match="Pass"):
        direction("tower2_mse", model=model)


def test_metrics_of_one_name_that_differ():
    model = compiled([["mae", keras.metrics.MeanSquaredError(name="score")], [keras.metrics.AUC(name="score")]], 2)
    assert direction("tower0_mae", model=model) == "min"
    with pytest.raises(ValueError, match="Pass"):
        direction("tower1_score", model=model)


def test_given_and_refused():
    assert direction("val_loss", "max") == "max"
    with pytest.raises(ValueError, match="Received: mode='up'"):
        direction("val_loss", "up")


@pytest.mark.parametrize(
    ("value", "best", "mode", "delta", "expected"),
    [
        (1.0, None, "min", 0.0, True),
        (math.nan, None, "min", 0.0, False),
        (math.nan, 1.0, "max", 0.0, False),
        (math.inf, None, "max", 0.0, True),
        (1.0, 1.0, "min", 0.0, False),
        (0.5, 1.0, "min", 0.5, False),
        (0.25, 1.0, "min", 0.5, True),
        (1.5, 1.0, "max", 0.5, False),
        (2.0, 1.0, "max", 0.5, True),
    ],
)
def test_better(value, best, mode, delta, expected):
    assert is_better(value, best, mode, delta) is expected


@pytest.mark.parametrize("monitor", [None, "", 3])
def test_a_quantity_needs_a_name(monitor):
    with pytest.raises(ValueError, match="Received: "):
        direction(monitor)


@pytest.mark.parametrize(
    ("metric", "monitor", "expected"),
    [
        (None, "val_accuracy", (0, 1)),
        (None, "auc_2", (0, 1)),
        (None, "val_cosine_similarity", (-1, 1)),
        (None, "r2_score", (-math.inf, 1)),
        (None, "val_loss", (-math.inf, math.inf)),
        (None, "val_ap", (-math.inf, math.inf)),
        (keras.metrics.AUC(name="ap"), "val_ap", (0, 1)),
        (keras.metrics.MeanAbsoluteError(name="accuracy"), "accuracy", (-math.inf, math.inf)),
        (ErrorRate(), "binary_accuracy", (-math.inf, math.inf)),
        ("acc", "val_acc", (0, 1)),
    ],
)
def test_bounds(metric, monitor, expected):
    assert bounds(monitor, metric and compiled([metric])) == expected


def multiclass(metric):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model.compile("sgd", "mse", metrics=[metric])
    return model


@pytest.mark.parametrize(
    "metric",
    [
        keras.metrics.F1Score(name="score"),
        keras.metrics.R2Score(class_aggregation=None, name="score"),
        keras.metrics.Precision(thresholds=[0.3, 0.5], name="score"),
        keras.metrics.FalseNegatives(thresholds=[0.3, 0.5], name="score"),
    ],
)
def test_metrics_with_several_values_are_refused_before_the_first(metric):
    with pytest.raises(ValueError, match="'val_score' has several values.*average='macro'.*Received: "):
        direction("val_score", "max", multiclass(metric))


def test_metrics_of_several_classes_with_one_value():
    for metric in (keras.metrics.F1Score(average="macro"), keras.metrics.Precision(thresholds=[0.5])):
        assert direction(f"val_{metric.name}", model=multiclass(metric)) == "max"
    # One output has one value, in an array.
    assert direction("val_f1_score", model=compiled([keras.metrics.F1Score(threshold=0.5)])) == "max"


def test_one_value():
    assert one_value("f1", np.array([0.25])) == 0.25
    assert one_value("f1", keras.ops.array(0.25)) == 0.25
    assert has_one_value([0.25]) and not has_one_value([0.25, 0.5])
    with pytest.raises(ValueError, match=r"'f1' has several values.*Received: f1 of shape \(2,\)"):
        one_value("f1", keras.ops.array([0.25, 0.5]))
