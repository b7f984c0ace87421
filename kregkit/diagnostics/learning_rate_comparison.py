"""Short runs at several learning rates, too low to too high."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kregkit._core import rules
from kregkit._core.types import Data
from kregkit._core.weights import assign_values, copy_values
from kregkit.diagnostics._optimizers import set_learning_rate
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.learning_rate_sweep import learning_rate_range


@rules.checked(rates=rules.mapping(none=True, rule=rules.number(0), empty=False), steps=rules.count)
def compare_learning_rates(
    model: keras.Model, data: Data, rates: Mapping[str, float] | None = None, steps: int = 150
) -> Any:
    """Runs a model briefly at several learning rates, each from the same weights, and returns the real loss curves.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `preflight`.
        rates: Dictionary from a name to a rate. By default rates are found by `learning_rate_range` and trials:
            `"good"` is its suggestion; `"too low"` is 0.003 times that; `"too high"` is the lowest of 1, 3, 9 and 27
            times the rate where it diverged (or of its last rate) at which the loss doesn't fall; and `"high"` is the
            highest rate between these two at which the loss falls by at least a quarter of its fall at the good rate.
            A rate that isn't found is left out.
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
        sweep = learning_rate_range(model, probe)
        if sweep.suggestion is None:
            raise ValueError(f"`rates` must be given for this model. {sweep.reason}. Received: rates=None")
        good = run(sweep.suggestion)
        end = sweep.divergence or float(sweep.rates[-1])
        trials = (run(times * end) for times in (1, 3, 9, 27))
        high_end = next((curve for curve in trials if not _fall(curve) > 0.05 * _fall(good)), None)
        top = 27 * end if high_end is None else high_end["rate"]
        between = (run(rate) for rate in np.geomspace(sweep.suggestion, top, 10)[-2:0:-1])
        high = next((curve for curve in between if _fall(curve) > 0.25 * _fall(good)), None)
        low = run(0.003 * sweep.suggestion)
    curves = {"too low": low, "good": good, "high": high, "too high": high_end}
    return {name: curve for name, curve in curves.items() if curve is not None}


def _fall(curve):
    """Returns by how much a run's loss has fallen: minus infinity where it overflowed."""
    losses = curve["losses"]
    few = max(len(losses) // 10, 1)
    if not np.isfinite(losses).all():
        return -np.inf
    # A run that leaps up and settles there has fallen from its leap, but not from where it began.
    return float(min(losses[0], losses[:few].mean()) - losses[-few:].mean())
