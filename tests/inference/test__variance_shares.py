"""The shares of the variance, against enumeration of every mask, view and member and quadrature over the weights."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kregkit.data import Augment, RandomFlip
from kregkit.inference import Ensemble, WeightPosterior, _averaging, marginalize
from kregkit.inference._variance_shares import SampleOrder, variance_parts

# Equal outputs, whose variances the share of a softmax sums up: so many repetitions of one experiment.
UNITS = 400
X = np.array([0.6, -1.0])
SCALES = np.array([0.5, 1.0, 1.8])
MEANS = [np.array([1.0, 0.5]), np.array([0.2, -0.4])]
VARIANCES = np.array([0.3, 0.05])


def member(mean, noisy=True):
    """Returns a model of `sum kernel * mask * x`, the mask 0 or 2, with many equal outputs."""
    keras.utils.set_random_seed(0)
    # Each output has a mask of its own.
    own = [layers.Dropout(0.5)] if noisy else []
    model = keras.Sequential([
        keras.Input((2,)), layers.RepeatVector(UNITS), *own, layers.Flatten(), Diagonal(mean),
    ])  # fmt: skip
    return model


@keras.saving.register_keras_serializable(package="kregkit_tests")
class Diagonal(layers.Layer):
    """Each output's own sum of products, `(batch, units * 2)` to `(batch, units)`."""

    def __init__(self, mean=(0.0, 0.0), **kwargs):
        super().__init__(**kwargs)
        self.mean = list(map(float, mean))

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(UNITS, 2), initializer=lambda shape, dtype: np.tile(self.mean, (UNITS, 1)))

    def call(self, inputs):
        return keras.ops.sum(keras.ops.reshape(inputs, (-1, UNITS, 2)) * self.kernel, axis=-1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], UNITS)

    def get_config(self):
        return {**super().get_config(), "mean": self.mean}


def posterior(mean):
    return WeightPosterior([0], [(UNITS, 2)], np.tile(mean, UNITS), np.tile(VARIANCES, UNITS))


def scaled(x):
    return [scale * x for scale in SCALES.tolist()]


def enumerated(means, sources):
    """Returns the nested parts of the variance from every combination: of members, weights, views and masks."""
    masks = np.array(list(itertools.product([0.0, 2.0], repeat=2))) if "noise" in sources else np.ones((1, 2))
    scales = SCALES if "views" in sources else np.ones(1)
    nodes, chance = np.polynomial.hermite_e.hermegauss(8) if "weights" in sources else (np.zeros(1), np.ones(1))
    chance = chance / chance.sum()
    offsets = np.array(list(itertools.product(nodes, repeat=2))) * np.sqrt(VARIANCES)
    weight_chance = np.array([a * b for a, b in itertools.product(chance, repeat=2)])
    kernels = np.array([mean + offsets for mean in means])
    # Members, weights, views, masks.
    y = np.einsum("mwf,vf,zf->mwvz", kernels, scales[:, None] * X, masks)
    of_view, of_weight = y.mean(3), y.mean((2, 3))
    of_member = of_weight @ weight_chance
    parts = {
        "noise": (y.var(3).mean(2) @ weight_chance).mean(),
        "views": (of_view.var(2) @ weight_chance).mean(),
        "members": of_member.var(),
        "weights": (((of_weight - of_member[:, None]) ** 2) @ weight_chance).mean(),
    }
    total = sum(parts[name] for name in sources)
    # All of it: the law of total variance.
    np.testing.assert_allclose(total, (y**2).mean((2, 3)).mean(0) @ weight_chance - of_member.mean() ** 2)
    return {name: parts[name] / total for name in sources}


CASES = [
    ("noise", "views"), ("noise", "members"), ("noise", "weights"), ("views", "weights"),
    ("noise", "views", "members", "weights"),
]  # fmt: skip


@pytest.mark.parametrize("sources", CASES, ids="-".join)
def test_shares_against_enumeration(sources):
    means = MEANS if "members" in sources else MEANS[:1]
    models = [member(mean, noisy="noise" in sources) for mean in means]
    draws = 8 if "weights" in sources else 31
    arguments = {
        "draws": draws,
        "views": scaled if "views" in sources else None,
        "noise": "all" if "noise" in sources else None,
        "weights": [posterior(mean) for mean in means] if "weights" in sources else None,
        "outputs": "probabilities",
    }
    model = Ensemble(models, outputs="probabilities") if len(models) > 1 else models[0]
    mean, spread = marginalize(model, spread=True, **arguments)(np.tile(X, (2, 1)))
    # What the shares need beside the mean's draws doesn't move the mean.
    np.testing.assert_allclose(mean, marginalize(model, **arguments)(np.tile(X, (2, 1))), atol=1e-5)
    shares = {name: np.asarray(share, "float64") for name, share in spread["shares"].items()}
    assert tuple(shares) == tuple(name for name in ("noise", "views", "members", "weights") if name in sources)
    np.testing.assert_allclose(sum(shares.values()), 1.0, rtol=1e-5)
    for name, expected in enumerated(means, sources).items():
        assert shares[name].shape == (2,)
        np.testing.assert_allclose(shares[name], expected, atol=0.04, err_msg=name)


