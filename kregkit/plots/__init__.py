"""Pictures: plain data in, matplotlib Axes out."""

from kregkit.plots.curves import error_curves, errors, loss_curves
from kregkit.plots.ensemble_size import ensemble_size
from kregkit.plots.learning_rate import learning_rate
from kregkit.plots.regions import pooling_regions
from kregkit.plots.survival import depth_distribution, survival_probabilities

__all__ = [
    "depth_distribution",
    "ensemble_size",
    "error_curves",
    "errors",
    "learning_rate",
    "loss_curves",
    "pooling_regions",
    "survival_probabilities",
]
