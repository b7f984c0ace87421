"""Averaging `W` and `z` out: ensembles, marginalised noise and views, BatchNormalization statistics."""

from kregkit.inference.batch_normalization import recompute_batch_normalization
from kregkit.inference.ensemble import Ensemble
from kregkit.inference.marginalize import marginalize
from kregkit.inference.report import Report

__all__ = ["Ensemble", "Report", "marginalize", "recompute_batch_normalization"]
