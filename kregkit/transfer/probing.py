"""How much a linear layer can read from a model's features."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import scipy.optimize
import threadpoolctl

from kregkit._core import rules
from kregkit._core.checks import check_number
from kregkit._core.folds import deal
from kregkit._core.notebook import Notebook
from kregkit._core.types import Data
from kregkit.transfer._data import features_of
from kregkit.transfer._graph import check_graph, stage_names
from kregkit.transfer.feature_extraction import features

# The penalty if no class has two examples, so that none can be chosen by cross-validation.
_PENALTY = 0.01


@dataclasses.dataclass(frozen=True)
class LinearProbe(Notebook):
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


@rules.checked(seed=rules.whole(0))
def linear_probe(
    model: keras.Model,
    data: Data,
    validation: Data = None,
    layers: Sequence[keras.layers.Layer | str] | None = None,
    penalty: float | Sequence[float] | None = None,
    seed: int = 0,
) -> Any:
    """Fits a linear classifier on frozen features of one or several stages, and says how well each does.

    Features with several positions are averaged over them, then standardised. The classifier is a softmax regression
    with an L2 penalty, solved to convergence by L-BFGS. The optimum is unique, so no learning rate or seed decides it.
    The features are computed once, whatever the number of stages and penalties.

    Args:
        model: A functional or built sequential model; it is left as it is.
        data: `(x, y)`, arrays; `y` holds integer labels. Or a `tf.data.Dataset`, `keras.utils.PyDataset` or other
            iterable of such pairs in batches, which ends.
        validation: In the same forms, what the accuracy is measured on. Defaults to each fifth of `data` in turn,
            fitted on the others; an example that is the only one of its class is not scored then. Where each class has
            one example, the accuracy is NaN, and `layer` the last one.
        layers: List of layers or names, the stages. Defaults to the last layer with a kernel before the `Dense` at the
            end (if there is one), behind its normalisation, activation and the sum that ends its residual block.
        penalty: Float > 0, the strength of the L2 penalty on standardised features. Defaults to the best out of
            0.001, 0.01, 0.1 and 1, by cross-validation on `data`; 0.01 where each class has one example.
        seed: Integer, for the division into fifths.

    Returns:
        A `LinearProbe`.

    Raises:
        ValueError: A layer is unknown, labels are not integers, there is one class only, or the dataset doesn't end.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(8, "relu", name="body"), keras.layers.Dense(3)])
    >>> x = np.random.default_rng(0).normal(size=(100, 2)).astype("float32")
    >>> probe = linear_probe(model, (x, (x[:, 0] > 0).astype(int)))
    >>> probe.layer, probe.accuracy["body"] > 0.8
    ('body', True)
    """
    if penalty is not None:
        check_number("penalty", penalty, 0, low_open=True)
    check_graph(model)
    names = _stages(model, layers)
    stages = features(model, names, pooling="average")
    inputs, y = features_of("data", data, stages)
    num_classes = int(y.max()) + 1
    if len(np.unique(y)) < 2:
        raise ValueError(f"`data` must hold two classes or more. Received: classes={np.unique(y)}")
    scored = np.bincount(y)[y] > 1
    held = None
    if validation is not None:
        held, held_labels = features_of("validation", validation, stages)
    accuracy, fits = {}, {}
    for index, name in enumerate(names):
        strength, crossed = _choose(inputs[index], y, num_classes, penalty, seed, scored)
        kernel, bias = solve(inputs[index], y, num_classes, strength)
        if held is not None:
            crossed = float(np.mean((held[index] @ kernel + bias).argmax(-1) == held_labels))
        accuracy[name], fits[name] = crossed, (kernel, bias)
    best = names[-1] if np.isnan(accuracy[names[-1]]) else max(accuracy, key=accuracy.__getitem__)
    body = features(model, [best], pooling="average")
    head = keras.layers.Dense(num_classes, name="probe", dtype="float32")
    probe = keras.Model(body.input, head(body.outputs[0]))
    head.set_weights([part.astype("float32") for part in fits[best]])
    reference = held_labels if held is not None else y[scored] if scored.any() else y
    chance = float(np.bincount(reference).max() / len(reference))
    return LinearProbe(accuracy, chance, probe, best)


def _stages(model, layers):
    if layers is None:
        return stage_names(model, 1)
    layers = layers if isinstance(layers, (list, tuple)) else [layers]
    return [getattr(layer, "name", layer) for layer in layers]


def _choose(x, y, num_classes, penalty, seed, scored):
    """Returns the penalty and its accuracy on those `scored` in fifths that were not fitted."""
    if not scored.any():
        return penalty or _PENALTY, float("nan")
    # Each class in every fifth, as far as it has five examples.
    folds = deal(len(x), min(5, len(x)), seed, y)
    scores = {}
    for strength in (0.001, 0.01, 0.1, 1.0) if penalty is None else (penalty,):
        right = 0
        for fold in folds:
            rest = np.setdiff1d(np.arange(len(x)), fold)
            kernel, bias = solve(x[rest], y[rest], num_classes, strength)
            right += int(np.sum(((x[fold] @ kernel + bias).argmax(-1) == y[fold]) & scored[fold]))
        scores[strength] = right / int(scored.sum())
    best = max(scores, key=scores.get)
    return best, scores[best]


def solve(x: Any, y: Any, num_classes: int, penalty: float | Sequence[float] | None):
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
    # The products are narrow: waiting for another BLAS thread takes longer than its part, and far longer where cores
    # are busy.
    with threadpoolctl.threadpool_limits(1, "blas"):
        solution = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    kernel = solution[:-num_classes].reshape(-1, num_classes) * scale[:, None]
    return kernel, solution[-num_classes:] - mean @ kernel
