import collections

import numpy as np
import pytest
import tensorflow as tf

from kregkit.data import Augment, ColorJitter, CutMix, Cutout, MixUp, RandomCrop, RandomFlip
from kregkit.data._fields import Fields, check_single, get, put

IMAGE = tf.TensorSpec((8, 8, 3), tf.uint8)
LABEL = tf.TensorSpec((), tf.int64)
Pair = collections.namedtuple("Pair", "image label")


def spec(*shape, dtype=tf.float32):
    return tf.TensorSpec(shape, dtype)


def fields(structure, operations=(), training=True, image="image", label="label", masks=None, unmoved=()):
    return Fields(structure, image, label, masks, Augment(list(operations)), training, unmoved)


@pytest.mark.parametrize(
    ("structure", "path"),
    [
        (IMAGE, ()),
        ((IMAGE, LABEL), (0,)),
        ({"image": IMAGE, "label": LABEL}, ("image",)),
        (({"image": IMAGE, "extra": LABEL}, LABEL), (0, "image")),
        (Pair(IMAGE, LABEL), (0,)),
        ((spec(5), LABEL), None),
        ({"x": IMAGE}, None),
        ((spec(7, 8, 9, dtype=tf.int64), LABEL), None),
        ((spec(20, 5), LABEL), None),
        ((spec(dtype=tf.string), LABEL), None),
    ],
)
def test_finds_images(structure, path):
    assert fields(structure).image == path
    assert fields(structure, image=None).image is None


def test_finds_labels_and_masks():
    mix = [MixUp(num_classes=3)]
    assert fields((IMAGE, LABEL, spec()), mix).labels == (1,)
    assert fields({"image": IMAGE, "class": LABEL}, mix, label="class").labels == ("class",)
    assert fields((IMAGE, {"label": LABEL}), mix).labels == (1, "label")
    assert fields((IMAGE, {"mask": spec(8, 8)}), [RandomFlip()], masks="mask").masks == (1, "mask")
    for bad in ({"label": "class"}, {"masks": 2}):
        with pytest.raises(ValueError, match="must be a key of the examples.*Received: "):
            fields({"image": IMAGE}, mix, **bad)


@pytest.mark.parametrize("dtype", ["int64", "uint16", "int8", "int32", "uint32", "bool"])
@pytest.mark.parametrize("operations", [[], [RandomFlip()]])
def test_images_of_unknown_range_are_refused(dtype, operations):
    for structure in (spec(8, 8, 3, dtype=dtype), {"image": spec(8, 8, 7, dtype=dtype)}):
        with pytest.raises(ValueError, match=f"Images of type {dtype} .*cast them to uint8.*Received: dtype={dtype}"):
            fields(structure, operations)


def test_images_of_unknown_shape_are_refused():
    """Bytes would stay in 0..255 without a word."""
    unknown = tf.TensorSpec(None, tf.uint8)
    for operations in ([], [RandomFlip()]):
        with pytest.raises(ValueError, match="shape of the images isn't known.*tf.ensure_shape.*Received: shape=<unk"):
            fields((unknown, LABEL), operations)
    assert fields((tf.TensorSpec(None, tf.float32), LABEL), []).image is None
    assert fields((unknown, LABEL), [], image=None).image is None


def test_images_without_channels_are_refused():
    for structure in (spec(28, 28, dtype=tf.uint8), {"image": spec(28, 28)}):
        with pytest.raises(ValueError, match=r"x\[\.\.\., None\].*Received: shape=\(28, 28\)"):
            fields((structure, LABEL) if isinstance(structure, tf.TensorSpec) else structure)
    assert fields((spec(28, 28, dtype=tf.uint8), LABEL), image=None).image is None


BATCHES = [
    (spec(None, 8, 8, 3), spec(None, dtype=tf.int64)),
    (spec(4, 8, 8, 3), spec(4, dtype=tf.int64)),
    {"image": spec(None, 8, 8, 3), "label": spec(None)},
    (spec(None, 28, 28, dtype=tf.uint8), spec(None)),
    (spec(None, 5), spec(None), spec(None)),
    spec(None, 8, 8, 3),
    spec(4, 8, 8, 3),
]
SINGLE = [
    (IMAGE, LABEL),
    (IMAGE, IMAGE),
    {"image": spec(None, None, 3), "mask": spec(None, None, 1)},
    (spec(16, 8, 8, 3), LABEL),
    (spec(5), spec(5)),
    spec(None),
    (spec(None), LABEL),
]


def test_batches_are_told_from_examples():
    for structure in BATCHES:
        with pytest.raises(ValueError, match=r"\.unbatch\(\).*Received: "):
            check_single(structure, "image")
        check_single(structure, None)
    for structure in SINGLE:
        check_single(structure, "image")


