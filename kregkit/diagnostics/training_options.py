"""Settings of the optimizer that keep it from training."""

import keras
import numpy as np

from kregkit._core.keras_internals import learning_rate_schedule
from kregkit._core.optimizers import leaf_optimizers
from kregkit._core.types import Data
from kregkit.diagnostics._optimizers import learning_rates
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem

# The part of a gradient that clipping must leave, of a weight that decay may take in a step, of a rate that a schedule
# must leave after one epoch.
_CLIPPED, _DECAY, _FALL = 1e-3, 5e-3, 1e-3


def optimizer_settings(model: keras.Model, data: Data) -> Finding:
    """Checks clipping, weight decay and the schedule of the learning rate.

    - Clipping that leaves less than a thousandth of the first gradient makes the rate a thousand times smaller. Of
      optimizers that divide by the gradient's size it is only said if their epsilon would swallow the rest.
    - Weight decay takes `rate * weight_decay` of each weight in each step: above 0.005, half of it is gone after 140.
    - A schedule that is below a thousandth of its highest rate after one epoch was probably given epochs for steps.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`. The number of batches in an epoch is taken from it, if it is known.

    Returns:
        A `Finding`. Its problems are named `"clipping too tight"`, `"weight decay too strong"`, `"learning rate falls
        too soon"` and `"learning rate is not above 0"`.

    Raises:
        ValueError: The model is not compiled or built, or `data` is an iterator.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.1, clipnorm=1e-6), "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> optimizer_settings(model, (x, x[:, :1])).faults
    ['clipping too tight']
    """
    with probing(model, data) as probe:
        gradients = [gradient for gradient in probe.observation.gradients if gradient is not None]
        problems = []
        for leaf, rate in zip(leaf_optimizers(model.optimizer), learning_rates(model.optimizer)):
            problems += [*_clipping(leaf, gradients), *_decay(leaf, rate), *_schedule(leaf, rate, probe)]
    rates = ", ".join(f"{rate:.2g}" for rate in learning_rates(model.optimizer))
    return Finding("optimizer_settings", f"rate {rates}", "clipping, decay and schedule let it train", tuple(problems))


def _clipping(leaf, gradients):
    sizes = [float(np.linalg.norm(gradient.astype("float64"))) for gradient in gradients]
    largest = [float(np.abs(gradient).max(initial=0)) for gradient in gradients]
    limits = {
        "clipnorm": (leaf.clipnorm, max(sizes, default=0.0)),
        "global_clipnorm": (leaf.global_clipnorm, float(np.linalg.norm(sizes)) if sizes else 0.0),
        "clipvalue": (leaf.clipvalue, max(largest, default=0.0)),
    }
    count = max(sum(gradient.size for gradient in gradients), 1)
    for name, (limit, size) in limits.items():
        if limit is None or not np.isfinite(size) or limit >= _CLIPPED * size:
            continue
        epsilon = getattr(leaf, "epsilon", None)
        # Optimizers with an epsilon divide by the gradient's size, as long as it is above that.
        typical = limit if name == "clipvalue" else limit / np.sqrt(count)
        if epsilon is None or typical < epsilon:
            remedy = f"set {name} to about 1, or to a few times the usual size of the gradient"
            figure = f"{name}={limit:g}, gradient {size:.2g}"
            bound = f"at least {_CLIPPED * size:.1g}"
            yield Problem("clipping too tight", "fail", figure, bound, remedy, leaf.name)


def _decay(leaf, rate):
    decay = getattr(leaf, "weight_decay", None)
    if isinstance(decay, (int, float)) and rate * decay > _DECAY:
        remedy = f"each step takes {rate * decay:.2g} of every weight: weight_decay is usually 1e-4 to 0.1"
        figure = f"weight_decay={decay:g} at a rate of {rate:.2g}"
        yield Problem("weight decay too strong", "fail", figure, f"at most {_DECAY / rate:.1g}", remedy, leaf.name)


def _schedule(leaf, highest, probe):
    schedule = learning_rate_schedule(leaf)
    if not highest > 0:
        remedy = "give the optimizer a learning rate: nothing moves, or moves away from the minimum"
        yield Problem("learning rate is not above 0", "fail", f"{highest:g}", "> 0", remedy, leaf.name)
    elif schedule is not None:
        steps = probe.batches_per_epoch
        now = int(keras.ops.convert_to_numpy(leaf.iterations))
        if steps is not None and float(schedule(now + steps)) < _FALL * highest:
            remedy = "schedules count batches, not epochs: multiply decay_steps by the number of batches in an epoch"
            figure = f"{highest:.2g} falls to {float(schedule(now + steps)):.2g} in one epoch of {steps} batches"
            name = "learning rate falls too soon"
            yield Problem(name, "warn", figure, f"at least {_FALL * highest:.2g}", remedy, leaf.name)
