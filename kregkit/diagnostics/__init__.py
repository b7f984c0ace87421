"""Finding out whether it works, before and after the long run."""

from kregkit._core.words import missing_names
from kregkit.diagnostics.activation_comparison import ActivationComparison, compare_activations
from kregkit.diagnostics.compiled_rate import learning_rate
from kregkit.diagnostics.curves import diagnose_curves
from kregkit.diagnostics.finding import Finding, Problem
from kregkit.diagnostics.gradients import gradient_check
from kregkit.diagnostics.inputs import input_statistics
from kregkit.diagnostics.label_information import label_signal
from kregkit.diagnostics.layer_options import layer_settings
from kregkit.diagnostics.layer_signals import signal_flow
from kregkit.diagnostics.learning_rate_comparison import compare_learning_rates
from kregkit.diagnostics.learning_rate_sweep import LearningRateRange, learning_rate_range
from kregkit.diagnostics.loss_direction import loss_sign
from kregkit.diagnostics.order import label_distribution
from kregkit.diagnostics.preflight_checks import preflight
from kregkit.diagnostics.preflight_report import PreflightReport
from kregkit.diagnostics.small_batch import overfit_small_batch
from kregkit.diagnostics.training_options import optimizer_settings
from kregkit.diagnostics.untrained_loss import initial_loss
from kregkit.diagnostics.updates import update_ratio

__all__ = [
    "ActivationComparison",
    "Finding",
    "LearningRateRange",
    "PreflightReport",
    "Problem",
    "compare_activations",
    "compare_learning_rates",
    "diagnose_curves",
    "gradient_check",
    "initial_loss",
    "input_statistics",
    "label_distribution",
    "label_signal",
    "layer_settings",
    "learning_rate",
    "learning_rate_range",
    "loss_sign",
    "optimizer_settings",
    "overfit_small_batch",
    "preflight",
    "signal_flow",
    "update_ratio",
]

__getattr__ = missing_names(__name__)
