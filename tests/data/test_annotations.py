"""Boxes and points in `pipeline`: found, moved, mixed and filled up to one number."""

import numpy as np
import pytest
import tensorflow as tf

from kregkit.data import (
    Augment,
    Boxes,
    CutMix,
    MixUp,
    Points,
    RandomCrop,
    RandomFlip,
    pipeline,
)

pytestmark = pytest.mark.one_in(2)

RNG = np.random.default_rng(0)
NUM = 6
IMAGES = RNG.integers(0, 256, (NUM, 20, 24, 3), "uint8")
BOXES = np.concatenate([RNG.uniform(0, 9, (NUM, 3, 2)), RNG.uniform(11, 20, (NUM, 3, 2))], -1).astype("float32")
CLASSES = np.arange(3 * NUM).reshape(NUM, 3)
POINTS = RNG.uniform(1, 19, (NUM, 5, 2)).astype("float32")
ELEMENT = {"image": IMAGES, "bbox": BOXES, "class": CLASSES, "joints": POINTS}


def test_arrays_and_replay():
    operations = [RandomFlip(), RandomCrop(3)]
    dataset = pipeline(
        ELEMENT, 3, operations, seed=2, boxes=Boxes("bbox", labels="class"), points="joints", with_keys=True
    )
    seen = []
    for element, keys in dataset:
        index = [int(np.nonzero((row[row >= 0][0] == CLASSES).any(1))[0][0]) for row in element["class"].numpy()]
        seen += index
        images, boxes, points = Augment(operations)(
            IMAGES[index], keys, boxes={"boxes": BOXES[index], "labels": CLASSES[index]}, points=POINTS[index]
        )
        np.testing.assert_allclose(element["image"], images, atol=1e-5)
        np.testing.assert_allclose(element["bbox"], boxes["boxes"], atol=1e-3)
        np.testing.assert_array_equal(element["class"], boxes["labels"])
        np.testing.assert_allclose(element["joints"], points, atol=1e-3)
    assert sorted(seen) == list(range(NUM))


def stream(numbers=(2, 0, 3, 1, 4, 3)):
    """Returns a stream of nested elements with different numbers of boxes, in TFDS's format."""

    def examples():
        for number, (image, num) in enumerate(zip(IMAGES, numbers)):
            boxes = np.tile(np.float32([0.1, 0.2, 0.6, 0.7]), (num, 1))
            names = [f"{number}/{i}".encode() for i in range(num)]
            yield {"image": image, "objects": {"bbox": boxes, "label": np.full(num, number), "name": names}}

    spec = {
        "image": tf.TensorSpec((20, 24, 3), tf.uint8),
        "objects": {
            "bbox": tf.TensorSpec((None, 4)),
            "label": tf.TensorSpec((None,), tf.int64),
            "name": tf.TensorSpec((None,), tf.string),
        },
    }
    return tf.data.Dataset.from_generator(examples, output_signature=spec)


def test_different_numbers_are_filled_up():
    boxes = Boxes("objects/bbox", labels=["label", "name"], format="rel_yxyx", min_visible=0)
    batches = list(pipeline(stream(), 4, [RandomFlip(probability=1.0)], shuffle=False, boxes=boxes))
    assert [tuple(batch["objects"]["bbox"].shape) for batch in batches] == [(4, 3, 4), (2, 4, 4)]
    first = batches[0]["objects"]
    np.testing.assert_array_equal(first["label"], [[0, 0, -1], [-1, -1, -1], [2, 2, 2], [3, -1, -1]])
    assert first["name"].numpy()[3].tolist() == [b"3/0", b"", b""]
    np.testing.assert_allclose(first["bbox"][2, 0], [0.1, 0.3, 0.6, 0.8], atol=1e-6)
    assert (first["bbox"][1].numpy() == -1).all()
    boxes = Boxes("bbox", labels=["label", "name"], format="rel_yxyx", max_boxes=2)
    for batch in pipeline(stream(), 4, training=False, boxes=boxes):
        assert batch["objects"]["bbox"].shape[1:] == (2, 4) and batch["objects"]["label"].shape[1] == 2
    # Two epochs are the same but for the draws, and a cache is random access.
    cached = pipeline(stream((2,) * NUM), 4, [RandomFlip()], cache=True, boxes=boxes)
    assert len(list(cached)) == len(list(cached)) == 2


