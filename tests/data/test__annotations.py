"""Boxes and points against pictures of them, which the operations move as they move any mask."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kregkit.data import (
    Augment,
    Boxes,
    ColorJitter,
    CutMix,
    LensDistortion,
    MixUp,
    Points,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomShear,
    RandomStretch,
    RandomTranslation,
    TrivialAugment,
    _annotations,
    make_keys,
)

pytestmark = pytest.mark.one_in(2)

HEIGHT, WIDTH, NUM = 120, 160, 6
RNG = np.random.default_rng(0)
IMAGES = np.zeros((NUM, HEIGHT, WIDTH, 1), "uint8")
KEYS = make_keys(2, 0, tf.range(NUM))
# Two boxes and two points in each image, whole pixels; points in the middle of one.
CORNERS = np.stack([RNG.integers(0, (70, 50), (NUM, 2, 2)), RNG.integers((80, 60), (161, 121), (NUM, 2, 2))], 2)
BOXES = CORNERS.reshape(NUM, 2, 4).astype("float32")
POINTS = RNG.integers((10, 10), (150, 110), (NUM, 2, 2)) + np.float32(0.5)


def pictures(boxes, height=HEIGHT, width=WIDTH):
    """Returns masks `(batch, h, w, num)` that are 255 in a box."""
    y, x = np.mgrid[:height, :width] + 0.5
    left, top, right, bottom = (boxes[:, None, None, :, index] for index in range(4))
    inside = (x[..., None] > left) & (x[..., None] < right) & (y[..., None] > top) & (y[..., None] < bottom)
    return (255 * inside).astype("uint8")


def measured(mask):
    """Returns the smallest box around what is not 0, or `None`."""
    y, x = np.nonzero(mask)
    return (x.min(), y.min(), x.max() + 1, y.max() + 1) if len(x) else None


CHAINS = {
    "flip": [RandomFlip("both")],
    "crop": [RandomCrop(12, size=(80, 100))],
    "padding": [RandomFlip(), RandomCrop(30)],
    "resized": [RandomResizedCrop((90, 70), scale=(0.2, 0.6))],
    "rotation": [RandomRotation(40)],
    "affine": [RandomShear(20), RandomStretch(0.3), RandomTranslation(0.3, 0.3), RandomRotation(20)],
    "barrel": [LensDistortion((0.3, 0.3))],
    "pincushion": [LensDistortion((-0.3, -0.3))],
    "all": [RandomRotation(20), LensDistortion(0.2), RandomFlip(), RandomResizedCrop((80, 80), scale=(0.5, 0.9))],
    "turned": [RandomRotation(40), RandomTranslation(0.3, 0.3)],
    "automatic": [RandomFlip(), TrivialAugment()],
}


# Each compiles a warp of its own; the others say nothing new unless these pass.
SHORT = ("crop", "affine", "barrel", "all", "automatic")


def chains(*names):
    return [name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", chains(*sorted(set(CHAINS) - {"turned"})))
def test_boxes_land_where_their_pictures_do(name):
    augment = Augment(CHAINS[name], boxes=Boxes(min_visible=0.0))
    masks = pictures(BOXES)
    _, moved, boxes = augment(IMAGES, KEYS, masks=masks, boxes=BOXES)
    compared = 0
    for mask, box in zip(
        moved.numpy().transpose(0, 3, 1, 2).reshape(-1, *moved.shape[1:3]), boxes.numpy().reshape(-1, 4)
    ):
        there = measured(mask)
        if there is None or (mask > 0).sum() < 30:
            assert there is not None or (box == -1).all() or (box[2:] - box[:2]).min() < 1
            continue
        compared += 1
        # Thin corners lie between the pixels that are looked at.
        np.testing.assert_allclose(box, there, atol=1.7)
    assert compared >= 8


def moved_boxes(augment, boxes, keys=KEYS, training=True):
    """Returns the boxes that calls would return, without moving images."""
    images = tf.zeros((len(boxes), HEIGHT, WIDTH, 1))
    annotations = augment.move(augment.read(boxes, None, images), keys, images, training)
    height, width = augment.operations[-1].output_size(HEIGHT, WIDTH) if augment.moves else (HEIGHT, WIDTH)
    return augment.write(annotations, boxes, None, tf.zeros((1, height, width, 1)))[0]


@pytest.mark.parametrize("name", ["crop", "turned"])
def test_visible_shares(name):
    augment = Augment(CHAINS[name])
    # What moves keeps its area, so that the pixels that are left are the share.
    annotations = augment.move(augment.read(tf.constant(BOXES), None, IMAGES), KEYS, IMAGES)
    masks = pictures(BOXES)
    _, moved = augment(IMAGES, KEYS, masks=masks)
    share = (moved.numpy() > 0).sum((1, 2)) / (masks > 0).sum((1, 2))
    np.testing.assert_allclose(annotations.boxes[..., 4], share, atol=0.01)
    bar = float(np.median(share))
    assert 0.2 < bar < 0.95
    boxes = moved_boxes(Augment(CHAINS[name], boxes=Boxes(min_visible=bar)), tf.constant(BOXES)).numpy()
    sure = np.abs(share - bar) > 0.01
    np.testing.assert_array_equal((boxes == -1).all(-1)[sure], (share < bar)[sure])
    assert 2 < (share < bar)[sure].sum() < 10


def test_shares_add_up_over_groups_that_run_one_after_the_other():
    left = [RandomTranslation(0.0, (-0.25, -0.25)), ColorJitter(), RandomTranslation(0.0, (-0.25, -0.25))]
    box = tf.constant([[[0.0, 10.0, 160.0, 20.0]]])
    # In the first group 40 pixels go, in the second another 40; none comes back from outside.
    boxes = moved_boxes(Augment(left, boxes=Boxes(min_visible=0.49)), box, KEYS[:1])
    np.testing.assert_allclose(boxes[0, 0], [0, 10, 80, 20], atol=1e-3)
    assert (moved_boxes(Augment(left, boxes=Boxes(min_visible=0.51)), box, KEYS[:1]).numpy() == -1).all()


@pytest.mark.parametrize("name", chains("flip", "crop", "resized", "affine", "barrel", "pincushion", "all"))
def test_points_land_where_their_pictures_do(name):
    masks = pictures(np.concatenate([POINTS - 2.5, POINTS + 2.5], -1))
    _, moved, points = Augment(CHAINS[name])(IMAGES, KEYS, masks=masks, points=POINTS)
    height, width = moved.shape[1:3]
    compared = 0
    for mask, point in zip(
        moved.numpy().transpose(0, 3, 1, 2).reshape(-1, height, width), points.numpy().reshape(-1, 2)
    ):
        there = measured(mask)
        if there is None:
            assert (point == -1).all()
        elif min(there[0], there[1], width - there[2], height - there[3]) > 0:
            compared += 1
            y, x = np.nonzero(mask)
            np.testing.assert_allclose(point, (x.mean() + 0.5, y.mean() + 0.5), atol=0.8)
    assert compared >= 5


def to_format(boxes, name, height, width):
    """Returns boxes in a format, by its name."""
    x, y, x2, y2 = boxes.T if boxes.ndim == 2 else np.moveaxis(boxes, -1, 0)
    if name.startswith("rel_"):
        x, x2, y, y2 = x / width, x2 / width, y / height, y2 / height
    numbers = {
        "xyxy": (x, y, x2, y2),
        "yxyx": (y, x, y2, x2),
        "xywh": (x, y, x2 - x, y2 - y),
        "center_xywh": ((x + x2) / 2, (y + y2) / 2, x2 - x, y2 - y),
        "center_yxhw": ((y + y2) / 2, (x + x2) / 2, y2 - y, x2 - x),
    }[name.removeprefix("rel_")]
    return np.stack(numbers, -1).astype("float32")


def test_formats():
    for start in ("", "rel_"):
        for name in ("xyxy", "yxyx", "xywh", "center_xywh", "center_yxhw"):
            given = to_format(BOXES, start + name, HEIGHT, WIDTH)
            found = _annotations.read(given, [], start + name, None, "xy", (HEIGHT, WIDTH))
            np.testing.assert_allclose(found.boxes[..., :4], BOXES, atol=1e-4)
            written, _ = _annotations.write_boxes(found, Boxes(format=start + name), (HEIGHT, WIDTH))
            np.testing.assert_allclose(written, given, atol=1e-4)
    scale = np.array([WIDTH, HEIGHT], "float32")
    for name, given in (
        ("yx", POINTS[..., ::-1]),
        ("rel_xy", POINTS / scale),
        ("rel_yx", (POINTS / scale)[..., ::-1]),
    ):
        found = _annotations.read(None, [], "xyxy", given, name, (HEIGHT, WIDTH))
        np.testing.assert_allclose(found.points[..., :2], POINTS, atol=1e-4)
        np.testing.assert_allclose(_annotations.write_points(found, name, (HEIGHT, WIDTH), None, 2), given, atol=1e-4)
    # Keras's own converter says the same.
    keras_boxes = keras.utils.bounding_boxes.convert_format(BOXES, "xyxy", "rel_yxyx", HEIGHT, WIDTH)
    np.testing.assert_allclose(keras_boxes, to_format(BOXES, "rel_yxyx", HEIGHT, WIDTH), atol=1e-6)


def test_what_is_not_there_stays_so():
    boxes = tf.constant(
        [
            [
                [-1, -1, -1, -1],
                [10, 10, 10, 40],
                [np.nan, 0, 5, 5],
                [-20, -20, 20, 20],
                [200, 0, 300, 9],
                [0, 0, np.inf, 9],
            ]
        ],
        tf.float32,
    )
    given = {"boxes": boxes, "labels": tf.constant([[7, 8, 9, 10, 11, 12]])}
    images = IMAGES[:1]
    augment = Augment([])

    def result(augment, given):
        return augment.write(augment.read(given, None, images), given, None, images)[0]

    np.testing.assert_array_equal(result(augment, given)["labels"], [[-1, -1, -1, 10, -1, -1]])
    numbers = result(augment, given)["boxes"].numpy()
    np.testing.assert_array_equal(numbers[0, 3], [0, 0, 20, 20])
    assert (np.delete(numbers, 3, 1) == -1).all()
    np.testing.assert_array_equal(result(Augment([], boxes=Boxes(max_boxes=2)), given)["labels"], [[10, -1]])
    assert tuple(result(Augment([], boxes=Boxes(max_boxes=7)), given)["boxes"].shape) == (1, 7, 4)
    # The third number of a point says whether it is there.
    flagged = tf.constant([[[5.5, 6.5, 2], [0, 0, 0], [170, 3, 1]]], tf.float32)
    for given in (flagged, flagged[:, :, None]):
        points = augment.write(augment.read(None, given, images), None, given, images)[1]
        assert points.shape == given.shape
        np.testing.assert_array_equal(tf.reshape(points, (3, 3)), [[5.5, 6.5, 2], [-1, -1, 0], [-1, -1, 0]])


def test_cutmix_keeps_what_is_seen_of_both():
    augment = Augment([CutMix(1.0)], boxes=Boxes(min_visible=0.0))
    masks = pictures(BOXES)
    keys = make_keys(5, 0, tf.range(NUM))
    partners = augment.partners(keys).numpy()
    window = np.array([measured(one) for one in _window_masks(augment.operations[0], augment.draws(keys, 0))])
    _, boxes, points = augment(IMAGES, keys, boxes=BOXES, points=POINTS)
    assert tuple(boxes.shape) == (NUM, 4, 4) and tuple(points.shape) == (NUM, 4, 2)
    for i in range(NUM):
        inside = pictures(window[i][None, None].astype("float32"))[0, ..., 0] > 0
        seen = [(masks[i, ..., n] > 0) & ~inside for n in range(2)] + [
            (masks[partners[i], ..., n] > 0) & inside for n in range(2)
        ]
        for box, one in zip(boxes.numpy()[i], seen):
            there = measured(one)
            np.testing.assert_array_equal(box, [-1] * 4 if there is None else there)
        where = [(POINTS[i, n], False) for n in range(2)] + [(POINTS[partners[i], n], True) for n in range(2)]
        for point, (place, wanted) in zip(points.numpy()[i], where):
            kept = inside[int(place[1]), int(place[0])] == wanted
            np.testing.assert_array_equal(point, place if kept else [-1, -1])


def _window_masks(operation, u):
    from kregkit.data.erasing import box_mask

    return box_mask(u[:, 2:], *operation._sides(u, (HEIGHT, WIDTH)), (HEIGHT, WIDTH)).numpy()


def test_mixup_keeps_both_but_for_what_is_too_faint():
    labels = np.arange(NUM)
    augment = Augment([MixUp(0.05, num_classes=NUM)])
    keys = make_keys(1, 0, tf.range(NUM))
    _, mixed, boxes = augment(
        IMAGES, keys, labels=labels, boxes={"boxes": BOXES, "labels": np.tile(labels[:, None], 2)}
    )
    partners = augment.partners(keys).numpy()
    weight = mixed.numpy()[labels, labels]
    expected = np.repeat(np.where(weight > 1 / 255, labels, -1)[:, None], 2, 1)
    others = np.repeat(np.where(1 - weight > 1 / 255, partners, -1)[:, None], 2, 1)
    np.testing.assert_array_equal(boxes["labels"], np.concatenate([expected, others], 1))
    assert (expected == -1).any() or (others == -1).any()
    # Without image labels, as detection has it; and none of a partner that isn't mixed in.
    images, boxes = Augment([MixUp(probability=0.0)])(IMAGES, keys, boxes=BOXES)
    np.testing.assert_array_equal(boxes[:, :2], BOXES)
    assert (boxes[:, 2:].numpy() == -1).all() and images.dtype == "float32"


def test_one_image_and_test_time():
    augment = Augment([RandomFlip(), RandomCrop(0, size=100)])
    images, boxes, points = augment(IMAGES, KEYS, boxes=BOXES, points=POINTS)
    one = augment(IMAGES[0], KEYS[0], boxes=BOXES[0], points=POINTS[0])
    # Python's lists do as well.
    _, lists = augment(IMAGES, KEYS, boxes=BOXES.tolist())
    np.testing.assert_array_equal(lists, boxes)
    for value, expected in zip(one, (images[0], boxes[0], points[0])):
        np.testing.assert_allclose(value, expected, atol=1e-3)
    central = moved_boxes(augment, tf.constant(BOXES), training=False).numpy()
    there = (central != -1).any(-1)
    np.testing.assert_allclose(central[there], np.clip(BOXES - [30, 10, 30, 10], 0, 100)[there], atol=1e-4)
    saved = Augment([RandomFlip()], boxes=Boxes("a", format="xywh"), points=Points("b"))
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(saved))
    assert copy.boxes.format == "xywh" and copy.points.key == "b"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Boxes(format="ltrb"), "`format` must be"),
        (lambda: Boxes(min_visible=1.5), "`min_visible` must be"),
        (lambda: Boxes(max_boxes=0), "`max_boxes` must be"),
        (lambda: Points(format="xyv"), "`format` must be"),
        (lambda: Augment([RandomFlip()], boxes="bbox"), "`boxes` must be"),
        (lambda: Augment([RandomFlip()])(IMAGES, KEYS, boxes=BOXES[..., :3]), "`boxes` must be"),
        (lambda: Augment([RandomFlip()])(IMAGES, KEYS, points=BOXES), "`points` must be"),
    ],
)
def test_bad_arguments(make, text):
    with pytest.raises(ValueError, match=rf"{text}.*Received: "):
        make()
