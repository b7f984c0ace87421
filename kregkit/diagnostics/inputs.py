"""What goes in: inputs and labels as they are, and whether the one tells of the other."""

import keras
import numpy as np

from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem

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
        `"constant features"`, `"NaN in labels"`, `"labels out of range"` and `"unscaled targets"`.

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
        x, y, _ = probe.examples
        inputs = {path: np.asarray(array) for path, array in _named(x, "input")}
        problems, details = [], {}
        prepared = _after_preprocessing(probe) if len(inputs) == 1 else None
        for path, array in inputs.items():
            problems += _finite(path, array, "NaN in inputs")
            if problems and problems[-1].where == path:
                continue
            if np.issubdtype(array.dtype, np.integer) and _tokens(probe, array):
                details[path] = {"kind": "tokens", "low": int(array.min()), "high": int(array.max())}
                problems += _token_range(probe, path, array)
                continue
            array = array if prepared is None else prepared
            statistics, found = _scale(path, array.astype("float64"))
            details[path] = statistics
            problems += found
        for (path, array), task in zip(_named(y, "label"), _fitted(probe, y)):
            problems += _labels(path, np.asarray(array), *task)
        first = next((value for value in details.values() if "mean" in value), None)
    figure = "tokens" if first is None else f"mean {first['mean']:.3g}, std {first['std']:.3g}"
    return Finding("input_statistics", figure, "mean 0, std 1, labels in range", tuple(problems), details)


def _named(structure, kind):
    if isinstance(structure, dict):
        return [(f"{kind} {name!r}", array) for name, array in structure.items()]
    flat = keras.tree.flatten(structure)
    return [(kind if len(flat) == 1 else f"{kind} {index}", array) for index, array in enumerate(flat)]


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


def _after_preprocessing(probe):
    """Returns what the first layer with weights to train receives, where only preprocessing came before."""
    before = False
    for record in probe.observation.records:
        if isinstance(record.layer, (keras.layers.Rescaling, keras.layers.Normalization)):
            before = True
        elif record.layer.weights:
            return np.asarray(record.inputs[0]) if before and record.inputs else None
    return None


def _embeddings(probe):
    return [record.layer for record in probe.observation.records if isinstance(record.layer, keras.layers.Embedding)]


def _tokens(probe, array):
    return any(isinstance(layer, keras.layers.Embedding) for layer in probe.model._flatten_layers())


def _token_range(probe, path, array):
    size = max(l.input_dim for l in probe.model._flatten_layers() if isinstance(l, keras.layers.Embedding))  # noqa: E741
    if array.min() >= 0 and array.max() < size:
        return []
    remedy = "raise the Embedding's input_dim to the vocabulary's size, or map rare tokens to one for unknown words"
    figure = f"{array.min()} to {array.max()}"
    return [Problem("tokens out of range", "fail", figure, f"0 to {size - 1}", remedy, path)]


def _fitted(probe, y):
    """Returns `(task, number of outputs)` per label array, by what the loss says."""
    shapes = [np.shape(output) for output in keras.tree.flatten(_prediction(probe))]
    tasks = [loss or task for loss, task in zip(probe.loss_tasks, probe.tasks)]
    known = list(zip(tasks, shapes))
    flat = keras.tree.flatten(y)
    return known if len(known) == len(flat) else [(None, ())] * len(flat)


def _prediction(probe):
    _ = probe.tasks
    return probe.structure


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
    return problems


