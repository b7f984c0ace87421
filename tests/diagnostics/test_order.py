"""The order and the frequencies of labels against what was put in."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from small_models import RNG, dense

from kregkit import diagnostics as room

X = RNG.normal(size=(400, 5)).astype("float32")
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def classes(share=0.25, num=400):
    """Four classes, the first of which has this share."""
    rest = np.arange(num) % 3 + 1
    return RNG.permutation(np.where(np.arange(num) < share * num, 0, rest)).astype("int32")


def stream(y):
    return tf.data.Dataset.from_tensor_slices((X[: len(y)], y)).batch(20)


@pytest.mark.parametrize(
    ("data", "fault", "status"),
    [
        (lambda: (X, classes()), None, "pass"),
        (lambda: (X, np.sort(classes())), "sorted data", "warn"),
        (lambda: (X, np.eye(4)[np.sort(classes())]), "sorted data", "warn"),
        # `fit` shuffles arrays: what isn't sorted from end to end does no harm.
        (lambda: (X, np.repeat(RNG.integers(0, 4, 50), 8)), None, "pass"),
        (lambda: stream(classes()), None, "pass"),
        (lambda: stream(np.sort(classes())), "sorted data", "fail"),
        (lambda: stream(np.repeat(RNG.integers(0, 4, 50), 8)), "sorted data", "fail"),
        (lambda: stream(np.zeros(400, "int32")), "sorted data", "warn"),
    ],
)
def test_order(data, fault, status):
    data = data()
    one_hot = not isinstance(data, tf.data.Dataset) and data[1].ndim == 2
    loss = keras.losses.CategoricalCrossentropy(from_logits=True) if one_hot else SPARSE
    finding = room.label_distribution(dense(4, loss=loss), data)
    assert (finding.faults, finding.status) == ([] if fault is None else [fault], status)


def test_excess_is_0_for_mixed_and_1_for_sorted_labels():
    from kregkit.diagnostics.order import _excess

    y = np.repeat(np.arange(4), 1000)
    mixed, sorted_ = _excess(np.random.default_rng(0).permutation(y)), _excess(y)
    # 3999 neighbours, of which a quarter is equal by chance: five deviations are 0.034.
    assert abs(mixed[0]) < 0.046 and not mixed[1]
    # Only at the three borders do neighbours differ: by chance it would be three quarters.
    assert sorted_[0] == pytest.approx(1 - 3 / 3999 / (1 - 999 / 3999), rel=1e-9) and sorted_[1]


@pytest.mark.parametrize(("share", "fault"), [(0.25, False), (0.8, False), (0.9, True), (0.97, True)])
def test_imbalance_of_four_classes(share, fault):
    finding = room.label_distribution(dense(4, loss=SPARSE), (X, classes(share)))
    assert finding.faults == (["class imbalance"] if fault else [])
    # Of the 400 examples, whole batches are looked at: 384.
    assert finding.details["label"]["shares"][0] == pytest.approx(share, abs=16 / 384)


def test_weights_and_a_focal_loss_answer_imbalance():
    y = (np.arange(400) % 50 == 0).astype("float32")[:, None]
    model = dense(1, "sigmoid", "binary_crossentropy")
    assert room.label_distribution(model, (X, y)).faults == ["class imbalance"]
    weights = np.where(y[:, 0] > 0, 49.0, 1.0)
    assert room.label_distribution(model, (X, y, weights)).status == "pass"
    assert room.label_distribution(dense(1, "sigmoid", keras.losses.BinaryFocalCrossentropy()), (X, y)).status == "pass"


def test_pixels_and_several_labels_per_example_have_no_classes_of_examples():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3, "sigmoid")])
    model.compile("sgd", "binary_crossentropy")
    rare = (RNG.random((400, 3)) < 0.02).astype("float32")
    assert room.label_distribution(model, (X, rare)).status == "pass"
