"""The sweep's picture shows its numbers."""

import matplotlib
import numpy as np

from kregkit import plots

matplotlib.use("Agg")
SWEEP = {"rates": [1e-3, 1e-2, 1e-1], "losses": [2.0, 1.0, 9.0], "smoothed": [2.0, 1.5, 4.0]}


def test_lines_are_the_sweep():
    axes = plots.learning_rate_range({**SWEEP, "suggestion": 1e-3, "divergence": 0.1, "current": None})
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), SWEEP["losses"])
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), SWEEP["smoothed"])
    np.testing.assert_array_equal(axes.lines[1].get_xdata(), SWEEP["rates"])
    assert axes.get_xscale() == "log"
    marked = {line.get_label(): line.get_xdata()[0] for line in axes.lines[2:]}
    assert marked == {"suggestion 1.0e-03": 1e-3, "divergence 1.0e-01": 0.1}


def test_divergence_does_not_squeeze_the_rest():
    axes = plots.learning_rate_range({**SWEEP, "losses": [2.0, 1.0, 1e9], "smoothed": [2.0, 1.5, np.inf]})
    assert axes.get_ylim()[1] < 10
