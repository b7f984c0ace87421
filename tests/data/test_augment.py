import numpy as np
import pytest
import tensorflow as tf

from kregkit.data import (
    Augment,
    ColorJitter,
    Cutout,
    LensDistortion,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomShear,
    RandomStretch,
    RandomTranslation,
    Standardize,
    _warp,
    make_keys,
)
from kregkit.data.color import Color

pytestmark = pytest.mark.one_in(2)

KEYS = make_keys(0, 0, tf.range(4))
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 20, 3), dtype="uint8")
GEOMETRY = [
    RandomFlip("both"), RandomCrop(3), RandomRotation(20), RandomShear(10), RandomStretch(0.1),
    LensDistortion(0.1), RandomTranslation(0.05, 0.05), RandomResizedCrop((24, 18), scale=(0.7, 1.0)),
]  # fmt: skip


def smooth(height=48, width=60):
    y, x = np.mgrid[:height, :width] / 10
    return np.stack([np.stack([0.5 + 0.4 * np.sin(x + c + b) * np.cos(y - c) for c in range(3)], -1) for b in range(4)])


def test_fused_coordinates_equal_the_composed_ones():
    augment = Augment(GEOMETRY)
    height, width = 16, 20
    steps, sizes = [], []
    for place, operation in enumerate(GEOMETRY):
        sizes.append((height, width))
        steps.append(operation.steps(augment.draws(KEYS, place), height, width))
        height, width = operation.output_size(height, width)
    x, y = _warp.coordinates([step for part in steps for step in part], height, width)
    # By hand, in float64: each point of the output back through every operation in turn.
    for b in range(4):
        j, i = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)
        for part in reversed(steps):
            for kind, *values in part:
                if kind == "affine":
                    m = values[0].numpy()[b].astype("float64")
                    j, i = m[0, 0] * j + m[0, 1] * i + m[0, 2], m[1, 0] * j + m[1, 1] * i + m[1, 2]
                else:
                    factor = 1 + float(values[0][b]) * (j * j + i * i) * float(values[1])
                    j, i = j * factor, i * factor
        np.testing.assert_allclose(x[b], j, atol=2e-5)
        np.testing.assert_allclose(y[b], i, atol=2e-5)


def test_fused_equals_unfused_on_smooth_images():
    images = smooth().astype("float32")
    fused, apart = (Augment(GEOMETRY, fuse=fuse)(images, KEYS).numpy() for fuse in (True, False))
    # Where nothing came from outside at any stage; each of six interpolations may flatten by x'' / 8.
    valid = Augment(GEOMETRY, fuse=False)(np.ones_like(images), KEYS).numpy() > 0.9999
    assert valid.mean() > 0.5
    assert np.abs(fused - apart)[valid].max() < 0.02


def test_exact_operations_stay_exact_when_fused():
    operations = [RandomFlip("both"), RandomCrop(3), RandomFlip(), RandomCrop(0, (9, 11)), RandomFlip("vertical")]
    fused, apart = (Augment(operations, fuse=fuse) for fuse in (True, False))
    assert len(fused._groups(True)) == 1 and len(apart._groups(True)) == 5
    keys = make_keys(0, 0, tf.range(64))
    images = np.random.default_rng(0).integers(1, 256, (64, 16, 20, 3), dtype="uint8")
    one, other = fused(images, keys).numpy(), apart(images, keys).numpy()
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one * 255, np.round(one * 255), atol=2e-5)


def test_exact_operations_agree_with_their_resampled_form():
    operations = [RandomFlip("both"), RandomCrop(3), RandomFlip()]
    copied = Augment(operations)(IMAGES, KEYS)
    resampled = Augment([*operations, RandomRotation((0.0, 0.0))])(IMAGES, KEYS)
    np.testing.assert_allclose(copied, resampled, atol=2e-5)


def test_fused_colours_equal_unfused_where_nothing_clips():
    images = np.random.default_rng(0).integers(110, 140, (4, 6, 6, 3), dtype="uint8")
    operations = [ColorJitter(0.2, 0.2, 0.3, 0.05), ColorJitter(0.1, 0.3, 0.2)]
    for value_range in ((0, 1), (-1, 1), (0, 255)):
        one, other = (Augment(operations, value_range, fuse)(images, KEYS).numpy() for fuse in (True, False))
        span = value_range[1] - value_range[0]
        np.testing.assert_allclose(one, other, atol=2e-6 * span)
        np.testing.assert_allclose((one - value_range[0]) / span, Augment(operations)(images, KEYS), atol=2e-6)


