"""The probe against scikit-learn's logistic regression on hand-built features."""

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from transfer.models import convolutional, dense, images, randomised, values, vectors

from kregkit.transfer import linear_probe


def test_classifier_equals_scikit_learns():
    (x, y), (x_more, y_more) = vectors(60), vectors(40, seed=3)
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


def test_default_stage_is_the_last_hidden_one_behind_its_activation():
    model = convolutional()
    probe = linear_probe(model, (images(20), np.arange(20) % 2), penalty=0.1)
    assert probe.layer == "relu_2" and probe.model.output_shape == (None, 2)


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
