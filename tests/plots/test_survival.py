import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest

from kregkit.plots.survival import depth_distribution, survival_probabilities

PROBABILITIES = [0.9, 0.7, 0.4]


def test_draws_one_point_per_block():
    axes = survival_probabilities(PROBABILITIES, label="linear")
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), PROBABILITIES)
    assert axes.get_legend().get_texts()[0].get_text() == "linear: expected depth 2 of 3 blocks"
    assert survival_probabilities(PROBABILITIES, axes) is axes
    plt.close("all")


def test_distribution_is_that_of_all_outcomes():
    expected = np.zeros(4)
    for outcome in itertools.product([0, 1], repeat=3):
        expected[sum(outcome)] += np.prod([p if one else 1 - p for one, p in zip(outcome, PROBABILITIES)])
    axes = depth_distribution(PROBABILITIES)
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], expected)
    assert axes.lines[0].get_xdata()[0] == pytest.approx(2.0)
    plt.close("all")


@pytest.mark.parametrize("draw", [survival_probabilities, depth_distribution])
def test_refuses_what_is_no_probability(draw):
    with pytest.raises(ValueError, match=r"Received: probabilities=1.5"):
        draw([0.5, 1.5])
    with pytest.raises(ValueError, match=r"Received: probabilities=\[\]"):
        draw([])
