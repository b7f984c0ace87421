"""Averaging `W` and `z` out: ensembles, marginalised noise and views, weight posteriors, and calibration at the end."""

from kregkit._core.words import missing_names
from kregkit.inference.batch_normalization import recompute_batch_normalization
from kregkit.inference.calibration import Calibrated, calibrate
from kregkit.inference.ensemble import Ensemble, Member
from kregkit.inference.marginal import Marginal, marginalize
from kregkit.inference.report import Report

__all__ = [
    "Calibrated",
    "Ensemble",
    "Marginal",
    "Member",
    "Report",
    "calibrate",
    "marginalize",
    "recompute_batch_normalization",
]

__getattr__ = missing_names(__name__)
