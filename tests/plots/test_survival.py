import matplotlib.pyplot as plt
import numpy as np
import pytest

from kregkit.plots.survival import survival_probabilities

PROBABILITIES = [0.9, 0.7, 0.4]


def test_draws_one_point_per_block():
    axes = survival_probabilities(PROBABILITIES, label="linear")
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), PROBABILITIES)
    assert axes.get_legend().get_texts()[0].get_text() == "linear: expected depth 2 of 3 blocks"
    assert survival_probabilities(PROBABILITIES, axes) is axes
    plt.close("all")


def test_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match=r"Received: probabilities=1.5"):
        survival_probabilities([0.5, 1.5])
    with pytest.raises(ValueError, match=r"Received: probabilities=\[\]"):
        survival_probabilities([])
