"""Random search from coarse to fine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from kregkit._core import rules
from kregkit._core.checks import check_integer, check_number
from kregkit._core.types import Path
from kregkit.search._engine import Engine
from kregkit.search.result import SearchResult
from kregkit.search.space import Space


@rules.checked(trials=rules.counts, rounds=rules.count, epochs=rules.counts)
def search(
    train: Callable[..., Any],
    space: Space,
    trials: int | Sequence[int],
    rounds: int = 3,
    metric: str = "val_loss",
    direction: Literal["auto", "min", "max"] = "auto",
    storage: Path | None = None,
    seed: int = 0,
    *,
    epochs: int | Sequence[int] = 9,
    repeats: int = 1,
    quantile: float = 0.2,
    name: str = "search",
    sampler: Callable[..., Any] | None = None,
    pruner: Any = None,
    max_loss_ratio: float | None = 3.0,
    fresh_process: bool = False,
    timeout: float = 60.0,
    catch: tuple[type[BaseException], ...] = (),
    verbose: int = 1,
) -> SearchResult:
    """Searches for good hyperparameters at random, from coarse to fine.

    The first round draws from the whole space and trains for few epochs. Each further round draws from ranges around
    the best trials of the round before (see `Space.around`) and trains longer. A best value at a range's edge widens
    that range, and the search says so. Trials whose loss rises above `max_loss_ratio` times its first value, or that
    fall behind the others, end early.

    With a `storage`, the search resumes where it stopped when it is called again, and the same call in several
    processes, on one machine or more, shares the trials among them: they wait for each other at a round's end. What is
    drawn depends only on `seed`, the round and the trial's index, not on who runs it or when, so that a trial whose
    worker died is run again as it was.

    Ctrl-C ends the search with what there is: the result of the trials that are finished, with `interrupted=True`. If
    none is complete, `KeyboardInterrupt` is raised. The trial that ran is given back to the storage either way.

    Each round is an Optuna study of its own, `"{name}-1"` and so on, with Optuna's sampler, pruner and storage.

    Args:
        train: Callable `(parameters, epochs, callbacks)` that trains a new model, passing `callbacks` on to `fit`, and
            returns the `History`. `build_and_fit` makes one. All seeds are set before each call.
        space: A `Space`.
        trials: Integer, how many in all, each round having half as many as the one before; or a list with the number
            for each round.
        rounds: Integer. Defaults to 3; with lists, their length.
        metric: String, the logged quantity to optimise, at each training's best epoch. Defaults to `"val_loss"`.
        direction: `"min"`, `"max"`, or `"auto"`. `"auto"` knows the names of Keras's metrics and losses, and asks the
            model that `build_and_fit` makes about other names. It is an error if neither tells, or if a model's metric
            of one of Keras's names has the other direction.
        storage: None for memory; a path for a journal file, which works on network file systems; a database's URL, such
            as `"sqlite:///search.db"`; or an Optuna storage. Defaults to `None`.
        seed: Integer >= 0.
        epochs: Integer, for the last round, each round before having a third of the next one's, at least one; or a list
            with the number for each round. Defaults to 9.
        repeats: Integer, trainings per trial, with different seeds; the trial's value is their mean. Defaults to 1.
        quantile: Float in (0, 1], the fraction of a round's trials that counts as the best, at least three of them.
        name: String, under which the storage keeps the search.
        sampler: Callable `sampler(seed=...)` that returns an Optuna sampler, such as `optuna.samplers.TPESampler`.
            Defaults to `optuna.samplers.RandomSampler`. One is made for each trial.
        pruner: An Optuna pruner. Defaults to `optuna.pruners.MedianPruner()`, which compares trials of the same round.
            `optuna.pruners.NopPruner()` ends none.
        max_loss_ratio: Float > 1, or None to never end a trial for its loss. The loss is the mean over the epoch's
            batches, as Keras logs it. Where the first batch's loss is near zero, as in fine-tuning, or very noisy, as
            with few examples of an unbounded loss, it must be larger.
        fresh_process: Boolean, whether each trial runs in a new process, which gives all memory back. `train` must be
            importable and the script must guard its start by `if __name__ == "__main__":`. Costs the import of
            TensorFlow per trial.
        timeout: Float, seconds after which a worker that shows no life is given up for dead. On Linux, one on the same
            machine whose process is gone is given up at once.
        catch: Tuple of exceptions that only fail the trial; all others end the search. A trial also fails if its own
            process dies.
        verbose: 0 is silent, 1 shows a progress bar with the best so far (in a notebook it does as 2), 2 prints a
            line per trial.

    Returns:
        A `SearchResult`; its attribute `interrupted` says whether Ctrl-C ended the search early.

    Raises:
        ValueError: An argument is wrong, or `storage` holds another search of this `name`.
        ImportError: Optuna is not installed.

    Example:

    >>> import keras, numpy as np
    >>> from kregkit.search import build_and_fit, log_uniform
    >>> x = np.linspace(-1, 1, 32)[:, None]
    >>> def build(parameters):
    ...     model = keras.Sequential([keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(parameters["learning_rate"]), "mse")
    ...     return model
    >>> train = build_and_fit(build, (x, 2 * x), (x, 2 * x))
    >>> space = Space(learning_rate=log_uniform(1e-3, 1.0))
    >>> result = search(train, space, trials=[4, 2], epochs=[1, 2], verbose=0)
    >>> len(result.trials), result.best.state, list(result.best_parameters)
    (6, 'complete', ['learning_rate'])

    References:
        - [Bergstra and Bengio, 2012](https://www.jmlr.org/papers/v13/bergstra12a.html), random against grid
        - [Akiba et al., 2019](https://arxiv.org/abs/1907.10902), Optuna
    """
    if not isinstance(space, Space):
        raise ValueError(f"`space` must be a `Space`. Received: space={space!r}")
    check_number("quantile", quantile, 0, 1, low_open=True)
    engine = Engine(
        train=train,
        metric=metric,
        direction=direction,
        storage=storage,
        seed=seed,
        repeats=repeats,
        name=name,
        sampler=sampler,
        pruner=pruner,
        max_loss_ratio=max_loss_ratio,
        fresh_process=fresh_process,
        timeout=timeout,
        catch=catch,
        verbose=verbose,
    )
    lists = [len(given) for given in (trials, epochs) if isinstance(given, (list, tuple))]
    rounds = check_integer("rounds", lists[0] if lists else rounds, 1)
    return engine.run(space, _halving(trials, rounds), _tripling(epochs, rounds), quantile)


def _listed(name, given, rounds):
    if len(given) != rounds:
        raise ValueError(f"`{name}` must have one number for each of {rounds} rounds. Received: {name}={given}")
    return [check_integer(name, one, 1) for one in given]


def _halving(trials, rounds):
    """Returns the number of trials in each round, each about half of the one before.

    >>> _halving(28, 3), _halving(3, 3)
    ([16, 8, 4], [1, 1, 1])
    """
    if isinstance(trials, (list, tuple)):
        return _listed("trials", trials, rounds)
    check_integer("trials", trials, rounds)
    counts = []
    for later in range(rounds - 1, -1, -1):
        # Of what is left, this round takes 2 ** later parts of 2 ** (later + 1) - 1, and leaves one for each later one.
        left = trials - sum(counts)
        counts.append(max(1, min(round(left * 2**later / (2 ** (later + 1) - 1)), left - later)))
    return counts


def _tripling(epochs, rounds):
    """Returns the number of epochs in each round, the last one's being `epochs`.

    >>> _tripling(9, 3), _tripling(5, 3)
    ([1, 3, 9], [1, 2, 5])
    """
    if isinstance(epochs, (list, tuple)):
        return _listed("epochs", epochs, rounds)
    check_integer("epochs", epochs, 1)
    return [max(1, round(epochs / 3**later)) for later in range(rounds - 1, -1, -1)]