@pytest.mark.parametrize("noisy, weights", [(True, False), (True, True), (False, True)])
def test_random_views(noisy, weights, monkeypatch):
    # Mirrored, the feature 1 becomes 3.
    keras.utils.set_random_seed(0)
    own = [layers.Dropout(0.5)] if noisy else []
    model = keras.Sequential([
        keras.Input((1, 2, 1)), layers.Cropping2D(((0, 0), (0, 1))), layers.Flatten(), layers.RepeatVector(2 * UNITS),
        *own, layers.Flatten(), Diagonal([1.0, 0.0]),
    ])  # fmt: skip
    diagonal = np.tile([0.25, 0.0], UNITS)
    drawn = WeightPosterior([0], [(UNITS, 2)], np.tile([1.0, 0.0], UNITS), diagonal) if weights else None
    views = Augment([RandomFlip()])
    arguments = {"views": views, "noise": "all" if noisy else None, "weights": drawn, "outputs": "probabilities"}
    images = np.tile(np.array([1.0, 3.0]).reshape(1, 1, 2, 1), (300, 1, 1, 1))
    draws = 3 if weights else 5
    # The parts themselves, which of so few draws may be negative, have no bias.
    monkeypatch.setattr(_averaging, "variance_shares", variance_parts)
    mean, spread = marginalize(model, draws=draws, spread=True, **arguments)(images)
    np.testing.assert_allclose(mean, marginalize(model, draws=draws, **arguments)(images), atol=1e-5)
    # y = k * b * x, with x 1 or 3: E x = 2, Var x = 1; b has mean and variance 1; k has mean 1 and variance 1/4.
    second = 1.25 if weights else 1.0
    expected = {"noise": 5 * second if noisy else 0.0, "views": second, "weights": 4 * 0.25 if weights else 0.0}
    assert len(spread["shares"]) == 1 + noisy + weights
    for name, part in spread["shares"].items():
        part = np.asarray(part) / UNITS
        error = 5 * part.std() / np.sqrt(len(part)) + 0.15 * expected[name]
        np.testing.assert_allclose(part.mean(), expected[name], atol=error, err_msg=name)


def test_each_draw_of_weights_has_versions_of_its_own():
    model = keras.Sequential([keras.Input((1, 2, 1)), layers.Cropping2D(((0, 0), (0, 1))), layers.Flatten()])
    model.add(layers.Dense(1, use_bias=False, kernel_initializer="ones"))
    certain = WeightPosterior([0], [(1, 1)], np.ones(1))
    images = np.tile(np.array([0.0, 1.0]).reshape(1, 1, 2, 1), (200, 1, 1, 1))
    marginal = marginalize(model, draws=2, weights=certain, noise=None, views=Augment([RandomFlip()]), outputs="values")
    mean = np.asarray(marginal(images))
    # Of half of the examples, two versions are different ones.
    assert 0.3 < np.mean(mean == 0.5) < 0.7


def test_drawn_statistics_are_noise():
    keras.utils.set_random_seed(0)
    body = [layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(3)]
    model = keras.Sequential([keras.Input((2,)), *body])
    x = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
    kinds = [layers.BatchNormalization, layers.Dropout]
    arguments = {"noise": kinds, "data": x, "draws": 4, "outputs": "logits"}
    assert marginalize(model, spread=True, **arguments)._sampler._sources == ()
    _, spread = marginalize(model, spread=True, views=lambda x: [x, -x], **arguments)(x)
    assert set(spread["shares"]) == {"noise", "views"}
    assert min(np.min(share) for share in spread["shares"].values()) >= 0


def test_pairs_that_cannot_share_a_batch():
    model = member(MEANS[0])
    arguments = {"views": scaled, "draws": 5, "spread": True, "outputs": "probabilities"}
    x = np.tile(X, (3, 1))
    _, alone = marginalize(model, batch_size=1, **arguments)(x)
    _, together = marginalize(model, **arguments)(x)
    for name, share in together["shares"].items():
        np.testing.assert_allclose(alone["shares"][name], share, rtol=1e-3)


def test_nothing_varies():
    _, spread = marginalize(member(MEANS[0]), views=scaled, draws=4, spread=True, outputs="probabilities")(
        np.zeros((2, 2))
    )
    assert [np.asarray(share).tolist() for share in spread["shares"].values()] == [[0.0, 0.0]] * 2


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("draws", [1, 3, 4])
@pytest.mark.parametrize("views", [1, 3])
def test_every_sample_of_the_mean_is_there_once(paired, draws, views):
    order = SampleOrder(draws, views, paired=paired)
    index = tf.range(order.total, dtype="int64")
    counted = order.noise(index).numpy()[order.counts(index).numpy()]
    assert sorted(counted) == list(range(draws * views)) and len(set(order.noise(index).numpy())) == order.total
    if paired:
        assert order.total % 2 == 0
        of_pair = order.views(index).numpy().reshape(-1, 2) % views
        assert (of_pair[:, 0] == of_pair[:, 1]).all()
