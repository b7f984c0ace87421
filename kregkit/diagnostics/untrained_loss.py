"""The loss before training, against what a model that knows nothing should have."""

import keras
import numpy as np

from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem


def initial_loss(model, data):
    """Checks the untrained loss against its expectation, its rise with regularisation, and the outputs' kind.

    The expectation is the compiled loss of a prediction that knows nothing: `1 / C` for every class, which gives
    `-log(1 / C)` for crossentropy; `0.5` for a yes or no, which gives `log 2`; for values what the last activation
    makes of zero. So it holds for several outputs, class imbalance, label smoothing and sample weights alike. A loss
    above three times that warns, and above six times fails; of values 20 and 60 times, since the offset that random
    weights give to a value alone makes ten.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`.

    Returns:
        A `Finding`. Its problems are named `"logits into a from_logits=False loss"`, `"probabilities into a
        from_logits=True loss"`, `"softmax of one unit"`, `"initial loss not finite"`, `"initial loss too high"`,
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
        penalty = seen.total - seen.loss
        names = getattr(model, "output_names", None) or []
        names = names if len(names) == len(seen.outputs) else [str(index) for index in range(len(seen.outputs))]
        problems = [
            problem
            for task, activation, output, name in zip(probe.loss_tasks, probe.activations, seen.outputs, names)
            for problem in _kind(task, activation, output, f"output {name!r}")
        ]
        trained = int(keras.ops.convert_to_numpy(model.optimizer.iterations)) > 0
        values = any(task is None or task.link is None for task in probe.loss_tasks)
        problems += _size(seen.loss, seen.baseline, trained, 20 if values else 3) if not problems else []
        if penalty < 0:
            remedy = "a regulariser must not be negative, or training will make it ever more so: check its sign"
            problems.append(Problem("negative penalty", "fail", f"{penalty:.3g}", ">= 0", remedy))
        elif penalty > 10 * max(abs(seen.loss), 1e-12):
            remedy = "lower the regularisers' strength until the data's loss dominates; raise it later, if at all"
            expected = f"below {10 * abs(seen.loss):.3g}"
            problems.append(Problem("penalty outweighs the loss", "warn", f"{penalty:.3g}", expected, remedy))
    details = {
        "loss": seen.loss, "expected": seen.baseline, "penalty": penalty, "with_penalty": seen.total,
        "regularized": penalty != 0, "num": seen.num,
    }  # fmt: skip
    figure = f"{seen.loss:.4g}" + (f" (+{penalty:.3g} penalty)" if penalty else "")
    return Finding("initial_loss", figure, f"about {seen.baseline:.4g}", tuple(problems), details)


def _kind(task, activation, output, where):
    if activation == "softmax" and output.shape[-1] == 1:
        remedy = "one probability is a sigmoid's; or give the softmax one unit per class"
        yield Problem("softmax of one unit", "fail", "1 for every example", "several units", remedy, where)
        return
    if task is None or task.link is None or not np.isfinite(output).all():
        return
    sums_to_one = output.ndim > 1 and output.shape[-1] > 1 and np.abs(output.sum(-1, dtype="float64") - 1).max() < 1e-2
    inside = output.min() >= -1e-6 and output.max() <= 1 + 1e-6
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
    if task.kind == "logits" and inside and output.std() > 0 and (sums_to_one or task.link == "sigmoid"):
        yield Problem(
            "probabilities into a from_logits=True loss",
            "fail",
            f"outputs from {output.min():.3g} to {output.max():.3g}" + (" that sum to 1" if sums_to_one else ""),
            "logits: any number",
            "compile the loss with from_logits=False, or drop the last activation",
            where,
        )


def _size(loss, expected, trained, times):
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
    if loss < 0.7 * expected and not trained and expected > 0:
        remedy = "an untrained model can't know this: does the label leak into the input? (Fine if it is pretrained)"
        return [Problem("initial loss too low", "warn", figure, f"above {0.7 * expected:.4g}", remedy)]
    return []
