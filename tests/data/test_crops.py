import math

import numpy as np
import pytest
import tensorflow as tf
from data.reference import resample
from scipy import stats

from kregkit.data import (
    Augment,
    CenterCrop,
    ColorJitter,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
    ResizeShortSide,
    make_keys,
)

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


def drawn_part(draw, scale, ratio, height, width):
    """Returns height, width and centre of the first part that fits, one try after another, or else the central one."""
    tries = [draw[:2], *draw[4:].reshape(-1, 2)]
    assert len(tries) == 10
    for fraction, shape in tries:
        area = (scale[0] + (scale[1] - scale[0]) * fraction) * height * width
        r = math.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * shape)
        h, w = math.sqrt(area / r), math.sqrt(area * r)
        if h <= height and w <= width:
            return h, w, (draw[2] - 0.5) * (height - h), (draw[3] - 0.5) * (width - w)
    r = min(max(width / height, ratio[0]), ratio[1])
    return (height, height * r, 0, 0) if width / height > r else (width / r, width, 0, 0)


def snapped(centre, length, size, out):
    """Returns start and length of a window whose outermost samples are pixels, near those of another window."""
    num = min(round(length * (out - 1) / out), size - 1)
    first = round((size - length) / 2 + centre + length / out / 2 - 0.5)
    first = min(max(first, 0), size - 1 - num)
    return first + 0.5 - num / (out - 1) / 2, num * out / (out - 1)


def test_resized_crop_draws_until_a_part_fits():
    height, width, scale, ratio = 20, 100, (0.3, 0.9), (0.5, 8.0)
    crop = RandomResizedCrop(8, scale=scale, ratio=ratio)
    u = Augment([crop]).draws(MANY, 0)
    expected = [drawn_part(draw, scale, ratio, height, width) for draw in u.numpy()[:2000].astype("float64")]
    found = np.stack(crop.part(u, height, width), -1)
    np.testing.assert_allclose(found[:2000], expected, atol=1e-3)
    # None fits into a narrow image: the largest central part whose proportions are allowed.
    for part, (h, w) in (((10, 100), (10, 13.3333)), ((100, 10), (13.3333, 10))):
        crop = RandomResizedCrop(8, scale=(1.0, 1.0))
        values = np.stack(crop.part(u[:5], *part), -1)
        np.testing.assert_allclose(values, np.tile([h, w, 0, 0], (5, 1)), atol=1e-3)


def test_resized_crop_against_numpy():
    crop = RandomResizedCrop((6, 5))
    u = Augment([crop]).draws(KEYS, 0).numpy().astype("float64")
    for image, draw, one in zip(IMAGES, u, crop(IMAGES, KEYS).numpy()):
        height, width, y, x = drawn_part(draw, (0.08, 1.0), (3 / 4, 4 / 3), 7, 9)
        if min(height / 6, width / 5) >= 1:
            # Whole pixels, as the part is larger than the output.
            top, left = round(y + (7 - height) / 2), round(x + (9 - width) / 2)
            height, width = round(height), round(width)
            y, x = min(top, 7 - height) + height / 2 - 3.5, min(left, 9 - width) + width / 2 - 4.5
        elif min(height / 6, width / 5) >= 0.5:
            # The outermost samples are pixels.
            (top, height), (left, width) = snapped(y, height, 7, 6), snapped(x, width, 9, 5)
            y, x = top + height / 2 - 3.5, left + width / 2 - 4.5

        def back(j, i, x=x, y=y, width=width, height=height):
            return x + j * width / 5, y + i * height / 6

        np.testing.assert_allclose(one, resample(image, back, (6, 5)) / 255, atol=2e-5)


