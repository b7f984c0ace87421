"""BatchNormalization's noise, and statistics measured anew for drawn weights, against explicit passes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from inference import models as zoo
from keras import layers

from kregkit.inference import Ensemble, WeightPosterior, marginalize
from kregkit.inference._weight_draws import mini_batches

rng = np.random.default_rng(0)
TRAIN = rng.normal(1.0, 2.0, size=(24, 6)).astype("float32")
BATCHES = tf.data.Dataset.from_tensor_slices(TRAIN).batch(8)
BN = keras.layers.BatchNormalization


def normalized(momentum=0.9, dropout=0.0):
    """Two normalisations, one nested; with momentum 0 a training pass leaves its batch's statistics behind."""
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((5,)), layers.Dense(4, "tanh"), BN(momentum=momentum), layers.Dense(4)])
    body = [layers.Dropout(dropout, seed=1), BN(momentum=momentum), inner, layers.Dense(3, "softmax")]
    return keras.Sequential([keras.Input((6,)), layers.Dense(5, "tanh"), *body])


def explicit(batches, weights=None):
    """Returns predictions with the statistics that a training pass of each batch leaves in the layers."""
    predictions = []
    for batch in batches:
        model = normalized(momentum=0.0)
        if weights is not None:
            model.set_weights(weights)
        model(batch, training=True)
        predictions.append(model.predict(zoo.X, verbose=0))
    return np.array(predictions)


def test_all_normalisations_have_the_statistics_of_one_mini_batch():
    model = normalized()
    expected = explicit([TRAIN[:8], TRAIN[8:16], TRAIN[16:], TRAIN[:8]])
    marginal = marginalize(model, noise=[BN], data=BATCHES, draws=4, spread=True)
    mean, spread = marginal.predict(zoo.X, verbose=0)
    np.testing.assert_allclose(mean, expected.mean(0), atol=1e-5)
    np.testing.assert_allclose(spread["std"], expected.std(0), atol=1e-5)
    assert spread["std"].max() > 0.01
    # One layer's alone: the other's stay as training left them.
    first = next(layer for layer in model.layers if isinstance(layer, BN))
    alone = marginalize(model, noise=[first], data=BATCHES, draws=1).predict(zoo.X, verbose=0)
    assert np.abs(alone - expected[0]).max() > 1e-3


def test_beside_dropout_the_mini_batch_meets_it_too(tmp_path):
    model = normalized(dropout=0.5)
    marginal = marginalize(model, noise=[BN, layers.Dropout], data=TRAIN, data_batch_size=24, draws=40)
    variances = []
    (index,) = [i for i, v in enumerate(model.variables) if "moving_variance" in v.path and v.shape == (5,)]
    hidden = np.tanh(TRAIN @ model.layers[0].kernel.numpy())
    # Dropout at one half gives each x the variance x^2 beside the activations' own, up to what means fluctuate.
    expected = 2 * (hidden**2).mean(0) - hidden.mean(0) ** 2
    for member in marginal._members:
        variances.append(member.values[index].numpy())
    variances = np.array(variances)
    assert (np.abs(variances.mean(0) - expected) < 5 * variances.std(0) / np.sqrt(40) + expected / 20).all()
    # The whole data are one mini-batch, so only dropout can make the draws differ.
    assert (variances.std(0) > 0.01).all()
    one = marginalize(model, noise=[BN, layers.Dropout], data=TRAIN, draws=2)
    one.to_model().save(tmp_path / "both.keras")
    loaded = keras.models.load_model(tmp_path / "both.keras")
    np.testing.assert_allclose(loaded.predict(zoo.X, verbose=0), one.predict(zoo.X, verbose=0), atol=1e-5)


def test_members_draw_for_themselves():
    model = normalized(dropout=0.5)
    posterior = WeightPosterior([0], [(6, 5)], np.zeros(30), np.ones(30))
    twice = Ensemble([model, model])
    # The same mini-batch for both, of all examples: only their own weights and their own dropout can differ.
    for arguments in ({"weights": [posterior] * 2, "noise": None}, {"noise": [BN, layers.Dropout], "data": TRAIN}):
        first, second, *_ = marginalize(twice, draws=1, data_batch_size=24, **arguments)._members
        assert first.drawn.keys() == second.drawn.keys() != set()
        assert max(np.abs(first.drawn[index] - second.drawn[index]).max() for index in first.drawn) > 0.01


def test_drawn_weights_have_their_own_statistics():
    model = normalized()
    posterior = WeightPosterior([0], [(6, 5)], rng.normal(size=30), np.ones(30))
    marginal = marginalize(model, weights=posterior, noise=None, data=(TRAIN,), data_batch_size=24, draws=2)
    predictions = []
    for draw in range(2):
        weights = [posterior.draw([0, 0, draw])[0], *model.get_weights()[1:]]
        predictions.append(explicit([TRAIN], weights)[0])
    np.testing.assert_allclose(marginal.predict(zoo.X, verbose=0), np.mean(predictions, axis=0), atol=1e-5)


def test_mini_batches_of_arrays_are_epochs_of_whole_ones():
    batches = mini_batches((TRAIN, np.zeros(24)), 7, seed=3)
    drawn = np.concatenate([next(batches) for _ in range(3)])
    assert len(drawn) == 21 and len(np.unique(drawn[:, 0])) == 21
    second = np.concatenate([next(batches) for _ in range(3)])
    assert len(second) == 21 and not np.array_equal(second, drawn)
    assert len(next(mini_batches(TRAIN, 32, seed=0))) == 24
    with pytest.raises(ValueError, match="fewer batches than there are draws.* Received: data=generator"):
        list(mini_batches((batch for batch in [TRAIN]), None, 0))


def test_refusals():
    model = normalized()
    for layer in (model.layers[2], model.layers[3].layers[1]):
        layer.trainable = False
    with pytest.raises(ValueError, match="whose statistics training updates"):
        marginalize(model, noise=[BN], data=TRAIN)
    with pytest.raises(ValueError, match="Received: data_batch_size=0"):
        marginalize(normalized(), noise=[BN], data=TRAIN, data_batch_size=0)
    with pytest.raises(ValueError, match="a list of one or None per member, 2 here. Received: weights="):
        marginalize(Ensemble([normalized(), normalized()]), weights=WeightPosterior([0], [(6, 5)], np.zeros(30)))
