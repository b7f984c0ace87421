"""Overfit a small batch: what can learn anything at all learns twenty examples by heart."""

import dataclasses
import math

import keras
import numpy as np

from kregkit._core.checks import check_integer
from kregkit._core.keras_internals import get_mask
from kregkit._core.types import Data
from kregkit._core.weights import assign_values, copy_values
from kregkit.diagnostics._flat_adam import FlatAdam
from kregkit.diagnostics._label_values import ignored_class
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem

# Of many labels an example, such as pixels, 1.00 to two digits.
_ACCURACY = 0.995


def overfit_small_batch(model: keras.Model, data: Data, num_examples: int = 20, max_steps: int = 300) -> Finding:
    """Checks that the model can learn a few examples by heart.

    Of a dataset, the examples lie evenly spaced: neighbours in a series of time are too much alike to be told apart. Of
    arrays they are drawn at random. Regularisation is off: no dropout, no augmentation, no penalties; batch
    normalisation uses the batch. Adam trains from the model's present weights with rates of 1e-3, 1e-2, 1e-1 and 1e-4
    in turn, until one is there:

    - classes, and yes or no: every label is predicted, an accuracy of 1.00 (0.995, where an example has many labels).
      A loss says less: 5% of a high start may still be worse than guessing;
    - values, and labels that are all equal: `loss <= floor + 5% of (start - floor)`, where the floor is the loss of a
      perfect prediction, zero for most, but not for soft labels, a Poisson loss or a cosine similarity; and the start
      is the first loss, or that of predicting nothing or always the mean, if that is lower.

    Args:
        model: A compiled Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`.
        num_examples: Integer >= 2. Defaults to `20`.
        max_steps: Integer >= 1, the steps for each rate. Defaults to `300`.

    Returns:
        A `Finding`. Its problem is named `"can't overfit"`. Details hold the `"losses"` of the best rate, and its
        `"accuracy"`, `None` where there are no classes.

    Raises:
        ValueError: An argument is out of range, the model is not compiled, or `data` is an iterator.

    Example:

    >>> import keras, numpy as np
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((30,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 30)).astype("float32")
    >>> overfit_small_batch(model, (x, x[:, :1])).status
    'pass'
    """
    check_integer("num_examples", num_examples, 2)
    check_integer("max_steps", max_steps, 1)
    with probing(model, data) as probe:
        # A sample weight of zero would make an example impossible to learn.
        x, y, _ = probe.spread(num_examples)
        num = len(keras.tree.flatten(x)[0])
        start_values = copy_values(model.variables)
        floor, classes = _floor(probe, x, y), _classes(probe, y)
        best = _Run(None, [probe.observation.loss], None)
        optimizer = FlatAdam()
        step = probe.trainer(optimizer, calm=True, predicts=True) if model.trainable_variables else None
        for rate in (1e-3, 1e-2, 1e-1, 1e-4) if step else ():
            assign_values(model.variables, start_values)
            optimizer.restart(rate)
            run = _run(probe, step, rate, x, y, classes, floor, max_steps)
            if best.rate is None or run.rank() > best.rank():
                best = run
            if best.learnt or probe.cut:
                break
        assign_values(model.variables, start_values)
        target = _target(probe, x, y, best.losses[0], floor)
    details = {
        "losses": best.losses, "floor": floor, "target": target, "learning_rate": best.rate, "num": num,
        "accuracy": best.accuracy,
    }  # fmt: skip
    figure = f"{best.losses[0]:.3g} to {best.losses[-1]:.3g} in {len(best.losses)} steps"
    expected = f"loss below {target:.2g}"
    if best.accuracy is not None:
        figure, expected = f"accuracy {best.accuracy:.2f}, loss {figure}", "accuracy 1.00"
    problems: tuple[Problem, ...] = ()
    if not best.learnt and not probe.cut:
        problems = (
            Problem(
                "can't overfit",
                "fail",
                figure,
                f"{expected} within {max_steps} steps",
                "mend what the other checks found first; then look for weights that don't train, outputs that can't "
                "take the labels' values (an activation on a regression), equal inputs with different labels, or too "
                "few units",
            ),
        )
    return Finding("overfit_small_batch", figure, expected, problems, details)


@dataclasses.dataclass
class _Run:
    """A trial at one rate: its losses, and the accuracy at the end, None where there are no classes."""

    rate: float | None
    losses: list
    accuracy: float | None
    learnt: bool = False

    def rank(self):
        return (self.learnt, self.accuracy or 0.0, -self.losses[-1])


