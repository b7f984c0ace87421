"""Numbers behind three pictures: activation functions, learning rates, and centred inputs."""

import numpy as np

from kregkit._core.checks import check_number
from kregkit._core.weights import assign_values, copy_values
from kregkit.diagnostics._optimizers import set_learning_rate
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.learning_rate_sweep import learning_rate_range


def activation_curves(limit=5.0, num=401):
    """Returns the activation functions and their derivatives on a line.

    Args:
        limit: Float > 0: they are evaluated from `-limit` to `limit`.
        num: Integer, the number of points.

    Returns:
        Dictionary from a name to `{"x": ..., "y": ..., "derivative": ...}`, arrays. Maxout is drawn as the largest of
        three lines of `x`, which is what it can learn.

    Example:

    >>> curves = activation_curves(limit=2.0, num=5)
    >>> curves["tanh"]["derivative"].round(2).tolist()
    [0.07, 0.42, 1.0, 0.42, 0.07]
    """
    check_number("limit", limit, 0, low_open=True)
    x = np.linspace(-limit, limit, num)
    sigmoid, tanh = 1 / (1 + np.exp(-x)), np.tanh(x)
    lines, slopes = np.stack([-0.5 * x - 1.5, 0.2 * x, 1.2 * x - 1.0]), np.array([-0.5, 0.2, 1.2])
    functions = {
        "sigmoid": (sigmoid, sigmoid * (1 - sigmoid)),
        "tanh": (tanh, 1 - tanh**2),
        "ReLU": (np.maximum(x, 0), (x > 0) * 1.0),
        "leaky ReLU": (np.where(x > 0, x, 0.1 * x), np.where(x > 0, 1.0, 0.1)),
        "ELU": (np.where(x > 0, x, np.expm1(np.minimum(x, 0))), np.where(x > 0, 1.0, np.exp(np.minimum(x, 0)))),
        "maxout": (lines.max(0), slopes[lines.argmax(0)]),
    }
    return {name: {"x": x, "y": y, "derivative": slope} for name, (y, slope) in functions.items()}


def compare_learning_rates(model, data, rates=None, steps=150):
    """Runs a model briefly at several learning rates, each from the same weights, and returns the real loss curves.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `preflight`.
        rates: Dictionary from a name to a rate. Defaults to what `learning_rate_range` and trials found: `"good"` is
            its suggestion; `"too low"` 0.003 times that; `"too high"` the lowest of 1, 3, 9 and 27 times the rate
            where it diverged (or its last rate) at which the loss doesn't fall; and `"high"` the highest rate
            between these two at which it falls by at least a quarter of what it falls at the good one. It is left out
            where there is none.
        steps: Integer >= 1.

    Returns:
        Dictionary from a name to `{"rate": float, "losses": array}`. A curve ends where the loss is not finite.

    Raises:
        ValueError: No rates are given and none helps, or the model is not compiled or built.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> curves = compare_learning_rates(model, (x, x[:, :1]), {"good": 0.1}, steps=30)
    >>> bool(curves["good"]["losses"][-1] < curves["good"]["losses"][0])
    True
    """
    with probing(model, data) as probe:
        values = copy_values(model.variables)

        def run(rate):
            assign_values(model.variables, values)
            optimizer, step = probe.own_trainer()
            set_learning_rate(optimizer, rate)
            losses = []
            for index in range(steps):
                losses.append(float(step(*probe.batches[index % len(probe.batches)])))
                if not np.isfinite(losses[-1]):
                    break
            return {"rate": float(rate), "losses": np.array(losses)}

        if rates is not None:
            return {name: run(rate) for name, rate in rates.items()}
        found = learning_rate_range(model, probe)
        if found.suggestion is None:
            raise ValueError(f"`rates` must be given for this model. {found.reason}. Received: rates=None")
        good = run(found.suggestion)
        end = found.divergence or float(found.rates[-1])
        trials = (run(times * end) for times in (1, 3, 9, 27))
        high_end = next((curve for curve in trials if not _fall(curve) > 0.05 * _fall(good)), None)
        top = 27 * end if high_end is None else high_end["rate"]
        between = (run(rate) for rate in np.geomspace(found.suggestion, top, 10)[-2:0:-1])
        high = next((curve for curve in between if _fall(curve) > 0.25 * _fall(good)), None)
        low = run(0.003 * found.suggestion)
    curves = {"too low": low, "good": good, "high": high, "too high": high_end}
    return {name: curve for name, curve in curves.items() if curve is not None}


