import matplotlib.pyplot as plt
import numpy as np
import pytest

from kregkit.plots.draws import error_against_draws


def test_draws_mean_range_and_baseline():
    errors = np.array([[5.0, 4.0, 3.0], [7.0, 5.0, 3.5]])
    axes = error_against_draws([1, 4, 16], errors, label="dropout", baseline=[4.0, 4.5])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [6.0, 4.5, 3.25])
    assert axes.lines[1].get_ydata()[0] == pytest.approx(4.25)
    vertices = axes.collections[0].get_paths()[0].vertices
    assert vertices[:, 1].min() == 3.0 and vertices[:, 1].max() == 7.0
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["dropout", "plain prediction"]
    assert error_against_draws([1, 4, 16], errors[0], axes) is axes
    with pytest.raises(ValueError, match="Received: errors of shape"):
        error_against_draws([1, 4], errors)
    plt.close("all")
