import math

import numpy as np
import pytest
import tensorflow as tf
from data.reference import resample
from scipy import stats

from kregkit.data import Augment, RandomCrop, RandomResizedCrop, make_keys

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 7, 9, 3), dtype="uint8")
KEYS = make_keys(0, 0, tf.range(4))
MANY = make_keys(0, 0, tf.range(5000))


@pytest.mark.parametrize(("padding", "size"), [(2, None), (0, (4, 6)), (3, (8, 5))])
def test_crop_copies_exactly(padding, size):
    crop = RandomCrop(padding, size)
    height, width = size or (7, 9)
    u = Augment([crop]).draws(KEYS, 0).numpy()
    for image, draw, one in zip(IMAGES, u, crop(IMAGES, KEYS).numpy()):
        padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        a = int(draw[0] * (7 + 2 * padding - height + 1))
        b = int(draw[1] * (9 + 2 * padding - width + 1))
        expected = padded[a : a + height, b : b + width]
        np.testing.assert_array_equal(one, expected.astype("float32") * np.float32(1 / 255))


def test_crop_places_are_uniform():
    marker = np.zeros((5000, 5, 5, 1), "uint8")
    marker[:, 2, 2] = 255
    where = RandomCrop(2)(marker, MANY).numpy().reshape(-1, 25).argmax(1)
    assert stats.chisquare(np.bincount(where, minlength=25)).pvalue > 1e-6


def test_crop_takes_the_centre_at_test_time():
    result = Augment([RandomCrop(0, (3, 5))])(IMAGES, KEYS, training=False).numpy()
    np.testing.assert_allclose(result * 255, IMAGES[:, 2:5, 2:7], rtol=1e-6)
    # A crop that keeps the size does nothing then.
    np.testing.assert_allclose(Augment([RandomCrop(2)])(IMAGES, KEYS, training=False) * 255, IMAGES, rtol=1e-6)


def test_crop_larger_than_the_image():
    with pytest.raises(ValueError, match=r"11x13. Received: size=\(20, 20\)"):
        RandomCrop(2, 20)(IMAGES, KEYS)


def test_resized_crop_against_numpy():
    crop = RandomResizedCrop((6, 5))
    u = Augment([crop]).draws(KEYS, 0).numpy().astype("float64")
    for image, draw, one in zip(IMAGES, u, crop(IMAGES, KEYS).numpy()):
        area = (0.08 + 0.92 * draw[0]) * 63
        ratio = math.exp(math.log(3 / 4) + math.log(16 / 9) * draw[1])
        ratio = min(max(ratio, area / 49), 81 / area)
        width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        y, x = (draw[2] - 0.5) * (7 - height), (draw[3] - 0.5) * (9 - width)

        def back(j, i, x=x, y=y, width=width, height=height):
            return x + j * width / 5, y + i * height / 6

        np.testing.assert_allclose(one, resample(image, back, (6, 5)) / 255, atol=2e-5)


def test_resized_crop_draws():
    crop = RandomResizedCrop(8, scale=(0.2, 0.4), ratio=(0.8, 1.25))
    height, width, y, x = (value.numpy() for value in crop.part(Augment([crop]).draws(MANY, 0), 100, 100))
    assert stats.kstest(height * width / 1e4, "uniform", (0.2, 0.2)).pvalue > 1e-6
    assert stats.kstest(np.log(width / height), "uniform", (math.log(0.8), 2 * math.log(1.25))).pvalue > 1e-6
    assert stats.kstest(y / (100 - height) + 0.5, "uniform").pvalue > 1e-6
    assert stats.kstest(x / (100 - width) + 0.5, "uniform").pvalue > 1e-6


def test_resized_crop_never_leaves_the_image():
    crop = RandomResizedCrop(8)
    height, width, y, x = (value.numpy() for value in crop.part(Augment([crop]).draws(MANY, 0), 30, 90))
    assert (np.abs(y) + height / 2 <= 15 + 1e-4).all() and (np.abs(x) + width / 2 <= 45 + 1e-4).all()
    np.testing.assert_allclose(RandomResizedCrop(8)(np.full((50, 9, 30, 1), 255, "uint8"), key=0), 1, rtol=1e-6)


def test_resized_crop_at_test_time_is_the_largest_central_part():
    result = Augment([RandomResizedCrop(7)])(IMAGES, KEYS, training=False).numpy()
    np.testing.assert_allclose(result * 255, IMAGES[:, :, 1:8], atol=1e-3)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: RandomCrop(-1), "padding"),
        (lambda: RandomCrop(size=(1, 2, 3)), "size"),
        (lambda: RandomResizedCrop(0), "size"),
        (lambda: RandomResizedCrop(8, scale=(0.0, 1.0)), "scale"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 1.5)), "scale"),
        (lambda: RandomResizedCrop(8, ratio=(2, 1)), "ratio"),
    ],
)
def test_bad_arguments(make, name):
    with pytest.raises(ValueError, match=f"`{name}` must be.*Received: {name}="):
        make()