def _fall(curve):
    """Returns by how much a run's loss has fallen: minus infinity where it overflowed."""
    losses = curve["losses"]
    few = max(len(losses) // 10, 1)
    return float(losses[:few].mean() - losses[-few:].mean()) if np.isfinite(losses).all() else -np.inf


def compare_centering(x, y, distance=3.0, angles=None):
    """Shows why centred inputs make the loss less sensitive to `W`.

    A line that separates two classes is turned a little about the origin. Far from the origin, as uncentred inputs
    are, the same turn moves the line far off the data, and the loss rises steeply; around the origin it hardly does.

    Args:
        x: Array `(num, features)`, at least two features; the two of the largest spread are used, standardised.
        y: Array of two classes, 0 and 1.
        distance: Float >= 0, how many standard deviations off the uncentred inputs lie, along the line.
        angles: Array of turns in radians. Defaults to -0.5 to 0.5.

    Returns:
        Dictionary with `angles`, and `centred` and `uncentred`, each with `points` `(num, 2)`, `labels`, `weights`
        `(2,)`, `bias` and `losses`, the mean logistic loss at each turn.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 100)
    >>> found = compare_centering(rng.normal(size=(200, 2)) + 3 * y[:, None], y)
    >>> bool(np.ptp(found["uncentred"]["losses"]) > 3 * np.ptp(found["centred"]["losses"]))
    True
    """
    check_number("distance", distance, 0)
    x, y = np.asarray(x, "float64").reshape(len(x), -1), np.asarray(y).reshape(-1).astype(int)
    if x.shape[1] < 2 or set(np.unique(y)) != {0, 1}:
        raise ValueError(
            f"`x` must have two features and `y` classes 0 and 1. Received: x={x.shape}, y={np.unique(y)}"
        )  # fmt: skip
    chosen = np.argsort(x.std(0))[::-1][:2]
    points = (x[:, chosen] - x[:, chosen].mean(0)) / np.maximum(x[:, chosen].std(0), 1e-12)
    angles = np.linspace(-0.5, 0.5, 101) if angles is None else np.asarray(angles, "float64")
    weights, bias = _logistic(points, y)
    result = {"angles": angles}
    along = np.array([-weights[1], weights[0]]) / np.linalg.norm(weights)
    for name, shift in (("centred", 0.0 * along), ("uncentred", distance * along * np.sign(along.sum() or 1))):
        # The line through the moved points is the same.
        moved = points + shift
        losses = []
        for angle in angles:
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            losses.append(_loss(moved @ (turn @ weights) + bias, y))
        result[name] = {
            "points": moved, "labels": y, "weights": weights, "bias": float(bias), "losses": np.array(losses),
        }  # fmt: skip
    return result


def _loss(logits, y):
    return float(np.mean(np.logaddexp(0, logits) - y * logits))


def _logistic(points, y, penalty=0.05, steps=30):
    """Returns the weights and bias of a ridge logistic regression, by Newton's method."""
    design = np.column_stack([points, np.ones(len(points))])
    solution = np.zeros(3)
    ridge = penalty * np.diag([1.0, 1.0, 0.0])
    for _ in range(steps):
        probability = 1 / (1 + np.exp(-design @ solution))
        slope = design.T @ (probability - y) / len(y) + ridge @ solution
        curvature = design.T * (probability * (1 - probability)) @ design / len(y) + ridge + 1e-9 * np.eye(3)
        solution = solution - np.linalg.solve(curvature, slope)
    return solution[:2], solution[2]
