"""Averaging `W` and `z` out: ensembles, marginalised noise and views, BatchNormalization statistics."""

from kregkit.inference.batch_normalization import recompute_batch_normalization
from kregkit.inference.ensemble import Ensemble, Member
from kregkit.inference.marginal import Marginal, marginalize
from kregkit.inference.report import Report

__all__ = ["Ensemble", "Marginal", "Member", "Report", "marginalize", "recompute_batch_normalization"]
