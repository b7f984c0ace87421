"""Training on all but one part of the data, for each part in turn."""

import dataclasses

import keras
import numpy as np

from kregkit._core.checks import check_choice, check_integer
from kregkit._core.metrics import direction as direction_of
from kregkit.search._trial import best_epoch, derived_seed
from kregkit.search.interval import mean_interval
from kregkit.search.training import fit_built


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """What `cross_validate` found.

    Args:
        values: List of floats, the metric of each fold at its best epoch.
        mean, low, high: Floats, their mean and its 95% confidence interval.
        history: Dictionary of lists: all logged quantities per epoch, as means over the folds.
        folds: List of the folds' own such dictionaries.
        indices: List of arrays: the examples on which each fold was validated.
    """

    values: list
    mean: float
    low: float
    high: float
    history: dict
    folds: list
    indices: list


def fold_indices(labels, folds, seed=0, stratify="auto"):
    """Returns one sorted array of indices per fold: a random partition, in equal parts as far as can be.

    Args:
        labels: Array whose length is the number of examples; integers `(examples,)` are classes.
        folds: Integer.
        seed: Integer.
        stratify: Boolean, whether every fold has its share of each class; `"auto"` where labels are integers.

    >>> [fold.tolist() for fold in fold_indices([0, 0, 1, 1], 2)]
    [[0, 2], [1, 3]]
    """
    labels = np.asarray(labels)
    check_integer("folds", folds, 2, len(labels))
    check_choice("stratify", stratify if isinstance(stratify, str) else bool(stratify), ("auto", True, False))
    order = np.random.default_rng(seed).permutation(len(labels))
    if stratify is True or (stratify == "auto" and labels.ndim == 1 and labels.dtype.kind in "iub"):
        order = order[np.argsort(labels[order], kind="stable")]
    # Dealt like cards, a sorted deck gives each hand its share.
    return [np.sort(order[fold::folds]) for fold in range(folds)]


def cross_validate(
    build,
    data,
    folds=5,
    *,
    epochs=1,
    parameters=None,
    metric="val_loss",
    direction="auto",
    callbacks=(),
    stratify="auto",
    seed=0,
    **fit_arguments,
):
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
        direction: `"min"`, `"max"`, or `"auto"`, which decides by the metric's name.
        callbacks: List of callbacks, the same ones in every fit.
        stratify: Boolean, whether every fold has its share of each class. Defaults to `"auto"`: where `y` is an array
            of integers `(examples,)`.
        seed: Integer, for the partition and for the weights: the same for every setting, so that settings compare.
        **fit_arguments: Further arguments of `fit`; `callbacks` given there can't be, they are above.

    Returns:
        A `CrossValidation` with `values`, `mean`, `low`, `high`, `history`, `folds` and `indices`.

    Raises:
        ValueError: The arrays differ in length, or there are fewer examples than folds, or the metric isn't logged.

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
    mode = direction_of(metric, direction)
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
        history = fit_built(build, parameters or {}, training, validation, epochs, callbacks, fit_arguments).history
        histories.append({name: [float(value) for value in values] for name, values in history.items()})
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
    return CrossValidation(values, *mean_interval(values), means, histories, parts)


def _chosen(data, indices):
    return keras.tree.map_structure(lambda array: np.asarray(array)[indices], tuple(data))
