"""Whether a larger or a smaller value of a metric is better, and which values it can have."""

import math
import re

import keras

from kregkit._core import keras_internals
from kregkit._core.checks import check_choice, shown

# Keras's metrics by the names of their classes. `Mean` and `Sum` are of whatever they are given: not among them.
_LARGER = (
    *("Accuracy", "BinaryAccuracy", "CategoricalAccuracy", "SparseCategoricalAccuracy", "TopKCategoricalAccuracy"),
    *("SparseTopKCategoricalAccuracy", "AUC", "Precision", "PrecisionAtRecall", "Recall", "RecallAtPrecision"),
    *("SensitivityAtSpecificity", "SpecificityAtSensitivity", "TruePositives", "TrueNegatives", "F1Score"),
    *("FBetaScore", "IoU", "BinaryIoU", "MeanIoU", "OneHotIoU", "OneHotMeanIoU", "R2Score", "CosineSimilarity"),
    *("PearsonCorrelation", "ConcordanceCorrelation"),
)
_SMALLER = (
    *("FalsePositives", "FalseNegatives", "MeanSquaredError", "RootMeanSquaredError", "MeanAbsoluteError"),
    *("MeanAbsolutePercentageError", "MeanSquaredLogarithmicError", "LogCoshError", "Hinge", "SquaredHinge"),
    *("CategoricalHinge", "KLDivergence", "Poisson", "BinaryCrossentropy", "CategoricalCrossentropy"),
    *("SparseCategoricalCrossentropy",),
)
# What Keras knows or logs besides a class's name and that name in snake case.
_LARGER_ALIASES = ("acc", "ACC", "fbeta_score")
_SMALLER_ALIASES = (
    *("loss", "mse", "MSE", "mae", "MAE", "mape", "MAPE", "msle", "MSLE", "bce", "BCE", "kld", "KLD", "logcosh"),
    *("log_cosh", "huber", "binary_focal_crossentropy", "categorical_focal_crossentropy"),
)


def _snake_case(name):
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


_BY_NAME = {
    **{name: "max" for known in _LARGER for name in (known, _snake_case(known))},
    **{name: "min" for known in _SMALLER for name in (known, _snake_case(known))},
    **dict.fromkeys(_LARGER_ALIASES, "max"),
    **dict.fromkeys(_SMALLER_ALIASES, "min"),
}
# Of `_LARGER`, what isn't a fraction.
_OTHER_BOUNDS = {
    **dict.fromkeys(("TruePositives", "TrueNegatives"), (0.0, math.inf)),
    **dict.fromkeys(("CosineSimilarity", "PearsonCorrelation", "ConcordanceCorrelation"), (-1.0, 1.0)),
    "R2Score": (-math.inf, 1.0),
}
_BOUNDS = {
    name: _OTHER_BOUNDS.get(known, (0.0, 1.0)) for known in _LARGER for name in (known, _snake_case(known))
} | dict.fromkeys(_LARGER_ALIASES, (0.0, 1.0))
# Not even the name counts: the metric derives from one of Keras's and computes another result.
_CHANGED = "changed"