def _run(probe, step, rate, x, y, classes, floor, max_steps):
    run, target = _Run(rate, [], None), None
    for count in range(max_steps):
        loss, prediction = step(x, y, None)
        if not np.isfinite(loss):
            break
        run.losses.append(float(loss))
        if target is None:
            target = _target(probe, x, y, run.losses[0], floor)
        if classes:
            run.accuracy = _accuracy(classes, prediction)
        run.learnt = run.losses[-1] <= target if run.accuracy is None else run.accuracy >= _ACCURACY
        if run.learnt:
            break
        if probe.time_left() <= 0 and count + 1 < max_steps:
            probe.cut = f"{count + 1} of {max_steps} steps at a rate of {rate:g}"
            break
    # The loss of weights that are NaN from the start.
    run.losses = run.losses or [math.inf]
    return run


def _target(probe, x, y, start, floor):
    """Returns the loss to reach: from the start, or from what a constant prediction has, 95% of the way down."""
    starts = [start]
    outputs, labels = keras.tree.flatten(probe.prediction), probe.labels(y)
    shapes = [tuple(output.shape[1:]) for output in outputs]
    if all(task is not None and task.link is None for task in probe.loss_tasks) and len(labels) == len(outputs):
        arrays = [np.asarray(array, "float64") for _, array, _, _ in labels]
        if all(array.size == len(array) * np.prod(shape) for array, shape in zip(arrays, shapes)):
            num = len(arrays[0])
            arrays = [array.reshape(num, *shape) for array, shape in zip(arrays, shapes)]
            for guesses in (
                [np.broadcast_to(array.mean(0), array.shape) for array in arrays],
                [np.zeros(array.shape) for array in arrays],
            ):
                guesses = keras.tree.pack_sequence_as(probe.prediction, [guess.astype("float32") for guess in guesses])
                starts.append(float(probe.loss(x, y, guesses, None, training=False)[0]))
    # A constant may be perfect: labels that are all equal.
    above = [one for one in starts if np.isfinite(one) and one > floor + 1e-6 * max(1.0, abs(floor))]
    return floor + 0.05 * (min(above, default=start) - floor)


def _classes(probe, y):
    """Returns `(labels, link, whether the output is a logit)` per output of classes, or [] where accuracy says nothing.

    Labels are integers, or numbers above or below one half. All outputs must be of classes, each with labels that
    differ.
    """
    labels, classes = probe.labels(y), []
    if len(labels) != len(keras.tree.flatten(probe.prediction)):
        return []
    for loss, (_, array, task, shape) in zip(probe.losses, labels):
        array, num = np.asarray(array), len(array)
        if task is None or task.link is None:
            return []
        if task.link == "softmax" and array.size == num * np.prod(shape[1:]):
            array = array.reshape(num, *shape[1:]).argmax(-1)
        elif array.size != num * np.prod(shape[1:-1] if task.link == "softmax" else shape[1:]):
            return []
        array = array.reshape(num, *(shape[1:-1] if task.link == "softmax" else shape[1:]))
        if np.ptp(array) == 0 or (task.link == "sigmoid" and (np.abs(array - 0.5) < 0.4).any()):
            return []
        ignored = ignored_class(loss)
        counts = np.ones(array.shape, bool) if ignored is None else array != ignored
        classes.append((array, counts, task))
    return classes


def _accuracy(classes, prediction):
    right, num = 0, 0
    for (labels, counts, task), output in zip(classes, keras.tree.flatten(prediction)):
        mask = get_mask(output)
        output = np.asarray(output, "float32")
        if task.link == "softmax":
            matches = output.argmax(-1) == labels
        else:
            matches = (output > (0.0 if task.kind == "logits" else 0.5)) == (labels > 0.5)
        if mask is not None and tuple(mask.shape) == counts.shape:
            counts = counts & np.asarray(mask)
        right, num = right + int((matches & counts).sum()), num + int(counts.sum())
    return right / num if num else 1.0


def _floor(probe, x, y):
    """Returns the compiled loss of a perfect prediction, or 0 where it isn't known."""
    outputs, labels = keras.tree.flatten(probe.prediction), probe.labels(y)
    if len(outputs) != len(labels) or None in probe.loss_tasks:
        return 0.0
    perfect = []
    for loss, (_, array, task, shape) in zip(probe.losses, labels):
        array, size = np.asarray(array, "float64"), len(array)
        if task.link == "softmax" and array.size * shape[-1] == size * np.prod(shape[1:]):
            array = np.eye(shape[-1])[np.clip(array.astype(int), 0, shape[-1] - 1)]
        if array.size != size * np.prod(shape[1:]):
            return 0.0
        array = array.reshape(size, *shape[1:])
        if task.link is not None:
            smoothing = getattr(loss, "label_smoothing", 0.0)
            classes = shape[-1] if task.link == "softmax" else 2
            array = np.clip(array * (1 - smoothing) + smoothing / classes, 1e-12, 1 - 1e-12)
            if task.kind == "logits":
                array = np.log(array) if task.link == "softmax" else np.log(array) - np.log1p(-array)
        perfect.append(array.astype("float32"))
    perfect = keras.tree.pack_sequence_as(probe.prediction, perfect)
    return float(probe.loss(x, y, perfect, None, training=False)[0])
