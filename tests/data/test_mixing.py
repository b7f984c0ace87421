import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from kregkit.data import Augment, CutMix, MixUp, RandomFlip, make_keys
from kregkit.data.mixing import beta_draw

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype="uint8")
LABELS = np.array([0, 1, 2, 3, 4, 2])
KEYS = make_keys(0, 0, tf.range(6))
X = IMAGES * np.float64(1 / 255)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_beta_draws_follow_beta(alpha):
    u = np.random.default_rng(1).random(5000).astype("float32")
    draws = beta_draw(tf.constant(u), alpha).numpy()
    assert stats.kstest(draws, "beta", (alpha, alpha)).pvalue > 1e-6


def mixed(operation, labels=LABELS):
    augment = Augment([operation])
    images, mixed_labels = augment(IMAGES, KEYS, labels=labels)
    partner = augment.partners(KEYS).numpy()
    assert sorted(partner) == list(range(6)) and (partner != np.arange(6)).all()
    return images.numpy(), mixed_labels.numpy(), partner, augment.draws(KEYS, 0).numpy()


def test_mixup_against_numpy():
    images, labels, partner, u = mixed(MixUp(1.0, num_classes=5))
    one_hot = np.eye(5)[LABELS]
    for i in range(6):
        weight = u[i, 1]  # Beta(1, 1) is uniform.
        np.testing.assert_allclose(images[i], weight * X[i] + (1 - weight) * X[partner[i]], atol=1e-3)
        np.testing.assert_allclose(labels[i], weight * one_hot[i] + (1 - weight) * one_hot[partner[i]], atol=1e-3)


def test_cutmix_against_numpy():
    images, labels, partner, u = mixed(CutMix(1.0, num_classes=5))
    one_hot = np.eye(5)[LABELS]
    for i in range(6):
        side = np.sqrt(1 - u[i, 1])
        height, width = round(side * 8), round(side * 10)
        top, left = int(u[i, 2] * 8) - height // 2, int(u[i, 3] * 10) - width // 2
        box = np.zeros((8, 10), bool)
        box[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = True
        np.testing.assert_allclose(images[i], np.where(box[..., None], X[partner[i]], X[i]), atol=1e-6)
        kept = 1 - box.mean()
        np.testing.assert_allclose(labels[i], kept * one_hot[i] + (1 - kept) * one_hot[partner[i]], atol=1e-6)


@pytest.mark.parametrize("make", [MixUp, CutMix])
def test_probability(make):
    keys = make_keys(0, 0, tf.range(2000))
    labels = np.eye(2000, dtype="float32")
    augment = Augment([make(4.0, probability=0.3)])
    _, out = augment(np.zeros((2000, 8, 8, 1), "uint8"), keys, labels=labels)
    share = (out.numpy().max(1) < 1).mean()
    # CutMix's box may round to nothing, never at alpha = 4 in practice.
    assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 2000)
    images, same = Augment([make(probability=0.0)])(IMAGES, KEYS, labels=labels[:6])
    np.testing.assert_allclose(images, X, atol=1e-6)
    np.testing.assert_array_equal(same, labels[:6])


def test_both_and_label_forms():
    both = Augment([RandomFlip(), MixUp(num_classes=5), CutMix(num_classes=5)])
    for labels in (LABELS, LABELS[:, None], np.eye(5)[LABELS].astype("float32"), np.eye(5, dtype="int32")[LABELS]):
        _, mixed_labels = both(IMAGES, KEYS, labels=labels)
        assert tuple(mixed_labels.shape) == (6, 5) and mixed_labels.dtype.is_floating
        np.testing.assert_allclose(mixed_labels.numpy().sum(1), 1, atol=1e-5)
    values = np.arange(6, dtype="float32")
    assert tuple(Augment([MixUp()])(IMAGES, KEYS, labels=values)[1].shape) == (6,)
    # At test time nothing is mixed, but labels have the same form.
    _, plain = both(IMAGES, KEYS, labels=LABELS, training=False)
    np.testing.assert_array_equal(plain, np.eye(5, dtype="float32")[LABELS])
    _, plain = Augment([MixUp()])(IMAGES, KEYS, labels=values, training=False)
    np.testing.assert_array_equal(plain, values)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: MixUp(0), "`alpha` must be"),
        (lambda: MixUp(num_classes=1), "`num_classes` must be"),
        (lambda: CutMix(probability=1.1), "`probability` must be"),
        (lambda: CutMix(partners="world"), "`partners` must be"),
        (lambda: Augment([MixUp()])(IMAGES, KEYS, labels=LABELS), "need `num_classes`"),
        (lambda: Augment([MixUp(num_classes=5)])(IMAGES, KEYS), "need labels"),
        (lambda: Augment([MixUp(num_classes=5)])(IMAGES, KEYS, LABELS, IMAGES[..., 0]), "can't mix masks"),
        (lambda: Augment([MixUp(num_classes=5)])(IMAGES[0], 0, labels=1), "need a batch"),
        (lambda: Augment([MixUp(num_classes=5), RandomFlip()]), "must come last"),
        (lambda: Augment([MixUp(num_classes=5)])(IMAGES, KEYS, labels=np.ones((6, 3), int)), "or one-hot"),
    ],
)
def test_bad_arguments(make, text):
    with pytest.raises(ValueError, match=rf"{text}.*Received: "):
        make()
