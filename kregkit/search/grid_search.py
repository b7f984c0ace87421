"""Search on a grid, for comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kregkit._core import rules
from kregkit.search._engine import Engine
from kregkit.search.result import SearchResult
from kregkit.search.space import Space


@rules.checked(points=rules.any_of(rules.count, rules.mapping(rule=rules.count, empty=False)), epochs=rules.count)
def grid(
    train: Callable[..., Any], space: Space, points: int | Mapping[str, int], *, epochs: int = 9, **arguments: Any
) -> SearchResult:
    """Tries all combinations of equally distant values, each trained for the same number of epochs.

    Where few of the parameters matter, most of a grid's trials repeat the same values of those that do: with `n` points
    for each of `d` parameters, `n ** d` trials try only `n` values of the important one. That is why `search` draws at
    random. Trials run in an order shuffled by the seed, so that a grid that is cut short, as by Ctrl-C, has been
    everywhere.

    Args:
        train: Callable, as in `search`.
        space: A `Space`. Choices are tried in all their options, dependent parameters where they apply.
        points: Integer, how many values of each range, or a dictionary from names to integers.
        epochs: Integer. Defaults to 9.
        **arguments: `metric`, `direction`, `storage`, `seed`, `repeats`, `name` (defaults to `"grid"`), `pruner`,
            `max_loss_ratio`, `fresh_process`, `timeout`, `catch` and `verbose`, as in `search`. Grids, too, resume and
            are shared by workers.

    Returns:
        A `SearchResult` of one round; after Ctrl-C, of the trials that are finished.

    Raises:
        ValueError: An argument is wrong, or `storage` holds another search of this `name`.

    Example:

    >>> import keras
    >>> from kregkit.search import log_uniform
    >>> def train(parameters, epochs, callbacks):
    ...     return {"val_loss": [abs(parameters["learning_rate"] - 0.01)]}
    >>> result = grid(train, Space(learning_rate=log_uniform(1e-4, 1.0)), 5, verbose=0)
    >>> result.best_parameters
    {'learning_rate': 0.01}

    Reference: [Bergstra and Bengio, 2012](https://www.jmlr.org/papers/v13/bergstra12a.html)
    """
    if not isinstance(space, Space):
        raise ValueError(f"`space` must be a `Space`. Received: space={space!r}")
    engine = Engine(train=train, **{"name": "grid", **arguments})
    settings = space.grid(points)
    order = np.random.default_rng(engine.seed).permutation(len(settings))
    return engine.run(space, [len(settings)], [epochs], fixed=[settings[index] for index in order])