@pytest.mark.parametrize(
    ("entry", "name", "kind"),
    [
        ({"bbox": spec(4)}, "bbox", "boxes or points"),
        ({"gt_boxes": spec(None, 5)}, "gt_boxes", "boxes or points"),
        ({"keypoints": spec(17, 3)}, "keypoints", "boxes or points"),
        ({"objects": {"BBox": spec(None, 4), "label": spec(None)}}, "BBox", "boxes or points"),
        ({"landmarks": {"left_eye_x": LABEL}}, "left_eye_x", "boxes or points"),
        ({"gtBoxes": spec(None, 4)}, "gtBoxes", "boxes or points"),
        ({"gt.bboxes": spec(3, 4)}, "gt.bboxes", "boxes or points"),
        ({"rois": spec(3, 5)}, "rois", "boxes or points"),
        ({"facePts": spec(5, 2)}, "facePts", "boxes or points"),
        ({"coords": spec(None, 2)}, "coords", "boxes or points"),
        ({"mask": spec(2, 2, 1)}, "mask", "masks"),
        ({"segmentationMask": spec(2, 2)}, "segmentationMask", "masks"),
        ({"anything": spec(8, 8)}, "anything", "masks"),
    ],
)
def test_what_would_stay_where_it_was_is_an_error(entry, name, kind):
    structure = {"image": IMAGE, **entry}
    for operations in ([RandomFlip()], [ColorJitter(), RandomCrop(1)]):
        with pytest.raises(ValueError, match=f"looks like {kind}.*unmoved='{name}'.*Received: "):
            fields(structure, operations)
        fields(structure, operations, unmoved=name)
        fields(structure, operations, unmoved=[name])
        # Nothing moves at test time, or by colours.
        fields(structure, operations, training=False)
    with pytest.raises(ValueError, match=f"looks like {kind}"):
        fields(structure, [RandomCrop(0, size=6)], training=False)
    fields(structure, [ColorJitter(), Cutout(2)])


def test_names_that_only_hold_such_words_are_no_positions():
    for name in ("boxed", "pointer", "inbox", "polyphony", "joint_venture_id", "unmasked"):
        rank_two = name not in ("joint_venture_id",)
        fields({"image": IMAGE, name: spec(3, 5) if rank_two else LABEL}, [RandomFlip()])


def test_entries_of_tuples_that_would_stay():
    for structure, index in (((IMAGE, spec(8, 8)), 1), ((IMAGE, LABEL, spec(None, 4)), 2)):
        with pytest.raises(ValueError, match=f"The entry {index} looks like .*unmoved={index}"):
            fields(structure, [RandomFlip()])
        fields(structure, [RandomFlip()], unmoved=index)
    fields((IMAGE, spec(8, 8)), [RandomFlip()], masks=1)
    with pytest.raises(ValueError, match="looks like boxes"):
        fields({"image": IMAGE, "label": LABEL, "bbox": spec(4)}, [CutMix(num_classes=3)])
    with pytest.raises(ValueError, match="`unmoved` must be keys.*Received: unmoved="):
        fields((IMAGE, LABEL), [RandomFlip()], unmoved="bbox")


@pytest.mark.parametrize("name", ["checkpoint", "points", "boxer", "unmasked", "label", "name", "weight"])
def test_names_that_mean_nothing_of_the_kind(name):
    fields({"image": IMAGE, name: LABEL}, [RandomFlip()])


def test_get_and_put_keep_the_structure():
    element = Pair({"image": 1, "extra": 2}, [3, 4])
    changed = put(put(element, (0, "image"), 5), (1, 1), 6)
    assert changed == Pair({"image": 5, "extra": 2}, [3, 6]) and isinstance(changed, Pair)
    assert get(changed, (0, "image")) == 5 and get(element, (1, 1)) == 4


def test_transform_and_mix_change_their_entries_alone():
    found = fields({"image": IMAGE, "label": LABEL, "weight": spec()}, [MixUp(4.0, num_classes=3)])
    element = {
        "image": tf.constant(np.arange(4 * 8 * 8 * 3).reshape(4, 8, 8, 3) % 256, tf.uint8),
        "label": tf.constant([0, 1, 2, 0]),
        "weight": tf.range(4.0),
    }
    keys = tf.range(4, dtype=tf.int64)
    transformed = found.transform(element, keys)
    np.testing.assert_allclose(transformed["image"], element["image"].numpy() / 255, rtol=1e-6)
    assert transformed["label"] is element["label"]
    mixed = found.mix(transformed, keys)
    np.testing.assert_allclose(mixed["label"].numpy().sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(mixed["weight"], element["weight"])
    with_itself = found.mix(transformed, keys, transformed)
    np.testing.assert_allclose(with_itself["label"], np.eye(3)[[0, 1, 2, 0]], atol=1e-6)
