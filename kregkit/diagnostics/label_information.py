"""Whether the inputs tell anything about the labels."""

import keras
import numpy as np

from kregkit._core.checks import check_integer
from kregkit._core.graph import all_layers
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem

# Of large images and label maps a sample of the columns tells as much.
_MAX_FEATURES, _MAX_TARGETS = 4096, 64


def label_signal(model, data, num_permutations=200):
    """Checks that inputs tell something about labels, before any network is asked to find out what.

    A kernel ridge regression predicts each example's label from all others (leave-one-out, in closed form). Its score
    is compared with the same score for labels permuted at random, as standard deviations from their mean:

    ```
    z = (score(labels) - mean(score(permuted))) / std(score(permuted))
    ```

    Shuffled labels give a `z` like a normal number's; labels of any use in images, tables or word counts give tens.
    `z < 4` fails, or warns where fewer than 10 examples per class were seen, since then even good data may hide it.
    Where every token has a label of its own, tokens are the examples.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`. The more of it, the surer; at most 1024 examples are used.
        num_permutations: Integer >= 20.

    Returns:
        A `Finding`. Its problem is named `"shuffled labels"`.

    Raises:
        ValueError: An argument is out of range, the model is not compiled or built, or `data` is an iterator.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(128, 4)).astype("float32")
    >>> label_signal(model, (x, x[:, :1])).status, label_signal(model, (x, x[::-1, :1])).faults
    ('pass', ['shuffled labels'])
    """
    check_integer("num_permutations", num_permutations, 20)
    with probing(model, data) as probe:
        x = probe.examples[0]
        arrays = [np.asarray(array) for array in keras.tree.flatten(x)]
        embeds = any(isinstance(layer, keras.layers.Embedding) for layer in all_layers(model))
        together = np.concatenate([_features(array, embeds) for array in arrays], axis=1)
        problems, details = [], {}
        for path, array, task, shape in probe.labels():
            features, labels = together, np.asarray(array)
            if embeds and len(arrays) == 1 and labels.ndim == 2 and labels.shape == arrays[0].shape:
                # A label for every token: their places are the examples.
                chosen = np.random.default_rng(0).permutation(labels.size)[:1024]
                features = _features(arrays[0].reshape(-1, 1)[chosen], embeds)
                labels = labels.reshape(-1, 1)[chosen]
            targets, classes = _targets(labels, task, shape)
            if not targets.any():
                # Constant labels: nothing to tell apart, and nothing to shuffle.
                continue
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
        first = next(iter(details.values()), None)
    figure = "constant labels" if first is None else f"z = {first['z']:.1f}"
    return Finding("label_signal", figure, "z >= 4", tuple(problems), details)


def _columns(array, limit):
    array = array.reshape(len(array), -1)
    if array.shape[1] <= limit:
        return array
    return array[:, np.sort(np.random.default_rng(0).choice(array.shape[1], limit, replace=False))]


def _features(array, embeds):
    array = _columns(array, _MAX_FEATURES)
    if np.issubdtype(array.dtype, np.integer) and (embeds or array.max(initial=0) > 255):
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
