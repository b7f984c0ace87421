"""Named sets of views and their products."""

import keras
import numpy as np
import pytest

from kregkit.data import D4, Flips, RandomViews, Scales, TenCrop, ViewProduct, restore
from kregkit.data.augment import Augment

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3)).astype("float32")


def test_d4_is_the_group_of_the_square():
    square = IMAGES[:, :, :6]
    views = [np.asarray(view) for view in D4().each(square)]
    # By quarter turns, and those of the mirrored image.
    expected = [np.rot90(image, k, (1, 2)) for image in (square, square[:, :, ::-1]) for k in range(4)]
    assert {view.tobytes() for view in views} == {np.ascontiguousarray(view).tobytes() for view in expected}
    assert len({view.tobytes() for view in views}) == 8


@pytest.mark.one_in(2)
@pytest.mark.parametrize("views", [D4(), ViewProduct([D4(), Flips()])])
def test_all_are_restored(views):
    made, matrices = views.each(IMAGES), views.matrices(6, 8)
    assert len(made) == len(matrices) == views.num_views
    for view, matrix in zip(made, matrices):
        result, seen = restore(np.asarray(view), np.tile(matrix, (2, 1, 1)), size=(6, 8))
        assert np.asarray(seen).all()
        np.testing.assert_allclose(result, IMAGES, atol=1e-3)


def test_scales_and_products():
    shapes = [tuple(view.shape[1:3]) for view in Scales().each(IMAGES)]
    assert shapes == [(4, 6), (6, 8), (8, 10)]
    product = ViewProduct([Scales((0.5, 1)), Flips()])
    np.testing.assert_allclose(product.matrices(6, 8)[1], np.diag([-2, 2, 1]))
    expected = [flip for scale in Scales((0.5, 1)).each(IMAGES) for flip in Flips().each(scale)]
    for one, other in zip(product.each(IMAGES), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert ViewProduct([TenCrop(4), D4()]).matrices(6, 8) is None
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(product))
    assert again.num_views == 4 and again.views[0].factors == [0.5, 1.0]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Scales(()), "`factors` must be"),
        (lambda: Scales((0.0,)), "`factors` must be"),
        (lambda: Scales((0.5, 1))(IMAGES), "can't be one tensor"),
        (lambda: ViewProduct([]), "`views` must be a list that isn't empty"),
        (lambda: ViewProduct([RandomViews(Augment([]), 2)]), "aren't random"),
        (lambda: D4()(IMAGES[0]), "Views need images of shape"),
    ],
)
def test_bad_arguments(make, text):
    with pytest.raises(ValueError, match=rf"{text}.*Received: "):
        make()
