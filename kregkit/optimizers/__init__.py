"""Update rules and solvers that Keras lacks."""

__all__ = []