class Fixed(Color):
    """Colours by a matrix and an offset; unlike those of `ColorJitter`, matrices of any kind don't commute."""

    def __init__(self, matrix, offset):
        self.matrix, self.offset = np.asarray(matrix, "float32"), np.asarray(offset, "float32")

    def transform(self, u, channels, mean):
        batch = tf.shape(u)[0]
        return tf.tile(self.matrix[None], (batch, 1, 1)), tf.tile(self.offset[None], (batch, 1))


def test_fused_colours_keep_their_order():
    first = Fixed([[0, 1, 0], [1, 0, 0], [0, 0, 1]], [0.1, 0.2, 0.0])
    second = Fixed([[0.5, 0, 0.2], [0, 0.7, 0], [0, 0, 0.3]], [0.0, 0.1, 0.05])
    expected = ((IMAGES / 255) @ first.matrix + first.offset) @ second.matrix + second.offset
    np.testing.assert_allclose(Augment([first, second])(IMAGES, KEYS), np.clip(expected, 0, 1), atol=1e-6)


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_float_and_whole_numbers_agree(value_range):
    operations = [RandomFlip(), RandomRotation(10), ColorJitter(0.2, 0.2, 0.2), Cutout(3)]
    low, high = value_range
    floats = (low + IMAGES / 255 * (high - low)).astype("float32")
    one, other = (Augment(operations, value_range)(x, KEYS).numpy() for x in (IMAGES, floats))
    np.testing.assert_allclose(one, other, atol=3e-6 * (high - low))
    assert one.dtype == np.float32


@pytest.mark.parametrize("operation", [RandomCrop(3), RandomTranslation(0.3, 0.3)])
def test_black_shows_outside_in_any_range(operation):
    for value_range in ((0.0, 1.0), (-1.0, 1.0), (2.0, 3.0)):
        white = np.full((4, 16, 20, 3), value_range[1], "float32")
        for images in (white, np.full(white.shape, 255, "uint8")):
            result = Augment([operation], value_range)(images, KEYS).numpy()
            assert abs(result.min() - value_range[0]) < 1e-6 and abs(result.max() - value_range[1]) < 1e-6
        # After `Standardize`, the mean.
        centre = Standardize(scale=False).fit(np.full((1, 2, 2, 3), 0.25))
        result = Augment([centre, operation], value_range)(white, KEYS).numpy()
        np.testing.assert_allclose(np.unique(result.round(5))[[0, -1]], [0, 0.75], atol=1e-4)


def test_any_number_of_images_takes_two_traces(caplog):
    augment = Augment([RandomFlip(), RandomRotation(10), ColorJitter()])
    for num in range(1, 5):
        augment(IMAGES[:num], KEYS[:num])
    (function,) = augment._functions.values()
    assert function.experimental_get_tracing_count() <= 2
    # Other images don't change what these look like.
    whole = augment(IMAGES, KEYS).numpy()
    augment(IMAGES[:, :9, :9], KEYS)
    np.testing.assert_array_equal(augment(IMAGES, KEYS), whole)


def test_many_augmentations_give_no_warning(caplog):
    with caplog.at_level("WARNING", "tensorflow"):
        for _ in range(6):
            Augment([RandomFlip()])(IMAGES, KEYS)
    assert not caplog.records


@pytest.mark.parametrize("calls", [1, 8])
def test_in_any_map(calls):
    augment = Augment([RandomFlip(), RandomRotation(10), ColorJitter(), Cutout(4)])
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, np.arange(4))).enumerate()

    def one(index, element):
        image, label = element
        return augment(image, make_keys(3, 1, index)), label

    found = list(dataset.map(one, num_parallel_calls=calls))
    np.testing.assert_array_equal([label for _, label in found], np.arange(4))
    expected = augment(IMAGES, make_keys(3, 1, np.arange(4)))
    np.testing.assert_allclose([image for image, _ in found], expected, atol=1e-6)
    (batch,) = dataset.batch(4).map(one, num_parallel_calls=calls)
    np.testing.assert_allclose(batch[0], expected, atol=1e-6)


