"""The size of updates beside the weights they change."""

from typing import Any

import keras
import numpy as np

from kregkit._core import rules
from kregkit._core.checks import check_integer
from kregkit._core.types import Data
from kregkit._core.weights import copy_values, is_kernel
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem


@rules.checked(steps=rules.count)
def update_ratio(model: keras.Model, data: Data, steps: int = 10) -> Finding:
    """Checks `||update|| / ||weights||` of every kernel over the first steps: about 1e-3 is healthy.

    The steps are real ones, by a fresh copy of the model's optimizer at its learning rate. The figure of a variable
    is the median over steps. Between 1e-6 and 0.2 it passes; above 1, or at exactly 0, it fails. Biases and
    scales start at 0 or 1 and are left out.

    `kregkit.callbacks.UpdateRatio` logs the same during a whole run.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`.
        steps: Integer >= 1. Defaults to `10`.

    Returns:
        A `Finding`. Its problems are named `"updates too large"`, `"updates too small"` and `"weights don't move"`.

    Raises:
        ValueError: An argument is out of range, the model is not compiled or built, or `data` is an iterator.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(1e3), "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> update_ratio(model, (x, x[:, :1])).faults
    ['updates too large']
    """
    check_integer("steps", steps, 1)
    with probing(model, data) as probe:
        variables = model.trainable_variables
        step: Any = probe.own_trainer()[1] if variables else None
        moved, sizes, before = [], [], copy_values(variables)
        for index in range(steps if step else 0):
            step(*probe.batches[index % len(probe.batches)])
            after = copy_values(variables)
            moved.append([_norm(new.astype("float64") - old) for new, old in zip(after, before)])
            sizes.append([_norm(old) for old in before])
            before = after
            if probe.time_left() <= 0 and index + 1 < steps:
                probe.cut = f"{index + 1} of {steps} steps"
                break
    details, problems = {}, []
    lower = "lower the learning rate by the factor that is missing; see learning_rate_range"
    for index, variable in enumerate(variables):
        norms = np.array([row[index] for row in sizes])
        # What begins at zero has no size to compare its first updates with.
        if not is_kernel(variable) or not norms[0] > 0:
            continue
        with np.errstate(all="ignore"):
            ratio = float(np.median(np.array([row[index] for row in moved]) / norms))
        details[variable.path] = ratio
        if ratio == 0:
            remedy = "its gradient or its learning rate is zero: see signal_flow"
            problems.append(Problem("weights don't move", "fail", "0", "about 1e-3", remedy, variable.path))
        elif not ratio <= 0.2:
            status = "warn" if ratio <= 1 else "fail"
            problems.append(
                Problem("updates too large", status, f"{ratio:.2g}", "1e-6 to 0.2", lower, variable.path)
            )  # fmt: skip
        elif ratio < 1e-6:
            remedy = "raise the learning rate, or let gradients through: see learning_rate_range and signal_flow"
            problems.append(Problem("updates too small", "warn", f"{ratio:.2g}", "1e-6 to 0.2", remedy, variable.path))
    middle = float(np.median(list(details.values()))) if details else float("nan")
    return Finding("update_ratio", f"{middle:.2g}", "about 1e-3, 1e-6 to 0.2", tuple(problems), {"ratios": details})


def _norm(array):
    return float(np.linalg.norm(array.astype("float64")))
