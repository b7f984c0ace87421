import colorsys

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from kregkit.data import Augment, ColorJitter, PCAColorNoise, make_keys

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(60, 190, (4, 5, 6, 3), dtype="uint8")
KEYS = make_keys(0, 0, tf.range(4))
MANY = make_keys(0, 0, tf.range(5000))
LUMA = np.array([0.299, 0.587, 0.114])


def draws(operation, keys=KEYS):
    return Augment([operation]).draws(keys, 0).numpy().astype("float64")


def test_jitter_against_numpy():
    jitter = ColorJitter(0.3, 0.4, 0.5)
    for image, u, one in zip(IMAGES, draws(jitter), jitter(IMAGES, KEYS).numpy()):
        x = image / 255 * (0.7 + 0.6 * u[0])
        grey = (x @ LUMA).mean()
        x = grey + (x - grey) * (0.6 + 0.8 * u[1])
        grey = (x @ LUMA)[..., None]
        x = grey + (x - grey) * (0.5 + u[2])
        np.testing.assert_allclose(one, np.clip(x, 0, 1), atol=1e-6)


def test_hue_turns_the_colour_and_keeps_brightness_and_grey():
    matrices, _ = ColorJitter(0, 0, 0, 0.5).transform(tf.constant([[0.5, 0.5, 0.5, 2 / 3]]), 3, None)
    turn = matrices.numpy()[0].astype("float64")
    np.testing.assert_allclose(np.ones(3) @ turn, 1, atol=1e-6)
    np.testing.assert_allclose(turn @ LUMA, LUMA, atol=1e-6)
    # A sixth of a turn, six times, is where it began, and each sixth moves the hue of HSV by a sixth, nearly.
    np.testing.assert_allclose(np.linalg.matrix_power(turn, 6), np.eye(3), atol=1e-5)
    start = np.array([0.5, 0.4, 0.4])
    moved = colorsys.rgb_to_hsv(*(start @ turn))[0] - colorsys.rgb_to_hsv(*start)[0]
    assert min(abs(abs(moved) - 1 / 6), abs(abs(moved) - 5 / 6)) < 0.06


def test_jitter_leaves_no_draw_unused_and_each_is_uniform():
    for place, name in enumerate(("brightness", "contrast", "saturation")):
        jitter = ColorJitter(**{"brightness": 0, "contrast": 0, "saturation": 0, name: 0.4})
        matrix, _ = jitter.transform(Augment([jitter]).draws(MANY, 0), 3, lambda: tf.zeros((5000, 3)))
        # Along a colour without brightness, each scales by its factor.
        colour = np.array([1.0, -0.299 / 0.587, 0.0])
        factor = (colour @ matrix.numpy())[:, 0]
        assert stats.kstest(factor, "uniform", (0.6, 0.8)).pvalue > 1e-6, (place, name)


