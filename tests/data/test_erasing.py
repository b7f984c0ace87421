import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from kregkit.data import Augment, Cutout, RandomErasing, Standardize, make_keys


@pytest.mark.parametrize("size", [1, 4, 5])
def test_against_numpy(size):
    images = np.random.default_rng(0).integers(1, 256, (6, 8, 10, 3), dtype="uint8")
    keys = make_keys(0, 0, tf.range(6))
    cutout = Cutout(size)
    for image, u, one in zip(images, Augment([cutout]).draws(keys, 0).numpy(), cutout(images, keys).numpy()):
        expected = (image * np.float32(1 / 255)).copy()
        a, b = int(u[0] * 8) - size // 2, int(u[1] * 10) - size // 2
        expected[max(a, 0) : max(a + size, 0), max(b, 0) : max(b + size, 0)] = 0
        np.testing.assert_array_equal(one, expected)


def test_centres_are_uniform():
    images = np.full((5000, 4, 5, 1), 255, "uint8")
    where = (Cutout(1)(images, make_keys(0, 0, tf.range(5000))).numpy() == 0).reshape(-1, 20)
    assert (where.sum(1) == 1).all()
    assert stats.chisquare(where.sum(0)).pvalue > 1e-6


def test_bad_size():
    with pytest.raises(ValueError, match=r"`size` must be.*Received: size=0"):
        Cutout(0)


def rectangle(u, height, width, low, high, ratios):
    """Returns top, left, height and width by the docstring's words, in float64."""
    area, shape = low + (high - low) * u[1], np.exp(np.log(ratios[0]) + np.log(ratios[1] / ratios[0]) * u[2])
    tall = min(max(round(np.sqrt(area * height * width * shape)), 1), height)
    wide = min(max(round(np.sqrt(area * height * width / shape)), 1), width)
    return int(u[3] * (height - tall + 1)), int(u[4] * (width - wide + 1)), tall, wide


def test_rectangles_against_numpy():
    images = np.random.default_rng(0).integers(1, 256, (40, 12, 18, 3), dtype="uint8")
    keys = make_keys(0, 0, tf.range(40))
    erasing = RandomErasing(0.7, (0.1, 0.4), (0.5, 4.0), value=0.25)
    draws = Augment([erasing]).draws(keys, 0).numpy().astype("float64")
    for image, u, one in zip(images, draws, erasing(images, keys).numpy()):
        expected = (image * np.float32(1 / 255)).copy()
        if u[0] < 0.7:
            top, left, tall, wide = rectangle(u, 12, 18, 0.1, 0.4, (0.5, 4.0))
            expected[top : top + tall, left : left + wide] = 0.25
        np.testing.assert_allclose(one, expected, atol=1e-7)


def test_noise_fills_the_range_inside_and_nothing_outside():
    images = np.full((60, 24, 24, 3), 128, "uint8")
    keys = make_keys(0, 0, tf.range(60))
    augment = Augment([RandomErasing(1.0, (0.2, 0.4))], value_range=(-1, 1))
    result = augment(images, keys).numpy()
    inside = np.abs(result - np.float32(128 * 2 / 255 - 1)) > 1e-6
    assert 0.15 < inside.mean() < 0.45
    for u, one in zip(augment.draws(keys, 0).numpy().astype("float64"), inside):
        top, left, tall, wide = rectangle(u, 24, 24, 0.2, 0.4, (0.3, 10 / 3))
        assert one[top : top + tall, left : left + wide].mean() > 0.99 and one.sum() <= 3 * tall * wide
    assert stats.kstest(result[inside], "uniform", (-1, 2)).pvalue > 1e-6
    np.testing.assert_array_equal(augment(images[7:9], keys[7:9]), result[7:9])
    with pytest.raises(ValueError, match="must follow the operations on colours"):
        Augment([Standardize(), RandomErasing()])
    Augment([Standardize(), RandomErasing(value=0.0)])


def test_noise_has_draws_of_its_own():
    images = np.full((4, 12, 12, 1), -1.0, "float32")
    u = np.full((4, 7), 0.5, "float32")
    # Beside the first: other noise twice, and another place.
    u[1, 5], u[2, 6], u[3, 3] = 0.25, 0.25, 0.0
    erased = RandomErasing(1.0).apply(tf.constant(images), tf.constant(u), Augment([]).value_range).numpy()
    inside = erased >= 0
    assert (inside[1] == inside[0]).all() and (inside[2] == inside[0]).all() and inside[3].sum() == inside[0].sum()
    values = [one[where] for one, where in zip(erased, inside)]
    assert not np.intersect1d(values[0], values[1]).size and not np.intersect1d(values[0], values[2]).size
    assert (inside[3] != inside[0]).any()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"probability": 1.5}, "probability"),
        ({"scale": (0.0, 0.2)}, "scale"),
        ({"scale": (0.2, 1.2)}, "scale"),
        ({"ratio": (2, 1)}, "ratio"),
        ({"ratio": 3}, "ratio"),
        ({"value": "white"}, "value"),
        ({"value": float("nan")}, "value"),
    ],
)
def test_bad_rectangles(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be.*Received: {name}="):
        RandomErasing(**arguments)
