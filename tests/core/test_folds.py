"""A partition of the examples in equal parts."""

import numpy as np

from kregkit._core.folds import deal


def test_every_example_is_in_one_fold():
    folds = deal(23, 4, seed=3)
    assert sorted(np.concatenate(folds)) == list(range(23)) and np.ptp([len(fold) for fold in folds]) == 1
    assert any((one != other).any() for one, other in zip(folds, deal(23, 4, seed=4)) if len(one) == len(other))


def test_classes_are_spread():
    classes = np.repeat([0, 1, 2], [8, 4, 12])
    for fold in deal(24, 4, classes=classes):
        assert np.bincount(classes[fold]).tolist() == [2, 1, 3]
