"""The learning rate that a model was compiled with, against a sweep."""

from kregkit.diagnostics._probe import probing
from kregkit.diagnostics.finding import Finding, Problem
from kregkit.diagnostics.learning_rate_sweep import learning_rate_range


def learning_rate(model, data, steps=100):
    """Checks the compiled learning rate against the range in which the loss falls.

    Sweeps from 1e-6 to 10 by `learning_rate_range`. The rate fails if the loss diverges at it or below, or if it is
    more than ten times the rate at which the loss was lowest; it warns within a factor of 2 of the one, of 3 of the
    other, and more than 100 times below the suggestion.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`.
        steps: Integer >= 10, the length of the sweep. Defaults to `100`.

    Returns:
        A `Finding`. Its problems are named `"learning rate too high"`, `"learning rate too low"` and `"no learning
        rate helps"`. Details: the sweep.

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
    with probing(model, data) as probe:
        found = learning_rate_range(model, probe, 1e-6, 10.0, steps)
    rate, good, end = found.current, found.suggestion, found.divergence
    problems = []
    if good is None:
        remedy = "mend what the other checks found first"
        problems.append(Problem("no learning rate helps", "fail", found.reason, "some rate lowers the loss", remedy))
    elif (end is not None and rate >= end / 2) or rate > 30 * good:
        status = "fail" if (end is not None and rate >= end) or rate > 100 * good else "warn"
        bound = f"at most {good:.1e}"
        remedy = f"compile with about {good:.1e}, or warm up to more with kregkit.callbacks.Warmup"
        problems.append(Problem("learning rate too high", status, f"{rate:.1e}", bound, remedy))
    elif rate < good / 100:
        remedy = f"compile with about {good:.1e}"
        problems.append(Problem("learning rate too low", "warn", f"{rate:.1e}", f"about {good:.1e}", remedy))
    expected = "-" if good is None else f"about {good:.1e}" + ("" if end is None else f", below {end:.1e}")
    return Finding("learning_rate", f"{rate:.1e}", expected, tuple(problems), found.to_dict())
