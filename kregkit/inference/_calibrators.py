"""Maps from predictions to probabilities that mean what they say: how they are fitted, and as a layer."""

import keras
import numpy as np
from keras import ops

from kregkit._core.checks import check_choice
from kregkit._core.keras_internals import get_mask, set_mask
from kregkit._core.output_kinds import Task
from kregkit.inference._averaging import Reduction
from kregkit.inference._scores import spread_weight, target_distributions

METHODS = ("temperature", "vector", "isotonic")
# Where the inverse temperature is looked for, as scikit-learn does.
_LOG_BOUNDS = (-10.0, 10.0)


@keras.saving.register_keras_serializable(package="kregkit")
class Calibrator(keras.layers.Layer):
    """Maps one output to the calibrated one, which means the same: logits stay logits, probabilities probabilities.

    With `z` the prediction's logits and `p` its probabilities,

        "temperature"  z' = z / temperature
        "vector"       z' = scale * z + shift, one of each per class
        "isotonic"     p' = f(p), a rising function per class through `knots`, linear between them, normalised

    Args:
        method: One of `METHODS`.
        task: Pair `(kind, link)`, the fields of the output's `Task`.
        parameters: Dictionary: `"temperature"`, a float; `"scale"` and `"shift"`, lists of one float per class (or one
            for all); or `"knots"`, one pair of lists, positions and heights, per class (or one for all).

    Input and output shape: the output's.
    """

    def __init__(self, method, task, parameters, **kwargs):
        super().__init__(**{"autocast": False, **kwargs})
        self.method = check_choice("method", method, METHODS)
        self.task = tuple(task)
        self.parameters = parameters
        self.supports_masking = True
        self.built = True

    def call(self, inputs):
        task = Task(*self.task)
        # Of one prediction, the way to what is averaged and back.
        reduction = Reduction("probabilities" if self.method == "isotonic" else "logits", task)
        y = reduction.transform(inputs, task)
        if self.method == "temperature":
            y = y * (1.0 / self.parameters["temperature"])
        elif self.method == "vector":
            y = y * ops.cast(self.parameters["scale"], y.dtype) + ops.cast(self.parameters["shift"], y.dtype)
        else:
            y = self._rising(y, reduction)
        return ops.cast(reduction.finish(y), inputs.dtype)

    def _rising(self, y, reduction):
        if task_is_binary(reduction.task):
            p = self._interpolated(y[..., 0] if reduction.paired else y)
            return ops.stack([p, 1.0 - p], axis=-1) if reduction.paired else p
        p = self._interpolated(y)
        total = ops.sum(p, axis=-1, keepdims=True)
        # As scikit-learn does where no class is left.
        return ops.where(total > 0, p / ops.where(total > 0, total, 1.0), 1.0 / p.shape[-1])

    def _interpolated(self, p):
        """Returns the linear interpolation between the knots, constant outside: a sum of the rises between them."""
        positions, heights = _padded(self.parameters["knots"])
        width = np.diff(positions, axis=-1)
        rise = np.diff(heights, axis=-1)
        part = (p[..., None] - ops.cast(positions[:, :-1], p.dtype)) / ops.cast(np.maximum(width, 1e-30), p.dtype)
        rises = ops.cast(rise, p.dtype) * ops.clip(part, 0.0, 1.0)
        return ops.cast(heights[:, 0], p.dtype) + ops.sum(rises, axis=-1)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "method": self.method, "task": self.task, "parameters": self.parameters}


def applied(calibrators, prediction):
    """Returns a prediction whose outputs went through their calibrators, of which some or all may be `None`."""
    if calibrators is None:
        return prediction
    flat = keras.tree.flatten(prediction)
    done = [y if calibrator is None else calibrator(y) for calibrator, y in zip(calibrators, flat, strict=True)]
    for new, y in zip(done, flat):
        set_mask(new, get_mask(y))
    return keras.tree.pack_sequence_as(prediction, done)


def task_is_binary(task):
    """Returns whether every number of an output is a probability by itself, or its logit."""
    return task.link == "sigmoid"


def _padded(knots):
    """Returns positions and heights `(classes, knots)` in float32; short ones repeat their last knot."""
    most = max(2, *(len(positions) for positions, _ in knots))
    arrays = []
    for index in range(2):
        rows = [list(pair[index]) + [pair[index][-1]] * (most - len(pair[index])) for pair in knots]
        arrays.append(np.array(rows, "float32"))
    return arrays


