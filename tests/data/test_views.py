import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from kregkit.data import (
    Augment,
    FiveCrop,
    Flips,
    MixUp,
    MultiScale,
    RandomCrop,
    RandomFlip,
    RandomRotation,
    RandomViews,
    TenCrop,
    make_keys,
    restore,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 9, 11, 3), dtype="uint8")


def test_flips_by_hand():
    x = IMAGES
    np.testing.assert_array_equal(Flips()(x), [x, x[:, :, ::-1]])
    np.testing.assert_array_equal(Flips(True)(x), [x, x[:, :, ::-1], x[:, ::-1], x[:, ::-1, ::-1]])


def test_multi_scale():
    views = MultiScale((9, 18, 5)).each(IMAGES)
    assert [tuple(view.shape) for view in views] == [(2, 9, 11, 3), (2, 18, 22, 3), (2, 5, 6, 3)]
    np.testing.assert_allclose(views[0], IMAGES, atol=1e-4)
    for view, size in zip(views[1:], ((18, 22), (5, 6))):
        np.testing.assert_allclose(view, tf.image.resize(IMAGES, size, antialias=True), atol=1e-3)
    # A constant stays; twice the size keeps the mean nearly.
    np.testing.assert_allclose(MultiScale((5,))(np.full((1, 9, 11, 1), 7.0, "float32")), 7.0, rtol=1e-5)
    assert abs(np.asarray(views[1]).mean() - IMAGES.mean()) < 3
    crops = MultiScale((9, 18), TenCrop(8))
    assert crops.num_views == 20 and tuple(crops(IMAGES).shape) == (20, 2, 8, 8, 3)


def test_random_views_are_keyed():
    augment = Augment([RandomFlip(), RandomCrop(2)])
    views = augment.views(3, seed=5)
    result = np.asarray(views(IMAGES))
    assert result.shape == (3, 2, 9, 11, 3)
    for view in range(3):
        np.testing.assert_array_equal(result[view], augment(IMAGES, make_keys(5, view, [0, 1])))
    np.testing.assert_array_equal(result, views(IMAGES))


@pytest.mark.parametrize(
    "views", [TenCrop(6), FiveCrop(6), Flips(), MultiScale((9, 12), FiveCrop(8))], ids=lambda one: type(one).__name__
)
def test_works_in_datasets_and_in_a_models_graph(views):
    images = IMAGES.astype("float32")
    expected = np.asarray(views(images))
    (mapped,) = tf.data.Dataset.from_tensors(images).map(views)
    np.testing.assert_allclose(mapped, expected, atol=1e-4)
    inputs = keras.Input((9, 11, 3))
    model = keras.Model(inputs, views(inputs))
    np.testing.assert_allclose(model(images), expected, atol=1e-4)
    assert len(views.each(images)) == views.num_views


@pytest.mark.parametrize(
    "views",
    [
        Flips(True),
        TenCrop(6),
        MultiScale((9, 12), FiveCrop((8, 7))),
        Augment([RandomFlip("both"), RandomCrop(1)], (0, 9)).views(3, 5),
    ],
    ids=lambda one: type(one).__name__,
)
def test_views_are_registered_objects(views):
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(keras.saving.serialize_keras_object(views))))
    assert type(again) is type(views)
    images = IMAGES.astype("float32") / 30
    np.testing.assert_array_equal(again(images), views(images))


def test_restore_by_hand():
    x = np.arange(5, dtype="float32").reshape(1, 1, 5, 1)
    shifted = [[1, 0, 1], [0, 1, 0], [0, 0, 1]]  # The view shows at x what the image has at x + 1.
    result, seen = restore(x + 1, shifted)
    assert np.ravel(result).tolist() == [1, 1, 2, 3, 4] and np.ravel(seen).tolist() == [False, True, True, True, True]
    half = [[0.5, 0, 0], [0, 1, 0], [0, 0, 1]]  # The view is twice as wide.
    wide = np.repeat(x, 2, 2)
    assert np.ravel(restore(wide, half, size=(1, 5))[0]).tolist() == [0, 1, 2, 3, 4]
    # Two pixels of the image per prediction: a shift by 2 pixels is one prediction's.
    shifted[0][2] = 2
    assert np.ravel(restore(x, shifted, spacing=(2, 2))[0]).tolist() == [0, 0, 1, 2, 3]


@pytest.mark.parametrize("operations", [[RandomFlip("both"), RandomCrop(2)], [RandomRotation((90, 90)), RandomFlip()]])
def test_augmented_images_are_restored(operations):
    augment, keys = Augment(operations, (0, 255)), make_keys(0, 0, [3, 4])
    images = IMAGES[:, :, :9].astype("float32")
    result, seen = restore(augment(images, keys), augment.matrices(keys, 9, 9), exact=augment.exact)
    np.testing.assert_allclose(np.asarray(result)[seen], images[seen], atol=1e-3)
    assert np.asarray(seen).mean() > 0.6


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: TenCrop(0), "`size` must be"),
        (lambda: TenCrop(10)(IMAGES), "at most the images' 9x11"),
        (lambda: FiveCrop(3)(keras.Input((None, None, 3))), "known size"),
        (lambda: Flips("yes"), "`vertical` must be"),
        (lambda: Flips()(IMAGES[0]), "Views need images of shape"),
        (lambda: MultiScale(()), "`sizes` must be"),
        (lambda: MultiScale((8,), crops=3), "`crops` must be"),
        (lambda: MultiScale((8, 9))(IMAGES), "can't be one tensor"),
        (lambda: MultiScale((8, 9)).each(keras.Input((None, None, 3))), "known size"),
        (lambda: RandomViews(Augment([MixUp(num_classes=2)]), 2), "doesn't mix labels"),
        (lambda: RandomViews(Augment([]), 0), "`num_views` must be"),
    ],
)
def test_bad_arguments(make, text):
    with pytest.raises(ValueError, match=rf"{text}.*Received: "):
        make()
