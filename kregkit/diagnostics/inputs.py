"""What goes in: inputs and labels as they are."""

import keras
import numpy as np

from kregkit._core.graph import all_layers
from kregkit.diagnostics._calls import recorded
from kregkit.diagnostics._data import named_arrays
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem

_PREPROCESSING_LAYERS = (keras.layers.Rescaling, keras.layers.Normalization)
_PREPROCESSING = (
    "first zero mean (subtract the training set's mean, per channel for images), then, where features "
    "differ in scale, divide by their standard deviation: keras.layers.Normalization does both"
)


def input_statistics(model, data):
    """Checks what the first weights see, and the labels: finite, zero mean, unit scale, labels in range.

    An input passes if its values are finite, `|mean| <= 0.5 std` and `0.1 <= std <= 5`. Beyond `|mean| > 5 std` or
    values larger than 10 in root mean square it fails. Where the model itself begins with preprocessing (`Rescaling`,
    `Normalization`), its output is what counts. Integer inputs (tokens) are checked for range only.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, a batched `tf.data.Dataset`, or a `PyDataset`.

    Returns:
        A `Finding`. Its problems are named `"NaN in inputs"`, `"unscaled inputs"`, `"inputs not centred"`,
        `"constant features"`, `"tokens out of range"`, `"NaN in labels"`, `"labels out of range"`,
        `"no label is 0"` (of one integer label per example, the others all occur: they may count from 1),
        `"constant labels"`, `"unscaled targets"` and `"NaN in sample weights"`.

    Raises:
        ValueError: The model is not compiled or built, or `data` is an iterator.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> input_statistics(model, (255 * x, x[:, :1])).faults
    ['unscaled inputs']
    """
    with probing(model, data) as probe:
        x, _, weight = probe.examples
        inputs = named_arrays(x, "input")
        vocabulary = max((layer.input_dim for layer in _embeddings(model)), default=None)
        problems, details, prepared = [], {}, None
        for path, array in inputs:
            found = _finite(path, array, "NaN in inputs")
            if vocabulary is not None and np.issubdtype(array.dtype, np.integer):
                details[path] = {"kind": "tokens", "low": int(array.min()), "high": int(array.max())}
                found = _token_range(vocabulary, path, array)
            elif not found:
                prepared = _prepared(probe) if prepared is None else prepared
                details[path], found = _scale(path, _replaced(array, prepared, len(inputs) == 1).astype("float64"))
            problems += found
        # No model can be asked for its outputs on tokens that it has no row for.
        if not any(problem.name == "tokens out of range" for problem in problems):
            for label in probe.labels():
                problems += _labels(*label)
        for path, array in named_arrays(weight, "sample weight") if weight is not None else ():
            problems += _finite(path, array, "NaN in sample weights")
        first = next((value for value in details.values() if "mean" in value), None)
    figure = "tokens" if first is None else f"mean {first['mean']:.3g}, std {first['std']:.3g}"
    return Finding("input_statistics", figure, "mean 0, std 1, labels in range", tuple(problems), details)


def _finite(path, array, name):
    wrong = int(np.sum(~np.isfinite(array))) if np.issubdtype(array.dtype, np.floating) else 0
    if not wrong:
        return []
    remedy = "find where they come from (a division by zero, a missing value) and drop or fill those examples"
    return [Problem(name, "fail", f"{wrong} of {array.size} values", "all finite", remedy, path)]


def _scale(path, array):
    mean, std = float(array.mean()), float(array.std())
    features = array.reshape(len(array), -1)
    constant = float(np.mean(np.ptp(features, axis=0) == 0)) if len(array) > 1 else 0.0
    statistics = {
        "mean": mean, "std": std, "low": float(array.min()), "high": float(array.max()), "constant_features": constant,
    }  # fmt: skip
    size, problems = float(np.sqrt(mean**2 + std**2)), []
    figure = f"mean {mean:.3g}, std {std:.3g}"
    if size > 10 or abs(mean) > 5 * std > 0 or 0 < size < 1e-3:
        problems.append(Problem("unscaled inputs", "fail", figure, "mean 0, std 1", _PREPROCESSING, path))
    elif size > 5 or 0 < size < 0.1:
        problems.append(Problem("unscaled inputs", "warn", figure, "std in [0.1, 5]", _PREPROCESSING, path))
    elif abs(mean) > 0.5 * std:
        problems.append(Problem("inputs not centred", "warn", figure, "|mean| <= 0.5 std", _PREPROCESSING, path))
    if constant > 0.5:
        remedy = "a constant feature tells nothing: check the reading code, or drop it"
        status = "fail" if constant == 1 else "warn"
        problems.append(Problem("constant features", status, f"{constant:.0%}", "at most 50%", remedy, path))
    if std > 0 and array.ndim == 2:
        spread = features.std(axis=0)
        spread = spread[spread > 0]
        if len(spread) > 1 and spread.max() > 1000 * np.median(spread) and not problems:
            figure = f"largest std {spread.max():.3g}, median {np.median(spread):.3g}"
            problems.append(Problem("unscaled inputs", "warn", figure, "features alike in scale", _PREPROCESSING, path))
    return statistics, problems


