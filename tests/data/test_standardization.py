"""Standardisation against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from kregkit.data import Augment, Standardize, digits, make_keys

IMAGES = np.random.default_rng(0).integers(60, 190, (4, 5, 6, 3), dtype="uint8")
KEYS = make_keys(0, 0, tf.range(4))


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("mean", ["channel", "image"])
def test_standardize_against_numpy(mean, scale):
    operation = Standardize(mean, scale).fit(IMAGES)
    x = IMAGES / 255
    centre = x.mean((0, 1, 2) if mean == "channel" else 0)
    std = np.sqrt(((x - centre) ** 2).mean((0, 1, 2))) if scale else 1.0
    for training in (True, False):
        result = Augment([operation])(IMAGES, KEYS, training=training)
        np.testing.assert_allclose(result, (x - centre) / std, atol=2e-6)
    wide = Augment([operation], value_range=(-1, 1))(IMAGES, KEYS)
    np.testing.assert_allclose(wide, (x - centre) / std, atol=2e-5)


def test_standardize_constant_channel():
    images = np.full((3, 4, 4, 1), 100, "uint8")
    np.testing.assert_allclose(Standardize().fit(images)(images), 0, atol=1e-6)


def test_fit_streams(data_dir):
    images = IMAGES.astype("float32") / 255
    ways = [IMAGES, images, list(IMAGES), [IMAGES[:3], IMAGES[3:]], [(IMAGES, 0)], [{"image": IMAGES}]]
    ways.append(tf.data.Dataset.from_tensor_slices(IMAGES))
    for way in ways:
        fitted = Standardize().fit(way)
        np.testing.assert_allclose(fitted.mean_value, IMAGES.mean((0, 1, 2)) / 255, rtol=1e-6)
        np.testing.assert_allclose(fitted.std_value, IMAGES.std((0, 1, 2)) / 255, rtol=1e-6)
    x = digits("train", data_dir, as_arrays=True)[0]
    np.testing.assert_allclose(Standardize().fit(digits("train", data_dir)).mean_value, [x.mean() / 255])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Standardize("pixel"), "`mean` must be one of"),
        (lambda: Standardize()(IMAGES), "must be fitted first"),
        (lambda: Standardize("image").fit(IMAGES)(IMAGES[:, :3]), "fitted to images of shape"),
        (lambda: Standardize("image").fit([IMAGES, IMAGES[:, :3]]), "one size"),
    ],
)
def test_bad_arguments(make, text):
    with pytest.raises(ValueError, match=rf"{text}[\s\S]*Received: "):
        make()
