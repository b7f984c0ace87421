"""Gradients against centred differences."""

import numpy as np

from kregkit._core.checks import check_integer
from kregkit.diagnostics._double import DoubleLoss, double_precision
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem

# From the step that suits float64 best to ones for kinks nearby and steep losses (smaller) and coarse arithmetic.
_STEPS = (1e-5, 1e-6, 1e-7, 1e-4, 1e-3, 1e-2, 1e-8, 1e-9)


def gradient_check(model, data, num_weights=6, num_examples=8, seed=0):
    """Checks gradients by centred differences in float64, on a sample of weights of each trainable variable.

    ```
    numeric = (loss(w + h) - loss(w - h)) / (2 h)
    error = |gradient - numeric| / max(|gradient|, |numeric|)
    ```

    The model's layers, penalties and losses compute in float64 for the check. Half of the sample are the entries with
    the largest gradients, half are random. An error below 1e-6 passes, above 1e-3 it fails; differences that rounding
    explains count as none. Where the two one-sided differences disagree however small `h` is, the loss has a kink
    (ReLU at zero, max pooling between equals) and no one slope is right: such weights are counted apart.

    A wrong gradient spoils those of all layers before it. So the problem names the last layer that is wrong: the
    fault lies in it, or between it and the next.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`.
        num_weights: Integer >= 1, the sample per variable. Defaults to `6`.
        num_examples: Integer >= 1, the size of the batch. Defaults to `8`.
        seed: Integer, which weights.

    Returns:
        A `Finding`. Its problems are named `"wrong gradient"`, `"imprecise gradient"` and `"no float64"` (a layer
        that can't compute in it; nothing was checked). Details: per variable `"error"`, `"checked"` and `"kinks"`.

    Raises:
        ValueError: An argument is out of range, the model is not compiled or built, or `data` is an iterator.

    Example:

    >>> import keras, numpy as np
    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(1)]
    >>> model = keras.Sequential(layers)
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> finding = gradient_check(model, (x, x[:, :1]))
    >>> finding.status, finding.details["largest_error"] < 1e-6
    ('pass', True)
    """
    check_integer("num_weights", num_weights, 1)
    check_integer("num_examples", num_examples, 1)
    with probing(model, data) as probe:
        batch = probe.first(num_examples)
        order = _order(probe.observation.records)
        # Builds the compiled loss, whose parts change their type for the check.
        probe.loss(*batch[:2], model(batch[0], training=False), batch[2], training=False)
        rng = np.random.default_rng(seed)
        rows = {}
        try:
            with double_precision(model):
                loss = DoubleLoss(probe, batch)
                size = abs(loss.value())
                for index, (variable, gradient) in enumerate(zip(loss.variables, loss.gradients())):
                    if gradient is not None:
                        chosen = _choose(gradient, num_weights, rng)
                        rows[variable.path] = _compare(loss, index, gradient, chosen, size)
                        rows[variable.path]["place"] = order.get(id(variable), -1)
        except Exception as error:
            remedy = "let the layer compute in its `compute_dtype` rather than in a fixed type"
            reason = str(error).strip().splitlines()
            figure = f"{type(error).__name__}: {reason[0][:120] if reason else ''}"
            problem = Problem("no float64", "warn", figure, "layers that follow their dtype policy", remedy)
            return Finding("gradient_check", "not checked", "error < 1e-6", (problem,), {})
    worst = max((row["error"] for row in rows.values()), default=0.0)
    checked, kinks = (sum(row[key] for row in rows.values()) for key in ("checked", "kinks"))
    details = {"largest_error": worst, "checked": checked, "kinks": kinks, "variables": rows}
    figure = (
        (f"{worst:.1e}" if worst else "within rounding")
        + f" over {checked} weights"
        + (f", {kinks} at kinks" if kinks else "")
    )
    return Finding("gradient_check", figure, "error < 1e-6", tuple(_problems(rows)), details)


def _order(records):
    """Returns the place in the order of calls at which each variable is used, by its identity."""
    order = {}
    for place, record in enumerate(records):
        for variable in record.layer.trainable_variables:
            # Inner layers return before those that hold them.
            order.setdefault(id(variable), place)
    return order


def _choose(gradient, num, rng):
    flat = np.abs(gradient).ravel()
    largest = np.argsort(flat)[::-1][: -(-num // 2)]
    return np.unique(np.concatenate([largest, rng.choice(flat.size, min(num // 2, flat.size), replace=False)]))


def _compare(loss, index, gradient, chosen, size):
    errors, kinks = [], 0
    middle = loss.value()
    for position in chosen:
        slope, error, sides = float(gradient.flat[position]), np.inf, []
        for step in _STEPS:
            up, down = (loss.nudged(index, position, sign * step) for sign in (1, -1))
            numeric = (up - down) / (2 * step)
            noise = 1e-14 * max(size, 1e-6) / step
            error = min(error, max(0.0, abs(slope - numeric) - noise) / max(abs(slope), abs(numeric), 1e-300))
            sides.append(((up - middle) / step, (middle - down) / step, noise))
            if error < 1e-7:
                break
        if error > 1e-6 and _is_kink(sides):
            kinks += 1
            continue
        errors.append(error)
    return {"error": max(errors, default=0.0), "checked": len(errors), "kinks": kinks}


def _is_kink(sides):
    """Whether the one-sided slopes differ as much at 1e-7 as at 1e-5: no smooth loss does that.

    The gradient need not lie between them, since the step may pass several kinks, as where all activations are tiny.
    """
    (coarse_up, coarse_down, _), _, (up, down, noise) = sides[:3]
    gap, scale = abs(up - down), max(abs(up), abs(down))
    return gap > 0.3 * abs(coarse_up - coarse_down) and gap > 100 * noise and gap > 1e-4 * scale


def _problems(rows):
    wrong = {path: row for path, row in rows.items() if row["error"] > 1e-3}
    coarse = {path: row for path, row in rows.items() if 1e-6 < row["error"] <= 1e-3}
    if wrong:
        last = max(wrong, key=lambda path: wrong[path]["place"])
        yield Problem(
            "wrong gradient",
            "fail",
            f"relative error {wrong[last]['error']:.1e}; {len(wrong)} of {len(rows)} variables are wrong",
            "< 1e-6",
            "this is the last layer whose gradient is wrong: check the custom gradient in it or right after it",
            last,
        )
    elif coarse:
        last = max(coarse, key=lambda path: coarse[path]["error"])
        remedy = "some operation there computes in less than float64, or has an approximate gradient"
        yield Problem("imprecise gradient", "warn", f"{coarse[last]['error']:.1e}", "< 1e-6", remedy, last)
