"""Reading loss curves."""

import math

import numpy as np

from kregkit.diagnostics.finding import Finding, Problem

_REGULARISE = (
    "more data or augmentation first; then batch normalisation if there is none; then one regulariser at a time "
    "(dropout, weight decay, ...), kept only while the validation score improves: the gap is a sign, validation decides"
)


def diagnose_curves(history, monitor="loss"):
    """Says what a run's training and validation curves show, with the numbers it used.

    - divergence: the loss is not finite, ends higher than it began, or gives more than a fifth of its fall back;
    - flat start: in the first tenth of the epochs or more (at least 2) the loss makes less than 5% of its whole fall;
    - rate too low: over the whole run it falls by less than a fifth, steadily, and still falls as fast at the end;
    - plateau: in the last quarter or more (at least 4 epochs) the training loss makes less than 3% of its whole fall,
      and falls by less than a tenth, while above a twentieth of its start: the problem names the epoch at which to
      decay the rate. A run whose logged `learning_rate` was below a tenth of its highest by then is none;
    - overfitting: the last fifth of validation stays more than 10%, and 2% of the start, above its best; or it ends
      more than 50%, and a tenth of the start, above training, which has fallen since the second epoch;
    - underfitting: training ends above a fifth of its start on a plateau, validation less than 15% above it.

    The start is the first epoch's training loss, or the first validation loss if that is lower.

    Args:
        history: What `fit` returned, or its dictionary of lists. Without `val_` values, overfitting and underfitting
            can't be told.
        monitor: String, the logged loss. Defaults to `"loss"`.

    Returns:
        A `Finding` whose problems have these names, in this order. Epochs count from 1.

    Raises:
        ValueError: The history holds no `monitor`, or fewer than 4 epochs.

    Example:

    >>> diagnose_curves({"loss": [2.3, 2.0, 4.0, float("nan")]}).faults
    ['divergence']
    """
    record = getattr(history, "history", history)
    if not isinstance(record, dict) or monitor not in record:
        raise ValueError(f"The history must hold {monitor!r}. Received: history={record!r}")
    train = np.asarray(record[monitor], "float64")
    if len(train) < 4:
        raise ValueError(f"A curve needs at least 4 epochs. Received: epochs={len(train)}")
    validation = record.get(f"val_{monitor}")
    validation = None if validation is None else np.asarray(validation, "float64")
    found = _divergence(train)
    numbers = {"epochs": len(train), "start": train[0], "end": train[-1]}
    if found is None:
        numbers |= {"lowest": train.min(), "fall": 1 - train.min() / train[0]}
        if validation is not None:
            best = int(np.argmin(validation))
            numbers |= {
                "validation_end": validation[-1],
                "validation_best": validation[best],
                "best_epoch": _epoch(best, train, validation),
                "gap": validation[-1] / train[-1] - 1 if train[-1] > 0 else math.inf,
            }
        slow = _too_low(train)
        start = train[0] if validation is None or not validation[0] < train[0] else validation[0]
        plateau = None if slow else _plateau(train, start, record.get("learning_rate"))
        over = None if slow else _overfitting(train, validation, start)
        under = None if slow or over else _underfitting(train, validation, plateau)
        found = [slow or _flat_start(train), plateau, over, under]
    else:
        found = [found]
    problems = tuple(problem for problem in found if problem is not None)
    figure = f"{train[0]:.3g} to {train[-1]:.3g} in {len(train)} epochs"
    numbers = {key: float(value) for key, value in numbers.items()}
    return Finding("diagnose_curves", figure, "a fall that neither stops early nor parts", problems, numbers)


def _epoch(index, train, validation):
    return round((index + 1) * len(train) / len(validation))


def _divergence(train):
    wrong = np.flatnonzero(~np.isfinite(train))
    if len(wrong):
        figure = f"not finite from epoch {wrong[0] + 1} on"
    elif train[-1] > train[0] + 0.05 * abs(train[0]):
        figure = f"{train[-1]:.3g} at the end, {train[0]:.3g} after the first epoch"
    elif (fall := train[0] - train.min()) > 0.2 * abs(train[0]) and train[-2:].min() > train.min() + 0.2 * fall:
        figure = f"{train[-1]:.3g} at the end, {train.min():.3g} after epoch {np.argmin(train) + 1}"
    else:
        return None
    remedy = "lower the learning rate (a tenth), or warm it up; check the inputs' scale with preflight"
    return Problem("divergence", "fail", figure, "a loss that falls", remedy)


