import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest

from kregkit.plots.ensembles import ensemble_size, subset_errors

RANDOM = np.random.default_rng(0)
PREDICTIONS = RANDOM.dirichlet([1, 1, 1], size=(4, 30))
LABELS = RANDOM.integers(0, 3, 30)


def test_draws_mean_and_range_over_all_subsets():
    axes = ensemble_size(PREDICTIONS, LABELS)
    expected = []
    for size in range(1, 5):
        errors = [
            np.mean([np.argmax(sum(PREDICTIONS[m][i] for m in subset)) != LABELS[i] for i in range(30)])
            for subset in itertools.combinations(range(4), size)
        ]
        expected.append(100 * np.mean(errors))
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [1, 2, 3, 4])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), expected)
    assert axes.get_ylabel() == "error (%)"
    assert ensemble_size(PREDICTIONS, LABELS, axes) is axes
    plt.close("all")


def test_several_ensembles_explain_their_bands_once():
    axes = ensemble_size(PREDICTIONS, LABELS, label="seed 0")
    ensemble_size(PREDICTIONS[::-1], LABELS, axes, label="seed 1")
    band = "best to worst choice of members"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["seed 0", band, "seed 1"]
    plt.close("all")


def test_many_subsets_are_drawn_at_random():
    errors = subset_errors(np.repeat(PREDICTIONS, 3, axis=0), LABELS, num_subsets=20, seed=1)
    assert [len(one) for one in errors] == [12, *[20] * 9, 12, 1]
    again = subset_errors(np.repeat(PREDICTIONS, 3, axis=0), LABELS, num_subsets=20, seed=1)
    np.testing.assert_array_equal(errors[4], again[4])


def test_own_error_and_bad_argument():
    axes = ensemble_size(PREDICTIONS[..., 0], LABELS, error=lambda y, p: float(np.mean((p - y) ** 2)))
    assert axes.get_ylabel() == "error"
    with pytest.raises(ValueError, match=r"Received: num_subsets=0"):
        ensemble_size(PREDICTIONS, LABELS, num_subsets=0)
    plt.close("all")
