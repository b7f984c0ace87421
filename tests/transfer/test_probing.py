"""The probe against scikit-learn's logistic regression on hand-built features."""

import keras
import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf
import threadpoolctl
from sklearn.linear_model import LogisticRegression
from transfer.models import convolutional, dense, images, randomised, values, vectors

from kregkit.transfer import linear_probe

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]

L = keras.layers


def test_classifier_equals_scikit_learns():
    (x, y), (x_more, y_more) = vectors(60), vectors(41, seed=3)
    model = randomised(dense())
    before = values(model)
    probe = linear_probe(model, (x, y), (x_more, y_more), layers=["low"], penalty=0.05)
    body = keras.Model(model.inputs, model.get_layer("low").output)
    features = body.predict(x, verbose=0)
    mean, std = features.mean(0), features.std(0)
    held = (body.predict(x_more, verbose=0) - mean) / std
    # scikit-learn penalises one vector for two classes where a softmax has two: theirs is ours with half the penalty.
    softmax = LogisticRegression(C=2 / (0.05 * len(x)), tol=1e-8, max_iter=5000).fit((features - mean) / std, y)
    logits = probe.model.predict(x_more, verbose=0)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], softmax.decision_function(held), rtol=2e-2, atol=2e-2)
    assert probe.accuracy["low"] == np.mean(logits.argmax(-1) == y_more)
    assert probe.layer == "low" and values(model) == before
    assert probe.chance == max(np.mean(y_more), 1 - np.mean(y_more))


def test_several_stages_and_cross_validation():
    # Labels that the first stage holds and the second has lost.
    inputs = keras.Input((4,))
    low = keras.layers.Dense(4, kernel_initializer="identity", name="low")(inputs)
    high = keras.layers.Dense(3, kernel_initializer="zeros", name="high")(low)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(high))
    x, y = vectors(120)
    probe = linear_probe(model, (x, y[:, None]), layers=["low", model.get_layer("high")])
    assert probe.layer == "low" and probe.accuracy["low"] > 0.9 > 0.7 > probe.accuracy["high"]
    assert str(probe).startswith("low: 9") and "chance: " in str(probe)
    assert probe.accuracy == linear_probe(model, (x, y), layers=["low", "high"]).accuracy


def test_cross_validated_accuracy_is_of_examples_not_fitted():
    # Random labels on many features: a classifier knows its own examples by heart, and others by chance.
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 200)).astype("float32"), rng.integers(0, 2, 100)
    model = keras.Sequential([keras.Input((200,)), keras.layers.Dense(200, "linear", kernel_initializer="identity")])
    probe = linear_probe(model, (x, y), penalty=0.001)
    assert abs(probe.accuracy[probe.layer] - 0.5) < 0.25
    assert np.mean(probe.model.predict(x, verbose=0).argmax(-1) == y) == 1.0


def test_default_stage_is_what_the_head_reads_before_pooling():
    model = convolutional()
    probe = linear_probe(model, (images(20), np.arange(20) % 2), penalty=0.1)
    assert probe.layer == "skip" and probe.model.output_shape == (None, 2)


def test_default_stage_is_where_the_residual_block_ends_and_the_last_without_a_head():
    inputs = keras.Input((8, 8, 1))
    low = L.ReLU(name="low")(L.Conv2D(3, 1)(inputs))
    shortcut = L.BatchNormalization()(L.Conv2D(3, 1)(low))
    branch = L.BatchNormalization()(L.Conv2D(3, 3, padding="same")(low))
    end = L.ReLU(name="end")(L.Add(name="sum")([shortcut, branch]))
    classes = L.Dense(4)(L.GlobalAveragePooling2D()(end))
    for model in (keras.Model(inputs, end), keras.Model(inputs, classes)):
        assert linear_probe(model, (images(20), np.arange(20) % 2), penalty=0.1).layer == "end"


def test_a_class_with_one_example_is_not_scored():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(20, 4)) + [5, 0, 0, 0], rng.normal(size=(20, 4)) - [5, 0, 0, 0]])
    x, y = np.concatenate([x, np.full((5, 4), 50.0)]).astype("float32"), np.array([0] * 20 + [1] * 20 + [2, 3, 4, 5, 6])
    model = keras.Sequential([keras.Input((4,)), L.Dense(4, kernel_initializer="identity", name="body"), L.Dense(2)])
    probe = linear_probe(model, (x, y), penalty=0.1)
    assert probe.accuracy["body"] > 0.9 and probe.chance == 0.5
    one_each = (np.eye(4, dtype="float32"), np.arange(4))
    alone = linear_probe(model, one_each, layers=["body", model.layers[-1]])
    assert np.isnan(list(alone.accuracy.values())).all() and alone.layer == model.layers[-1].name
    assert linear_probe(model, one_each, one_each).accuracy["body"] == 1.0


