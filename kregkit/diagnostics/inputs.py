"""What goes in: inputs as the first weights see them, labels and sample weights as they are."""

from typing import Any

import keras
import numpy as np

from kregkit._core.graph import all_layers
from kregkit._core.types import Data
from kregkit.diagnostics._calls import recorded
from kregkit.diagnostics._data import named_arrays
from kregkit.diagnostics._first_layers import encodes, first_kernel, has_embedding, numeric, token_inputs
from kregkit.diagnostics._label_values import label_problems
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem

_PREPROCESSING_LAYERS = (keras.layers.Rescaling, keras.layers.Normalization)
_PREPROCESSING = (
    "first zero mean (subtract the training set's mean, per channel for images), then, where features "
    "differ in scale, divide by their standard deviation: keras.layers.Normalization does both"
)
# What `preprocess_input` of VGG and ResNet subtracts from blue, green and red, without a division.
_CAFFE_MEANS = np.array([103.939, 116.779, 123.68])


def input_statistics(model: keras.Model, data: Data) -> Finding:
    """Checks what the first weights see, the labels and the sample weights: finite, of unit scale, in range.

    What counts is the input of the first layer with a kernel: preprocessing inside of the model is done by then. Values
    larger than 10 in root mean square fail, and so does `|mean| > 5 std`. A root mean square outside of [0.1, 5] warns,
    and so does `|mean| > 1.5 std`. These are sound at any scale that the bounds would reject: values within [-1, 1] are
    not asked for a mean of zero, sparse rows and rows of unit length not for a root mean square above 0.1, and images
    from which the means of ImageNet's channels were subtracted are left as `preprocess_input` made them. Integers for
    an Embedding are checked for their range only; strings not at all.

    Labels must have the shape that the loss compares with the output, or be broadcast against it without a word.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, a batched `tf.data.Dataset`, or a `PyDataset`.

    Returns:
        A `Finding`. Its problems are named `"NaN in inputs"`, `"unscaled inputs"`, `"inputs not centred"`,
        `"constant features"`, `"tokens out of range"`, `"fractions into an Embedding"`, `"labels of the wrong shape"`,
        `"NaN in labels"`, `"labels out of range"`, `"no label is 0"` (of one integer label per example, the others all
        occur: they may count from 1), `"softmax for labels that can occur together"`, `"targets out of the output's
        range"` (below zero behind a relu, for example), `"constant labels"`, `"unscaled targets"`, `"NaN in sample
        weights"`, `"negative sample weights"` and `"sample weights are all 0"`.

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
        problems, details = _inputs(model, probe, x)
        # No model can be asked for its outputs on tokens that it has no row for.
        if not any(problem.name == "tokens out of range" for problem in problems):
            problems += label_problems(probe)
        for path, array in named_arrays(weight, "sample weight") if weight is not None else ():
            problems += _weights(path, array)
        first = next((value for value in details.values() if "mean" in value), None)
    figure = "no numbers" if first is None else f"mean {first['mean']:.3g}, std {first['std']:.3g}"
    if any("vocabulary" in value for value in details.values()):
        figure = "tokens"
    return Finding("input_statistics", figure, "mean 0, std 1, labels in range", tuple(problems), details)


def _inputs(model, probe, x):
    inputs, problems, details = named_arrays(x, "input"), [], {}
    rows, vocabulary, encoded = token_inputs(model), has_embedding(model), encodes(model)
    names = _input_names(model, x, len(inputs))
    prepared = None
    for (path, array), name in zip(inputs, names):
        if not numeric(array):
            details[path] = {"kind": "strings"}
            continue
        faults = finite(path, array, "NaN in inputs")
        if faults:
            problems += faults
            continue
        size, values = None, array
        if len(inputs) == 1:
            layer, seen = first_kernel(model, x)
            values = array if seen is None else seen
            size = layer.input_dim if isinstance(layer, keras.layers.Embedding) else None
        elif rows is not None and name in rows:
            if rows[name] is None:
                details[path] = {"kind": "categories"}
                continue
            size = rows[name]
        elif rows is None and np.issubdtype(array.dtype, np.integer) and (vocabulary or encoded):
            size = vocabulary
        else:
            prepared = _prepared(probe) if prepared is None else prepared
            alike = [index for index, one in enumerate(prepared) if one.shape[1:] == array.shape[1:]]
            values = prepared.pop(alike[0]) if alike else array
        if size is not None:
            low, high = float(values.min()), float(values.max())
            details[path] = {"kind": "tokens", "low": low, "high": high, "vocabulary": size}
            problems += _tokens(size, path, values)
        else:
            # Of data as large as an epoch of images, float64 would take too much memory.
            details[path], faults = _scale(path, np.asarray(values, "float32"))
            problems += faults
    return problems, details


def _input_names(model, x, count):
    """Returns the name of the model's input that each flat array goes to; None where it isn't known."""
    if isinstance(x, dict):
        return sorted(x)
    tensors = getattr(model, "inputs", None) or []
    return [tensor.name for tensor in tensors] if len(tensors) == count else [None] * count


def finite(path: str, array: Any, name: str):
    """Returns a problem of this name if an array holds NaN or infinity, in a list."""
    wrong = int(np.sum(~np.isfinite(array))) if np.issubdtype(array.dtype, np.floating) else 0
    if not wrong:
        return []
    remedy = "find where they come from (a division by zero, a missing value) and drop or fill those examples"
    return [Problem(name, "fail", f"{wrong} of {array.size} values", "all finite", remedy, path)]


def _scale(path, array):
    # Sums of many float32 numbers would lose digits.
    mean, std = float(array.mean(dtype="float64")), float(array.std(dtype="float64"))
    low, high = float(array.min()), float(array.max())
    rows = array.reshape(len(array), -1)
    fixed = np.ptp(rows, axis=0) == 0 if len(array) > 1 else np.zeros(rows.shape[1], bool)
    # In sparse rows, what few examples hold is absent from many a sample.
    sparse = not fixed.all() and float(np.mean(rows[:, ~fixed] == 0)) > 0.5
    if sparse:
        fixed &= rows[0] != 0
    constant = float(fixed.mean())
    statistics = {"mean": mean, "std": std, "low": low, "high": high, "constant_features": constant}
    size, problems = float(np.sqrt(mean**2 + std**2)), []
    figure, bounded = f"mean {mean:.3g}, std {std:.3g}", low >= -1 - 1e-6 and high <= 1 + 1e-6
    if size > 5 and _is_caffe(array):
        return {**statistics, "kind": "images without ImageNet's channel means"}, problems
    if size > 10 or (abs(mean) > 5 * std > 0 and not bounded) or 0 < size < 1e-3:
        problems.append(Problem("unscaled inputs", "fail", figure, "mean 0, std 1", _PREPROCESSING, path))
    elif size > 5 or (0 < size < 0.1 and not _is_of_unit_length(rows, sparse)):
        problems.append(Problem("unscaled inputs", "warn", figure, "std in [0.1, 5]", _PREPROCESSING, path))
    elif abs(mean) > (5 if bounded else 1.5) * std > 0:
        problems.append(Problem("inputs not centred", "warn", figure, "|mean| <= 1.5 std", _PREPROCESSING, path))
    if constant > 0.5:
        remedy = "a constant feature tells nothing: check the reading code, or drop it"
        status = "fail" if constant == 1 else "warn"
        problems.append(Problem("constant features", status, f"{constant:.0%}", "at most 50%", remedy, path))
    if std > 0 and array.ndim == 2:
        spread = rows.std(axis=0)
        spread = spread[spread > 0]
        if len(spread) > 1 and spread.max() > 1000 * np.median(spread) and not problems:
            figure = f"largest std {spread.max():.3g}, median {np.median(spread):.3g}"
            problems.append(Problem("unscaled inputs", "warn", figure, "features alike in scale", _PREPROCESSING, path))
    return statistics, problems


def _is_caffe(array):
    """Returns whether these are images of 0 to 255 from which only ImageNet's channel means were subtracted."""
    if array.ndim != 4 or array.shape[-1] != 3:
        return False
    low, high = array.min(axis=(0, 1, 2)) + _CAFFE_MEANS, array.max(axis=(0, 1, 2)) + _CAFFE_MEANS
    return bool((low > -0.1).all() and (high < 255.1).all() and (array.min(axis=(0, 1, 2)) < 0).all())


