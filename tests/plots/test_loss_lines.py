import numpy as np
import pytest

from kregkit.plots import loss_line


def test_the_line_and_what_it_rises():
    axes = loss_line([0, 0.5, 1], [0.2, 1.5, 0.3], errors=[0.05, 0.6, 0.07])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.2, 1.5, 0.3])
    assert axes.lines[1].get_ydata()[0] == 0.3 and len(axes.figure.axes) == 2
    np.testing.assert_allclose(axes.figure.axes[1].lines[0].get_ydata(), [5, 60, 7])
    with pytest.raises(ValueError, match=r"one loss.* Received: positions=3, losses=2, errors=None"):
        loss_line([0, 0.5, 1], [0.2, 1.5])
