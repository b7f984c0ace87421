import numpy as np
import pytest

from kregkit.plots import transfer_curves

ERRORS = {"scratch": {1: [40.0, 60.0], 10: [9.0, 11.0]}, "probe": {1: [20.0, 20.0], 10: [0.0, 4.0]}}


def test_lines_join_means_and_bars_reach_the_extremes():
    axes = transfer_curves(ERRORS, labels={10: "all"})
    assert [line.get_ydata().tolist() for line in axes.get_lines()] == [[50, 10], [20, 2]]
    bars = [[segment[:, 1].tolist() for segment in one.get_segments()] for one in axes.collections]
    assert bars == [[[40, 60], [9, 11]], [[20, 20], [0, 4]]]
    # Each way's bars stand under its points, side by side around the number of examples.
    places = [[segment[0, 0] for segment in one.get_segments()] for one in axes.collections]
    assert places == [line.get_xdata().tolist() for line in axes.get_lines()]
    np.testing.assert_allclose(np.prod(places, axis=0) ** 0.5, [1, 10])
    assert places[0] < places[1]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "all"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["scratch", "probe"]
    # The lowest error that a logarithm has, 4, is well inside.
    assert 0 < axes.get_ylim()[0] < 4 and np.isfinite(axes.get_ylim()).all()


def test_given_axes_and_zero_errors():
    import matplotlib.pyplot as plt

    _, axes = plt.subplots()
    assert transfer_curves({"one": {1: [0.0]}}, axes) is axes


def test_refuses():
    with pytest.raises(ValueError, match="Received: errors="):
        transfer_curves({})
    with pytest.raises(ValueError, match="Received: errors="):
        transfer_curves({"one": {}})