@pytest.mark.parametrize(("make", "partners"), [(MixUp, "epoch"), (CutMix, "batch")])
def test_mixing_in_a_pipeline(make, partners):
    operations = [RandomFlip(), make(partners=partners)]
    element = {**ELEMENT, "class": CLASSES.astype("int32")}
    described = Boxes("bbox", labels="class")
    batches = list(pipeline(element, 3, operations, shuffle=False, boxes=described, points="joints"))
    assert tuple(batches[0]["bbox"].shape) == (3, 6, 4) and tuple(batches[0]["joints"].shape) == (3, 10, 2)
    classes = np.concatenate([batch["class"] for batch in batches])
    own, others = classes[:, :3], classes[:, 3:]
    np.testing.assert_array_equal(own[own >= 0], CLASSES[own >= 0])
    assert len(set((others[others >= 0] // 3).ravel())) > 1
    boxes = np.concatenate([batch["bbox"] for batch in batches])
    np.testing.assert_array_equal((boxes == -1).all(-1), classes == -1)
    # At test time neither is mixed.
    (batch,) = pipeline(element, NUM, operations, training=False, boxes=described, points="joints")
    np.testing.assert_allclose(batch["bbox"], BOXES, atol=1e-5)


def test_mixing_streams_of_different_numbers():
    boxes = Boxes("bbox", labels=["label", "name"], format="rel_yxyx", max_boxes=5)
    for batch in pipeline(stream(), 4, [CutMix(0.5)], boxes=boxes):
        assert batch["objects"]["bbox"].shape[1:] == (5, 4)


def test_tuples_labels_and_sizes():
    detection = (IMAGES, {"boxes": BOXES, "labels": CLASSES})
    crop = [RandomCrop(0, size=(12, 10))]
    images, rest = next(iter(pipeline(detection, 3, crop, boxes=Boxes("boxes", labels="labels"))))
    assert tuple(images.shape) == (3, 12, 10, 3)
    there = (rest["labels"].numpy() >= 0)[..., None]
    assert (rest["boxes"].numpy() <= [10, 12, 10, 12])[np.broadcast_to(there, (3, 3, 4))].all()
    instances = {"image": IMAGES, "keypoints": np.tile(POINTS[:, None], (1, 2, 1, 1))}
    moved = next(iter(pipeline(instances, 3, crop, points="keypoints")))
    assert tuple(moved["keypoints"].shape) == (3, 2, 5, 2)
    # One label for the image, and boxes: both are mixed.
    labelled = (IMAGES, np.arange(NUM) % 3, BOXES)
    _, labels, boxes = next(iter(pipeline(labelled, 3, [MixUp(num_classes=3)], boxes=2)))
    assert tuple(labels.shape) == (3, 3) and tuple(boxes.shape) == (3, 6, 4)


@pytest.mark.parametrize(
    ("element", "arguments", "text"),
    [
        ({"bbox": BOXES}, {}, r"write boxes='bbox' .*boxes=data\.Boxes\('bbox', format='rel_yxyx'\).*unmoved='bbox'"),
        ({"keypoints": POINTS}, {}, r"write points='keypoints' .*data\.Points\('keypoints', format='rel_xy'\)"),
        ({"bbox": BOXES, "bbox_label": CLASSES}, {"boxes": "bbox"}, "labels='bbox_label'"),
        ({"landmarks": {"eye": POINTS[:, 0, 0]}}, {}, "stack points"),
        ({"a": BOXES}, {"boxes": "b"}, "`boxes` must be a key"),
        ({"a": {"b": BOXES}, "c": {"b": BOXES}}, {"boxes": "b"}, "2 of them have it.*'a/b'"),
        ({"a": BOXES[..., :3]}, {"boxes": "a"}, "`boxes` must be `.num, 4"),
        ({"a": BOXES}, {"points": "a"}, "`points` must be"),
        ({"a": BOXES, "c": CLASSES[:, :2]}, {"boxes": Boxes("a", labels="c")}, "a row for each of the 3 boxes"),
        ({"a": BOXES, "c": CLASSES.astype("uint8")}, {"boxes": Boxes("a", labels="c")}, "cast them to int32"),
        ({"a": BOXES}, {"boxes": Boxes()}, "`boxes` must be a key"),
        ({"a": BOXES}, {"points": Boxes("a")}, "`points` must be a key"),
        ({"a": BOXES}, {"boxes": True}, "`boxes` must be a key"),
        ({"a": BOXES}, {"boxes": "a", "image": None, "operations": []}, "of which there are none"),
    ],
)
def test_errors(element, arguments, text):
    with pytest.raises(ValueError, match=rf"{text}[\s\S]*Received: "):
        pipeline({"image": IMAGES, **element}, 2, **{"operations": [RandomFlip()], **arguments})


def test_points_alone_need_no_labels():
    augment = Augment([MixUp()], points=Points(format="rel_xy"))
    _, points = augment(IMAGES[:2], 0, points=POINTS[:2] / np.float32([24, 20]))
    assert tuple(points.shape) == (2, 10, 2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"boxes": {"box": BOXES[:2]}}, "must have the key 'boxes'"),
        ({"boxes": {"boxes": BOXES[:2], "labels": CLASSES[:2].astype("uint8")}}, "cast it to int32"),
        ({"boxes": {"boxes": BOXES[:2], "labels": CLASSES[:2, :2]}}, "a row for each of them"),
        ({"boxes": {"boxes": BOXES[:2], "labels": CLASSES[:2, 0]}}, "a row for each of them"),
        ({"boxes": BOXES[:1]}, "`boxes` must be of as many images as there are, 2"),
        ({"points": POINTS[:3]}, "`points` must be of as many images as there are, 2"),
        ({"points": {"eye": POINTS[:2]}}, "`points` must have as many rows"),
        ({"boxes": [BOXES[0], BOXES[0, :1]]}, "`boxes` must have as many rows .*fill them up by -1"),
        ({"boxes": tf.RaggedTensor.from_tensor(BOXES[:2])}, "`boxes` must have as many rows .*to_tensor"),
    ],
    ids=range(9),
)
def test_errors_of_calls(arguments, text):
    with pytest.raises(ValueError, match=rf"{text}[\s\S]*Received: "):
        Augment([RandomFlip()])(IMAGES[:2], 0, **arguments)


def test_boxes_of_a_ragged_tensor():
    ragged = tf.RaggedTensor.from_row_lengths(BOXES.reshape(-1, 4)[: NUM + 3], [1, 3, *[1] * (NUM - 3), 2])
    dataset = tf.data.Dataset.from_tensor_slices({"image": IMAGES, "bbox": ragged})
    first = next(iter(pipeline(dataset, 2, [RandomFlip(probability=1.0)], boxes="bbox", shuffle=False)))["bbox"].numpy()
    assert first.shape == (2, 3, 4) and (first[0, 1:] == -1).all() and (first[1] >= 0).all()
    with pytest.raises(ValueError, match="write boxes='bbox'"):
        pipeline(dataset, 2, [RandomFlip()])
    nested = dataset.map(lambda one: {**one, "bbox": tf.RaggedTensor.from_tensor(one["bbox"])})
    with pytest.raises(ValueError, match=r"to_tensor\(\)[\s\S]*Received: boxes='bbox'"):
        pipeline(nested, 2, [RandomFlip()], boxes="bbox")
