"""All checks at once, before the long run."""

import dataclasses
import math
import re
import time
from collections.abc import Sequence

import keras

from kregkit._core import rules
from kregkit._core.checks import check_integer, check_number
from kregkit._core.types import Data
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics._untouched import untouched
from kregkit.diagnostics.compiled_rate import learning_rate
from kregkit.diagnostics.finding import Finding, Problem
from kregkit.diagnostics.gradients import gradient_check
from kregkit.diagnostics.inputs import input_statistics
from kregkit.diagnostics.label_information import label_signal
from kregkit.diagnostics.layer_options import layer_settings
from kregkit.diagnostics.layer_signals import signal_flow
from kregkit.diagnostics.loss_direction import loss_sign
from kregkit.diagnostics.order import label_distribution
from kregkit.diagnostics.preflight_report import PreflightReport
from kregkit.diagnostics.small_batch import overfit_small_batch
from kregkit.diagnostics.training_options import optimizer_settings
from kregkit.diagnostics.untrained_loss import initial_loss
from kregkit.diagnostics.updates import update_ratio

# In the order in which a fault of one explains those of the next.
CHECKS = {
    check.__name__: check
    for check in (
        input_statistics,
        label_distribution,
        label_signal,
        loss_sign,
        initial_loss,
        layer_settings,
        signal_flow,
        gradient_check,
        overfit_small_batch,
        optimizer_settings,
        learning_rate,
        update_ratio,
    )
}
# Of the time that is left, in proportion; 1 for the others.
_SHARES = {
    "initial_loss": 3,
    "signal_flow": 3,
    "gradient_check": 8,
    "overfit_small_batch": 6,
    "learning_rate": 8,
    "update_ratio": 2,
}


