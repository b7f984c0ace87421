"""Whether the inputs tell anything about the labels."""

import keras
import numpy as np

from kregkit._core import rules
from kregkit._core.checks import check_integer
from kregkit._core.types import Data
from kregkit.diagnostics._calls import quiet, recorded
from kregkit.diagnostics._data import named_arrays
from kregkit.diagnostics._first_layers import first_kernel, has_embedding, numeric
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem

# Of large images and label maps a sample of the columns tells as much.
_MAX_FEATURES, _MAX_TARGETS = 4096, 64
# Of fewer examples no permutation stands out: the four of XOR are no shuffled labels.
_FEWEST = 16


@rules.checked(num_permutations=rules.whole(20, 10**6))
def label_signal(model: keras.Model, data: Data, num_permutations: int = 200) -> Finding:
    """Checks that inputs tell something about labels, before any network is asked to find out what.

    Three scores look for it, each in standard deviations from its mean over labels permuted at random:

    ```
    z = (score(labels) - mean(score(permuted))) / std(score(permuted))
    ```

    1. A kernel ridge regression predicts each example's label from all others (leave-one-out, in closed form).
    2. The largest correlation of a label with one feature, its square, or, of few features, a product of two.
    3. The same regression from what the untrained model makes of its inputs before its last layer; only computed where
       neither of the others has found anything.

    Shuffled labels give values of `z` like a normal number's; labels of any use in images, tables or word counts give
    tens. If no regression has `z >= 4`, and no correlation `z >= 5` (a largest one has more chances), there is a
    warning and no failure: what only a deep network finds, such as the parity of many numbers, looks the same. Where
    every token has a label of its own, tokens are the examples. Of fewer than 16 examples nothing is said.

    One feature that determines the labels exactly is named too: it won't be known when the model is used.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`. The more of it, the surer; at most 1024 examples are used.
        num_permutations: Integer >= 20.

    Returns:
        A `Finding`. Its problems are named `"shuffled labels"` and `"label among the inputs"`.

    Raises:
        ValueError: An argument is out of range, the model is not compiled or built, or `data` is an iterator.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(128, 4)).astype("float32")
    >>> y = x[:, :2].sum(1, keepdims=True)
    >>> label_signal(model, (x, y)).status, label_signal(model, (x, y[::-1])).faults
    ('pass', ['shuffled labels'])
    """
    check_integer("num_permutations", num_permutations, 20)
    with probing(model, data) as probe:
        x = probe.examples[0]
        arrays = [np.asarray(array) for array in keras.tree.flatten(x)]
        raw, embeds = arrays, has_embedding(model) is not None
        if len(arrays) == 1 and numeric(arrays[0]) and np.issubdtype(arrays[0].dtype, np.floating):
            # As the model scales them: a kernel's distances are those of the largest features.
            layer, seen = first_kernel(model, x)
            embeds = isinstance(layer, keras.layers.Embedding)
            arrays = arrays if seen is None else [seen.astype("int64") if embeds else seen]
        together, problems, details = _together(arrays, embeds), [], {}
        for path, array, task, shape in probe.labels():
            labels, tokens = np.asarray(array), None
            if not numeric(labels):
                continue
            if embeds and len(arrays) == 1 and labels.ndim == 2 and labels.shape == arrays[0].shape:
                # A label for every token: each token counts as an example.
                tokens = np.random.default_rng(0).permutation(labels.size)[:1024]
                labels = labels.reshape(-1, 1)[tokens]
            features = together if tokens is None else _features(arrays[0].reshape(-1, 1)[tokens], embeds)
            targets, classes = _targets(labels, task, shape)
            if not targets.any():
                # Constant labels: nothing to tell apart, and nothing to shuffle.
                continue
            row = _scores(probe, features, targets, num_permutations, tokens is None)
            details[path] = {**row, "num": len(features)}
            if len(features) >= _FEWEST and not (
                row["z"] >= 4 or row["z_correlation"] >= 5 or row.get("z_model", 0.0) >= 4
            ):
                few = len(features) < 10 * classes
                problems.append(
                    Problem(
                        "shuffled labels",
                        "warn",
                        f"z = {row['z']:.1f} over {len(features)} examples",
                        "z >= 4",
                        "look at examples beside their labels: were x and y sorted, filtered or shuffled apart? "
                        + ("Pass more examples to be sure" if few else "If the pairs are right, x hardly tells y"),
                        path,
                    )
                )
            problems += _leaks(path, raw, probe.examples[0], labels, task) if tokens is None else []
        first = next(iter(details.values()), None)
    nothing = "constant labels" if probe.labels() else "no labels"
    figure = nothing if first is None else f"z = {max(v for k, v in first.items() if k[0] == 'z'):.1f}"
    return Finding("label_signal", figure, "z >= 4", tuple(problems), details)


def _together(arrays, embeds):
    """Returns all inputs as columns; of two alike, as of a siamese network, their distances too."""
    columns = [_features(array, embeds) for array in arrays]
    if len(columns) > 1 and len({array.shape for array in columns}) == 1:
        columns += [_standard((columns[0] - columns[1]) ** 2), _standard(columns[0] * columns[1])]
    return np.concatenate(columns, axis=1)


