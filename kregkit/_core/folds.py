"""Parts of the examples, for cross-validation."""

import numpy as np


def by_class(order, classes):
    """Returns shuffled indices ordered by class, so that every so many of them hold each class in its proportion."""
    return order[np.argsort(np.asarray(classes)[order], kind="stable")]


def deal(num_examples, folds, seed=0, classes=None):
    """Returns one sorted array of indices per fold: a random partition, in equal parts as far as can be.

    Args:
        num_examples, folds, seed: Integers.
        classes: Optional array of integers `(num_examples,)`; then each class is spread over the folds evenly.

    >>> [fold.tolist() for fold in deal(4, 2, classes=[0, 0, 1, 1])]
    [[0, 2], [1, 3]]
    """
    order = np.random.default_rng(seed).permutation(num_examples)
    if classes is not None:
        order = by_class(order, classes)
    # Dealt like cards, a sorted deck gives each hand its share.
    return [np.sort(order[fold::folds]) for fold in range(folds)]
