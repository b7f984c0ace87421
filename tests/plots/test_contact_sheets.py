"""A contact sheet draws what it is given, where it is."""

import matplotlib
import numpy as np
import pytest

from kregkit import plots

matplotlib.use("Agg")


def test_everything_is_where_it_was_said():
    images = np.random.default_rng(0).random((5, 10, 12, 3))
    masks = np.zeros((5, 10, 12), int)
    masks[2, 3, 4] = 2
    boxes = [[[1, 2, 5, 8]], [], [[0, 0, 12, 10], [3, 3, 4, 4]], [], []]
    names = [["cat"], [], ["dog", "cat"], [], []]
    points = [[[6.5, 1.5]], [], [], [], []]
    figure = plots.contact_sheet(images, list("abcde"), boxes, names, masks, points)
    assert [axes.get_title() for axes in figure.axes] == list("abcde")
    first, _, third = figure.axes[:3]
    np.testing.assert_allclose(first.images[0].get_array(), images[0])
    # Pixel edges lie half a pixel beside the middles that matplotlib counts from.
    assert first.patches[0].get_bbox().extents.tolist() == [0.5, 1.5, 4.5, 7.5]
    assert first.collections[0].get_offsets().tolist() == [[6.0, 1.0]]
    assert [text.get_text() for text in third.texts] == ["dog", "cat"]
    assert third.patches[1].get_edgecolor() == first.patches[0].get_edgecolor() != third.patches[0].get_edgecolor()
    painted = np.asarray(third.images[1].get_array())[..., 3] > 0
    assert painted.sum() == 1 and painted[3, 4]
    # Nothing drawn in moves the picture.
    assert first.get_xlim() == (-0.5, 11.5)


def test_titles_stay_above_their_images():
    titles = ["between $5 and $\\frac", "a name of more letters than there are above one image, " * 3, "x" * 100, ""]
    figure = plots.contact_sheet(np.zeros((4, 8, 8, 3)), titles, [[[1, 1, 5, 5]]] * 4, [[title] for title in titles])
    figure.draw_without_rendering()
    axes = figure.axes
    assert axes[0].get_title() == titles[0] and axes[3].get_title() == ""
    for one in axes[:3]:
        title, place = one.title.get_window_extent(), one.get_window_extent()
        assert place.x0 - 5 < title.x0 < title.x1 < place.x1 + 5 and title.y0 > place.y1
    assert axes[1].get_title().startswith("a name of more") and axes[1].get_title().endswith("...")


def test_grey_columns_and_no_images():
    figure = plots.contact_sheet(np.zeros((3, 4, 4, 1)), columns=3)
    assert len(figure.axes) == 3 and figure.axes[0].images[0].get_array().shape == (4, 4)
    with pytest.raises(ValueError, match="at least one image.*Received: "):
        plots.contact_sheet([])
