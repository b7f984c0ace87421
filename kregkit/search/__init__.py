"""Hyperparameter search: random rather than grid, log scales, from coarse to fine, shared by workers. On Optuna."""

from kregkit._core.words import missing_names
from kregkit.search.choices import Choice, choice
from kregkit.search.cross_validation import CrossValidation, cross_validate, fold_indices
from kregkit.search.grid_search import grid
from kregkit.search.interval import mean_interval
from kregkit.search.random_search import search
from kregkit.search.ranges import Range, integer, log_uniform, uniform
from kregkit.search.result import SearchResult, Trial
from kregkit.search.space import Space
from kregkit.search.training import BuildAndFit, build_and_fit

__all__ = [
    "BuildAndFit",
    "Choice",
    "CrossValidation",
    "Range",
    "SearchResult",
    "Space",
    "Trial",
    "build_and_fit",
    "choice",
    "cross_validate",
    "fold_indices",
    "grid",
    "integer",
    "log_uniform",
    "mean_interval",
    "search",
    "uniform",
]

__getattr__ = missing_names(__name__)
