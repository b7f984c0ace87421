"""The loss before training, against what a model that knows nothing should have."""

import keras
import numpy as np

from kregkit._core.graph import flat_layers
from kregkit._core.types import Data
from kregkit.diagnostics._freshness import is_fresh
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem

_SIGMOIDS = ("sigmoid", "hard_sigmoid")


def initial_loss(model: keras.Model, data: Data) -> Finding:
    """Checks the untrained loss against its expectation, its rise with regularisation, and the outputs' kind.

    The expectation is the compiled loss of a prediction that knows nothing: `1 / C` for every class, which gives
    `-log(1 / C)` for crossentropy; `0.5` for a yes or no, which gives `log 2`; for values what the last activation
    makes of zero. So it holds for several outputs, class imbalance, label smoothing and sample weights alike. A loss
    above three times that warns, and above six times fails; of values 20 and 60 times, since the offset that random
    weights give to a value alone makes ten. An untrained loss below 70% of what the best constant prediction costs
    (class frequencies, mean, median) warns: biases may know those, but nothing better.

    The penalty is that of the regularisers of weights. At three times the loss it warns: shrinking the weights then
    pays more than learning ever could. `add_loss` and activity regularisers are left out of it.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`.

    Returns:
        A `Finding`. Its problems are named `"logits into a from_logits=False loss"`, `"probabilities into a
        from_logits=True loss"`, `"sigmoid outputs into a softmax loss"`, `"softmax over the wrong axis"`,
        `"softmax of one unit"`, `"initial loss not finite"`, `"initial loss too high"`,
        `"initial loss too low"`, `"penalty outweighs the loss"` and `"negative penalty"`.

    Raises:
        ValueError: The model is not compiled or built, or `data` is an iterator.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(10, kernel_initializer="zeros")])
    >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> initial_loss(model, (x, np.arange(64) % 10)).figure  # log 10
    '2.303'
    """
    with probing(model, data) as probe:
        seen = probe.observation
        penalty, others = _weight_penalty(model), seen.total - seen.loss
        names = getattr(model, "output_names", None) or []
        names = names if len(names) == len(seen.outputs) else [str(index) for index in range(len(seen.outputs))]
        problems = [
            problem
            for task, activation, output, name in zip(probe.loss_tasks, probe.activations, seen.outputs, names)
            for problem in _kind(task, activation, output, f"output {name!r}")
        ]
        trained = int(keras.ops.convert_to_numpy(model.optimizer.iterations)) > 0
        values = any(task is None or task.link is None for task in probe.loss_tasks)
        trained = trained or any(is_fresh(layer) is False for layer in flat_layers(model) if layer.weights)
        compared = (seen.loss, seen.baseline, seen.constant, trained, 20 if values else 3)
        problems += _size(*compared) if not problems and model.loss is not None else []
        if penalty < 0:
            remedy = "a regulariser must not be negative, or training will make it ever more so: check its sign"
            problems.append(Problem("negative penalty", "fail", f"{penalty:.3g}", ">= 0", remedy))
        elif penalty > 3 * max(abs(seen.loss), 1e-12) and model.loss is not None:
            remedy = "lower the regularisers' strength until the data's loss dominates; raise it later, if at all"
            expected = f"below {3 * abs(seen.loss):.3g}"
            problems.append(Problem("penalty outweighs the loss", "warn", f"{penalty:.3g}", expected, remedy))
    details = {
        "loss": seen.loss, "expected": seen.baseline, "best_constant": seen.constant, "penalty": others,
        "weight_penalty": penalty, "with_penalty": seen.total, "regularized": others != 0, "num": seen.num,
    }  # fmt: skip
    figure = f"{seen.loss:.4g}" + (f" (+{others:.3g} penalty)" if others else "")
    return Finding("initial_loss", figure, f"about {seen.baseline:.4g}", tuple(problems), details)


def _weight_penalty(model):
    """Returns the sum of the weights' regularisers."""
    penalties = [
        float(keras.ops.convert_to_numpy(variable.regularizer(variable)))
        for variable in model.trainable_variables
        if getattr(variable, "regularizer", None) is not None
    ]
    return float(np.sum(penalties)) if penalties else 0.0