def identity(num):
    return keras.Sequential([keras.Input((num,)), L.Dense(num, kernel_initializer="identity", name="body")])


def test_the_penalty_of_the_best_cross_validated_accuracy_is_taken():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 30)).astype("float32")
    y = (x[:, 0] + rng.normal(size=60) > 0).astype(int)
    single = [linear_probe(identity(30), (x, y), penalty=one).accuracy["body"] for one in (0.001, 0.01, 0.1, 1.0)]
    assert linear_probe(identity(30), (x, y)).accuracy["body"] == max(single) > min(single)


def test_examples_of_a_class_are_spread_over_the_fifths():
    # Two far classes' worth of room for each; a class is known where one of its two examples was fitted.
    x, y = np.repeat(np.eye(20, dtype="float32"), 2, axis=0), np.repeat(np.arange(20), 2)
    assert linear_probe(identity(20), (x, y), penalty=0.01).accuracy["body"] == 1.0


def test_the_solver_takes_one_blas_thread_and_gives_the_others_back(monkeypatch):
    def threads():
        return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}

    minimize, seen = scipy.optimize.minimize, []
    monkeypatch.setattr(scipy.optimize, "minimize", lambda *a, **o: (seen.append(threads()), minimize(*a, **o))[1])
    x = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
    with threadpoolctl.threadpool_limits(2, "blas"):
        before = threads()
        linear_probe(identity(2), (x, (x[:, 0] > 0).astype(int)), penalty=0.1)
        assert threads() == before
    assert seen and all(each <= {1} for each in seen)


def test_a_unit_that_hardly_varies_is_not_blown_up():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 2)), np.arange(40) % 2
    x[:, 1] = 1e-7 * y
    probe = linear_probe(identity(2), (x.astype("float32"), y), penalty=0.01)
    # At a thousandth of the largest unit's spread the solution's weight is some hundreds; at its own it is 1e7.
    assert np.abs(probe.model.layers[-1].get_weights()[0]).max() < 1e3


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y, size=7):
        super().__init__()
        self.x, self.y, self.size = x, y, size

    def __len__(self):
        return len(range(0, len(self.y), self.size))

    def __getitem__(self, index):
        chosen = slice(index * self.size, (index + 1) * self.size)
        return self.x[chosen], self.y[chosen]


def test_datasets_give_what_arrays_give():
    (x, y), more = vectors(60), vectors(40, seed=3)
    model = dense()
    expected = linear_probe(model, (x, y), more, penalty=0.1)
    dataset = tf.data.Dataset.from_tensor_slices((x, y.astype("float32")[:, None])).batch(7)
    for data in (dataset, Batches(x, y), dict(enumerate(map(Batches(x, y).__getitem__, range(9)))).values()):
        found = linear_probe(model, data, Batches(*more), penalty=0.1)
        assert found.accuracy == expected.accuracy and found.chance == expected.chance
        for one, other in zip(found.model.get_weights(), expected.model.get_weights()):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_datasets_that_cant_be_read_are_refused():
    x, y = vectors()
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    weighted = tf.data.Dataset.from_tensor_slices((x, y, x[:, 0])).batch(8)
    for data, text in (
        (dataset.batch(8).repeat(), "must end, .* Received: data=_RepeatDataset"),
        (dataset, "pairs in batches .* Received: data=_TensorSliceDataset"),
        (dataset.take(0).batch(8), "holds no examples"),
        (weighted, "without sample weights"),
        (((x, y) for _ in range(3)), "read again.* Received: data=generator"),
        (x, "pair of arrays .* Received: data=ndarray"),
        (None, "pair of arrays .* Received: data=NoneType"),
        (tf.data.Dataset.from_tensor_slices((x, np.eye(2)[y])).batch(8), "not one-hot"),
    ):
        with pytest.raises(ValueError, match=text):
            linear_probe(dense(), data)


def test_refuses():
    x, y = vectors()
    for arguments, text in (
        ({"data": (x, y + 0.5)}, "integers"),
        ({"data": (x, y * 0)}, "two classes"),
        ({"data": (x, y), "penalty": 0}, "penalty"),
        ({"data": (x, y), "layers": ["absent"]}, "layers"),
    ):
        with pytest.raises(ValueError, match=text) as error:
            linear_probe(dense(), **arguments)
        assert "Received: " in str(error.value)