def _flat_start(train):
    fall = train[0] - train.min()
    if fall < 0.2 * train[0]:
        return None
    begun = int(np.argmax(train < train[0] - 0.05 * fall))
    if begun < 3 or begun < 0.1 * len(train):
        return None
    figure = f"{train[0]:.3g} to {train[begun - 1]:.3g} in the first {begun} epochs, then to {train.min():.3g}"
    remedy = "mend the initialisation: He for ReLU, Xavier for tanh, or batch normalisation; see compare_activations"
    return Problem("flat start", "warn", figure, "a fall from the first epoch on", remedy)


def _too_low(train):
    fall = train[0] - train[-1]
    third = max(len(train) // 3, 1)
    late = train[-1 - third] - train[-1]
    steady = late > 0.5 * fall * third / (len(train) - 1) and np.mean(np.diff(train) < 0) > 0.7
    if not 0 <= fall < 0.2 * abs(train[0]) or not (steady or fall < 0.001 * abs(train[0])):
        return None
    figure = f"{train[0]:.4g} to {train[-1]:.4g}, of which {late:.2g} in the last {third} epochs"
    remedy = "raise the learning rate, by 10 at a time, or to what learning_rate_range suggests"
    return Problem("rate too low", "warn", figure, "a fall by more than a fifth", remedy)


def _plateau(train, scale, rates):
    fall = train[0] - train.min()
    if fall <= 0:
        return None
    # The mean of what comes after, since the last values bounce.
    rest = np.array([train[index] - train[index + 1 :].mean() for index in range(len(train) - 4)])
    spread = np.array([train[index + 1 :].min() for index in range(len(train) - 4)])
    level = train[: len(rest)]
    flat = (rest < 0.03 * fall) & (rest < 0.1 * level) & (level - spread < 0.1 * fall)
    if not flat.any():
        return None
    start = int(np.argmax(flat))
    if len(train) - 1 - start < max(4, len(train) / 4) or train[start:].mean() < 0.05 * scale:
        return None
    if rates is not None and rates[start] < 0.1 * max(rates):
        return None
    figure = f"{train[start]:.3g} at epoch {start + 1}, {train[start + 1 :].mean():.3g} on average after it"
    remedy = f"decay the learning rate at epoch {start + 1}: callbacks.StepDecay(0.1, at=[{start + 1}])"
    if start < 2:
        remedy += "; if that doesn't help, the first steps have killed units: start anew with a tenth of the rate"
    return Problem("plateau", "warn", figure, "a fall that goes on", remedy, f"epoch {start + 1}")


def _overfitting(train, validation, scale):
    if validation is None or not np.isfinite(validation).all():
        return None
    best = int(np.argmin(validation))
    # The best of the last ones, since they bounce.
    late = validation[-max(len(validation) // 5, 2) :].min()
    behind = late - validation[best] > max(0.1 * abs(validation[best]), 0.02 * abs(scale))
    gap = validation[-1] - train[-1]
    # Of a run that died in its first epoch the gap says nothing.
    learnt = train[1] - train[-1] > 0.1 * abs(train[1])
    apart = learnt and gap > max(0.5 * abs(train[-1]), 0.1 * abs(scale))
    if not (behind or apart) or gap < 0.1 * abs(train[-1]):
        return None
    epoch = _epoch(best, train, validation)
    figure = (
        f"training {train[-1]:.3g}, validation {validation[-1]:.3g} at the end; validation was best, "
        f"{validation[best]:.3g}, at epoch {epoch}"
    )
    return Problem("overfitting", "warn", figure, "validation that ends at its best", _REGULARISE, f"epoch {epoch}")


def _underfitting(train, validation, plateau):
    if validation is None or train[-1] < 0.2 * train[0] or validation[-1] > 1.15 * train[-1]:
        return None
    tail = train[-max(len(train) // 4, 2) :]
    if plateau is None and tail[0] - tail[-1] > 0.05 * (train[0] - train[-1]):
        return None
    figure = (
        f"training {train[-1]:.3g}, validation {validation[-1]:.3g}: no gap, {train[-1] / train[0]:.0%} of the start"
    )
    remedy = "raise the capacity (more units, more layers), and take regularisers off, one at a time"
    return Problem("underfitting", "warn", figure, "a small gap at a low loss", remedy)
