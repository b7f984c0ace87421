"""Overfit a small batch: what can learn anything at all learns twenty examples by heart."""

import keras
import numpy as np

from kregkit._core.checks import check_integer
from kregkit._core.weights import assign_values, copy_values
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem


def overfit_small_batch(model, data, num_examples=20, max_steps=300):
    """Checks that the model can bring the loss of a few examples to near zero.

    Regularisation is off: no dropout, no augmentation, no penalties; batch normalisation uses the batch. Adam trains
    from the model's present weights with rates of 1e-3, 1e-2 and 1e-4 in turn, until one reaches
    `loss <= floor + 5% of (start - floor)`, where the floor is the loss of a perfect prediction: zero for most, but not
    for soft labels, a Poisson loss or a cosine similarity.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`.
        num_examples: Integer >= 2. Defaults to `20`.
        max_steps: Integer >= 1, the steps for each rate. Defaults to `300`.

    Returns:
        A `Finding`. Its problem is named `"can't overfit"`. Details hold the `"losses"` of the best rate.

    Raises:
        ValueError: An argument is out of range, the model is not compiled or built, or `data` is an iterator.

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
        batch = probe.first(num_examples)
        # A weight of zero would make an example impossible to learn.
        x, y, _ = batch
        num = len(keras.tree.flatten(x)[0])
        start_values = copy_values(model.variables)
        floor = _floor(probe, x, y)
        best, rate = None, None
        for rate in (1e-3, 1e-2, 1e-4) if model.trainable_variables else ():
            assign_values(model.variables, start_values)
            step = probe.trainer(keras.optimizers.Adam(rate), calm=True)
            losses = []
            for _ in range(max_steps):
                losses.append(float(step(x, y, None)))
                if not np.isfinite(losses[-1]) or losses[-1] <= floor + 0.05 * (losses[0] - floor):
                    break
            finite = [loss for loss in losses if np.isfinite(loss)]
            if finite and (best is None or finite[-1] < best[-1]):
                best = finite
            if best and best[-1] <= floor + 0.05 * (best[0] - floor):
                break
        assign_values(model.variables, start_values)
        best = best or [probe.observation.loss]
    target = floor + 0.05 * (best[0] - floor)
    details = {"losses": best, "floor": floor, "target": target, "learning_rate": rate, "num": num}
    figure = f"{best[0]:.3g} to {best[-1]:.3g} in {len(best)} steps"
    problems = ()
    if not best[-1] <= target:
        problems = (
            Problem(
                "can't overfit",
                "fail",
                figure,
                f"{target:.2g} within {max_steps} steps",
                "mend what the other checks found first; then look for weights that don't train, outputs that can't "
                "take the labels' values (an activation on a regression), equal inputs with different labels, or too "
                "few units",
            ),
        )
    return Finding("overfit_small_batch", figure, f"loss below {target:.2g}", problems, details)


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
