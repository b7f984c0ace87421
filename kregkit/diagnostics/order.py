"""The order of the examples and the frequencies of the classes."""

import keras
import numpy as np

from kregkit._core.batches import is_arrays
from kregkit._core.output_kinds import task_of_loss
from kregkit._core.types import Data
from kregkit.diagnostics._label_values import is_sparse, loss_name
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem

# A class is rare where the most frequent one has so many times the others' mean count, and one more where it has so
# small a part of the mean.
_PREVAILS, _RARE, _MOST_CLASSES = 16, 1 / 50, 50
_FOCAL = ("BinaryFocalCrossentropy", "CategoricalFocalCrossentropy")


def label_distribution(model: keras.Model, data: Data) -> Finding:
    """Checks that classes are mixed, and that none of them prevails.

    How mixed: of neighbouring examples, the part with equal labels is compared with the part that chance would give,

    ```
    excess = (equal - chance) / (1 - chance)
    ```

    which is 0 for shuffled and 1 for sorted examples. What yields batches fails beyond 0.3, if chance wouldn't give as
    much in a million data sets: each step would see few of the classes. Arrays, which `fit` shuffles, warn if they are
    sorted from end to end, since `validation_split` takes the last ones unshuffled.

    How frequent: one label per example is looked at, with sample weights. A most frequent class that has 16 times the
    mean of the others (94% of two classes), or a class of at most 50 that has a fiftieth of the mean, warns; a focal
    loss is an answer to it.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`.

    Returns:
        A `Finding`. Its problems are named `"sorted data"` and `"class imbalance"`. Details: the share of each class
        and the excess, per label array.

    Raises:
        ValueError: The model is not compiled or built, or `data` is an iterator.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
    >>> model.compile("sgd", "binary_crossentropy")
    >>> x = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
    >>> label_distribution(model, (x, np.arange(200) >= 100)).faults
    ['sorted data']
    """
    with probing(model, data) as probe:
        stream = probe.data is not None and not _in_arrays(probe.data)
        labels, problems, details = probe.labels(), [], {}
        ordered = _labels_in_order(probe, stream, len(labels))
        losses = probe.losses if len(probe.losses) == len(labels) else [None] * len(labels)
        for (path, array, task, shape), loss, raw in zip(labels, losses, ordered):
            classes = _class_numbers(array, task, loss, shape)
            if classes is not None:
                weight = _weight(probe, len(classes))
                fractions = np.bincount(classes, weight, minlength=_num_classes(loss, shape)) / max(weight.sum(), 1e-12)
                details[path] = {"shares": fractions.tolist()}
                if loss_name(loss) not in _FOCAL:
                    problems += _imbalance(path, fractions)
                classes = _class_numbers(raw, task, loss, shape)
            else:
                classes = raw.reshape(-1) if raw.size == len(raw) else None
            if classes is not None:
                excess, certain = _excess(classes)
                details.setdefault(path, {})["excess"] = excess
                problems += _order(path, classes, excess, certain, stream, task)
    first = next(iter(details.values()), {})
    figure = f"most frequent {max(first['shares']):.0%}" if first.get("shares") else "no classes"
    return Finding("label_distribution", figure, "classes mixed, none prevails", tuple(problems), details)


def _in_arrays(data):
    return isinstance(data, (tuple, list)) and is_arrays(tuple(data))


def _labels_in_order(probe, stream, count):
    """Returns the label arrays as the data give them: those of arrays whole, and not in the order of the probe."""
    if not stream and probe.data is not None:
        y = keras.tree.map_structure(np.asarray, probe.data[1]) if probe.data[1] is not None else None
        return [array for _, array, _, _ in probe.labels(y)] if y is not None else []
    return [array for _, array, _, _ in probe.labels()]


def _class_numbers(array, task, loss, shape):
    """Returns one class number per example; None where there are none."""
    if task is None or task.link is None or len(array) < 2:
        return None
    array = np.asarray(array)
    flat = array.reshape(len(array), -1)
    if task.link == "softmax" and not is_sparse(loss) and flat.shape[1] > 1 and array.ndim == 2:
        one_hot = np.isin(flat, (0, 1)).all() and (flat.sum(1) == 1).all()
        return flat.argmax(1) if one_hot else None
    if flat.shape[1] != 1 or not np.isfinite(flat).all() or (flat != np.floor(flat)).any() or flat.min() < 0:
        return None
    return flat[:, 0].astype("int64") if flat.max() < 10000 else None


def _num_classes(loss, shape):
    task = task_of_loss(loss)
    return 2 if task is None or task.link == "sigmoid" or not shape else shape[-1]


def _weight(probe, num):
    weights = [w for w in keras.tree.flatten(probe.examples[2]) if w is not None and np.size(w) == num]
    return np.asarray(weights[0], "float64").reshape(-1) if len(weights) == 1 else np.ones(num)


def _imbalance(path, fractions):
    present = np.flatnonzero(fractions > 0)
    if len(present) < 2:
        return []
    largest, smallest = int(np.argmax(fractions)), int(present[np.argmin(fractions[present])])
    others = (1 - fractions[largest]) / (len(fractions) - 1)
    mean = 1 / len(present)
    remedy = (
        "accuracy will look good without learning: pass class_weight to fit or sample weights, draw classes equally, "
        "or use a focal loss, and watch the recall of the rare classes; keep it if that is what you want to predict"
    )
    if fractions[largest] > _PREVAILS * others:
        figure = f"{fractions[largest]:.1%} of examples are of class {largest}"
    elif len(fractions) <= _MOST_CLASSES and fractions[smallest] < _RARE * mean:
        figure = f"{fractions[smallest]:.2%} of examples are of class {smallest}"
    else:
        return []
    return [Problem("class imbalance", "warn", figure, "classes of like frequency", remedy, path)]


def _excess(classes):
    """Returns by how much equal labels stand together, and whether that is beyond chance."""
    num = len(classes)
    counts = np.unique(classes, return_counts=True)[1].astype("float64")
    chance = float(np.sum(counts * (counts - 1)) / (num * (num - 1))) if num > 1 else 1.0
    if num < 30 or chance >= 1:
        return 0.0, False
    equal = float(np.mean(classes[1:] == classes[:-1]))
    deviation = np.sqrt(chance * (1 - chance) / (num - 1))
    return (equal - chance) / (1 - chance), bool(equal > chance + 5 * deviation and num * (1 - chance) > 10)


def _order(path, classes, excess, certain, stream, task):
    kinds = len(np.unique(classes))
    if task is not None and task.link is not None:
        runs = 1 + int(np.sum(classes[1:] != classes[:-1]))
        if stream and kinds == 1 and len(classes) >= 100:
            figure = f"the first {len(classes)} examples are all of class {classes[0]}"
        elif stream and certain and excess > 0.3:
            figure = f"{np.mean(classes[1:] == classes[:-1]):.0%} of neighbouring examples are of one class"
        elif not stream and certain and runs == kinds:
            figure = "examples are sorted by class"
        else:
            return []
    elif kinds > 50 and (np.diff(classes) >= 0).all() | (np.diff(classes) <= 0).all():
        figure = "targets only rise or only fall"
    else:
        return []
    if stream:
        remedy = "shuffle before batching, with a buffer as large as the data if they are sorted: ds.shuffle(num)"
    else:
        remedy = (
            "shuffle x and y together (numpy.random.default_rng(0).permutation): validation_split takes the last "
            "examples as they stand; fit itself shuffles arrays unless shuffle=False"
        )
    return [Problem("sorted data", "fail" if stream and certain else "warn", figure, "mixed examples", remedy, path)]