def _kind(task, activation, output, where):
    softmax = activation == "softmax" or (task is not None and task.link == "softmax")
    if softmax and output.shape[-1] == 1:
        remedy = "one probability is a sigmoid's; or give the softmax one unit per class"
        yield Problem("softmax of one unit", "fail", "1 for every example", "several units", remedy, where)
        return
    if task is None or task.link is None or not np.isfinite(output).all():
        return
    sums_to_one = output.ndim > 1 and output.shape[-1] > 1 and np.abs(output.sum(-1, dtype="float64") - 1).max() < 1e-2
    inside = output.min() >= -1e-6 and output.max() <= 1 + 1e-6
    if task.kind == "probabilities" and task.link == "softmax" and inside and not sums_to_one:
        axes = [
            axis for axis in range(1, output.ndim - 1) if np.abs(output.sum(axis, dtype="float64") - 1).max() < 1e-2
        ]
        if axes:
            remedy = f"the loss takes the last axis for the classes: use a softmax with axis=-1, not {axes[0]}"
            figure = f"outputs sum to 1 along axis {axes[0]}"
            yield Problem("softmax over the wrong axis", "fail", figure, "along the last axis", remedy, where)
            return
        if activation in ("sigmoid", "hard_sigmoid"):
            remedy = "of classes that exclude each other, probabilities sum to 1: end the model in a softmax"
            sums = output.sum(-1, dtype="float64")
            figure = f"outputs sum to {sums.min():.3g} to {sums.max():.3g}"
            yield Problem("sigmoid outputs into a softmax loss", "fail", figure, "sums of 1", remedy, where)
            return
    if task.kind == "probabilities" and not (inside and (sums_to_one or task.link != "softmax")):
        yield Problem(
            "logits into a from_logits=False loss",
            "fail",
            f"outputs from {output.min():.3g} to {output.max():.3g}",
            "probabilities in [0, 1]" + (" that sum to 1" if task.link == "softmax" else ""),
            "compile the loss with from_logits=True, or end the model in a "
            + ("softmax" if task.link == "softmax" else "sigmoid"),
            where,
        )
    # Untrained sigmoids lie around one half; small logits may lie within [0, 1] by chance.
    sigmoids = task.link == "sigmoid" and (activation in _SIGMOIDS or (activation is None and _around_half(output)))
    if task.kind == "logits" and inside and output.std() > 0 and (sums_to_one or sigmoids):
        yield Problem(
            "probabilities into a from_logits=True loss",
            "fail",
            f"outputs from {output.min():.3g} to {output.max():.3g}" + (" that sum to 1" if sums_to_one else ""),
            "logits: any number",
            "compile the loss with from_logits=False, or drop the last activation",
            where,
        )


def _around_half(output):
    return bool(0.25 < float(np.median(output)) < 0.75)


def _size(loss, expected, constant, trained, times):
    figure = f"{loss:.4g}"
    if not np.isfinite(loss):
        remedy = "look at input_statistics and signal_flow: something is NaN, infinite or overflows"
        return [Problem("initial loss not finite", "fail", figure, f"about {expected:.4g}", remedy)]
    # Random outputs of unit size cost half a nat. As values, they have an offset that no other unit makes up for: its
    # square, beside targets of unit size, exceeds twenty in one He-initialised head of a thousand.
    if loss > times * expected + 0.3:
        remedy = "make the last layer's first outputs small (smaller initial weights), and its inputs of unit scale"
        status = "fail" if loss > (2 if times == 3 else 3) * times * expected + 1 else "warn"
        bound = f"below {times * expected + 0.3:.4g}"
        return [Problem("initial loss too high", status, figure, bound, remedy)]
    if loss < 0.7 * constant and not trained:
        remedy = "an untrained model can't know this: does the label leak into the input? (Fine if it is pretrained)"
        return [Problem("initial loss too low", "warn", figure, f"above {0.7 * constant:.4g}", remedy)]
    return []