def fitted(method, y_true, y_pred, task, weight=None, name=None):
    """Returns the `Calibrator` that fits held-out predictions of one output best, by log loss or, isotonic, by squares.

    Args:
        method: One of `METHODS`.
        y_true: Targets: class indices, one-hot rows, or yes/no numbers.
        y_pred: Array of predictions.
        task: Their `Task`.
        weight: Array of one weight per example, or `None`.
        name: String or `None`, the layer's name.
    """
    y_pred = np.asarray(y_pred, "float64")
    target = target_distributions(y_true, y_pred, task)
    reduction = Reduction("probabilities" if method == "isotonic" else "logits", task)
    # In float64, which rounds less than the predictions' own type.
    y = np.asarray(ops.convert_to_numpy(reduction.transform(ops.convert_to_tensor(y_pred), task)))
    if task.link == "sigmoid":
        y = y[..., 0] if reduction.paired else y
        # Each label of an output (batch, labels) is a question of its own; the pixels of a mask are the same question.
        columns = y_pred.shape[-1] if y_pred.ndim == 2 else 1
        y, target = y.reshape(-1, columns), target[:, 1].reshape(-1, columns)
    else:
        y = y.reshape(-1, y.shape[-1])
    weight = spread_weight(weight, len(y))
    parameters = {"temperature": _temperature, "vector": _vector, "isotonic": _isotonic}[method](
        y, target, weight, task.link
    )
    return Calibrator(method, (task.kind, task.link), parameters, name=name)


def _loss(z, target, weight, link):
    """Returns the mean log loss of logits `(num, classes)`, and its gradient by them."""
    from scipy import special

    if link == "sigmoid":
        loss = np.logaddexp(0.0, z) - target * z
        slope = special.expit(z) - target
    else:
        total = target.sum(axis=-1, keepdims=True)
        loss = special.logsumexp(z, axis=-1, keepdims=True) * total - (target * z).sum(axis=-1, keepdims=True)
        slope = special.softmax(z, axis=-1) * total - target
    return float(weight @ loss.sum(axis=-1)), weight[:, None] * slope


def _temperature(z, target, weight, link):
    from scipy import optimize

    # As a function of the inverse temperature the loss is convex: where its slope is 0 is the one minimum.
    def slope(log_inverse):
        return float((_loss(np.exp(log_inverse) * z, target, weight, link)[1] * z).sum())

    low, high = _LOG_BOUNDS
    if slope(low) >= 0:
        found = low
    elif slope(high) <= 0:
        found = high
    else:
        found = optimize.brentq(slope, low, high, xtol=1e-12)
    return {"temperature": float(np.exp(-found))}


def _vector(z, target, weight, link):
    from scipy import optimize

    classes = z.shape[-1]

    def objective(parameters):
        scale, shift = parameters[:classes], parameters[classes:]
        loss, slope = _loss(scale * z + shift, target, weight, link)
        return loss, np.concatenate([(slope * z).sum(axis=0), slope.sum(axis=0)])

    start = np.concatenate([np.ones(classes), np.zeros(classes)])
    found = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-9})
    return {"scale": found.x[:classes].tolist(), "shift": found.x[classes:].tolist()}


def _isotonic(p, target, weight, link):
    return {"knots": [_rising_function(*column, weight) for column in zip(p.T, target.T)]}


def _rising_function(x, y, weight):
    """Returns the knots of the rising function with the least squared error: positions and heights, two lists."""
    from scipy import optimize

    used = weight > 0
    x, y, weight = x[used], y[used], weight[used]
    # Equal predictions get one height.
    positions, inverse = np.unique(x.astype("float32"), return_inverse=True)
    total = np.bincount(inverse, weight)
    mean = np.bincount(inverse, weight * y) / total
    heights = np.clip(optimize.isotonic_regression(mean, weights=total).x, 0.0, 1.0)
    # Within a level only its ends are needed.
    same = np.isclose(np.diff(heights), 0.0, atol=1e-12)
    inner = np.concatenate([[False], same[1:] & same[:-1], [False]]) if len(heights) > 1 else np.array([False])
    return positions[~inner].astype("float64").tolist(), heights[~inner].tolist()
