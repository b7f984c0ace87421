"""Labels beside the outputs that they are compared with: shapes, ranges, sizes."""

import functools

import keras
import numpy as np

from kregkit._core.output_kinds import task_of_loss
from kregkit.diagnostics._first_layers import numeric
from kregkit.diagnostics.finding import Problem

_SPARSE = ("SparseCategoricalCrossentropy", "sparse_categorical_crossentropy")
_HINGE = ("Hinge", "SquaredHinge", "hinge", "squared_hinge")
_POSITIVE = {
    ("Poisson", "poisson"): "a Poisson loss counts: targets are 0 or more",
    ("MeanSquaredLogarithmicError", "mean_squared_logarithmic_error"): (
        "logarithms are taken of targets, and negative ones are cut to 0 without a word: use another loss"
    ),
}
_PERCENTAGE = ("MeanAbsolutePercentageError", "mean_absolute_percentage_error")
_RELATIVE: tuple[str, ...] = (
    _PERCENTAGE + tuple(name for names in _POSITIVE for name in names) + ("CosineSimilarity", "cosine_similarity")
)
# Targets that lie so many times further away than the outputs vary are unscaled. Ages and percentages are learnt as
# they are.
_LARGE = 60
# The lowest and the highest value that an activation can give.
_RANGES = {
    "sigmoid": (0, 1),
    "hard_sigmoid": (0, 1),
    "softmax": (0, 1),
    "tanh": (-1, 1),
    "hard_tanh": (-1, 1),
    "softsign": (-1, 1),
    "relu": (0, np.inf),
    "relu6": (0, 6),
    "softplus": (0, np.inf),
    "exponential": (0, np.inf),
    "log_sigmoid": (-np.inf, 0),
}


def loss_name(loss):
    """Returns the name of Keras's own class or function that a compiled loss is, `""` for any other."""
    if task_of_loss(loss) is None and not isinstance(loss, str):
        return ""
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    loss = loss.func if isinstance(loss, functools.partial) else loss
    return getattr(loss, "__name__", type(loss).__name__)


def is_sparse(loss):
    """Returns whether a loss takes a class's number as the label, and not a row with an entry for each class."""
    return loss_name(loss) in _SPARSE


def ignored_class(loss):
    """Returns the class number that a loss leaves out, such as 255 for the borders of a segmentation, or None."""
    options = loss.keywords if isinstance(loss, functools.partial) else vars(loss) if hasattr(loss, "__dict__") else {}
    return options.get("ignore_class")


def label_problems(probe):
    """Returns the problems of all labels, in the order of the outputs."""
    labels, problems = probe.labels(), []
    if len(labels) != len(probe.losses):
        return [problem for name, array, _, _ in labels for problem in _not_finite(name, array)]
    for (path, array, _, shape), loss, activation, output in zip(
        labels, probe.losses, probe.activations, probe.observed_outputs
    ):
        problems += _label(path, array, loss, shape, activation, output)
    return problems


def _not_finite(path, array):
    wrong = int(np.sum(~np.isfinite(array))) if np.issubdtype(array.dtype, np.floating) else 0
    remedy = "find where they come from (a division by zero, a missing value) and drop or fill those examples"
    figure = f"{wrong} of {array.size} values"
    return [Problem("NaN in labels", "fail", figure, "all finite", remedy, path)] if wrong else []


def _label(path, array, loss, shape, activation, output):
    problems = _not_finite(path, array)
    task = task_of_loss(loss)
    if problems or task is None or not numeric(array):
        return problems
    problems = _shape(path, array, loss, task, shape)
    if problems:
        return problems
    numbers = array.astype("float64")
    if task.link == "softmax":
        ignored = ignored_class(loss)
        counted = numbers if ignored is None else numbers[numbers != ignored].reshape(-1, *[1] * (numbers.ndim - 1))
        problems += _classes(path, counted, is_sparse(loss), shape[-1]) if counted.size else []
    elif task.link == "sigmoid":
        problems += _yes_or_no(path, numbers, activation)
    else:
        problems += _values(path, numbers, loss_name(loss), activation, output)
    if not problems and loss_name(loss) in _PERCENTAGE and not numbers.all():
        remedy = "a percentage of 0 has no bound: leave such targets out, or use another loss"
        figure = f"{np.mean(numbers == 0):.0%} of them are 0"
        problems.append(Problem("labels out of range", "fail", figure, "none is 0", remedy, path))
    if not problems and len(numbers) > 1 and np.ptp(numbers) == 0:
        remedy = "there is nothing to tell apart: were these examples sorted or filtered by label?"
        figure = f"all {numbers.flat[0]:g}"
        problems.append(Problem("constant labels", "warn", figure, "labels that differ", remedy, path))
    return problems


