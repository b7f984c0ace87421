"""Reading the loss curves of a finished run."""

import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from kregkit._core import rules
from kregkit._core.checks import check_number, shown
from kregkit._core.metrics import direction
from kregkit.diagnostics.finding import Finding, Problem

_REGULARISE = (
    "more data or augmentation first; then batch normalisation if there is none; then one regulariser at a time "
    "(dropout, weight decay, ...), kept only while the validation score improves: the gap is a sign, validation decides"
)


@rules.checked(monitor=rules.word())
def diagnose_curves(
    history: keras.callbacks.History | Mapping[str, Sequence[float]], monitor: str = "loss", floor: float | None = None
) -> Finding:
    """Says what a run's training and validation curves show, with the numbers it used.

    - validation not finite: a validation loss is NaN or infinite;
    - divergence: the loss is not finite, ends higher than it began, or gives half of its fall back at the end;
    - rate too low: over the whole run it falls by less than a fifth, steadily, and still falls as fast at the end;
    - stuck: it never falls by more than 5% of its start, or not by more than it bounces from epoch to epoch;
    - flat start: in the first tenth of the epochs or more (at least 2) the loss makes less than 5% of its whole fall;
    - plateau: in the last quarter or more (at least 4 epochs) the training loss makes less than 3% of its whole fall,
      or no more than it bounces, and falls by less than a tenth, while above a twentieth of its start. Two epochs are
      enough where the loss gives a fifth of its fall back. The problem names the epoch at which to decay the rate. A
      run whose logged `learning_rate` was below a tenth of its highest by then has none;
    - overfitting: validation ends more than 10%, 2% of its whole fall and twice what it bounces above its best; or it
      has stopped falling more than 50%, a tenth of the start and a quarter of its own fall above training, which has
      fallen since the second epoch;
    - underfitting, only where `floor` is given: training stays above a fifth of the way from its start to the floor,
      and validation less than a quarter of that above it.

    The start is the first epoch's training loss, or the first validation loss if that is lower. How much a curve
    bounces is the median distance of its later half from a straight line. Levels at the end are medians over the last
    quarter, so that one more jump, or another processor's rounding, gives the same verdict.

    Args:
        history: What `fit` returned, or its dictionary of lists. Without `val_` values, overfitting and underfitting
            can't be told.
        monitor: String, the logged loss. Defaults to `"loss"`.
        floor: Float, the loss of a perfect prediction: `0.0` for crossentropy and clean labels, the noise's variance
            for a squared error. Defaults to `None`, unknown: then a high plateau may be all that there is to learn,
            and isn't called underfitting.

    Returns:
        A `Finding` whose problems have these names. Epochs count from 1.

    Raises:
        ValueError: The history holds no `monitor`, or fewer than 4 epochs, or something else than numbers; `monitor` is
            a quantity of which larger values are better, such as `"accuracy"`; or `floor` is not finite.

    Example:

    >>> diagnose_curves({"loss": [2.3, 2.0, 4.0, float("nan")]}).faults
    ['divergence']
    """
    record = getattr(history, "history", history)
    if not isinstance(record, dict):
        raise ValueError(f"`history` must be what `fit` returns, or its dictionary. Received: history={history!r}")
    if not isinstance(monitor, str) or monitor not in record:
        raise ValueError(
            f"`history` must hold {monitor!r}, which is watched; it holds {sorted(map(str, record))}. "
            f"Received: monitor={monitor!r}"
        )
    if _larger_is_better(monitor):
        raise ValueError(
            f"`monitor` must be a loss, which falls while training goes well, and of {monitor!r} larger is better. "
            f"Received: monitor={monitor!r}"
        )
    train = _curve(record, monitor)
    if len(train) < 4:
        raise ValueError(f"A curve needs at least 4 epochs. Received: epochs={len(train)}")
    if floor is not None:
        check_number("floor", floor)
    validation = _curve(record, f"val_{monitor}")
    numbers = {"epochs": len(train), "start": train[0], "end": train[-1]}
    problems = [_not_finite(train, validation), _divergence(train)]
    usable = validation if len(validation) and np.isfinite(validation).all() else None
    if problems[1] is None:
        numbers |= {"lowest": train.min(), "fall": 1 - train.min() / train[0] if train[0] else 0.0}
        if usable is not None:
            best = int(np.argmin(usable))
            numbers |= {
                "validation_end": usable[-1],
                "validation_best": usable[best],
                "best_epoch": _epoch(best, train, usable),
                "gap": usable[-1] / train[-1] - 1 if train[-1] > 0 else math.inf,
            }
        problems += _faults(train, usable, record.get("learning_rate"), floor)
    figure = f"{train[0]:.3g} to {train[-1]:.3g} in {len(train)} epochs"
    numbers = {key: float(value) for key, value in numbers.items()}
    found = tuple(problem for problem in problems if problem is not None)
    return Finding(
        "diagnose_curves", figure, "a loss that keeps falling, and validation that follows it", found, numbers
    )