def direction(monitor, mode="auto", model=None, argument="mode"):
    """Returns `"min"` or `"max"`: which values of a logged quantity are better.

    With `mode="auto"` the answer is, in this order,

    - what the compiled model's own metric of that name says: the class is one of Keras's, or a class that inherits
      its `result`; a loss, or a function from `keras.losses` or `keras.metrics`; or a metric or function with an
      attribute `larger_is_better`, `True` or `False`, or a metric that sets `_direction` as Keras's own do;
    - what Keras's own names mean: `"loss"` and the `"_loss"` of one output, and the names and aliases of Keras's
      metrics, exactly, with `"val_"` before them and Keras's number (`"auc_1"`) behind them. Before a metric's name
      may stand the name of one of the model's outputs.

    `EarlyStopping` in Keras knows less: no aliases, no functions, and no metric of several outputs.

    Args:
        monitor: String, the quantity's name in `logs`, such as `"val_loss"`.
        mode: `"min"`, `"max"`, or `"auto"`.
        model: Optional compiled model that logs the quantity.
        argument: String, what the caller's argument `mode` is called, for the message.

    Raises:
        ValueError: `mode` is `"auto"` and the direction isn't known; the model's metric has a value per class or per
            threshold, none of which is the one to compare.

    >>> direction("val_loss"), direction("val_accuracy")
    ('min', 'max')
    """
    check_choice(argument, mode, ("auto", "min", "max"))
    if not isinstance(monitor, str) or not monitor:
        raise ValueError(f"`monitor` must be the name of a logged quantity. Received: monitor={shown(monitor)}")
    name = monitor.removeprefix("val_")
    metrics = _metrics_named(name, model) if model is not None else []
    for metric in metrics:
        _check_one_value(monitor, metric, model)
    if mode != "auto":
        return mode
    answers = {_of_metric(metric) for metric in metrics}
    answer = answers.pop() if len(answers) == 1 else _CHANGED if answers else None
    if answer is None:
        answer = "min" if name.endswith("_loss") else _of_name(name)
    if answer in (None, _CHANGED):
        raise ValueError(
            f"Whether a larger or a smaller {monitor!r} is better is neither known from its name nor told by a metric "
            f'of the model. Pass `{argument}="max"` if larger is better, `{argument}="min"` if smaller is. '
            f"Received: {argument}='auto'"
        )
    return answer


def bounds(monitor, model=None):
    """Returns `(lowest, highest)` possible values of a logged quantity, infinite where Keras's metric has no bound.

    The metric is found as in `direction`; of others nothing is known.

    >>> bounds("val_accuracy"), bounds("val_loss")
    ((0.0, 1.0), (-inf, inf))
    """
    name = monitor.removeprefix("val_")
    metrics = _metrics_named(name, model) if model is not None else []
    known = {_bounds_of(metric) for metric in metrics} or {_BOUNDS.get(name) or _BOUNDS.get(_unnumbered(name))}
    limits = known.pop() if len(known) == 1 else None
    return limits or (-math.inf, math.inf)


def one_value(name, value):
    """Returns a logged value as a float.

    Raises:
        ValueError: It is several values, such as those of `keras.metrics.F1Score()`, which has one per class.

    >>> one_value("val_loss", 0.5), one_value("f1_score", [0.25])
    (0.5, 0.25)
    """
    values = keras.ops.convert_to_numpy(value)
    if values.size != 1:
        raise _several_values(name, f"{name} of shape {values.shape}")
    return float(values.item())


def has_one_value(value):
    """Returns whether a logged value is one number."""
    return keras.ops.convert_to_numpy(value).size == 1


def _several_values(name, received):
    return ValueError(
        f"{name!r} has several values at each epoch, of which none is the one to compare. Let the metric return one "
        "number: `average='macro'` of F1Score and FBetaScore, `class_aggregation='uniform_average'` of R2Score, one "
        f"of the `thresholds` of Precision or Recall. Received: {received}"
    )


# Metrics of Keras that take a list of thresholds and have one value for each.
_PER_THRESHOLD = ("Precision", "Recall", "TruePositives", "TrueNegatives", "FalsePositives", "FalseNegatives")


def _check_one_value(monitor, metric, model):
    """Raises ValueError where a metric of Keras is known to have several values, before any is computed."""
    if isinstance(metric, tuple(getattr(keras.metrics, name) for name in _PER_THRESHOLD)):
        several = isinstance(metric.thresholds, (list, tuple)) and len(metric.thresholds) > 1
        if several:
            raise _several_values(monitor, f"thresholds={metric.thresholds}")
    per_class = isinstance(metric, keras.metrics.FBetaScore) and metric.average is None
    if per_class or (isinstance(metric, keras.metrics.R2Score) and metric.class_aggregation is None):
        widths = {shape[-1] for shape in _output_shapes(model) if shape}
        # With outputs of several widths it isn't known which of them the metric is for.
        if len(widths) == 1 and (widths.pop() or 1) > 1:
            raise _several_values(monitor, f"metric={metric}")


