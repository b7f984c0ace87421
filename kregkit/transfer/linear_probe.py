"""How much a linear layer can read from a model's features."""

import dataclasses

import keras
import numpy as np
import scipy.optimize

from kregkit._core.checks import check_number
from kregkit.transfer._graph import check_graph, stage_end, weighted_layers
from kregkit.transfer.features import features


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """Linear classifiers on one or several stages of a model.

    Args:
        accuracy: Dictionary from a layer's name to the accuracy on examples that were not fitted.
        chance: Float, the accuracy of always saying the most frequent class.
        model: A Keras model: the best stage's features, in layers shared with the probed model, and its classifier,
            with logits as outputs.
        layer: String, the best stage.
    """

    accuracy: dict
    chance: float
    model: keras.Model
    layer: str

    def __str__(self):
        lines = [f"{name}: {accuracy:.1%}" for name, accuracy in self.accuracy.items()]
        return "\n".join([*lines, f"chance: {self.chance:.1%}"])


def linear_probe(model, data, validation=None, layers=None, penalty=None, seed=0):
    """Fits a linear classifier on frozen features of one or several stages, and says how well each does.

    Features with places are averaged over them, then standardised. The classifier is a softmax regression with an
    L2 penalty, solved to convergence by L-BFGS. The optimum is unique, so no learning rate or seed decides it.

    Args:
        model: A functional or built sequential model; it is left as it is.
        data: `(x, y)`, arrays; `y` holds integer labels.
        validation: `(x, y)`, what the accuracy is measured on. Defaults to each fifth of `data` in turn, fitted on
            the others.
        layers: List of layers or names, the stages. Defaults to the last hidden layer with a kernel, behind its
            normalisation and activation.
        penalty: Float > 0, the strength of the L2 penalty on standardised features. Defaults to the best out of
            0.001, 0.01, 0.1 and 1, by cross-validation on `data`.
        seed: Integer, for the division into fifths.

    Returns:
        A `LinearProbe`.

    Raises:
        ValueError: A layer is unknown, labels are not integers, or there is one class only.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(8, "relu", name="body"), keras.layers.Dense(3)])
    >>> x = np.random.default_rng(0).normal(size=(100, 2)).astype("float32")
    >>> probe = linear_probe(model, (x, (x[:, 0] > 0).astype(int)))
    >>> probe.layer, probe.accuracy["body"] > 0.8
    ('body', True)
    """
    x, y = labelled("data", data)
    num_classes = int(y.max()) + 1
    if penalty is not None:
        check_number("penalty", penalty, 0, low_open=True)
    if len(np.unique(y)) < 2:
        raise ValueError(f"`data` must hold two classes or more. Received: classes={np.unique(y)}")
    check_graph(model)
    names = _stages(model, layers)
    stages = features(model, names, pooling="average")
    inputs = stages.predict(x, verbose=0)
    inputs = inputs if isinstance(inputs, list) else [inputs]
    held = None
    if validation is not None:
        held_inputs, held_labels = labelled("validation", validation)
        held = stages.predict(held_inputs, verbose=0)
        held = held if isinstance(held, list) else [held]
    accuracy, fits = {}, {}
    for index, name in enumerate(names):
        strength, crossed = _choose(inputs[index], y, num_classes, penalty, seed)
        kernel, bias = solve(inputs[index], y, num_classes, strength)
        if held is not None:
            crossed = float(np.mean((held[index] @ kernel + bias).argmax(-1) == held_labels))
        accuracy[name], fits[name] = crossed, (kernel, bias)
    best = max(accuracy, key=accuracy.get)
    body = features(model, [best], pooling="average")
    head = keras.layers.Dense(num_classes, name="probe", dtype="float32")
    probe = keras.Model(body.input, head(body.outputs[0]))
    head.set_weights([part.astype("float32") for part in fits[best]])
    reference = held_labels if held is not None else y
    chance = float(np.bincount(reference).max() / len(reference))
    return LinearProbe(accuracy, chance, probe, best)


def labelled(name, data):
    """Returns `(x, y)`, the labels as a vector of integers; `x` may be one array per input."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError(
            f"`{name}` must be a pair of arrays (x, y); of a dataset, join its batches first. "
            f"Received: {name}={type(data).__name__}"
        )
    x, y = data[0], integer_labels(data[1])
    lengths = [len(array) for array in keras.tree.flatten(x)]
    if not len(y) or any(length != len(y) for length in lengths):
        raise ValueError(f"`{name}` must hold one label per example. Received: examples={lengths}, labels={len(y)}")
    return x, y


def integer_labels(y):
    """Returns labels as a vector of integers from 0."""
    y = np.asarray(y)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer) or y.min(initial=0) < 0:
        raise ValueError(
            f"Labels must be integers from 0, one per example, not one-hot. Received: dtype={y.dtype}, shape={y.shape}"
        )
    return y


def _stages(model, layers):
    if layers is not None:
        layers = layers if isinstance(layers, (list, tuple)) else [layers]
        return [getattr(layer, "name", layer) for layer in layers]
    weighted = weighted_layers(model)
    return [stage_end(model, weighted[-2]).name if len(weighted) > 1 else weighted[-1].name]


def _choose(x, y, num_classes, penalty, seed):
    """Returns the penalty and its accuracy on fifths that were not fitted."""
    order = np.random.default_rng(seed).permutation(len(x))
    # Each class in every fifth, as far as it has five examples.
    order = order[np.argsort(y[order], kind="stable")]
    folds = [order[start::5] for start in range(min(5, len(x)))]
    scores = {}
    for strength in (0.001, 0.01, 0.1, 1.0) if penalty is None else (penalty,):
        right = 0
        for fold in folds:
            rest = np.setdiff1d(order, fold)
            kernel, bias = solve(x[rest], y[rest], num_classes, strength)
            right += int(np.sum((x[fold] @ kernel + bias).argmax(-1) == y[fold]))
        scores[strength] = right / len(x)
    best = max(scores, key=scores.get)
    return best, scores[best]


def solve(x, y, num_classes, penalty):
    """Returns the kernel and bias, for features as they are, of the softmax regression on standardised ones."""
    x = np.asarray(x, "float64")
    mean, std = x.mean(0), x.std(0)
    # A unit that hardly varies carries no reliable sign; it isn't blown up.
    scale = 1 / np.maximum(std, 1e-3 * max(std.max(), 1e-12))
    z = (x - mean) * scale
    one_hot = np.eye(num_classes)[y]

    def objective(flat):
        kernel, bias = flat[:-num_classes].reshape(-1, num_classes), flat[-num_classes:]
        logits = z @ kernel + bias
        top = logits.max(-1, keepdims=True)
        exponents = np.exp(logits - top)
        total = exponents.sum(-1, keepdims=True)
        loss = np.mean(np.log(total[:, 0]) + top[:, 0] - np.sum(logits * one_hot, -1))
        slope = (exponents / total - one_hot) / len(z)
        gradient = np.concatenate([(z.T @ slope + penalty * kernel).ravel(), slope.sum(0)])
        return loss + penalty / 2 * np.sum(kernel**2), gradient

    start = np.zeros((z.shape[1] + 1) * num_classes)
    solution = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    kernel = solution[:-num_classes].reshape(-1, num_classes) * scale[:, None]
    return kernel, solution[-num_classes:] - mean @ kernel
