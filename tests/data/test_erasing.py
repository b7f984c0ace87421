import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from kregkit.data import Augment, Cutout, make_keys


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