def test_groups_of_operations_that_fuse():
    def groups(*operations):
        return [[index for index, _ in group] for group in Augment(operations)._groups(True)]

    assert groups(RandomFlip(), RandomRotation(), ColorJitter(), ColorJitter()) == [[0, 1], [2, 3]]
    assert groups(RandomRotation(), ColorJitter(), RandomRotation()) == [[0], [1], [2]]
    # Different ways to fill don't compose, and padded crops show zeros.
    assert groups(RandomRotation(fill="reflect"), RandomShear()) == [[0], [1]]
    assert groups(RandomFlip(), RandomRotation(fill="reflect")) == [[0, 1]]
    assert groups(RandomCrop(2), RandomRotation(fill="reflect")) == [[0], [1]]
    assert groups(RandomCrop(0, 5), RandomRotation(fill="reflect")) == [[0, 1]]


def test_pure_function_of_key():
    augment = Augment([RandomFlip(), RandomRotation(10), ColorJitter(), Cutout(4)])
    whole = augment(IMAGES, KEYS).numpy()
    np.testing.assert_array_equal(whole, augment(IMAGES, KEYS))
    for i in range(4):
        np.testing.assert_allclose(whole[i], augment(IMAGES[i], KEYS[i]), atol=1e-6)
    np.testing.assert_allclose(whole[::-1], augment(IMAGES[::-1], KEYS[::-1]), atol=1e-6)
    assert np.abs(whole - augment(IMAGES, make_keys(0, 1, tf.range(4)))).max() > 0.1
    # A single key gives each image of a batch its own.
    same = augment(np.stack([IMAGES[0]] * 3), 5).numpy()
    assert np.abs(same[0] - same[1]).max() > 0.1
    # Another operation doesn't change the numbers of the ones that are there.
    np.testing.assert_array_equal(
        Augment([Cutout(2), RandomFlip()]).draws(KEYS, 1), Augment([RandomFlip()]).draws(KEYS, 0)
    )


def test_masks_move_along():
    image = np.zeros((4, 24, 24, 1), "uint8")
    image[:, 6:14, 8:18] = 255
    mask = (image[..., 0] > 0).astype("int32") * 7
    for operations in (
        [RandomFlip("both"), RandomCrop(4)],
        [RandomFlip(), RandomRotation(30), RandomTranslation(0.2, 0.2)],
    ):
        moved, labels = Augment(operations)(image, KEYS, masks=mask)
        assert labels.dtype == tf.int32 and set(np.unique(labels)) == {0, 7}
        far = np.abs(moved.numpy()[..., 0] - 0.5) > 0.49
        assert far.mean() > 0.8
        np.testing.assert_array_equal((labels.numpy() == 7)[far], (moved.numpy()[..., 0] > 0.5)[far])
        deep = Augment(operations)(image, KEYS, masks=mask[..., None])[1]
        np.testing.assert_array_equal(deep[..., 0], labels)


def test_one_channel_everywhere():
    operations = [
        RandomFlip(), RandomCrop(2), RandomRotation(), LensDistortion(), ColorJitter(0.2, 0.2, 0.2, 0.1), Cutout(2),
    ]  # fmt: skip
    assert tuple(Augment(operations)(IMAGES[..., :1], KEYS).shape) == (4, 16, 20, 1)


def test_test_time_leaves_out_what_is_random():
    centre = Standardize(scale=False).fit(IMAGES)
    augment = Augment([RandomFlip(), RandomRotation(), RandomCrop(2), ColorJitter(), centre, Cutout(4)])
    expected = IMAGES / 255 - IMAGES.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(augment(IMAGES, KEYS, training=False), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Augment("flip"), "`operations` must be"),
        (lambda: Augment([RandomFlip]), "`operations` must be"),
        (lambda: Augment([], value_range=(1, 0)), "`value_range` must be"),
        (lambda: Augment([], fuse="yes"), "`fuse` must be"),
        (lambda: Augment([Standardize(), ColorJitter()]), "must follow"),
        (lambda: Augment([ColorJitter()])(IMAGES.astype("float32"), KEYS), r"must lie in value_range=\(0, 1\)"),
        (lambda: Augment([])(np.zeros((2, 2)), 0), "`images` must be"),
        (lambda: Augment([])(np.zeros((2, 2, 2, 3), "int32"), 0), "must be uint8 or floating"),
        (lambda: Augment([])(IMAGES, [1, 2]), "`key` must hold one key per image"),
        (lambda: Augment([])(IMAGES, [[1, 2]]), "`key` must be an integer"),
        (lambda: Augment([])(IMAGES, KEYS, masks=np.zeros((4, 3, 3))), "`masks` must be"),
    ],
)
def test_bad_arguments(make, text):
    with pytest.raises(ValueError, match=rf"{text}.*Received: "):
        make()
