"""Automatic augmentation: each kind against PIL or an independent warp, and how kinds and strengths are drawn."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from data.reference import resample
from data.test_tones import smooth_images
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from kregkit.data import Augment, RandAugment, RandomCrop, RandomFlip, TrivialAugment, automatic, make_keys

HEIGHT, WIDTH = 16, 20
WIDE = {"shear": 0.99, "x": WIDTH, "y": HEIGHT, "degrees": 135, "factor": 0.99, "bits": 6}
USUAL = {"shear": 0.3, "x": WIDTH * 150 / 331, "y": HEIGHT * 150 / 331, "degrees": 30, "factor": 0.9, "bits": 4}


def drawn(u, strength):
    kind = automatic.KINDS[int(u[0] * 14)]
    return kind, strength(u[1]), -1 if u[2] < 0.5 else 1


def back(kind, amount, space):
    """Returns where an output position came from, or `None` if the kind moves nothing."""
    angle = math.radians(amount * space["degrees"])
    return {
        "shear_x": lambda x, y: (x - amount * space["shear"] * y, y),
        "shear_y": lambda x, y: (x, y - amount * space["shear"] * x),
        "translate_x": lambda x, y: (x - amount * space["x"], y),
        "translate_y": lambda x, y: (x, y - amount * space["y"]),
        "rotate": lambda x, y: (
            math.cos(angle) * x + math.sin(angle) * y,
            -math.sin(angle) * x + math.cos(angle) * y,
        ),
    }.get(kind)


def in_pil(image, kind, strength, sign, space):
    """Returns a uint8 image that PIL changed; PIL rounds, or cuts off."""
    factor = 1 + sign * strength * space["factor"]
    enhance = {"brightness": ImageEnhance.Brightness, "color": ImageEnhance.Color, "contrast": ImageEnhance.Contrast,
               "sharpness": ImageEnhance.Sharpness}  # fmt: skip
    if kind in enhance:
        return enhance[kind](image).enhance(factor)
    if kind == "posterize":
        return ImageOps.posterize(image, 8 - round(strength * space["bits"]))
    if kind == "solarize":
        return ImageOps.solarize(image, math.ceil(255 * (1 - strength) - 1e-6))
    return {"auto_contrast": ImageOps.autocontrast, "equalize": ImageOps.equalize}.get(kind, lambda image: image)(image)


def test_every_kind_of_the_wide_space():
    num = 100
    images, keys = smooth_images(num, HEIGHT, WIDTH), make_keys(0, 0, tf.range(num))
    operation = TrivialAugment()
    result = operation(images, keys).numpy() * 255
    seen = set()
    for image, one, u in zip(images, result, Augment([operation]).draws(keys, 0).numpy().astype("float64")):
        kind, strength, sign = drawn(u, lambda v: math.floor(v * 31) / 30)
        seen.add(kind)
        moved = back(kind, sign * strength, WIDE)
        if moved is not None:
            np.testing.assert_allclose(one, resample(image, moved), atol=0.05, err_msg=kind)
        else:
            expected = np.asarray(in_pil(Image.fromarray(image), kind, strength, sign, WIDE), "float64")
            np.testing.assert_allclose(one, expected, atol=1.6, err_msg=f"{kind} {sign * strength}")
    assert seen == set(automatic.KINDS)


def test_several_kinds_in_turn():
    num = 40
    images, keys = smooth_images(num, HEIGHT, WIDTH, 1), make_keys(1, 0, tf.range(num))
    operation = RandAugment(2, 15)
    result = operation(images, keys).numpy() * 255
    moves = 0
    for image, one, u in zip(images, result, Augment([operation]).draws(keys, 0).numpy().astype("float64")):
        turns = [drawn(part, lambda _: 0.5) for part in (u[:3], u[3:])]
        backs = [back(kind, sign * strength, USUAL) for kind, strength, sign in turns]
        moves += all(backs)
        # The first one is done first, so that its input is what the second one's output leads back to.
        moved = resample(image, functools.partial(_chain, backs[::-1]))
        expected = Image.fromarray(np.rint(moved).astype("uint8"))
        for turn in turns:
            expected = in_pil(expected, *turn, USUAL)
        # Where PIL's rounding of the first moves a level across a step of the second, they differ.
        off = np.abs(one - np.asarray(expected, "float64"))
        assert np.quantile(off, 0.8) < 3, turns
    assert moves > 1


def _chain(backs, x, y):
    for each in backs:
        x, y = (x, y) if each is None else each(x, y)
    return x, y


def test_kinds_strengths_and_signs_are_uniform():
    keys = make_keys(3, 0, tf.range(6000))
    for operation, num in ((TrivialAugment(), 1), (RandAugment(3, 12), 3)):
        draws = list(operation.drawn(Augment([operation]).draws(keys, 0)))
        assert len(draws) == num
        for kind, strength, sign in draws:
            assert stats.chisquare(np.bincount(kind, minlength=14)).pvalue > 1e-6
            assert abs(float(tf.reduce_mean(sign))) < 5 / math.sqrt(6000)
            if num == 1:
                steps = np.rint(strength.numpy() * 30).astype(int)
                np.testing.assert_allclose(steps / 30, strength, atol=1e-6)
                assert stats.chisquare(np.bincount(steps, minlength=31)).pvalue > 1e-6
            else:
                np.testing.assert_allclose(strength, 0.4)
        assert np.array_equal(draws[0][0], draws[-1][0]) == (num == 1)


def test_moves_fuse_with_flips_and_crops_and_views_can_be_mapped_back():
    augment = Augment([RandomFlip(), RandomCrop(2), TrivialAugment()])
    assert [len(group) for group in augment._groups(True)] == [3, 1] and augment._groups(False) == []
    keys = make_keys(0, 0, tf.range(30))
    assert tuple(augment.matrices(keys, HEIGHT, WIDTH).shape) == (30, 3, 3)
    views = augment.views(2, seed=1)
    images = smooth_images(3, HEIGHT, WIDTH)
    np.testing.assert_array_equal(views(images), views(images))
    assert tuple(views(images).shape) == (2, 3, HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(augment(images, keys[:3], training=False), images / 255, atol=1e-6)


def test_other_numbers_of_channels_replay_and_xla():
    keys = make_keys(0, 0, tf.range(30))
    order = np.arange(30)[::-1]
    for operation, channels in ((RandAugment(2, 20, fill="reflect"), 4), (TrivialAugment(), 1)):
        images = np.random.default_rng(0).integers(0, 256, (30, 9, 9, channels), "uint8")
        result = operation(images, keys).numpy()
        assert result.min() >= 0 and result.max() <= 1 and np.isfinite(result).all()
        np.testing.assert_allclose(operation(images[order], tf.gather(keys, order)), result[order], atol=1e-6)
    compiled = tf.function(lambda images, keys: operation(images, keys), jit_compile=True)
    # Levels at a step of posterise and solarise fall to either side.
    assert np.quantile(np.abs(compiled(images, keys) - result), 0.99) < 1e-4


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: TrivialAugment("white"), "fill"),
        (lambda: RandAugment(0), "num"),
        (lambda: RandAugment(2, 31), "magnitude"),
        (lambda: RandAugment(2, float("nan")), "magnitude"),
        (lambda: RandAugment(fill=None), "fill"),
    ],
)
def test_bad_arguments(make, name):
    with pytest.raises(ValueError, match=f"`{name}` must be.*Received: {name}="):
        make()
