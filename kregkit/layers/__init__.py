"""Stochastic layers: noise that exists only while training."""

__all__ = []
