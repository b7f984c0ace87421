"""The learning rate that a model was compiled with, against a sweep."""

from typing import Any

import keras
import numpy as np

from kregkit._core import rules
from kregkit._core.checks import check_integer
from kregkit._core.types import Data
from kregkit.diagnostics._optimizers import learning_rates
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics._untouched import untouched
from kregkit.diagnostics.finding import Finding, Problem
from kregkit.diagnostics.learning_rate_sweep import affordable_steps, learning_rate_range

# A sweep in fewer steps shows nothing. Models of more than so many variables get half the steps, twice as far apart.
_FEWEST, _LARGE = 30, 100


@rules.checked(steps=rules.whole(10, 10**6, none=True))
def learning_rate(model: keras.Model, data: Data, steps: int | None = None) -> Any:
    """Checks the compiled learning rate against the range in which the loss falls.

    Sweeps from 1e-6 to 10 by `learning_rate_range`. A rate near the one at which the sweep diverged, or more than 30
    times or less than a hundredth of the suggestion, is suspected; then, and where the sweep shows no clear fall, 40
    steps are trained at the rate itself, which decide. It fails if the loss rises, jumps to ten times its start, or
    doesn't fall by a tenth of what the sweep reached; it warns, as too low, if the loss falls by less than 0.5% of
    that. A model that is trained already starts low: there, rises and falls below a hundredth of what the best
    constant prediction costs don't count, nor do jumps below that cost.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`.
        steps: Integer >= 10, the length of the sweep. Defaults to 100, and to 50 for a model of more than 100
            trainable variables, whose steps take long.

    Returns:
        A `Finding`. Its problems are named `"learning rate too high"`, `"learning rate too low"` and `"no learning
        rate helps"`. Details: the sweep, and the losses of the `"trial"`.

    Raises:
        ValueError: An argument is out of range, the model is not compiled or built, or `data` is an iterator.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(100.0), "mse")
    >>> x = np.random.default_rng(0).normal(size=(256, 4)).astype("float32")
    >>> learning_rate(model, (x, x[:, :1])).faults
    ['learning rate too high']
    """
    if steps is not None:
        check_integer("steps", steps, 10)
    with probing(model, data) as probe:
        steps = (50 if len(model.trainable_variables) > _LARGE else 100) if steps is None else steps
        if model.trainable_variables:
            with untouched(model):
                steps = affordable_steps(probe, steps)
        if probe.cut and steps < _FEWEST:
            return Finding("learning_rate", f"{learning_rates(model.optimizer)[0]:.2g}", "not known", (), {})
        with untouched(model):
            sweep = learning_rate_range(model, probe, 1e-6, 10.0, steps)
        rate, good, end = sweep.current, sweep.suggestion, sweep.divergence
        high = (end is not None and rate >= end / 2) or (good is not None and rate > 30 * good)
        low = good is not None and rate < good / 100
        ignorant = probe.observation.constant if np.isfinite(probe.observation.constant) else 0.0
        trial = _trial(probe) if model.trainable_variables and (high or low or good is None) else None
    problems = []
    # The rates of the sweep's first third are too small to change much.
    early = sweep.losses[: max(len(sweep.losses) // 3, 2)]
    start, spread = float(np.mean(early)), float(np.std(early))
    fall = start - float(np.nanmin(sweep.smoothed)) if np.isfinite(sweep.losses[0]) else 0.0
    # What a prediction that knows nothing costs. Of a model that is trained already, a hundredth of it is little.
    least, rise = 0.01 * abs(ignorant), max(5 * spread, 0.1 * abs(start), 0.01 * abs(ignorant))
    if trial is None:
        if not model.trainable_variables:
            remedy = "set `trainable = True` on what should train, and compile again"
            figure = "no weight is trainable"
            problems.append(Problem("no learning rate helps", "fail", figure, "weights that train", remedy))
    elif not np.isfinite(trial).all() or trial[-len(trial) // 4 :].mean() > start + rise:
        problems.append(_too_high(rate, good, "the loss rises" if np.isfinite(trial).all() else "the loss overflows"))
    elif high and good is not None and start > 0 and trial.max() > 10 * max(start, 0.1 * abs(ignorant)):
        problems.append(_too_high(rate, good, f"the loss jumps from {start:.3g} to {trial.max():.3g}"))
    elif high and good is not None and fall > least and trial[-len(trial) // 4 :].mean() > start - 0.1 * fall:
        problems.append(_too_high(rate, good, "the loss doesn't fall"))
    elif low and trial[: len(trial) // 4].mean() - trial[-len(trial) // 4 :].mean() < 0.005 * fall:
        remedy = f"compile with about {good:.2g}"
        figure = f"{rate:.2g}: in {len(trial)} steps the loss falls by less than 0.5% of what the sweep reaches"
        problems.append(Problem("learning rate too low", "warn", figure, f"about {good:.2g}", remedy))
    expected = "no clear fall" if good is None else f"about {good:.2g}" + ("" if end is None else f", below {end:.2g}")
    details = {**sweep.to_dict(), "trial": None if trial is None else trial.tolist()}
    return Finding("learning_rate", f"{rate:.2g}", expected, tuple(problems), details)


def _trial(probe, rounds=4, most=10):
    """Returns the losses of real steps at the compiled rate, over a few batches again and again; None without time."""
    _, step = probe.own_trainer()
    batches, losses = probe.batches[:most] * rounds, []
    for batch in batches:
        losses.append(float(step(*batch)))
        if not np.isfinite(losses[-1]):
            break
        if probe.time_left() <= 0 and len(losses) < len(batches):
            probe.cut = f"{len(losses)} of {len(batches)} steps at the compiled rate"
            return None
    return np.array(losses)


def _too_high(rate, good, symptom):
    bound = "a rate at which the loss falls" if good is None else f"about {good:.2g}"
    remedy = (
        "lower it by factors of 10 until the loss falls"
        if good is None
        else f"compile with about {good:.2g}, or warm up to more with kregkit.callbacks.Warmup"
    )
    return Problem("learning rate too high", "fail", f"{rate:.2g}: {symptom}", bound, remedy)