def _is_of_unit_length(rows, sparse):
    """Returns whether rows are small only since they are long: of length 1 each, or of few values that aren't."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype="float64"))
    typical = float(np.median(lengths))
    return 0.3 <= typical <= 10 if sparse else abs(typical - 1) < 1e-2 and float(lengths.std()) < 1e-2


def _prepared(probe):
    """Returns the outputs of the preprocessing layers that come before any weights to train."""
    if not any(isinstance(layer, _PREPROCESSING_LAYERS) for layer in all_layers(probe.model)):
        return []
    calls, inputs = [], []
    with recorded(probe.model, calls):
        probe.model(probe.first(128)[0], training=False)
    for layer, outputs in calls:
        if isinstance(layer, _PREPROCESSING_LAYERS):
            inputs += [output.numpy() for output in outputs]
        elif layer.weights:
            break
    return inputs


def _tokens(size, path, array):
    if np.issubdtype(array.dtype, np.floating) and (array != np.floor(array)).any():
        remedy = "an Embedding takes whole numbers and cuts off the rest: give it token numbers, unscaled"
        figure = f"{np.mean(array != np.floor(array)):.0%} of values are no whole numbers"
        return [Problem("fractions into an Embedding", "fail", figure, "token numbers", remedy, path)]
    if array.min() >= 0 and array.max() < size:
        return []
    remedy = "raise the Embedding's input_dim to the vocabulary's size, or map rare tokens to one for unknown words"
    figure = f"{array.min():.0f} to {array.max():.0f}"
    return [Problem("tokens out of range", "fail", figure, f"0 to {size - 1}", remedy, path)]


def _weights(path, array):
    problems = finite(path, array, "NaN in sample weights")
    if not problems and (array < 0).any():
        remedy = "an example with a negative weight is unlearned, without end: weights are 0 or more"
        figure = f"{np.mean(array < 0):.0%} of them"
        problems.append(Problem("negative sample weights", "fail", figure, ">= 0", remedy, path))
    elif not problems and not array.any():
        remedy = "no example counts: check how the weights are made"
        problems.append(Problem("sample weights are all 0", "fail", "0", "some above 0", remedy, path))
    return problems
