import matplotlib.pyplot as plt
import numpy as np
import pytest

from kregkit.plots.regions import pooling_regions


def test_lines_stand_on_the_boundaries():
    image = np.random.default_rng(0).random((6, 8, 3))
    axes = pooling_regions(image, [0, 2, 3, 6], [0, 1, 4, 6, 8])
    rows, columns = axes.collections
    assert sorted({segment[0][1] for segment in rows.get_segments()}) == [0, 2, 3, 6]
    assert sorted({segment[0][0] for segment in columns.get_segments()}) == [0, 1, 4, 6, 8]
    assert list(axes.images[0].get_extent()) == [0, 8, 6, 0]
    assert axes.get_title() == "6 x 8 to 3 x 4"
    assert pooling_regions(image[..., :1], [0, 6], [0, 8], axes) is axes
    plt.close("all")


@pytest.mark.parametrize("rows", [[0, 5], [1, 6], [0, 3, 3, 6], [[0, 6]]])
def test_boundaries_that_do_not_fit_are_refused(rows):
    with pytest.raises(ValueError, match=r"rise from 0 to the image's 6. Received: rows="):
        pooling_regions(np.zeros((6, 4)), rows, [0, 4])
