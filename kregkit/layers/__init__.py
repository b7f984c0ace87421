"""Stochastic layers: noise that exists only while training."""

from kregkit.layers.stochastic_depth import StochasticDepth, linear_survival

__all__ = ["StochasticDepth", "linear_survival"]
