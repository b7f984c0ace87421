"""What is drawn is what was given."""

import numpy as np
import pytest

from kregkit.plots import trajectories

pytest.importorskip("matplotlib")


def bowl(x, y):
    return x**2 + 2 * y**2 + 0.5


@pytest.fixture
def landscape():
    paths = {"a": np.array([[1.0, 1.0], [0.5, 0.25], [0.0, 0.0]]), "b": np.array([[1.0, 1.0], [-0.5, 0.5]])}
    return {"function": bowl, "paths": paths, "limits": ((-2, 2), (-1.5, 1.5)), "minima": [(0, 0)], "lowest": 0.5}


def line(axes, color):
    return next(line for line in axes.get_lines() if line.get_color() == color and line.get_linestyle() == "-")


def test_paths_and_losses_are_drawn_as_given(landscape):
    colors = {"a": "#ff0000", "b": "#00ff00"}
    axes = trajectories({"one": landscape, "two": landscape}, [["a"], ["b"]], colors)
    assert axes.shape == (3, 2)
    for row, name in enumerate("ab"):
        np.testing.assert_array_equal(line(axes[row, 0], colors[name]).get_xydata(), landscape["paths"][name])
        assert [text.get_text() for text in axes[row, 1].get_legend().get_texts()] == [name]
    np.testing.assert_allclose(line(axes[2, 0], colors["a"]).get_ydata()[:2], [3.0, 0.375])
    # At the minimum the curve ends on the floor of the logarithmic axis.
    assert line(axes[2, 0], colors["a"]).get_ydata()[2] == pytest.approx(3e-8)
    assert axes[2, 0].get_yscale() == "log"
    assert axes[0, 0].get_xlim() == (-2, 2)


def test_other_numbers_than_losses_are_drawn_below(landscape):
    slopes = {"a": np.array([4.0, 2.0, 0.5]), "b": np.array([4.0, 1.0])}
    axes = trajectories({"one": {**landscape, "below": slopes}}, colors={"a": "#ff0000"}, below="gradient")
    np.testing.assert_array_equal(line(axes[1, 0], "#ff0000").get_ydata(), slopes["a"])
    assert axes[1, 0].get_ylabel() == "gradient" and axes[1, 0].get_yscale() == "log"


def test_notes_labels_and_faint_curves(landscape):
    given = {**landscape, "note": "a note", "labels": {"a": "(0.1)"}, "faint": {"a": np.array([4.5, 1.5, 1.0])}}
    axes = trajectories({"one": given})
    assert axes[0, 0].get_title() == "one"
    assert "a note" in [text.get_text() for text in axes[0, 0].texts]
    assert [text.get_text() for text in axes[1, 0].get_legend().get_texts()] == ["a (0.1)"]
    (faint,) = [drawn for drawn in axes[1, 0].get_lines() if drawn.get_linestyle() == "--"]
    np.testing.assert_allclose(faint.get_ydata(), [4, 1, 0.5])


def test_wrong_shapes_are_refused(landscape):
    landscape["paths"]["a"] = np.zeros((3, 3))
    with pytest.raises(ValueError, match=r"The path of 'a' on 'one' .*Received: shape=\(3, 3\)"):
        trajectories({"one": landscape})
    landscape["paths"]["a"] = np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"must have the shape \(2, 1\). Received: shape="):
        trajectories({"one": landscape}, axes=np.empty((1, 1), object))
