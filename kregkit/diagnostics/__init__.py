"""Finding out whether it works, before and after the long run."""

from kregkit.diagnostics.compare_activations import ActivationComparison, compare_activations
from kregkit.diagnostics.curves import diagnose_curves
from kregkit.diagnostics.finding import Finding, Problem
from kregkit.diagnostics.gradient_check import gradient_check
from kregkit.diagnostics.initial_loss import initial_loss
from kregkit.diagnostics.inputs import input_statistics
from kregkit.diagnostics.label_signal import label_signal
from kregkit.diagnostics.learning_rate_range import LearningRateRange, learning_rate, learning_rate_range
from kregkit.diagnostics.lecture import activation_curves, compare_centering, compare_learning_rates
from kregkit.diagnostics.overfit import overfit_small_batch
from kregkit.diagnostics.preflight import PreflightReport, preflight
from kregkit.diagnostics.signal_flow import signal_flow
from kregkit.diagnostics.update_ratio import update_ratio

__all__ = [
    "ActivationComparison",
    "Finding",
    "LearningRateRange",
    "PreflightReport",
    "Problem",
    "activation_curves",
    "compare_activations",
    "compare_centering",
    "compare_learning_rates",
    "diagnose_curves",
    "gradient_check",
    "initial_loss",
    "input_statistics",
    "label_signal",
    "learning_rate",
    "learning_rate_range",
    "overfit_small_batch",
    "preflight",
    "signal_flow",
    "update_ratio",
]
