"""Pictures: plain data in, matplotlib Axes out."""

from kregkit.plots.activations import activation_functions, activation_histograms, centering, learning_rates
from kregkit.plots.curves import error_curves, errors, loss_curves
from kregkit.plots.draws import error_against_draws
from kregkit.plots.ensemble_size import ensemble_size
from kregkit.plots.learning_rate import learning_rate
from kregkit.plots.learning_rate_range import learning_rate_range
from kregkit.plots.preflight import preflight
from kregkit.plots.regions import pooling_regions
from kregkit.plots.search_results import best_so_far, search_importance, search_ranges, search_results, search_scatter
from kregkit.plots.steps import step_arrows, taylor_steps
from kregkit.plots.survival import depth_distribution, survival_probabilities
from kregkit.plots.trajectories import trajectories
from kregkit.plots.transfer import transfer_curves

__all__ = [
    "activation_functions",
    "activation_histograms",
    "best_so_far",
    "centering",
    "depth_distribution",
    "ensemble_size",
    "error_against_draws",
    "error_curves",
    "errors",
    "learning_rate",
    "learning_rate_range",
    "learning_rates",
    "loss_curves",
    "pooling_regions",
    "preflight",
    "search_importance",
    "search_ranges",
    "search_results",
    "search_scatter",
    "step_arrows",
    "survival_probabilities",
    "taylor_steps",
    "trajectories",
    "transfer_curves",
]
