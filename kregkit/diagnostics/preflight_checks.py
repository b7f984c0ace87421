"""All checks at once, before the long run."""

import dataclasses
import re

from kregkit._core.checks import check_integer
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics._untouched import untouched
from kregkit.diagnostics.compiled_rate import learning_rate
from kregkit.diagnostics.finding import STATUSES, Finding, Problem
from kregkit.diagnostics.gradients import gradient_check
from kregkit.diagnostics.inputs import input_statistics
from kregkit.diagnostics.label_information import label_signal
from kregkit.diagnostics.layer_options import layer_settings
from kregkit.diagnostics.layer_signals import signal_flow
from kregkit.diagnostics.loss_direction import loss_sign
from kregkit.diagnostics.order import label_distribution
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


@dataclasses.dataclass(frozen=True)
class PreflightReport:
    """What `preflight` found: prints as a table, and is a dictionary by `to_dict()`.

    Args:
        findings: Tuple of `Finding`, in the order of the checks.
    """

    findings: tuple

    @property
    def status(self):
        """`"pass"`, `"warn"` or `"fail"`: the worst of all checks."""
        return max((finding.status for finding in self.findings), key=STATUSES.index, default="pass")

    @property
    def faults(self):
        """Names of everything that was found, in order and without repeats."""
        return list(dict.fromkeys(name for finding in self.findings for name in finding.faults))

    def __getitem__(self, check):
        for finding in self.findings:
            if finding.check == check:
                return finding
        raise KeyError(check)

    def to_dict(self):
        """Returns `{"status": ..., "faults": [...], "checks": {name: finding}}` of plain values."""
        checks = {finding.check: finding.to_dict() for finding in self.findings}
        return {"status": self.status, "faults": self.faults, "checks": checks}

    def plot(self):
        """Draws the report with `kregkit.plots.findings`; returns the Figure."""
        from kregkit import plots

        return plots.findings(self.to_dict())

    def __str__(self):
        rows = [("", "check", "measured", "expected")]
        rows += [(one.status, one.check, one.figure, one.expected) for one in self.findings]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths)), row[3]]).rstrip() for row in rows]
        lines.insert(1, "-" * max(map(len, lines)))
        for finding in self.findings:
            for (name, status, remedy), group in _alike(finding.problems).items():
                places = ", ".join(f"{one.where}: {one.figure}" if one.where else one.figure for one in group[:3])
                rest = f", and {len(group) - 3} more" if len(group) > 3 else ""
                lines += [
                    "",
                    f"{status.upper()} {name}: {places}{rest} (expected {group[0].expected})",
                    f"     {remedy}",
                ]
        return "\n".join(lines)


def _alike(problems):
    groups = {}
    for problem in problems:
        groups.setdefault((problem.name, problem.status, problem.remedy), []).append(problem)
    return groups


def preflight(model, data, checks="all", batch_size=32, max_examples=1024):
    """Runs every check on a compiled model and real batches, and says what is wrong, where, and what to do.

    In this order, since a fault of one explains those of the next: `input_statistics`, `label_distribution`,
    `label_signal`, `loss_sign`, `initial_loss`, `layer_settings`, `signal_flow`, `gradient_check`,
    `overfit_small_batch`, `optimizer_settings`, `learning_rate`, `update_ratio`; each is a function of its own. A check that can't run on a model (an exception) is reported as a failure of that name.

    It has no side effect: weights, optimizer slots, iterations, seeds and metrics hold the same bits afterwards, also
    when a check raises or the user interrupts, and a `tf.data.Dataset` yields what it would have yielded. Gradients
    are those of `compute_loss`; a custom `train_step` is not run.

    Args:
        model: A compiled Keras model whose weights exist, on one device. Functional, sequential or subclassed.
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, a batched `tf.data.Dataset`, or a
            `keras.utils.PyDataset`. Not an iterator, whose batches can't be put back.
        checks: `"all"`, or a list of names of checks.
        batch_size: Integer >= 2, for arrays. Defaults to `32`.
        max_examples: Integer, how many examples are looked at, at most. Defaults to `1024`.

    Returns:
        A `PreflightReport`.

    Raises:
        ValueError: An argument is not one of these, the model is not compiled or built, or is distributed.

    Example:

    >>> import keras, numpy as np
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.1), "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> report = preflight(model, (x, x[:, :1]), checks=["input_statistics", "initial_loss"])
    >>> report.status, report["input_statistics"].expected
    ('pass', 'mean 0, std 1, labels in range')
    """
    names = list(CHECKS) if isinstance(checks, str) and checks == "all" else checks
    if isinstance(names, str) or not names or any(name not in CHECKS for name in names):
        raise ValueError(f"`checks` must be 'all' or a list out of {list(CHECKS)}. Received: checks={checks!r}")
    check_integer("max_examples", max_examples, 2)
    with probing(model, data, batch_size, max_examples) as probe:
        findings = []
        for name in CHECKS:
            if name in names:
                findings.append(_run(name, model, probe, findings))
        return PreflightReport(tuple(findings))


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
    told = [line for line in lines if line and not line.startswith("Exception encountered when calling")]
    around = not told or told[0].startswith(("in user code", "Graph execution error"))
    return (told[-1 if around else 0] if told else "")[:300]
