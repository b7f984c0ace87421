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
    `loss <= floor + 5% of (start - floor)`, where the floor is the loss of a perfect prediction (zero, unless labels
    are soft).

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
        floor = _floor(probe, y)
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


def _floor(probe, y):
    """Returns the loss of a perfect prediction, or 0 where it isn't known."""
    flat = keras.tree.flatten(y)
    if len(flat) != 1 or len(probe.tasks) != 1 or probe.loss_tasks[0] is None:
        return 0.0
    task, array = probe.loss_tasks[0], np.asarray(flat[0], "float64")
    shape = tuple(keras.tree.flatten(probe.prediction)[0].shape)
    smoothing = getattr(keras.losses.get(keras.tree.flatten(probe.model.loss)[0]), "label_smoothing", 0) or 0
    if task.link == "softmax":
        if array.ndim < len(shape) or array.shape[-1] != shape[-1]:
            return 0.0
        array = np.clip(array * (1 - smoothing) + smoothing / shape[-1], 1e-12, 1)
        return float(-np.mean(np.sum(array * np.log(array), -1)))
    if task.link == "sigmoid":
        array = np.clip(array * (1 - smoothing) + smoothing / 2, 1e-12, 1 - 1e-12)
        return float(-np.mean(array * np.log(array) + (1 - array) * np.log(1 - array)))
    return 0.0
