"""Averaging `W` and `z` out: ensembles, marginalised noise and views, weight posteriors, and calibration at the end."""

from kregkit._core.words import missing_names
from kregkit.inference.batch_normalization import recompute_batch_normalization
from kregkit.inference.calibration import Calibrated, calibrate
from kregkit.inference.ensemble import Ensemble, Member
from kregkit.inference.last_layer import laplace
from kregkit.inference.loss_lines import LossAlong, loss_along
from kregkit.inference.marginal import Marginal, marginalize
from kregkit.inference.posterior import WeightPosterior
from kregkit.inference.report import Report
from kregkit.inference.soups import DifferentBasinsError, soup

__all__ = [
    "Calibrated",
    "DifferentBasinsError",
    "Ensemble",
    "LossAlong",
    "Marginal",
    "Member",
    "Report",
    "WeightPosterior",
    "calibrate",
    "laplace",
    "loss_along",
    "marginalize",
    "recompute_batch_normalization",
    "soup",
]

__getattr__ = missing_names(__name__)