def _shape(path, array, loss, task, shape):
    """Compares the labels' shape with the one that the loss pairs with the output, whatever the number of examples."""
    given, output = array.shape[1:], tuple(shape[1:])
    if is_sparse(loss):
        expected = output[:-1]
        if given in (expected, (*expected, 1)):
            return []
        one_hot = given == output and output[-1] > 1
        remedy = "these look one-hot: compile with categorical_crossentropy, or give class numbers (y.argmax(-1))"
        remedy = remedy if one_hot else "give one class number per prediction"
    elif task.link == "softmax":
        expected = output
        if given == expected:
            return []
        remedy = "these look like class numbers: compile with sparse_categorical_crossentropy, or use keras.ops.one_hot"
        remedy = remedy if given in (output[:-1], (*output[:-1], 1)) else "give one number per class and prediction"
    else:
        expected = output
        # Keras adds or drops one last axis itself.
        if given in (expected, (*expected, 1)) or (*given, 1) == expected:
            return []
        remedy = (
            "the loss would pair every label with several outputs (broadcasting) and report a number all the same: "
            "give labels the output's shape, or the model one output per label (units, return_sequences)"
        )
    figure = f"labels {('batch', *given)}, outputs {('batch', *output)}".replace("'", "")
    bound = f"labels {('batch', *expected)}".replace("'", "")
    return [Problem("labels of the wrong shape", "fail", figure, bound, remedy, path)]


def _classes(path, numbers, sparse, classes):
    if sparse:
        wrong = (numbers != np.floor(numbers)) | (numbers < 0) | (numbers >= classes)
        if wrong.any():
            remedy = f"the last layer has {classes} outputs, so labels are integers from 0 to {classes - 1}"
            figure = f"{int(wrong.sum())} of {wrong.size}, {numbers.min():g} to {numbers.max():g}"
            yield Problem("labels out of range", "fail", figure, f"0 to {classes - 1}", remedy, path)
        elif numbers.size == len(numbers) and set(np.unique(numbers)) == set(range(1, classes)) != {1}:
            remedy = f"if labels count from 1, subtract 1, and make the last layer one of {classes - 1} outputs"
            yield Problem("no label is 0", "warn", f"1 to {classes - 1}", f"0 to {classes - 1}", remedy, path)
    elif classes > 1 and ((numbers < 0).any() or np.abs(numbers.sum(-1) - 1).max() > 1e-3):
        remedy = "one-hot (or soft) labels are not negative and sum to one; for yes or no per class use sigmoids"
        figure = f"sums {numbers.sum(-1).min():.3g} to {numbers.sum(-1).max():.3g}"
        yield Problem("labels out of range", "fail", figure, "sums of 1", remedy, path)


def _yes_or_no(path, numbers, activation):
    if numbers.min() < 0 or numbers.max() > 1:
        remedy = "a binary label is 0 or 1; for more classes use a softmax with one output per class"
        figure = f"{numbers.min():g} to {numbers.max():g}"
        yield Problem("labels out of range", "fail", figure, "0 or 1", remedy, path)
    elif activation == "softmax" and numbers.ndim > 1 and numbers.shape[-1] > 1:
        sums = numbers.sum(-1)
        if np.abs(sums - 1).max() > 1e-3:
            remedy = "end the model in sigmoids: of a softmax, one output can only rise while the others fall"
            figure = f"labels sum to {sums.min():.3g} to {sums.max():.3g}"
            name = "softmax for labels that can occur together"
            yield Problem(name, "fail", figure, "sums of 1", remedy, path)


def _values(path, numbers, name, activation, output):
    low, high = _RANGES.get(activation, (-np.inf, np.inf))
    outside = float(np.mean((numbers < low - 1e-3) | (numbers > high + 1e-3)))
    for names, remedy in _POSITIVE.items():
        if name in names and numbers.min() < 0:
            yield Problem("labels out of range", "fail", f"down to {numbers.min():.3g}", ">= 0", remedy, path)
            return
    if name in _HINGE and not np.isin(numbers, (-1, 0, 1)).all():
        remedy = "a hinge loss takes -1 and 1, or 0 and 1"
        figure = f"{numbers.min():.3g} to {numbers.max():.3g}"
        yield Problem("labels out of range", "fail", figure, "-1 or 1", remedy, path)
    elif outside and name not in _HINGE:
        remedy = f"no output of {activation} can reach them: end a regression without an activation, or scale targets"
        figure = f"{outside:.0%} of targets, {numbers.min():.3g} to {numbers.max():.3g}"
        status = "fail" if outside > 0.01 else "warn"
        bound = f"{low:g} to {high:g}, as {activation} gives"
        yield Problem("targets out of the output's range", status, figure, bound, remedy, path)
    elif activation != "exponential" and name not in _RELATIVE:
        yield from _size(path, numbers, output)


def _size(path, numbers, output):
    """Compares targets with what the untrained model gives: to a final Rescaling they may have any size."""
    offset = output.reshape(-1, output.shape[-1] if output.ndim > 1 else 1).mean(0, dtype="float64")
    spread = float(output.std(dtype="float64"))
    distance = numbers.reshape(-1, 1) - offset if len(offset) == 1 else numbers - offset
    size = float(np.sqrt(np.mean(distance**2)))
    figure = f"mean {numbers.mean():.3g}, std {numbers.std():.3g}"
    large = size > _LARGE * max(spread, 1.0)
    if large or 0 < float(np.sqrt(np.mean(numbers**2))) < 1e-3 * spread:
        remedy = (
            "standardise the targets with the training set's mean and standard deviation, or end the model in "
            "keras.layers.Rescaling(std, mean)"
        )
        yield Problem("unscaled targets", "warn", figure, "of the size of the outputs, about 1", remedy, path)
