"""The posterior of a last layer by the curvature of its loss."""

import keras
import numpy as np
import pytest
from inference import models as zoo
from keras import layers
from scipy import special

from kregkit.inference import laplace, marginalize


def linear(weights, loss="mse", activation=None):
    """A model of one Dense layer with these weights `(features + 1, outputs)`, the last row its bias."""
    model = keras.Sequential([keras.Input((len(weights) - 1,)), layers.Dense(weights.shape[1], activation=activation)])
    model.set_weights([weights[:-1].astype("float32"), weights[-1].astype("float32")])
    model.compile("sgd", loss)
    return model


def regression(num=60, precision=2.0, std=0.5):
    """Returns data, the exact posterior's mean and covariance, and the exact log evidence."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num, 3))
    y = x @ [1.0, -2.0, 0.5] + 0.3 + std * rng.normal(size=num)
    features = np.concatenate([x, np.ones((num, 1))], axis=1)
    covariance = np.linalg.inv(features.T @ features / std**2 + precision * np.eye(4))
    mean = covariance @ features.T @ y / std**2
    # Of the marginal distribution of y itself, without weights.
    marginal = std**2 * np.eye(num) + features @ features.T / precision
    evidence = -0.5 * (y @ np.linalg.solve(marginal, y) + np.linalg.slogdet(2 * np.pi * marginal)[1])
    return x, y, features, mean, covariance, evidence


def test_bayesian_linear_regression_is_exact():
    x, y, features, mean, covariance, evidence = regression()
    posterior = laplace(linear(mean[:, None]), (x, y), prior_precision=2.0, noise_std=0.5)
    np.testing.assert_allclose(posterior.covariance(), covariance, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-5)
    assert posterior.information["log_marginal_likelihood"] == pytest.approx(evidence, rel=1e-6)
    # Of the draws of a posterior, the predictions have the moments that the formula says.
    marginal = marginalize(linear(mean[:, None]), weights=posterior, draws=12, noise=None, spread=True)
    prediction, spread = marginal.predict(x.astype("float32"), verbose=0)
    deviation = np.sqrt(np.einsum("ni,ij,nj->n", features, covariance, features))
    assert (np.abs(prediction[:, 0] - features @ mean) < 5 * deviation / np.sqrt(12)).all()
    assert (spread["std"][:, 0] < deviation * np.sqrt(1 + 5 * np.sqrt(2 / 12))).all()
    assert np.mean(spread["std"][:, 0] / deviation) > 0.5


def test_the_marginal_likelihood_chooses_prior_and_noise():
    x, y, _, mean, _, _ = regression(num=200)
    posterior = laplace(linear(mean[:, None]), (x, y))
    assert posterior.information["noise_std"] == pytest.approx(0.5, rel=0.2)
    best = posterior.information["log_marginal_likelihood"]
    for precision, std in [(1.1, 1.0), (0.9, 1.0), (1.0, 1.02), (1.0, 0.98)]:
        numbers = {name: posterior.information[name] for name in ("prior_precision", "noise_std")}
        numbers = {"prior_precision": numbers["prior_precision"] * precision, "noise_std": numbers["noise_std"] * std}
        other = laplace(linear(mean[:, None]), (x, y), **numbers)
        assert other.information["log_marginal_likelihood"] < best


def test_logistic_regression_against_numerical_integration():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(150, 1))
    y = (rng.uniform(size=150) < special.expit(1.5 * x[:, 0] - 0.5)).astype("float64")
    features = np.concatenate([x, np.ones((150, 1))], axis=1)
    precision, theta = 1.0, np.zeros(2)
    for _ in range(20):
        p = special.expit(features @ theta)
        hessian = features.T @ (features * (p * (1 - p))[:, None]) + precision * np.eye(2)
        theta = theta - np.linalg.solve(hessian, features.T @ (p - y) + precision * theta)
    # The posterior on a grid over six standard deviations.
    a, b = np.meshgrid(*(theta[i] + np.linspace(-2, 2, 161) for i in range(2)), indexing="ij")
    f = a[..., None] * x[:, 0] + b[..., None]
    log_joint = (y * f - np.logaddexp(0, f)).sum(-1) - 0.5 * precision * (a**2 + b**2) + np.log(precision / 2 / np.pi)
    density = np.exp(log_joint - log_joint.max())
    cell = (4 / 160) ** 2
    evidence = np.log(density.sum() * cell) + log_joint.max()
    density /= density.sum()
    at = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    expected = (density[..., None] * special.expit(a[..., None] * at + b[..., None])).sum((0, 1))
    points = np.stack([a.ravel(), b.ravel()]) - theta[:, None]
    covariance = (density.ravel() * points) @ points.T
    model = linear(theta[:, None], "binary_crossentropy", "sigmoid")
    posterior = laplace(model, (x, y), prior_precision=precision)
    # A Gaussian is not quite what the posterior is: the difference falls with the number of examples.
    np.testing.assert_allclose(posterior.covariance(), covariance, atol=0.1 * covariance.max())
    assert posterior.information["log_marginal_likelihood"] == pytest.approx(evidence, abs=0.05)
    samples = np.array([np.concatenate([w.ravel() for w in posterior.draw(i).values()]) for i in range(2000)])
    found = special.expit(samples[:, :1] * at + samples[:, 1:]).mean(0)
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_softmax_curvature_against_finite_differences():
    model = zoo.classifier(0, None)
    full = laplace(model, (zoo.X, zoo.LABELS), "full", prior_precision=1e-3)
    head = model.layers[-1]
    inner = keras.Model(model.inputs, model.layers[-2].output)
    features = np.concatenate([inner.predict(zoo.X, verbose=0), np.ones((40, 1))], axis=1).astype("float64")
    theta = np.concatenate([head.kernel.numpy(), head.bias.numpy()[None]]).astype("float64")

    def gradient(flat):
        return (features.T @ (zoo.softmax(features @ flat.reshape(theta.shape)) - np.eye(3)[zoo.LABELS])).ravel()

    step, flat = 1e-5, theta.ravel()
    hessian = np.stack([(gradient(flat + step * e) - gradient(flat - step * e)) / 2 / step for e in np.eye(len(flat))])
    expected = np.linalg.inv(hessian + 1e-3 * np.eye(len(flat)))
    np.testing.assert_allclose(full.covariance(), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    # The Kronecker form has the right sum of each factor (Daxberger et al. 2021, appendix B).
    product = laplace(model, (zoo.X, zoo.LABELS), "kronecker", prior_precision=1e-3)
    p = zoo.softmax(features @ theta)
    slopes = np.diag(p.sum(0)) - p.T @ p
    product_hessian = np.kron(features.T @ features / 40, slopes)
    expected = np.linalg.inv(product_hessian + 1e-3 * np.eye(len(flat)))
    np.testing.assert_allclose(product.covariance(), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["full", "kronecker", "sigmoid", "values"])
def test_weights_of_examples_are_copies(kind):
    random = np.random.default_rng(0)
    x, weight = random.normal(size=(30, 3)), random.integers(0, 3, 30)
    theta = random.normal(size=(4, 2))
    loss, y = {
        "sigmoid": (keras.losses.BinaryCrossentropy(from_logits=True), random.integers(0, 2, (30, 2))),
        "values": ("mse", random.normal(size=(30, 2))),
    }.get(kind, (keras.losses.SparseCategoricalCrossentropy(from_logits=True), random.integers(0, 2, 30)))
    model = linear(theta, loss)
    structure = "kronecker" if kind == "kronecker" else "auto"
    found = laplace(model, (x, y, weight.astype("float64")), structure, batch_size=7)
    copies = np.repeat(np.arange(30), weight)
    expected = laplace(model, (x[copies], y[copies]), structure)
    for name in ("log_marginal_likelihood", "prior_precision"):
        assert found.information[name] == pytest.approx(expected.information[name], rel=1e-4)
    np.testing.assert_allclose(found.covariance(), expected.covariance(), rtol=1e-4, atol=1e-7)


# Figures of laplace-torch 0.3 with torch 2.13 in float64, for the model and the data that `sines` returns. "full" is a
# last layer of 2 features and 3 classes, `Laplace(net, "classification", subset_of_weights="last_layer",
# hessian_structure="full", prior_precision=0.7)`; "kronecker" the same without bias and with "kron"; "values" has 2
# values, "regression" and `sigma_noise=0.4`; all in batches of 5. "covariance" is the `f_var` of the first logit with
# all of the first 2 rows, by `_glm_predictive_distribution`; "evidence" is `log_marginal_likelihood()`; "best" are the
# numbers that maximise it (LBFGS on their logarithms) and its value there; "mean" is the mean softmax of two million
# draws of logits.
LAPLACE_TORCH = {
    "full": {
        "evidence": -21.794882491510712,
        "covariance": [[1.0163901946, 0.5921421632, 0.4947344363], [1.6452892695, 1.0055017939, 1.0309263999]],
        "best": [0.8743355398, -21.7416555936],
        "mean": [[0.36102, 0.41360, 0.22538], [0.22914, 0.28616, 0.48470]],
    },
    "kronecker": {
        "evidence": -18.999498933277412,
        "covariance": [[0.4307088281, 0.1311405011, 0.1128460363], [1.0696595467, 0.6159199314, 0.5675665565]],
        "best": [0.9000321249, -18.9553894027],
        "mean": [[0.18439, 0.35265, 0.46295], [0.08372, 0.17471, 0.74156]],
    },
    "values": {
        "evidence": -58.88293473504214,
        "covariance": [[0.0354793474, 0.0], [0.0341712924, 0.0]],
        "best": [1.9979511316, 0.8705609165, -35.7511259932],
    },
}


def sines(kind):
    """Returns a Keras model, its last layer's float64 features, and data, all by formula."""
    x = np.sin(1.7 * np.arange(36)).reshape(12, 3)
    hidden = np.cos(0.9 * np.arange(6)).reshape(3, 2)
    kernel, bias = np.sin(2.3 * np.arange(6) + 0.4).reshape(2, 3), np.cos(1.1 * np.arange(3))
    y = np.arange(12) * 5 % 3
    if kind == "values":
        kernel, bias = kernel[:, :2], bias[:2]
        y = np.stack([np.sin(3 * x[:, 0]) + 0.3, x[:, 1] * x[:, 2]], 1)
    use_bias = kind != "kronecker"
    body = [layers.Dense(2, "tanh", use_bias=False), layers.Dense(kernel.shape[1], use_bias=use_bias)]
    model = keras.Sequential([keras.Input((3,)), *body])
    model.set_weights([hidden, kernel, *([bias] if use_bias else [])])
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", "mse" if kind == "values" else crossentropy)
    features = np.tanh(x @ hidden)
    return model, np.concatenate([features, np.ones((12, 1))], axis=1) if use_bias else features, x, y