def label_signal(model, data, num_permutations=200):
    """Checks that inputs tell something about labels, before any network is asked to find out what.

    A kernel ridge regression predicts each example's label from all others (leave-one-out, in closed form). Its score
    is compared with the same score for labels permuted at random, as standard deviations from their mean:

    ```
    z = (score(labels) - mean(score(permuted))) / std(score(permuted))
    ```

    Shuffled labels give a `z` like a normal number's; labels of any use in images, tables or word counts give tens.
    `z < 4` fails, or warns where fewer than 10 examples per class were seen, since then even good data may hide it.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`. The more of it, the surer; at most 1024 examples are used.
        num_permutations: Integer >= 20.

    Returns:
        A `Finding`. Its problem is named `"shuffled labels"`.

    Raises:
        ValueError: The model is not compiled or built, or `data` is an iterator.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(128, 4)).astype("float32")
    >>> label_signal(model, (x, x[:, :1])).status, label_signal(model, (x, x[::-1, :1])).faults
    ('pass', ['shuffled labels'])
    """
    with probing(model, data) as probe:
        x, y, _ = probe.examples
        features = np.concatenate([_features(np.asarray(array)) for array in keras.tree.flatten(x)], axis=1)
        fitted = _fitted(probe, y)
        problems, details = [], {}
        for (path, array), (task, shape) in zip(_named(y, "label"), fitted):
            targets, classes = _targets(np.asarray(array), task, shape)
            score, mean, std = _leave_one_out(features, targets, num_permutations)
            z = (score - mean) / std if std > 0 else 0.0
            details[path] = {"score": score, "permuted_mean": mean, "permuted_std": std, "z": z, "num": len(features)}
            if not z >= 4:
                few = len(features) < 10 * classes
                problems.append(
                    Problem(
                        "shuffled labels",
                        "warn" if few else "fail",
                        f"z = {z:.1f} over {len(features)} examples",
                        "z >= 4",
                        "look at examples beside their labels: were x and y sorted, filtered or shuffled apart? "
                        + ("Pass more examples to be sure" if few else "If the pairs are right, x hardly tells y"),
                        path,
                    )
                )
        first = next(iter(details.values()), {"z": 0.0})
    return Finding("label_signal", f"z = {first['z']:.1f}", "z >= 4", tuple(problems), details)


def _features(array):
    array = array.reshape(len(array), -1)
    if np.issubdtype(array.dtype, np.integer) and array.max(initial=0) > 255:
        # Tokens: which ones occur, folded into a table.
        counts = np.zeros((len(array), 512))
        np.add.at(counts, (np.arange(len(array))[:, None], array % 512), 1)
        array = counts
    array = np.nan_to_num(array.astype("float64"), posinf=0.0, neginf=0.0)
    array = array - array.mean(0)
    return array / np.maximum(array.std(), 1e-12)


def _targets(array, task, shape):
    """Returns the labels as centred columns, and the number of classes."""
    classes = shape[-1] if task is not None and task.link == "softmax" and shape else 1
    sparse = classes > 1 and (array.ndim < len(shape) or array.shape[-1] == 1)
    if sparse and array.reshape(len(array), -1).shape[1] == 1:
        known, numbers = np.unique(array.reshape(-1), return_inverse=True)
        targets = np.eye(len(known))[numbers]
    else:
        targets = array.reshape(len(array), -1).astype("float64")
    targets = np.nan_to_num(targets)
    return targets - targets.mean(0), max(classes, 2)


def _leave_one_out(features, targets, num_permutations):
    """Returns the mean over examples of `prediction * target`, and that score's mean and deviation when permuted."""
    num = len(features)
    squares = np.sum(features**2, axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * features @ features.T, 0)
    kernel = np.exp(-distances / max(np.median(distances), 1e-12))
    inverse = np.linalg.inv(kernel - kernel.mean() + 0.1 * np.eye(num))
    # The prediction of y_i from the others is y_i - (K^-1 y)_i / (K^-1)_ii.
    hat = np.eye(num) - inverse / np.diag(inverse)[:, None]
    np.fill_diagonal(hat, 0.0)
    rng = np.random.default_rng(0)

    def score(labels):
        return float(np.sum(labels * (hat @ labels)) / num)

    permuted = [score(targets[rng.permutation(num)]) for _ in range(num_permutations)]
    return score(targets), float(np.mean(permuted)), float(np.std(permuted))