def _scores(probe, features, targets, num_permutations, by_model):
    """Returns the three scores: see `label_signal`."""
    score, mean, std = _leave_one_out(features, targets, num_permutations)
    z = (score - mean) / std if std > 0 else 0.0
    row = {"score": score, "permuted_mean": mean, "permuted_std": std, "z": z}
    row["z_correlation"] = _largest_correlation(features, targets, num_permutations)
    if by_model and z < 4 and row["z_correlation"] < 5:
        hidden = _hidden(probe)
        if hidden is not None:
            score, mean, std = _leave_one_out(hidden, targets[: len(hidden)], num_permutations)
            row["z_model"] = (score - mean) / std if std > 0 else 0.0
    return row


def _hidden(probe, most=512):
    """Returns what the model's last layer with weights is given, as features; None where that isn't floats."""
    calls, x = [], probe.first(most)[0]
    with recorded(probe.model, calls), quiet(probe.model):
        probe.model(x, training=False)
    num = len(keras.tree.flatten(x)[0])
    weighted = [index for index, (layer, _) in enumerate(calls) if layer.weights]
    before = [outputs for _, outputs in calls[: weighted[-1]] if outputs] if weighted else []
    arrays = [output.numpy() for outputs in before[-1:] for output in outputs if output.shape[0] == num]
    return _features(arrays[0].astype("float64"), False) if arrays else None


def _largest_correlation(features, targets, num_permutations, most=1000):
    """Returns the largest correlation of a feature, its square or a product of two with a target, as a `z`."""
    features = _columns(features, most)
    if features.shape[1] <= 30:
        left, right = np.triu_indices(features.shape[1])
        features = np.concatenate([features, features[:, left] * features[:, right]], axis=1)
    rng, targets = np.random.default_rng(1), _columns(targets, 8)

    def unit(columns):
        columns = columns - columns.mean(0)
        return columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-12)

    features, targets = unit(features).astype("float32"), unit(targets).astype("float32")
    permuted = [
        float(np.abs(features.T @ targets[rng.permutation(len(targets))]).max()) for _ in range(num_permutations)
    ]
    return float((np.abs(features.T @ targets).max() - np.mean(permuted)) / max(np.std(permuted), 1e-12))


def _leaks(path, arrays, x, labels, task):
    """Names a column of a table from which the labels follow without an exception."""
    labels = labels.reshape(len(labels), -1)
    if labels.shape[1] != 1 or len(labels) < 30 or not np.isfinite(labels).all() or np.ptp(labels) == 0:
        return
    labels = labels[:, 0]
    names = [name for name, _ in named_arrays(x, "input")]
    for name, array in zip(names, arrays):
        if array.ndim != 2 or array.shape[1] < 2 or not np.issubdtype(array.dtype, np.floating):
            continue
        columns = np.nan_to_num(array.astype("float64"), posinf=0.0, neginf=0.0)
        if task is not None and task.link is not None and len(np.unique(labels)) <= 50:
            groups = [columns[labels == kind] for kind in np.unique(labels)]
            fixed = np.all([np.ptp(group, axis=0) == 0 for group in groups], axis=0)
            firsts = np.sort([group[0] for group in groups], axis=0)
            leaking = fixed & (np.diff(firsts, axis=0) != 0).all(0)
        else:
            centred, target = columns - columns.mean(0), labels.astype("float64") - labels.mean(dtype="float64")
            slope = centred.T @ target / np.maximum((centred**2).sum(0), 1e-300)
            rest = ((target[:, None] - centred * slope) ** 2).sum(0)
            leaking = rest < 1e-10 * (target**2).sum()
        for column in np.flatnonzero(leaking)[:3]:
            remedy = "drop it: a feature that holds the answer is missing when the model is used"
            figure = f"column {column} determines every label"
            yield Problem("label among the inputs", "warn", figure, "no column does", remedy, f"{name}, {path}")


def _columns(array, limit):
    array = array.reshape(len(array), -1)
    if array.shape[1] <= limit:
        return array
    return array[:, np.sort(np.random.default_rng(0).choice(array.shape[1], limit, replace=False))]


def _features(array, embeds):
    array = _columns(array, _MAX_FEATURES)
    if not numeric(array):
        # Strings: each one is a token.
        array = np.unique(array.astype(str), return_inverse=True)[1].reshape(array.shape) + 256
    if np.issubdtype(array.dtype, np.integer) and (embeds or array.max(initial=0) > 255):
        # Tokens: which ones occur, folded into a table.
        counts = np.zeros((len(array), 512))
        np.add.at(counts, (np.arange(len(array))[:, None], array % 512), 1)
        array = counts
    return _standard(np.nan_to_num(array.astype("float64"), posinf=0.0, neginf=0.0))


def _standard(array):
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
        targets = _columns(array, _MAX_TARGETS).astype("float64")
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
    rng = np.random.default_rng(0)

    def score(labels):
        return float(np.sum(labels * (hat @ labels)) / num)

    permuted = [score(targets[rng.permutation(num)]) for _ in range(num_permutations)]
    return score(targets), float(np.mean(permuted)), float(np.std(permuted))
