"""Distributions over weights, and averages over draws of them."""

import keras
import numpy as np
import pytest
from inference import models as zoo
from keras import layers

from kregkit.inference import Ensemble, WeightPosterior, calibrate, laplace, marginalize


def test_draws_have_the_covariance_and_files_hold_it(tmp_path):
    random = np.random.default_rng(1)
    posterior = WeightPosterior(
        [0, 1],
        [(2, 2), (2,)],
        random.normal(size=6),
        random.uniform(0.1, 1, 6),
        random.normal(size=(2, 6)),
        information={"made": "here"},
    )
    draws = np.array([np.concatenate([array.ravel() for array in posterior.draw(i).values()]) for i in range(4000)])
    covariance = posterior.covariance()
    np.testing.assert_allclose(
        covariance, np.diag(posterior.diagonal) + posterior.deviations.T @ posterior.deviations, rtol=1e-12
    )
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert (np.abs(np.cov(draws.T) - covariance) < 5 * scale * np.sqrt(2 / 4000)).all()
    posterior.save(tmp_path / "posterior.npz")
    loaded = WeightPosterior.load(tmp_path / "posterior.npz")
    assert loaded.information == posterior.information == {"made": "here"}
    for index, array in loaded.draw(7).items():
        np.testing.assert_array_equal(array, posterior.draw(7)[index])
    # Other names in the archive's list: without its rotations it would be another posterior.
    WeightPosterior([0], [(2, 3)], np.zeros(6), rotations=(np.eye(2), np.eye(3))).save(tmp_path / "rotated.npz")
    content = (tmp_path / "rotated.npz").read_bytes()
    for name, other in ((b"left.npy", b"lefu.npy"), (b"mean.npy", b"meao.npy")):
        (tmp_path / "harmed.npz").write_bytes(content.replace(name, other))
        with pytest.raises(ValueError, match="no posterior in this file"):
            WeightPosterior.load(tmp_path / "harmed.npz")
    (tmp_path / "other.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"no posterior in this file.* Received: path="):
        WeightPosterior.load(tmp_path / "other.npz")


def test_average_over_weights_noise_and_members_is_saved_whole(tmp_path):
    model, other = zoo.classifier(0), zoo.classifier(1)
    posterior = laplace(model, (zoo.X, zoo.LABELS))
    marginal = marginalize(Ensemble([model, other]), weights=[posterior, None], draws=3)
    assert "2 members: 3 draws of weights" in repr(marginal)
    plain = marginalize(model, weights=posterior, draws=3, noise=None)
    samples = [posterior.draw([0, 0, draw]) for draw in range(3)]
    hidden = keras.Model(model.inputs, model.layers[-2].output).predict(zoo.X, verbose=0)
    (kernel, bias), _ = posterior.indices, posterior.shapes
    expected = np.mean([zoo.softmax(hidden @ sample[kernel] + sample[bias]) for sample in samples], axis=0)
    np.testing.assert_allclose(plain.predict(zoo.X, verbose=0), expected, rtol=1e-4)
    for number, predictor in enumerate((marginal, calibrate(plain, (np.tile(zoo.X, (3, 1)), np.tile(zoo.LABELS, 3))))):
        predictor.to_model().save(tmp_path / f"{number}.keras")
        loaded = keras.models.load_model(tmp_path / f"{number}.keras")
        np.testing.assert_allclose(
            loaded.predict(zoo.X, verbose=0), predictor.predict(zoo.X, verbose=0), rtol=1e-4, atol=1e-6
        )


def test_refusals():
    model = zoo.classifier(0)
    posterior = laplace(model, (zoo.X, zoo.LABELS))
    for arguments, text in [
        ({"weights": posterior, "draws": "auto"}, "Received: draws='auto'"),
        ({"weights": "swag"}, "Received: weights='swag'"),
        ({"data": zoo.X}, "Received: noise='all', weights=None"),
        ({"noise": [layers.BatchNormalization]}, "data=x_train.* Received: data=None"),
    ]:
        with pytest.raises(ValueError, match=text):
            marginalize(model, **arguments)
    with pytest.raises(ValueError, match="made for another model. Received: "):
        marginalize(zoo.classifier(0, head=4), weights=posterior)
    with pytest.raises(ValueError, match="must be finite.* Received: mean"):
        WeightPosterior([0], [(1,)], [np.nan])
    with pytest.raises(ValueError, match="total size. Received: shapes="):
        WeightPosterior([0], [(2,)], [0.0])