def _output_shapes(model):
    outputs = getattr(model, "outputs", None)
    return [output.shape for output in outputs] if outputs else []


def _bounds_of(metric):
    base = _base_of(metric) if isinstance(metric, keras.metrics.Metric) else None
    if base is not None:
        return _BOUNDS.get(base.__name__) if type(metric).result is base.result else None
    return _BOUNDS.get(metric if isinstance(metric, str) else _own_name(metric))


def _base_of(metric):
    """Returns the class of Keras that a metric's class is or derives from, or None."""
    for base in type(metric).__mro__:
        if _BY_NAME.get(base.__name__) and getattr(keras.metrics, base.__name__, None) is base:
            return base
    return None


def _unnumbered(name):
    return re.sub(r"_\d+$", "", name)


def _of_name(name):
    return _BY_NAME.get(name) or _BY_NAME.get(_unnumbered(name))


def _metrics_named(name, model):
    """Returns the metrics of a model that may be logged under `name`: strings, functions and objects."""
    arguments = keras_internals.compile_arguments(model) or {}
    compiled = [(arguments.get(kind), kind) for kind in ("metrics", "weighted_metrics")]
    outputs = set(getattr(model, "output_names", None) or ())
    outputs |= {output for metrics, _ in compiled if isinstance(metrics, dict) for output in metrics}
    named = {}
    for metrics, kind in compiled:
        for metric in keras.tree.flatten(metrics):
            if metric is not None:
                own = metric if isinstance(metric, str) else _own_name(metric)
                for logged in (own, f"weighted_{own}") if kind == "weighted_metrics" else (own,):
                    for prefix in ("", *(f"{output}_" for output in outputs)):
                        named.setdefault(f"{prefix}{logged}", []).append(metric)
    for metric in model.metrics:
        # The compiled metrics, which have `metrics` inside, are known from the arguments, also before they are built.
        if not hasattr(metric, "metrics"):
            named.setdefault(metric.name, []).append(metric)
    # Of two metrics with one name, Keras numbers the second.
    return named.get(name) or named.get(_unnumbered(name), [])


def _own_name(metric):
    if hasattr(metric, "name"):
        return metric.name
    return _snake_case(getattr(metric, "__name__", type(metric).__name__))


def _of_metric(metric):
    """Returns `"min"`, `"max"`, `None` where only the name can tell, or `_CHANGED` where it can't either."""
    if isinstance(metric, str):
        return _of_name(metric)
    if not isinstance(metric, keras.metrics.Metric):
        return _of_function(metric)
    if isinstance(getattr(metric, "larger_is_better", None), bool):
        return "max" if metric.larger_is_better else "min"
    if type(metric) is keras.metrics.MeanMetricWrapper:
        return _of_function(keras_internals.wrapped_function(metric)) or _of_name(metric.name)
    direction_of_metric = keras_internals.metric_direction(metric)
    base = _base_of(metric)
    if base is None:
        return direction_of_metric or _of_name(metric.name)
    known = _BY_NAME[base.__name__]
    if type(metric).result is base.result:
        return known
    return direction_of_metric if direction_of_metric and direction_of_metric != known else _CHANGED


def _of_function(function):
    larger = getattr(function, "larger_is_better", None)
    if isinstance(larger, bool):
        return "max" if larger else "min"
    if isinstance(function, keras.losses.Loss) or any(function is loss for loss in vars(keras.losses).values()):
        return "min"
    return _of_name(_own_name(function))


def is_better(value, best, mode, min_delta=0.0):
    """Returns whether `value` beats `best` by more than `min_delta`; NaN beats nothing, all else beats `None`."""
    if math.isnan(value):
        return False
    if best is None:
        return True
    return value < best - min_delta if mode == "min" else value > best + min_delta
