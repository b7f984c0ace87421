"""Each operation on tones against PIL, which works in whole levels."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from kregkit.data import Augment, AutoContrast, Equalize, Posterize, Sharpness, Solarize, _tones, make_keys

pytestmark = pytest.mark.one_in(2)


def smooth_images(num, height, width, seed=0):
    """Returns images that look like photographs to a histogram: uneven levels, neighbours alike."""
    coarse = np.random.default_rng(seed).integers(20, 230, (num, 4, 4, 3)).astype("uint8")
    return np.stack([np.asarray(Image.fromarray(one).resize((width, height), Image.BICUBIC)) for one in coarse])


IMAGES = smooth_images(4, 21, 26)
KEYS = make_keys(0, 0, tf.range(4))

CASES = [
    (Posterize(3, 1.0), lambda image: ImageOps.posterize(image, 3), 0.01),
    (Posterize(8, 1.0), lambda image: image, 0.01),
    (Solarize(100 / 255, 1.0), lambda image: ImageOps.solarize(image, 100), 0.01),
    (Solarize(0.0, 1.0), ImageOps.invert, 0.01),
    (Equalize(1.0), ImageOps.equalize, 0.01),
    # PIL cuts off what isn't whole.
    (AutoContrast(1.0), ImageOps.autocontrast, 1.01),
    # PIL rounds the smoothed image and cuts the result off.
    *((Sharpness((a, a)), lambda image, a=a: ImageEnhance.Sharpness(image).enhance(1 + a), 1 + 0.5 * abs(a))
      for a in (-1.0, -0.4, 0.9, 3.0)),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "reference", "tolerance"), CASES, ids=lambda one: type(one).__name__)
def test_against_pil(operation, reference, tolerance):
    expected = np.stack([np.asarray(reference(Image.fromarray(image))) for image in IMAGES]).astype("float64")
    assert expected.std() > 10
    np.testing.assert_allclose(operation(IMAGES, KEYS).numpy() * 255, expected, atol=tolerance)
    # The same of floats, and in another range.
    floats = IMAGES.astype("float32") * np.float32(2 / 255) - 1
    turned = Augment([operation], value_range=(-1, 1))(floats, KEYS).numpy()
    np.testing.assert_allclose((turned + 1) * 127.5, expected, atol=tolerance)


@pytest.mark.parametrize("kind", [Posterize, Solarize, AutoContrast, Equalize, Sharpness])
def test_probability_is_each_images_own(kind):
    operation = Sharpness((-1, -1), 0.4) if kind is Sharpness else kind(probability=0.4)
    keys = make_keys(0, 0, tf.range(200))
    images = np.tile(IMAGES[:1], (200, 1, 1, 1))
    plain = images * np.float32(1 / 255)
    changed = np.abs(operation(images, keys).numpy() - plain).max((1, 2, 3)) > 1e-3
    np.testing.assert_array_equal(changed, Augment([operation]).draws(keys, 0).numpy()[:, 0] < 0.4)
    assert abs(changed.mean() - 0.4) < 5 * np.sqrt(0.4 * 0.6 / 200)
    # By itself, and under XLA, where what isn't chosen is computed too.
    few = operation(images[:3], keys[:3]).numpy()
    np.testing.assert_array_equal(operation(images[:1], keys[:1]), few[:1])
    compiled = tf.function(lambda images, keys: operation(images, keys), jit_compile=True)
    np.testing.assert_allclose(compiled(images[:3], keys[:3]), few, atol=1e-5)


def test_drawn_strengths():
    keys = make_keys(0, 0, tf.range(600))
    ramp = np.tile(np.arange(256, dtype="uint8").reshape(1, 16, 16, 1), (600, 1, 1, 1))
    counts = [len(np.unique(image)) for image in Posterize((2, 4), 1.0)(ramp, keys).numpy()]
    assert np.bincount(np.log2(counts).astype(int))[2:].min() > 120
    brightest = Solarize((0.25, 0.75), 1.0)(ramp, keys).numpy().max((1, 2, 3))
    # What is below the threshold stays, what isn't becomes at most 1 minus it.
    threshold = 0.25 + 0.5 * Augment([Solarize()]).draws(keys, 0).numpy()[:, 1]
    np.testing.assert_allclose(brightest, np.maximum(threshold, 1 - threshold), atol=1.01 / 255)


def test_flat_and_tiny_images_stay():
    for image in (np.full((1, 9, 9, 3), 77, "uint8"), np.array([[[[3], [200]]]], "uint8")):
        for operation in (Equalize(1.0), Sharpness()):
            np.testing.assert_allclose(operation(image, 0), image * np.float32(1 / 255), atol=1e-6)
    np.testing.assert_allclose(AutoContrast(1.0)(np.full((1, 9, 9, 3), 77, "uint8"), 0), 77 / 255, atol=1e-6)


def test_sizes_that_are_known_in_the_pass_only():
    spec = [tf.TensorSpec((None, None, None, 3), tf.uint8), tf.TensorSpec((None,), tf.int64)]
    operations = [Sharpness(), Equalize(1.0), AutoContrast(1.0), Posterize(3)]
    loose = tf.function(lambda x, k: Augment(operations)(x, k), input_signature=spec)
    np.testing.assert_allclose(loose(IMAGES, KEYS), Augment(operations)(IMAGES, KEYS), atol=1e-5)


def test_only_where_computes_only_that():
    seen = []

    def double(images):
        seen.append(images.shape[0])
        return images * 2

    images = tf.reshape(tf.range(6.0), (3, 2))
    chosen = _tones.only_where(tf.constant([False, True, False]), images, double)
    np.testing.assert_array_equal(chosen, [[0, 1], [4, 6], [4, 5]])
    assert seen == [1]
    assert _tones.only_where(tf.constant([False] * 3), images, double) is images and seen == [1]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Posterize(0), "bits"),
        (lambda: Posterize((5, 3)), "bits"),
        (lambda: Posterize(2.5), "bits"),
        (lambda: Posterize(probability=2), "probability"),
        (lambda: Solarize(1.2), "threshold"),
        (lambda: Solarize("high"), "threshold"),
        (lambda: Sharpness((-2, 0)), "amount"),
        (lambda: Equalize(-0.1), "probability"),
        (lambda: AutoContrast(float("nan")), "probability"),
    ],
)
def test_bad_arguments(make, name):
    with pytest.raises(ValueError, match=f"`{name}` must be.*Received: "):
        make()
