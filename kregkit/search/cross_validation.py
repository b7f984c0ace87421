"""Training on all but one part of the data, for each part in turn."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import numpy as np

from kregkit._core import rules
from kregkit._core.checks import check_choice, check_integer, shown
from kregkit._core.folds import deal
from kregkit._core.metrics import bounds
from kregkit._core.metrics import direction as direction_of
from kregkit._core.notebook import Notebook
from kregkit._core.seeds import derived_seed
from kregkit._core.types import ArrayLike, Data
from kregkit.search._trial import best_epoch
from kregkit.search.interval import metric_interval
from kregkit.search.training import BuildAndFit


@dataclasses.dataclass(frozen=True)
class CrossValidation(Notebook):
    """What `cross_validate` found.

    Args:
        values: List of floats, the metric of each fold at its best epoch.
        mean, low, high: Floats, their mean and its 95% confidence interval (Student's, cut at the metric's bounds).
        history: Dictionary of lists: all logged quantities per epoch, as means over the folds.
        folds: List of the folds' own such dictionaries.
        indices: List of arrays: the examples on which each fold was validated.
        metric: String, what was measured.
    """

    values: list
    mean: float
    low: float
    high: float
    history: dict
    folds: list
    indices: list
    metric: str = "value"

    def __repr__(self):
        interval = f"95% interval {self.low:.4g} to {self.high:.4g}"
        return f"CrossValidation({len(self.values)} folds, {self.metric} {self.mean:.4g}, {interval})"


@rules.checked(labels=rules.rows, seed=rules.whole(0), stratify=rules.choice("auto", True, False))
def fold_indices(
    labels: ArrayLike, folds: int, seed: int = 0, stratify: bool | Literal["auto"] = "auto"
) -> list[np.ndarray]:
    """Returns one sorted array of indices per fold: a random partition into parts that differ in size by one at most.

    Args:
        labels: Array whose length is the number of examples; integers `(examples,)` are classes.
        folds: Integer.
        seed: Integer.
        stratify: Boolean, whether every fold has its share of each class; `"auto"` where labels are integers.

    >>> [fold.tolist() for fold in fold_indices([0, 0, 1, 1], 2)]
    [[0, 2], [1, 3]]
    """
    labels = np.asarray(labels)
    check_integer("folds", folds, 2)
    if len(labels) < folds:
        raise ValueError(
            f"`labels` must have an example for each fold, at least. Received: labels={shown(labels)}, folds={folds}"
        )
    check_choice("stratify", stratify if isinstance(stratify, str) else bool(stratify), ("auto", True, False))
    stratified = stratify is True or (stratify == "auto" and labels.ndim == 1 and labels.dtype.kind in "iub")
    return deal(len(labels), folds, seed, labels if stratified else None)


@rules.checked(
    data=rules.data,
    parameters=rules.mapping(none=True),
    metric=rules.word(),
    stratify=rules.choice("auto", True, False),
    seed=rules.whole(0),
    callbacks=rules.any_of(rules.function(), rules.entries(rules.callback, empty=True)),
    epochs=rules.count,
)
def cross_validate(
    build: Callable[..., keras.Model],
    data: Data,
    folds: int = 5,
    *,
    epochs: int = 1,
    parameters: dict[str, Any] | None = None,
    metric: str = "val_loss",
    direction: Literal["auto", "min", "max"] = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    stratify: bool | Literal["auto"] = "auto",
    seed: int = 0,
    **fit_arguments: Any,
) -> Any:
    """Trains a new model for each fold on the other folds and validates it on this one.

    To search by cross-validation, let `train(parameters, epochs, callbacks)` return `cross_validate(build, data,
    parameters=parameters, epochs=epochs, callbacks=callbacks)`. The search then sees the means over the folds, and
    prunes by the first.

    Args:
        build: Callable from a dictionary of parameters to a compiled model, or to `(model, fit arguments)`.
        data: `(x, y)` or `(x, y, sample_weight)`; each an array, or a list, tuple or dictionary of arrays.
        folds: Integer, at least 2. Defaults to 5.
        epochs: Integer, how long to train on each.
        parameters: Dictionary, for `build`. Defaults to an empty one.
        metric: String, the logged quantity to summarise, at each fold's best epoch. Defaults to `"val_loss"`.
        direction: `"min"`, `"max"`, or `"auto"`, which asks the model's own metric or knows Keras's names.
        callbacks: List of callbacks, the same ones in every fit.
        stratify: Boolean, whether every fold has its share of each class. Defaults to `"auto"`: where `y` is an array
            of integers `(examples,)`.
        seed: Integer, for the partition and for the weights: the same for every setting, so that settings compare.
        **fit_arguments: Further arguments of `fit`.

    Returns:
        A `CrossValidation` with `values`, `mean`, `low`, `high`, `history`, `folds` and `indices`. The interval is
        Student's over the folds' values, which share training examples: it is somewhat too narrow. That of an accuracy,
        or of another metric of Keras that can't leave a range, is cut at that range: no true mean lies beyond.

    Raises:
        ValueError: The arrays differ in length, or there are fewer examples than folds, or the metric isn't logged, or
            it isn't known which of its values are better.

    Example:

    >>> import keras, numpy as np
    >>> def build(parameters):
    ...     model = keras.Sequential([keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    ...     return model
    >>> result = cross_validate(build, (np.ones((6, 2)), np.ones((6, 1))), folds=3)
    >>> len(result.values), result.low < result.mean < result.high
    (3, True)
    """
    check_choice("direction", direction, ("auto", "min", "max"))
    check_integer("epochs", epochs, 1)
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise ValueError(f"`data` must be `(x, y)` or `(x, y, sample_weight)`. Received: data={type(data).__name__}")
    lengths = {len(array) for array in keras.tree.flatten(tuple(data))}
    if len(lengths) != 1:
        raise ValueError(f"All arrays must have one entry per example. Received: lengths={sorted(lengths)}")
    (length,) = lengths
    labels = data[1] if hasattr(data[1], "dtype") else np.empty((length, 0))
    parts = fold_indices(labels, folds, seed, stratify)
    histories = []
    for fold, held_out in enumerate(parts):
        rest = np.setdiff1d(np.arange(length), held_out)
        training, validation = _chosen(data, rest), _chosen(data, held_out)
        keras.utils.set_random_seed(derived_seed(seed, fold))
        trainer = BuildAndFit(build, training, validation, **fit_arguments)
        model, own_arguments = trainer.built(parameters or {})
        mode = direction_of(metric, direction, model, "direction")
        history = trainer.fit(model, own_arguments, epochs, callbacks).history
        histories.append({name: np.asarray(values, "float64").tolist() for name, values in history.items()})
        # A trial that the search has ended needs no further folds.
        if any(getattr(callback, "reason", None) for callback in callbacks):
            break
    values = [best_epoch(history, metric, mode)[metric] for history in histories]
    shortest = min(len(history[metric]) for history in histories)
    means = {
        name: np.mean([history[name][:shortest] for history in histories], axis=0).tolist()
        for name in histories[0]
        if all(len(history.get(name, ())) >= shortest for history in histories)
    }
    interval = metric_interval(values, bounds(metric, model))
    return CrossValidation(values, *interval, means, histories, parts, metric)


def _chosen(data, indices):
    return keras.tree.map_structure(lambda array: np.asarray(array)[indices], tuple(data))