@pytest.mark.parametrize("kind", LAPLACE_TORCH)
def test_against_laplace_torch(kind):
    model, features, x, y = sines(kind)
    figures, known = LAPLACE_TORCH[kind], {"noise_std": 0.4} if kind == "values" else {}
    structure = "kronecker" if kind == "kronecker" else "auto"
    posterior = laplace(model, (x, y), structure, prior_precision=0.7, batch_size=5, **known)
    # The first logit's covariance with all of them.
    covariance = posterior.covariance().reshape(features.shape[1], -1, features.shape[1], model.layers[-1].units)
    found = np.einsum("ni,iajb,nj->nab", features[:2], covariance, features[:2])[:, 0]
    np.testing.assert_allclose(found, figures["covariance"], rtol=1e-4, atol=1e-7)
    assert posterior.information["log_marginal_likelihood"] == pytest.approx(figures["evidence"], rel=1e-5)
    best = laplace(model, (x, y), structure).information
    names = ["prior_precision", *(["noise_std"] if kind == "values" else []), "log_marginal_likelihood"]
    np.testing.assert_allclose([best[name] for name in names], figures["best"], rtol=1e-3)
    if kind != "values":
        draws = [np.concatenate([w.reshape(-1, 3) for w in posterior.draw(i).values()]) for i in range(4000)]
        p = zoo.softmax(features[:2] @ np.array(draws))
        assert (np.abs(p.mean(0) - figures["mean"]) < 5 * p.std(0) / np.sqrt(4000) + 1e-4).all()


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_the_last_layer_is_found_in_every_precision(policy):
    keras.utils.set_random_seed(0)
    parts = [layers.Dense(8, "relu", dtype=policy), layers.Dense(3, dtype=policy)]
    model = keras.Sequential([keras.Input((4,)), *parts])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    assert laplace(model, (x, np.arange(64) % 3)).indices == [2, 3]


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have")
@pytest.mark.parametrize("kind", ["lora", "int8", "shared"])
def test_a_last_layer_that_has_no_one_kernel_is_refused(kind):
    dense = layers.Dense(4)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, dense(dense(inputs)) if kind == "shared" else dense(inputs))
    model.compile(loss="mse")
    if kind == "lora":
        dense.enable_lora(2)
    elif kind == "int8":
        model.quantize("int8")
    with pytest.raises(ValueError, match="no LoRA, no quantisation"):
        laplace(model, (np.ones((8, 4), "float32"), np.ones((8, 4), "float32")))


def test_refusals():
    convolution = keras.Sequential(
        [keras.Input((4, 4, 1)), layers.Conv2D(2, 3, activation="softmax"), layers.Flatten()]
    )
    convolution.compile("sgd", "mse")
    with pytest.raises(ValueError, match="that a Dense layer computes.* Received: Dense layers="):
        laplace(convolution, (np.zeros((3, 4, 4, 1)), np.zeros((3, 8))))
    with pytest.raises(ValueError, match="Received: structure='diagonal'"):
        laplace(zoo.classifier(0), (zoo.X, zoo.LABELS), "diagonal")
