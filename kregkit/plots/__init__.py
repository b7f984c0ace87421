"""Pictures: plain data in, matplotlib Axes out."""

from kregkit.plots.activations import activation_histograms
from kregkit.plots.calibration import reliability
from kregkit.plots.contact_sheets import contact_sheet
from kregkit.plots.curves import error_curves, errors, loss_curves
from kregkit.plots.draws import error_against_draws
from kregkit.plots.ensembles import ensemble_size
from kregkit.plots.loss_lines import loss_line
from kregkit.plots.paths import trajectories
from kregkit.plots.rates import learning_rate_curve, learning_rate_sweep, learning_rates
from kregkit.plots.report import findings
from kregkit.plots.searches import best_so_far, search_importance, search_ranges, search_results, search_scatter
from kregkit.plots.survival import survival_probabilities
from kregkit.plots.transfer import transfer_curves

__all__ = [
    "activation_histograms",
    "best_so_far",
    "contact_sheet",
    "ensemble_size",
    "error_against_draws",
    "error_curves",
    "errors",
    "findings",
    "learning_rate_curve",
    "learning_rate_sweep",
    "learning_rates",
    "loss_curves",
    "loss_line",
    "reliability",
    "search_importance",
    "search_ranges",
    "search_results",
    "search_scatter",
    "survival_probabilities",
    "trajectories",
    "transfer_curves",
]
