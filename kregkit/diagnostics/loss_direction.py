"""Whether the loss falls towards the labels."""

import keras
import numpy as np

from kregkit._core.types import Data
from kregkit.diagnostics._ideal_outputs import agreeing_and_contradicting
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem


def loss_sign(model: keras.Model, data: Data) -> Finding:
    """Checks that outputs equal to the labels cost less than outputs that contradict them.

    The compiled loss, with its `loss_weights`, is computed for the labels themselves as outputs (for classes, 98% sure
    of the right one), and for the opposite: the next class, `1 - y`, or values mirrored at their mean. A loss that is
    lower, and negative, for the opposite has no lowest value: training runs away from the labels. Losses that don't
    compare outputs with labels of their shape are left out, and so are distances of a siamese network, which are small
    for a label of 1 but never negative.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`.

    Returns:
        A `Finding`. Its problem is named `"negated loss"`.

    Raises:
        ValueError: The model is not compiled or built, or `data` is an iterator.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", lambda y_true, y_pred: -keras.losses.mean_squared_error(y_true, y_pred))
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> loss_sign(model, (x, x.sum(1, keepdims=True))).faults
    ['negated loss']
    """
    with probing(model, data) as probe:
        x, y, _ = probe.first(64)
        labels = probe.labels(y) if model.loss is not None else []
        tasks = probe.tasks if len(probe.tasks) == len(labels) else [None] * len(labels)
        pairs = [agreeing_and_contradicting(array, task, shape) for (_, array, _, shape), task in zip(labels, tasks)]
        problems, details = [], {}
        if labels and len(pairs) == len(keras.tree.flatten(probe.prediction)) and None not in pairs:
            right = [pair[0] for pair in pairs]
            agreeing = _loss(probe, x, y, right)
            for index, ((path, *_), pair, activation) in enumerate(zip(labels, pairs, probe.activations)):
                contradicting = _loss(probe, x, y, [*right[:index], pair[1], *right[index + 1 :]])
                details[path] = {"agreeing": agreeing, "contradicting": contradicting}
                below = contradicting < 0 or activation in ("sigmoid", "softmax")
                if agreeing - contradicting > 1e-6 * (abs(agreeing) + abs(contradicting)) and below:
                    figure = f"{agreeing:.3g} for outputs equal to the labels, {contradicting:.3g} for the opposite"
                    remedy = "turn the sign of the loss (or of its loss_weights): fit makes it as small as it can"
                    problems.append(Problem("negated loss", "fail", figure, "the other way round", remedy, path))
    first = next(iter(details.values()), None)
    figure = f"{first['agreeing']:.3g} beside {first['contradicting']:.3g}" if first else "not comparable"
    return Finding("loss_sign", figure, "labels cost less than their opposite", tuple(problems), details)


def _loss(probe, x, y, outputs):
    prediction = keras.tree.pack_sequence_as(probe.prediction, [np.asarray(one, "float32") for one in outputs])
    prediction = keras.tree.map_structure(keras.ops.convert_to_tensor, prediction)
    return float(probe.loss(x, y, prediction, None, training=False)[0])
