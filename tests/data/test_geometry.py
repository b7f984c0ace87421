"""Each geometric operation against an independent version, and each draw against its documented distribution."""

import math

import numpy as np
import pytest
import tensorflow as tf
from data.reference import resample
from scipy import stats

from kregkit.data import (
    Augment,
    LensDistortion,
    RandomFlip,
    RandomRotation,
    RandomShear,
    RandomStretch,
    RandomTranslation,
    _random,
    make_keys,
)
from kregkit.data._warp import coordinates

pytestmark = pytest.mark.one_in(2)

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 7, 9, 3), dtype="uint8")
KEYS = make_keys(0, 0, tf.range(4))
MANY = make_keys(0, 0, tf.range(5000))


def draws(operation, keys=KEYS):
    return Augment([operation]).draws(keys, 0).numpy().astype("float64")


def between(u, most):
    return -most + 2 * most * u


def rotation(u):
    angle = math.radians(between(u[0], 25.0))
    # Where (x, y) of the output came from: turned back.
    return lambda x, y: (
        math.cos(angle) * x + math.sin(angle) * y,
        -math.sin(angle) * x + math.cos(angle) * y,
    )


def shear(u):
    slope = math.tan(math.radians(between(u[0], 20.0)))
    return lambda x, y: (x - slope * y, y)


def stretch(u):
    s_x, s_y = (math.exp(between(value, math.log(1.3))) for value in u)
    return lambda x, y: (x / s_x, y / s_y)


def zoom(u):
    return stretch([u[0], u[0]])


def translation(u):
    down, right = between(u[0], 0.2) * 7, between(u[1], 0.3) * 9
    return lambda x, y: (x - right, y - down)


def lens(u):
    k = between(u[0], 0.25)

    def back(x, y):
        factor = 1 + k * (x * x + y * y) / (math.hypot(7, 9) / 2) ** 2
        return x * factor, y * factor

    return back


OPERATIONS = [
    (lambda fill: RandomRotation(25.0, fill), rotation),
    (lambda fill: RandomShear(20.0, fill), shear),
    (lambda fill: RandomStretch(0.3, fill=fill), stretch),
    (lambda fill: RandomStretch(0.3, same=True, fill=fill), zoom),
    (lambda fill: RandomTranslation(0.2, 0.3, fill), translation),
    (lambda fill: LensDistortion(0.25, fill), lens),
]


@pytest.mark.parametrize("fill", ["constant", "nearest", "reflect"])
@pytest.mark.parametrize(("make", "back"), OPERATIONS, ids=lambda f: getattr(f, "__name__", ""))
def test_against_numpy(make, back, fill):
    operation = make(fill)
    result = operation(IMAGES, KEYS).numpy()
    for image, u, one in zip(IMAGES, draws(operation), result):
        np.testing.assert_allclose(one, resample(image, back(u), fill=fill) / 255, atol=2e-5)


@pytest.mark.parametrize("mode", ["horizontal", "vertical", "both"])
def test_flip_copies_exactly(mode):
    flip = RandomFlip(mode)
    result = flip(IMAGES, KEYS).numpy()
    for image, u, one in zip(IMAGES, draws(flip), result):
        expected = image[:, ::-1] if u[0] < 0.5 and mode != "vertical" else image
        expected = expected[::-1] if u[1] < 0.5 and mode != "horizontal" else expected
        np.testing.assert_array_equal(one, expected.astype("float32") * np.float32(1 / 255))


def test_flip_shows_all_four_equally_often():
    marker = np.zeros((4000, 2, 2, 1), "uint8")
    marker[:, 0, 0] = 255
    where = RandomFlip("both")(marker, make_keys(0, 0, tf.range(4000))).numpy().reshape(-1, 4).argmax(1)
    assert stats.chisquare(np.bincount(where, minlength=4)).pvalue > 1e-6
    share = RandomFlip(probability=0.2)(marker, make_keys(0, 0, tf.range(4000))).numpy()[:, 0, 1].mean()
    assert abs(share - 0.2) < 5 * math.sqrt(0.2 * 0.8 / 4000)


def measured(operation, index):
    ((_, matrix),) = operation.steps(Augment([operation]).draws(MANY, 0), 100, 200)
    return matrix.numpy()[(slice(None), *index)]


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (lambda: np.degrees(np.arcsin(measured(RandomRotation(30), (0, 1)))), -30, 30),
        (lambda: np.degrees(np.arcsin(measured(RandomRotation((5, 10)), (0, 1)))), 5, 10),
        (lambda: np.degrees(np.arctan(-measured(RandomShear(20), (0, 1)))), -20, 20),
        (lambda: -np.log(measured(RandomStretch(0.5), (0, 0))), -math.log(1.5), math.log(1.5)),
        (lambda: -np.log(measured(RandomStretch(0.5), (1, 1))), -math.log(1.5), math.log(1.5)),
        (lambda: -measured(RandomTranslation(0.1, 0.3), (0, 2)), -60, 60),
        (lambda: -measured(RandomTranslation(0.1, 0.3), (1, 2)), -10, 10),
        (lambda: LensDistortion(0.2).steps(Augment([LensDistortion(0.2)]).draws(MANY, 0), 9, 9)[0][1], -0.2, 0.2),
    ],
)
def test_draws_follow_their_distribution(values, low, high):
    assert stats.kstest(np.asarray(values()), "uniform", (low, high - low)).pvalue > 1e-6


def test_lens_map_is_one_to_one():
    steps = LensDistortion((-0.3, -0.3)).steps(tf.zeros((1, 1)), 101, 101)
    x, y = (value.numpy()[0] for value in coordinates(steps, 101, 101))
    assert (np.diff(x, axis=1) > 0).all() and (np.diff(y, axis=0) > 0).all()


def test_unknown_sizes_give_the_same(recwarn):
    operation = RandomRotation(25.0)
    spec = [tf.TensorSpec((None, None, None, 3), tf.uint8), tf.TensorSpec((None,), tf.int64)]
    loose = tf.function(lambda x, k: operation(x, k), input_signature=spec)
    np.testing.assert_allclose(loose(IMAGES, KEYS), operation(IMAGES, KEYS), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: RandomFlip("diagonal"), "mode"),
        (lambda: RandomFlip(probability=2), "probability"),
        (lambda: RandomRotation("big"), "angle"),
        (lambda: RandomRotation((10, 5)), "angle"),
        (lambda: RandomRotation(10, fill="zeros"), "fill"),
        (lambda: RandomShear(90), "angle"),
        (lambda: RandomStretch(-0.1), "factor"),
        (lambda: RandomStretch(same=1.5), "same"),
        (lambda: RandomTranslation(2.0), "height"),
        (lambda: RandomTranslation(0.1, (0.1,)), "width"),
        (lambda: LensDistortion(0.5), "coefficient"),
    ],
)
def test_bad_arguments(make, name):
    with pytest.raises(ValueError, match=f"`{name}` must be.*Received: {name}="):
        make()


def test_random_module_is_what_the_operations_use():
    u = Augment([RandomRotation(), RandomRotation()])
    first, second = u.draws(KEYS, 0), u.draws(KEYS, 1)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, _random.uniform(KEYS, "RandomRotation/0", 1))
