"""Pictures: plain data in, matplotlib Axes out."""

from kregkit.plots.activations import activation_functions, activation_histograms, centering, learning_rates
from kregkit.plots.curves import error_curves, errors, loss_curves
from kregkit.plots.ensemble_size import ensemble_size
from kregkit.plots.learning_rate import learning_rate
from kregkit.plots.learning_rate_range import learning_rate_range
from kregkit.plots.preflight import preflight
from kregkit.plots.steps import step_arrows, taylor_steps
from kregkit.plots.trajectories import trajectories
from kregkit.plots.transfer import transfer_curves

__all__ = [
    "activation_functions",
    "activation_histograms",
    "centering",
    "ensemble_size",
    "error_curves",
    "errors",
    "learning_rate",
    "learning_rate_range",
    "learning_rates",
    "loss_curves",
    "preflight",
    "step_arrows",
    "taylor_steps",
    "trajectories",
    "transfer_curves",
]