def _prepared(probe):
    """Returns the outputs of the preprocessing layers that come before any weights to train."""
    layers = all_layers(probe.model)
    if not any(isinstance(layer, _PREPROCESSING_LAYERS) for layer in layers):
        return []
    calls, found = [], []
    with recorded(probe.model, calls):
        probe.model(probe.first(128)[0], training=False)
    for layer, outputs in calls:
        if isinstance(layer, _PREPROCESSING_LAYERS):
            found += [output.numpy() for output in outputs]
        elif layer.weights:
            break
    return found


def _replaced(array, prepared, alone):
    """Returns what the first weights see of an input: of a single one, whatever its shape has become."""
    if alone and prepared:
        return prepared[-1]
    alike = [index for index, one in enumerate(prepared) if one.shape[1:] == array.shape[1:]]
    return prepared.pop(alike[0]) if alike else array


def _embeddings(model):
    return [layer for layer in all_layers(model) if isinstance(layer, keras.layers.Embedding)]


def _token_range(size, path, array):
    if array.min() >= 0 and array.max() < size:
        return []
    remedy = "raise the Embedding's input_dim to the vocabulary's size, or map rare tokens to one for unknown words"
    figure = f"{array.min()} to {array.max()}"
    return [Problem("tokens out of range", "fail", figure, f"0 to {size - 1}", remedy, path)]


def _labels(path, array, task, shape):
    problems = _finite(path, array, "NaN in labels")
    if problems or task is None:
        return problems
    numbers = array.astype("float64")
    if task.link == "softmax":
        classes = shape[-1]
        sparse = array.ndim < len(shape) or array.shape[-1] == 1 != classes
        if sparse:
            remedy = f"the last layer has {classes} outputs, so labels are integers from 0 to {classes - 1}"
            wrong = (numbers != np.floor(numbers)) | (numbers < 0) | (numbers >= classes)
            if wrong.any():
                figure = f"{int(wrong.sum())} of {wrong.size}, {numbers.min():g} to {numbers.max():g}"
                problems.append(
                    Problem("labels out of range", "fail", figure, f"0 to {classes - 1}", remedy, path)
                )  # fmt: skip
            elif numbers.size == len(numbers) and set(np.unique(numbers)) == set(range(1, classes)) != {1}:
                remedy = f"if labels count from 1, subtract 1, and make the last layer one of {classes - 1} outputs"
                problems.append(
                    Problem("no label is 0", "warn", f"1 to {classes - 1}", f"0 to {classes - 1}", remedy, path)
                )  # fmt: skip
        elif (numbers < 0).any() or np.abs(numbers.sum(-1) - 1).max() > 1e-3:
            remedy = "one-hot (or soft) labels are not negative and sum to one; for yes or no per class use sigmoids"
            figure = f"sums {numbers.sum(-1).min():.3g} to {numbers.sum(-1).max():.3g}"
            problems.append(Problem("labels out of range", "fail", figure, "sums of 1", remedy, path))
    elif task.link == "sigmoid":
        if numbers.min() < 0 or numbers.max() > 1:
            remedy = "a binary label is 0 or 1; for more classes use a softmax with one output per class"
            figure = f"{numbers.min():g} to {numbers.max():g}"
            problems.append(Problem("labels out of range", "fail", figure, "0 or 1", remedy, path))
    else:
        size = float(np.sqrt(np.mean(numbers**2)))
        if size > 10:
            remedy = "standardise the targets with the training set's mean and standard deviation"
            figure = f"mean {numbers.mean():.3g}, std {numbers.std():.3g}"
            problems.append(Problem("unscaled targets", "warn", figure, "mean 0, std 1", remedy, path))
    if not problems and len(numbers) > 1 and np.ptp(numbers) == 0:
        remedy = "there is nothing to tell apart: were these examples sorted or filtered by label?"
        problems.append(
            Problem("constant labels", "warn", f"all {numbers.flat[0]:g}", "labels that differ", remedy, path)
        )
    return problems
