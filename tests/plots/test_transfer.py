import numpy as np
import pytest

from kregkit.plots import transfer_curves

ERRORS = {"scratch": {1: [40.0, 60.0], 10: [9.0, 11.0]}, "probe": {1: [20.0, 20.0], 10: [0.0, 4.0]}}


def test_lines_join_means_and_bands_reach_the_extremes():
    axes = transfer_curves(ERRORS, labels={10: "all"})
    assert [line.get_ydata().tolist() for line in axes.get_lines()] == [[50, 10], [20, 2]]
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == 9 and band[:, 1].max() == 60
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "all"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["scratch", "probe"]
    assert np.isfinite(axes.get_ylim()).all()


def test_given_axes_and_zero_errors():
    import matplotlib.pyplot as plt

    _, axes = plt.subplots()
    assert transfer_curves({"one": {1: [0.0]}}, axes) is axes


def test_refuses():
    with pytest.raises(ValueError, match="Received: errors="):
        transfer_curves({})
    with pytest.raises(ValueError, match="Received: errors="):
        transfer_curves({"one": {}})