@rules.checked(checks=rules.any_of(rules.word(), rules.entries(rules.word())))
def preflight(
    model: keras.Model,
    data: Data,
    checks: str | Sequence[str] = "all",
    batch_size: int | None = 32,
    max_examples: int = 1024,
    seconds: float | None = 60,
    verbose: int | str = 1,
) -> PreflightReport:
    """Runs every check on a compiled model and real batches, and says what is wrong, where, and what to do.

    In this order, since a fault of one explains those of the next: `input_statistics`, `label_distribution`,
    `label_signal`, `loss_sign`, `initial_loss`, `layer_settings`, `signal_flow`, `gradient_check`,
    `overfit_small_batch`, `optimizer_settings`, `learning_rate`, `update_ratio`; each is a function of its own. A check
    that can't run on a model (an exception) is reported as a failure of that name.

    It ends after `seconds`, or as soon after as the tracing of one function takes, which can't be interrupted. Each
    check has its share of the time that is left. One that ends early, or for which none is left, judges only what it
    has seen and says how far it came in its `note`; `report.notes` holds them. A note is no warning: it says nothing
    about the model. Reading the data ends after a third of the time, with one batch at least, and is noted too.

    Ctrl-C ends it with what there is: the report of the checks that have ended, in which a `note` says of the others
    that they weren't run. Before the first check has ended there is none, and `KeyboardInterrupt` is raised.

    It has no side effect: weights, optimizer slots, iterations, seeds and metrics hold the same bits afterwards, also
    when a check raises or the user interrupts, and a `tf.data.Dataset` yields what it would have yielded. Only a model
    that `fit` would build at its first batch is built, with the weights that `fit` would have drawn. Gradients are
    those of `compute_loss`; a custom `train_step` is not run.

    Args:
        model: A compiled Keras model, on one device. Functional, sequential or subclassed.
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, a batched `tf.data.Dataset`, or a
            `keras.utils.PyDataset`. Not an iterator, whose batches can't be put back.
        checks: `"all"`, or a list of names of checks.
        batch_size: Integer >= 2, for arrays. Defaults to `32`.
        max_examples: Integer, how many examples are looked at, at most. Defaults to `1024`.
        seconds: Float > 0, or `None` for as long as it takes. Defaults to `60`.
        verbose: 0, 1 to print a check's name as it begins and its verdict as it ends, or 2 to print both then.
            Defaults to `1`.

    Returns:
        A `PreflightReport`.

    Raises:
        ValueError: An argument is not one of these, the model is not compiled, or is distributed.

    Example:

    >>> import keras, numpy as np
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.1), "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> report = preflight(model, (x, x[:, :1]), checks=["input_statistics", "initial_loss"], verbose=0)
    >>> report.status, report["input_statistics"].expected
    ('pass', 'mean 0, std 1, labels in range')
    """
    start = time.monotonic()
    names = list(CHECKS) if isinstance(checks, str) and checks == "all" else checks
    if isinstance(names, str) or not names or any(name not in CHECKS for name in names):
        raise ValueError(f"`checks` must be 'all' or a list out of {list(CHECKS)}. Received: checks={checks!r}")
    check_integer("max_examples", max_examples, 2)
    if seconds is not None:
        check_number("seconds", seconds, 0, low_open=True)
    if verbose not in (0, 1, 2, "auto"):
        raise ValueError(f"`verbose` must be 0, 1 or 2. Received: verbose={verbose!r}")
    end = math.inf if seconds is None else start + seconds
    names = [name for name in CHECKS if name in names]
    # A third of the time for data that come slowly: the checks are cut short as well then.
    with probing(model, data, batch_size, max_examples, start + (end - start) / 3) as probe:
        findings: list[Finding] = []
        read = probe.cut
        for index, name in enumerate(names):
            begun = time.monotonic()
            title = f"preflight {index + 1}/{len(names)} {name}"
            if verbose in (1, "auto"):
                print(title, end="", flush=True)
            # What one check leaves of its share goes to those after it.
            fraction = _SHARES.get(name, 1) / sum(_SHARES.get(later, 1) for later in names[index:])
            probe.deadline, probe.cut = begun + fraction * (end - begun), ""
            try:
                finding = _cut(name, seconds) if begun >= end else _run(name, model, probe, findings)
            except KeyboardInterrupt:
                if not findings:
                    raise
                if verbose:
                    print(f"{title if verbose == 2 else ''}: interrupted, {time.monotonic() - begun:.1f} s", flush=True)
                findings += [_interrupted(each, name) for each in names[index:]]
                break
            cut = probe.cut or ("" if findings else read)
            if cut:
                finding = _with_cut(finding, cut, seconds)
            findings.append(finding)
            if verbose:
                verdict = f"{'cut short' if finding.note else finding.status}, {time.monotonic() - begun:.1f} s"
                print(f"{title if verbose == 2 else ''}: {verdict}", flush=True)
        return PreflightReport(tuple(findings))


def _cut(name, seconds):
    return _with_cut(Finding(name, "not run", "-"), "not begun", seconds)


def _interrupted(name, within):
    note = "interrupted within it" if name == within else f"not begun: {within} was interrupted"
    return Finding(name, "not run", "-", note=note)


def _with_cut(finding, done, seconds):
    note = f"cut short, to end within {seconds:g} seconds: {done}; for more time: preflight(..., seconds=None)"
    return dataclasses.replace(finding, note=note)


def _run(name, model, probe, before):
    try:
        # Each check starts from the model as it was given.
        with untouched(model):
            return CHECKS[name](model, probe)
    except Exception as error:
        figure = f"{type(error).__name__}: {_reason(error)}"
        failed = [finding.check for finding in before if finding.status == "fail"]
        remedy = f"mend what {failed[0]} found first" if failed else "the model can't be run like this: see the message"
        return Finding(name, "could not run", "-", (Problem(f"{name} could not run", "fail", figure, "-", remedy),))


def _reason(error):
    """Returns the line of a message that says what is wrong: Keras puts the call around it, TensorFlow a traceback."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in plain.partition("Arguments received by")[0].splitlines()]
    lines = [line for line in lines if line and not line.startswith("Exception encountered when calling")]
    traced = not lines or lines[0].startswith(("in user code", "Graph execution error"))
    return (lines[-1 if traced else 0] if lines else "")[:300]
