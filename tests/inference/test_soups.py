"""Means of weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from inference import models as zoo
from keras import layers

from kregkit.inference import DifferentBasinsError, Ensemble, loss_along, recompute_batch_normalization, soup

rng = np.random.default_rng(0)
X = rng.normal(size=(64, 6)).astype("float32")
Y = (X @ rng.normal(size=(6, 1)) + 0.1 * rng.normal(size=(64, 1))).astype("float32")


def linear(weights):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(1)])
    model.set_weights(weights)
    model.compile("sgd", "mse", metrics=["mae"])
    return model


def around(center, scale, seed):
    random = np.random.default_rng(seed)
    return linear([weight + scale * random.normal(size=weight.shape).astype("float32") for weight in center])


@pytest.fixture(scope="module")
def center():
    kernel = np.linalg.lstsq(X, Y, rcond=None)[0].astype("float32")
    return [kernel, np.zeros(1, "float32")]


def mse(weights):
    return np.mean((X @ weights[0] + weights[1] - Y) ** 2)


def test_greedy_soup_against_a_replay(center, tmp_path):
    scales = [0.3, 0.2, 0.6, 0.1, 0.4]
    members = [around(center, scale, seed) for seed, scale in enumerate(scales)]
    weights = [member.get_weights() for member in members]
    order = sorted(range(5), key=lambda index: mse(weights[index]))
    kept, best = [order[0]], mse(weights[order[0]])
    for index in order[1:]:
        mean = [np.mean(parts, axis=0) for parts in zip(*(weights[i] for i in [*kept, index]))]
        if mse(mean) <= best:
            kept, best = [*kept, index], mse(mean)
    assert 1 < len(kept) < 5
    result, indices = soup(members, (X, Y), tolerance=10.0, return_members=True)
    assert indices == kept and result.name == "soup"
    expected = [np.mean(parts, axis=0) for parts in zip(*(weights[i] for i in kept))]
    for one, other in zip(result.get_weights(), expected):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert result.evaluate(X, Y, verbose=0)[0] == pytest.approx(best, rel=1e-4)
    for member, before in zip(members, weights):
        np.testing.assert_array_equal(member.get_weights()[0], before[0])
    # An Ensemble and files are the same members.
    for index, member in enumerate(members):
        member.save_weights(tmp_path / f"{index}.weights.h5")
    files = [tmp_path / f"{index}.weights.h5" for index in range(5)]
    template = linear(center)
    for given, arguments in [(Ensemble(members), {}), (files, {"model": template})]:
        same = soup(given, (X, Y), tolerance=10.0, **arguments)
        np.testing.assert_allclose(same.get_weights()[0], expected[0], atol=1e-6)
    np.testing.assert_array_equal(template.get_weights()[0], center[0])
    uniform = soup(members, (X, Y), greedy=False, tolerance=10.0)
    np.testing.assert_allclose(uniform.get_weights()[0], np.mean([w[0] for w in weights], axis=0), atol=1e-6)


def test_a_member_that_makes_it_a_little_worse_is_left_out(center):
    # A bias of twice b adds b^2 to the mean's loss, a twentieth of it, where the residuals' mean is 0.
    kernel = center[0]
    bias = np.mean(Y - X @ kernel, keepdims=True).ravel()
    away = bias + 2 * np.sqrt(0.05 * mse([kernel, bias]))
    members = [linear([kernel, bias]), linear([kernel, away])]
    assert soup(members, (X, Y), tolerance=10.0, return_members=True)[1] == [0]


def test_independent_networks_are_refused_with_the_picture():
    models = zoo.permuted(0)
    labels = models[0].predict(X, verbose=0).argmax(-1)
    with pytest.raises(
        DifferentBasinsError, match=r"(?s)one basin.*position     loss\n    0.00 .*0.50 .*Received: tol"
    ) as e:
        soup(models, (X, labels))
    assert e.value.line.rise > 0.1 and e.value.line.plot().get_ylabel() == "loss"
    # From the best member on, whichever it is.
    *inner, last = models[0].get_weights()
    models[0].set_weights([*inner, last + np.array([0.3, 0, 0], "float32")])
    with pytest.raises(DifferentBasinsError, match="from member 1 to member 0"):
        soup(models, (X, labels))
    with pytest.raises(ValueError, match="Only weights of one architecture"):
        soup([models[0], linear([np.ones((6, 1)), np.ones(1)])], (X, labels))
    with pytest.raises(ValueError, match="Received: members="):
        soup([], (X, labels))


@pytest.mark.parametrize("form", ["generator", "noise"])
def test_examples_that_differ_from_pass_to_pass_are_refused(form, center):
    batches = tf.data.Dataset.from_tensors((X, Y))
    noisy = batches.map(lambda x, y: (x + tf.random.normal(tf.shape(x)), y))
    data = iter([(X, Y)]) if form == "generator" else noisy
    models = [around(center, 0.01, seed) for seed in (0, 1)]
    for measure in (lambda: loss_along(*models, data), lambda: soup(models, data)):
        with pytest.raises(ValueError, match="measured on the same examples, but the validation"):
            measure()
    # Another order is no other data.
    loss_along(*models, batches.shuffle(4), points=3)


def test_normalisations_are_measured_anew():
    models = [zoo.classifier(seed) for seed in range(2)]
    labels = rng.integers(0, 3, 64)
    with pytest.warns(UserWarning, match="pass training inputs as `normalization_data`"):
        plain = loss_along(*models, (X, labels), points=3)
    line = loss_along(*models, (X, labels), points=3, normalization_data=X, batch_size=64)
    probe = zoo.classifier(2)
    probe.set_weights([(a + b) / 2 for a, b in zip(*(model.get_weights() for model in models))])
    assert plain.losses[1] == pytest.approx(probe.evaluate(X, labels, verbose=0)[0], rel=1e-4)
    recompute_batch_normalization(probe, X, batch_size=64)
    assert line.losses[1] == pytest.approx(probe.evaluate(X, labels, verbose=0)[0], rel=1e-4)
    mean = soup(models, (X, labels), greedy=False, data=X, tolerance=100.0, batch_size=64)
    np.testing.assert_allclose(mean.predict(X, verbose=0), probe.predict(X, verbose=0), atol=1e-5)