def _larger_is_better(monitor):
    try:
        return direction(monitor) == "max"
    except ValueError:
        # Nobody knows: a loss of the user's own.
        return False


def _curve(record, name):
    values = record.get(name, [])
    try:
        curve = np.asarray(values, "float64")
    except (TypeError, ValueError):
        curve = None
    if curve is None or curve.ndim != 1:
        raise ValueError(f"`history` must hold one number for each epoch. Received: {name}={shown(values)}")
    return curve


def _faults(train, validation, rates, floor):
    """Returns the problems, or None each, of a finite curve that hasn't diverged."""
    no_fall = _too_low(train) or _stuck(train)
    if no_fall is not None:
        return [no_fall]
    start = train[0] if validation is None or not validation[0] < train[0] else validation[0]
    plateau = _plateau(train, start, rates)
    over = None if validation is None else _overfitting(train, validation, start)
    under = None if validation is None or floor is None or over else _underfitting(train, validation, plateau, floor)
    return [_flat_start(train), plateau, over, under]


def _epoch(index, train, validation):
    return round((index + 1) * len(train) / len(validation))


def _end(values):
    """Returns the level at the end: the median of the last quarter, at least of two values."""
    return float(np.median(values[-max(len(values) // 4, 2) :]))


def _best(values):
    """Returns the lowest level that was kept for more than an epoch: the lowest running median of three."""
    medians = [np.median(values[max(index - 1, 0) : index + 2]) for index in range(len(values))]
    return float(min(medians))


def _bounce(values):
    """Returns how far values lie from a straight line through them: 1.48 median distances, a deviation's estimate."""
    if len(values) < 4:
        return 0.0
    steps = np.arange(len(values))
    distances = values - np.polyval(np.polyfit(steps, values, 1), steps)
    return 1.4826 * float(np.median(np.abs(distances)))


def _not_finite(train, validation):
    wrong = np.flatnonzero(~np.isfinite(validation))
    if not len(wrong) or not np.isfinite(train).all():
        return None
    figure = f"{len(wrong)} of {len(validation)} values, the first at epoch {_epoch(wrong[0], train, validation)}"
    remedy = (
        "look for NaN and outliers in the validation data with input_statistics; if they are clean, the weights grow "
        "until an activation or the loss overflows: lower the learning rate"
    )
    return Problem("validation not finite", "fail", figure, "finite validation losses", remedy)


def _divergence(train):
    wrong = np.flatnonzero(~np.isfinite(train))
    if len(wrong):
        figure = f"not finite from epoch {wrong[0] + 1} on"
    else:
        fall, size, change = train[0] - train.min(), abs(train[0]), np.median(np.abs(np.diff(train)))
        fell = fall > max(0.2 * size, change)
        # Of a loss that hasn't fallen, the last value bounces.
        risen = train[-1] > train[0] + 0.05 * size if fell else _end(train) > train[0] + max(0.1 * size, change)
        climbed = fell and train[-2:].min() > train.min() + 0.5 * fall
        if not (risen or climbed):
            return None
        figure = f"{train[-1]:.3g} at the end, " + (
            f"{train[0]:.3g} after the first epoch" if risen else f"{train.min():.3g} after epoch {train.argmin() + 1}"
        )
    remedy = "lower the learning rate (a tenth), or warm it up; check the inputs' scale with preflight"
    return Problem("divergence", "fail", figure, "a loss that falls", remedy)


def _too_low(train):
    fall = train[0] - train[-1]
    third = max(len(train) // 3, 1)
    late = train[-1 - third] - train[-1]
    if not 0 < fall < 0.2 * abs(train[0]) or late < 0.5 * fall * third / (len(train) - 1):
        return None
    straight = np.corrcoef(np.arange(len(train)), train)[0, 1] ** 2 > 0.6
    if not straight or not np.mean(np.diff(train) < 0) > 0.7:
        return None
    figure = f"{train[0]:.4g} to {train[-1]:.4g}, of which {late:.2g} in the last {third} epochs"
    remedy = "raise the learning rate, by 10 at a time, or to what learning_rate_range suggests"
    return Problem("rate too low", "warn", figure, "a fall by more than a fifth", remedy)


def _stuck(train):
    small = train[0] - _best(train) <= 0.05 * abs(train[0])
    if not small and not _bounces_only(train):
        return None
    figure = f"{train[0]:.4g} after the first epoch, {train.min():.4g} at its lowest"
    if not small:
        figure += f", {_end(train):.4g} at the end, {np.median(np.abs(np.diff(train))):.2g} from epoch to epoch"
    remedy = (
        "run preflight: dead units, frozen layers, labels that don't belong to their inputs, or a rate that is far too "
        "high or far too low. A model that was trained before may have nothing left to learn"
    )
    expected = "a fall by more than 5%" if small else "a fall larger than the steps from epoch to epoch"
    return Problem("stuck", "warn", figure, expected, remedy)


def _bounces_only(train):
    """Returns whether a loss falls no more than it bounces. Beside a start of about zero, every fall is large."""
    if len(train) <= 4:
        return False
    fall = train[0] - _end(train)
    if fall < 1.4826 * np.median(np.abs(train[1:] - np.median(train[1:]))):
        return True
    if len(train) < 8:
        return False
    # A start that is high by chance, or values that jump between two levels: steps show what the spread hides.
    deviation = 1.4826 * np.median(np.abs(np.diff(train))) / math.sqrt(2)
    third = max(len(train) // 3, 1)
    trend = np.median(train[:third]) - np.median(train[-third:])
    return bool(fall < 2 * deviation and trend < 3 * 1.25 * deviation * math.sqrt(2 / third))


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


def _plateau(train, scale, rates):
    fall = train[0] - train.min()
    climbs = train[-2:].min() > train.min() + 0.2 * fall
    shortest = 2 if climbs else max(4, math.ceil(len(train) / 4))
    begins = None
    # The longest end of the curve of which every part is flat.
    for index in range(len(train) - 1 - shortest, -1, -1):
        if not _is_flat(train[index:], fall):
            break
        begins = index
    if begins is None or train[begins:].mean() < 0.05 * scale:
        return None
    if rates is not None and rates[begins] < 0.1 * max(rates):
        return None
    epoch = begins + 1
    figure = f"{train[begins]:.3g} at epoch {epoch}, {train[epoch:].mean():.3g} on average after it"
    remedy = f"decay the learning rate at epoch {epoch}: callbacks.StepDecay(0.1, at=[{epoch}])"
    if begins < 2:
        remedy += "; if that doesn't help, the first steps have killed units: start anew with a tenth of the rate"
    remedy += (
        ". If the loss then stays where it is, the model is too small or that is the noise in the labels: pass "
        "`floor=` to have them told apart"
    )
    return Problem("plateau", "warn", figure, "a fall that goes on", remedy, f"epoch {epoch}")


def _is_flat(values, fall):
    """Returns whether the curve makes less than 3% of the fall from the first half of `values` to the second."""
    middle = max(len(values) // 2, 1)
    before, after = np.median(values[:middle]), np.median(values[middle:])
    # The difference of two medians bounces too.
    allowed = max(0.03 * fall, 2 * _bounce(values) * math.sqrt(4 / len(values)))
    falls = before - after
    return bool(
        falls < allowed and falls < 0.1 * abs(before) and values[0] - np.median(values[1:]) < max(0.1 * fall, allowed)
    )


def _overfitting(train, validation, scale):
    best, late, train_late = _best(validation), _end(validation), _end(train)
    gap = late - train_late
    bounce = _bounce(validation[len(validation) // 2 :])
    whole = max(train[0], validation[0]) - best
    behind = late - best > max(0.1 * abs(best), 0.02 * whole, 2 * bounce)
    # Of a run that died in its first epoch the gap says nothing.
    learnt = train[1] - train_late > 0.1 * abs(train[1])
    own_fall = validation[0] - best
    third = validation[-max(len(validation) // 3, 2) :]
    stopped = third[0] - late < 0.1 * own_fall + bounce
    apart = learnt and stopped and gap > max(0.5 * abs(train_late), 0.1 * abs(scale), 0.25 * own_fall)
    if not (behind or apart) or gap < 0.1 * abs(train_late):
        return None
    index = int(np.argmin(validation))
    epoch = _epoch(index, train, validation)
    figure = (
        f"training {train[-1]:.3g}, validation {validation[-1]:.3g} at the end; validation was best, "
        f"{validation[index]:.3g}, at epoch {epoch}"
    )
    expected = "validation that ends at its best" if behind else "validation that follows training"
    return Problem("overfitting", "warn", figure, expected, _REGULARISE, f"epoch {epoch}")


def _underfitting(train, validation, plateau, floor):
    late, height = _end(train), _end(train) - floor
    if height < 0.2 * (train[0] - floor) or _end(validation) - late > 0.25 * height:
        return None
    tail = train[-max(len(train) // 4, 2) :]
    if plateau is None and tail[0] - tail[-1] > 0.05 * (train[0] - train[-1]):
        return None
    figure = f"training {train[-1]:.3g}, validation {validation[-1]:.3g}, {height:.3g} above the floor: no gap"
    remedy = "raise the capacity (more units, more layers), and take regularisers off, one at a time"
    return Problem("underfitting", "warn", figure, "a small gap at a low loss", remedy)