@pytest.mark.parametrize("share", [(0.002, 1.0), (0.0002, 0.006)])
def test_parts_lie_on_the_grid_of_a_decoder(share):
    crop = RandomResizedCrop((8, 10), scale=share)
    (_, top, height, _), (_, left, width, _) = crop.window(Augment([crop]).draws(MANY, 0), 101, 203)
    part_height, part_width, y, x = crop.part(Augment([crop]).draws(MANY, 0), 101, 203)
    scale = np.minimum(part_height / 8, part_width / 10)
    grid = np.minimum(2.0 ** np.floor(np.log2(scale)), 8)
    assert set(grid[scale >= 1]) == ({1, 2, 4, 8} if share[1] == 1 else {1})
    for start, length, part, centre, size in ((top, height, part_height, y, 101), (left, width, part_width, x, 203)):
        start, length, part = start.numpy(), length.numpy(), part.numpy()
        large = scale >= 1
        assert (start >= 0)[large].all() and (start + length <= size + 1e-4)[large].all()
        assert not (start % grid)[large].any() and not (length % grid)[large].any()
        # Both edges move by less than a square of the grid, and as little at its border.
        first = (size - part) / 2 + centre
        assert (np.abs(start - first) < 1.5 * grid)[large].all() and (np.abs(length - part) < grid)[large].all()
        small, between = scale < 0.5, (scale >= 0.5) & ~large
        assert between.any() and (small.any() or share[1] == 1)
        np.testing.assert_allclose(start[small], first[small], atol=1e-4)
        # Between, the outermost samples are pixels, and edges move by a pixel or so.
        out = 8 if size == 101 else 10
        samples = start + length / out / 2 - 0.5, start + length - length / out / 2 - 0.5
        for sample in samples:
            np.testing.assert_allclose(sample[between], np.round(sample[between]), atol=1e-3)
            assert (sample > -1e-3)[between].all() and (sample < size - 1 + 1e-3)[between].all()
        assert (np.abs(length - part) <= out / (out - 1) / 2 + 1e-3)[between].all()
        assert (np.abs(start - first) < 1.2)[between].all()


@pytest.mark.parametrize(("size", "height", "width"), [((1, 24), 40, 40), ((24, 1), 40, 30), ((2, 2), 3, 1)])
def test_parts_of_one_pixel_stay_where_they_were_drawn(size, height, width):
    crop = RandomResizedCrop(size, scale=(0.1, 0.9))
    u = Augment([crop]).draws(MANY, 0)
    part_height, part_width, y, x = crop.part(u, height, width)
    parts = (part_height, y, height), (part_width, x, width)
    for (_, start, length, _), (part, centre, have) in zip(crop.window(u, height, width), parts):
        first = (have - part) / 2 + centre
        assert np.abs(start - first).max() < 1.2 and np.abs(start + length - first - part).max() < 1.2
        assert np.min(length) > 0


def test_centre_crop_and_short_side():
    images = np.random.default_rng(1).integers(0, 256, (3, 20, 31, 3), "uint8")
    np.testing.assert_allclose(CenterCrop((9, 12))(images) * 255, images[:, 5:14, 9:21], rtol=1e-5)
    # In training and at test time alike, with keys of any value.
    np.testing.assert_array_equal(CenterCrop(9)(images, key=1), Augment([CenterCrop(9)])(images, 2, training=False))
    assert ResizeShortSide(10)(images).shape == (3, 10, 16, 3)
    assert tuple(map(int, ResizeShortSide(10).output_size(tf.constant(20), tf.constant(31)))) == (10, 16)
    np.testing.assert_allclose(ResizeShortSide(20)(images, key=3) * 255, images, atol=1e-3)
    crop = ResizeShortSide((15, 60))
    sides, _ = (side.numpy() for side in crop.drawn_size(Augment([crop]).draws(MANY, 0), 20, 31))
    assert (np.unique(sides) == np.arange(15, 61)).all()
    counts = np.bincount(sides)[15:]
    assert stats.chisquare(counts).pvalue > 1e-6
    # A crop of the resized image, computed one by one.
    u = Augment([crop, RandomCrop(0, 12)]).draws(KEYS[:3], 0).numpy()
    positions = Augment([crop, RandomCrop(0, 12)]).draws(KEYS[:3], 1).numpy()
    for image, draw, place, one in zip(images, u, positions, Augment([crop, RandomCrop(0, 12)])(images, KEYS[:3])):
        height = 15 + int(draw[0] * 46)
        width = round(height * 31 / 20)
        top, left = int(place[0] * (height - 11)), int(place[1] * (width - 11))
        resized = resample(image, lambda j, i, w=width, h=height: (j * 31 / w, i * 20 / h), (height, width))
        np.testing.assert_allclose(one, resized[top : top + 12, left : left + 12] / 255, atol=1e-4)
    with pytest.raises(ValueError, match="one size: let a crop follow"):
        crop(images)
    for between in ([], [RandomFlip(), ColorJitter(), RandomCrop(2)]):
        with pytest.raises(ValueError, match="needs images of at least its size"):
            Augment([ResizeShortSide((15, 60)), *between, RandomCrop(0, size=16)])


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
        (lambda: CenterCrop(0), "size"),
        (lambda: ResizeShortSide((3, 2)), "size"),
        (lambda: RandomResizedCrop(8, scale=(0.0, 1.0)), "scale"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 1.5)), "scale"),
        (lambda: RandomResizedCrop(8, ratio=(2, 1)), "ratio"),
    ],
)
def test_bad_arguments(make, name):
    with pytest.raises(ValueError, match=f"`{name}` must be.*Received: {name}="):
        make()
