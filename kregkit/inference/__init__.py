"""Averaging `W` and `z` out: ensembles and BatchNormalization statistics."""

from kregkit.inference.batch_normalization import recompute_batch_normalization
from kregkit.inference.ensemble import Ensemble
from kregkit.inference.report import Report

__all__ = ["Ensemble", "Report", "recompute_batch_normalization"]