def test_hue_is_uniform_on_both_sides():
    jitter = ColorJitter(0, 0, 0, 0.2)
    matrix, offset = jitter.transform(Augment([jitter]).draws(MANY, 0), 3, None)
    assert not offset.numpy().any()
    # The plane of I and Q, in which a colour without brightness turns.
    to_iq = np.array([[0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    colour = np.array([1.0, -0.299 / 0.587, 0.0])
    turned, start = (colour @ matrix.numpy()) @ to_iq.T, to_iq @ colour
    angle = np.arctan2(turned[:, 1], turned[:, 0]) - np.arctan2(start[1], start[0])
    turns = (angle / (2 * np.pi) + 0.5) % 1 - 0.5
    assert stats.kstest(turns, "uniform", (-0.2, 0.4)).pvalue > 1e-6


def test_grey_images():
    grey = IMAGES[..., :1]
    jitter = ColorJitter(0.3, 0.4, 0.5, 0.2)
    for image, u, one in zip(grey, draws(jitter), jitter(grey, KEYS).numpy()):
        x = image / 255 * (0.7 + 0.6 * u[0])
        np.testing.assert_allclose(one, np.clip(x.mean() + (x - x.mean()) * (0.6 + 0.8 * u[1]), 0, 1), atol=1e-6)


def test_clips_once_at_the_end():
    darker, brighter = ColorJitter(1.0, 0, 0), ColorJitter(1.0, 0, 0)
    fused, apart = (Augment([brighter, darker], fuse=fuse) for fuse in (True, False))
    white = np.full((200, 2, 2, 3), 255, "uint8")
    u, v = (2 * fused.draws(make_keys(0, 0, tf.range(200)), place).numpy()[:, 0] for place in (0, 1))
    keys = make_keys(0, 0, tf.range(200))
    np.testing.assert_allclose(fused(white, keys)[:, 0, 0, 0], np.clip(u * v, 0, 1), atol=1e-6)
    np.testing.assert_allclose(apart(white, keys)[:, 0, 0, 0], np.clip(np.clip(u, 0, 1) * v, 0, 1), atol=1e-6)
    assert np.abs(fused(white, keys) - apart(white, keys)).max() > 0.1


def test_pca_noise_against_numpy():
    noise = PCAColorNoise(2.0).fit(IMAGES)
    pixels = IMAGES.reshape(-1, 3) / 255
    covariance = np.cov(pixels.T, bias=True)
    np.testing.assert_allclose(
        np.asarray(noise.eigenvectors) @ np.diag(noise.eigenvalues) @ np.transpose(noise.eigenvectors),
        covariance,
        atol=1e-12,
    )
    u = draws(noise)
    a = 2.0 * np.sqrt(-2 * np.log1p(-u[:, :3])) * np.cos(2 * np.pi * u[:, 3:])
    shift = (a * noise.eigenvalues) @ np.transpose(noise.eigenvectors)
    expected = np.clip(IMAGES / 255 + shift[:, None, None], 0, 1)
    np.testing.assert_allclose(noise(IMAGES, KEYS), expected, atol=1e-6)


def test_pca_noise_is_normal_along_each_axis():
    noise = PCAColorNoise(0.1).fit(IMAGES)
    _, shift = noise.transform(Augment([noise]).draws(MANY, 0), 3, None)
    along = shift.numpy() @ np.asarray(noise.eigenvectors) / noise.eigenvalues
    for column in along.T:
        assert stats.kstest(column / 0.1, "norm").pvalue > 1e-6


def test_fit_streams():
    images = IMAGES.astype("float32") / 255
    ways = [IMAGES, images, list(IMAGES), [IMAGES[:3], IMAGES[3:]], [(IMAGES, 0)], [{"image": IMAGES}]]
    ways.append(tf.data.Dataset.from_tensor_slices(IMAGES))
    for way in ways:
        np.testing.assert_allclose(
            PCAColorNoise().fit(way).eigenvalues, PCAColorNoise().fit(IMAGES).eigenvalues, rtol=1e-5
        )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ColorJitter(1.5), "`brightness` must be"),
        (lambda: ColorJitter(hue=0.6), "`hue` must be"),
        (lambda: PCAColorNoise(-1), "`std` must be"),
        (lambda: PCAColorNoise(0.1, [1, 2, 3]), "together"),
        (lambda: PCAColorNoise(0.1, [1, 2], np.eye(3)), "`eigenvalues` must have"),
        (lambda: PCAColorNoise()(IMAGES), "must be fitted first"),
        (lambda: PCAColorNoise().fit(IMAGES[..., :1]), "three channels"),
        (lambda: PCAColorNoise().fit(IMAGES)(IMAGES[..., :1]), "three channels"),
        (lambda: PCAColorNoise().fit([]), "at least one image"),
        (lambda: PCAColorNoise().fit([np.zeros(3)]), "must hold images"),
    ],
)
def test_bad_arguments(make, text):
    with pytest.raises(ValueError, match=rf"{text}[\s\S]*Received: "):
        make()
