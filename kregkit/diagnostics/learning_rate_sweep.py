"""How far the learning rate can be raised: a sweep, a suggestion and its reason."""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kregkit._core import rules
from kregkit._core.checks import check_integer, check_number
from kregkit._core.notebook import Notebook
from kregkit._core.types import Data
from kregkit.diagnostics._optimizers import learning_rates, set_learning_rate
from kregkit.diagnostics._probe import probing

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True)
class LearningRateRange(Notebook):
    """What a sweep of the learning rate found.

    Args:
        rates: Array, the rate of each step that was run.
        losses: Array, the batch's loss before each step.
        smoothed: Array, their moving average.
        steepest: Float, the rate at which the smoothed loss fell fastest.
        lowest: Float, the rate at which it was lowest, up to 2% of its whole fall.
        divergence: Float, the rate at which the loss diverged; `None` if it never did.
        suggestion: Float, the rate to start from; `None` where there was no clear fall.
        reason: String, why.
        current: Float, the rate that the model is compiled with.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    steepest: float
    lowest: float
    divergence: float | None
    suggestion: float | None
    reason: str
    current: float

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain numbers, lists and strings."""
        return {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in dataclasses.asdict(self).items()
        }

    def plot(self, axes: Axes | None = None) -> Any:
        """Draws the sweep with `kregkit.plots.learning_rate_sweep`; returns the Axes."""
        from kregkit import plots

        return plots.learning_rate_sweep(self.to_dict(), axes)

    def __str__(self):
        return self.reason


@rules.checked(steps=rules.whole(10, 10**6))
def learning_rate_range(
    model: keras.Model, data: Data, low: float = 1e-6, high: float = 10.0, steps: int = 100
) -> LearningRateRange:
    """Raises the learning rate from `low` to `high` exponentially, a batch a step, and watches the loss.

    ```
    rate(t) = low (high / low) ** (t / (steps - 1))
    ```

    The steps are real ones by a fresh copy of the model's optimizer, over the batches in turn. The loss is smoothed
    by a moving average without bias; the sweep ends where it exceeds three times its start, or is not finite.

    The suggestion is a tenth of the rate at which the smoothed loss had made 98% of its whole fall. (Of all of it would
    be no sign: what is learnt by heart before the sweep ends has no gradient left, and bears any rate.) There, the
    rate is at the edge of what the model bears for a step or two, and too high for an epoch. Of seven small networks
    on digits (SGD, momentum, Adam; with and without batch normalisation) a tenth of it trained six about as well as
    their best rate and was at the edge for one; a third of it was too high for most. With several optimizers the first
    one's rate is swept and the others' keep their ratio to it.

    "No clear fall" is an answer too: where the smoothed loss falls by less than 2%, or by less than four times as much
    as it varies from batch to batch while the rate is still tiny, so short a sweep says nothing about rates, and
    `suggestion` is `None`.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`.
        low: Float > 0, the first rate. Defaults to `1e-6`.
        high: Float > `low`, the last rate. Defaults to `10.0`.
        steps: Integer >= 10. Defaults to `100`.

    Returns:
        A `LearningRateRange`, which prints its reason and draws itself by `.plot()`.

    Raises:
        ValueError: An argument is out of range, the model is not compiled or built, or `data` is an iterator.

    Example:

    >>> import keras, numpy as np
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(256, 4)).astype("float32")
    >>> found = learning_rate_range(model, (x, x[:, :1]))
    >>> 0.01 < found.suggestion < found.divergence
    True

    Reference: [Smith, 2015](https://arxiv.org/abs/1506.01186)
    """
    low = check_number("low", low, 0, low_open=True)
    high = check_number("high", high, 0, low_open=True)
    if high <= low:
        raise ValueError(f"`low` must be less than `high`. Received: low={low}, high={high}")
    check_integer("steps", steps, 10)
    with probing(model, data) as probe:
        current = learning_rates(model.optimizer)[0]
        rates = np.geomspace(low, high, steps)
        losses = _sweep(probe, rates) if model.trainable_variables else np.full(1, probe.observation.total)
    return _read(rates[: len(losses)], losses, current)


def affordable_steps(probe: Any, steps: int):
    """Returns how many of `steps` end before the probe's deadline, by the time that two of them take."""
    if not np.isfinite(probe.deadline):
        return steps
    _, step = probe.own_trainer()
    step(*probe.batches[0])
    start = time.monotonic()
    float(step(*probe.batches[0]))
    possible = max(int(probe.time_left() / max(time.monotonic() - start, 1e-9)), 0)
    if possible < steps:
        probe.cut = f"a sweep of {possible} instead of {steps} steps"
    return min(steps, possible)


def _sweep(probe, rates):
    optimizer, step = probe.own_trainer()
    losses, smoothed = [], None
    for rate, batch in zip(rates, itertools.cycle(probe.batches)):
        set_learning_rate(optimizer, rate)
        losses.append(float(step(*batch)))
        smoothed = _smooth(losses)
        if not np.isfinite(losses[-1]) or (len(losses) > 5 and smoothed[-1] > 3 * smoothed[:5].mean() > 0):
            break
    return np.array(losses)


def _smooth(losses, decay=0.8):
    """Returns the moving average, divided by the share of it that the data make up."""
    average, smoothed = 0.0, []
    for count, loss in enumerate(losses, start=1):
        average = decay * average + (1 - decay) * loss
        smoothed.append(average / (1 - decay**count))
    return np.array(smoothed)


def _read(rates, losses, current):
    finite = np.isfinite(losses)
    smoothed = _smooth(losses)
    start = float(smoothed[: min(5, len(smoothed))].mean()) if finite[0] else float("nan")
    diverged = not finite[-1] or (len(losses) > 5 and smoothed[-1] > 3 * start > 0)
    known = smoothed[finite]
    lowest = int(np.argmax(known <= known.min() + 0.02 * (start - known.min()))) if len(known) else 0
    # Over windows, since from one step to the next the batch counts for more than the rate.
    window = max(len(known) // 10, 1)
    falls = known[: -window or None] - known[window:] if len(known) > window else np.zeros(1)
    steepest = int(np.argmax(falls[: max(lowest - window + 1, 1)])) + window // 2
    divergence = float(rates[len(losses) - 1]) if diverged else None
    suggestion = float(rates[lowest]) / 10
    fall = start - known[lowest] if len(known) else 0.0
    # A moving average with a share of 0.8 has a third of the deviation of what it averages.
    chance = 4 * float(np.std(losses[: max(len(losses) // 3, 2)])) / 3
    if not fall > max(0.02 * abs(start), chance):
        reason = (
            f"No clear fall: no rate from {rates[0]:.2g} to {rates[len(losses) - 1]:.2g} lowered the loss of "
            f"{start:.3g} by more than {max(0.02 * abs(start), chance):.2g}, which batches alone would do. "
            "The sweep is too short for this model to say which rate is right"
        )
        suggestion = None
    else:
        reason = (
            f"Start from {suggestion:.2g}, a tenth of the rate at which the loss stopped falling: from {start:.3g} it "
            f"fell fastest at {rates[steepest]:.2g}, was lowest, {known[lowest]:.3g}, at {rates[lowest]:.2g}, "
            + (f"and diverged at {divergence:.2g}" if diverged else f"and did not diverge up to {rates[-1]:.2g}")
        )
    return LearningRateRange(
        rates, losses, smoothed, float(rates[steepest]), float(rates[lowest]), divergence, suggestion, reason, current
    )
