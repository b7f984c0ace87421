"""The Hessian's spectrum against matrices whose eigenvalues are known."""

import keras
import numpy as np
import pytest

from kregkit.optimizers import curvature


def linear(eigenvalues, dtype="float64", seed=0):
    """Returns a linear model and data whose mean squared error has the Hessian `Q diag(eigenvalues) Q^T`."""
    dim = len(eigenvalues)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))
    x = (q * np.sqrt(np.array(eigenvalues) * dim / 2)).T
    model = keras.Sequential(
        [
            keras.Input((dim,), dtype=dtype),
            keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", dtype=dtype),
        ]
    )
    return model, x.astype(dtype), np.zeros((dim, 1), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dim", [8, 60])
def test_finds_the_known_ends(dim, dtype):
    eigenvalues = np.geomspace(0.01, 5, dim)
    found = curvature(*linear(eigenvalues, dtype), "mse", k=3)
    tolerance = 1e-4 if dtype == "float32" else 1e-8
    np.testing.assert_allclose([found.largest, *found.lowest], [5, *eigenvalues[:3]], rtol=tolerance)
    assert found.condition == pytest.approx(500, rel=tolerance)
    assert found.kind == "minimum"
    assert found.stationary
    assert str(found).startswith("minimum: all curvatures are positive, condition number 500")


def test_a_flat_direction_is_a_plateau():
    found = curvature(*linear([0, 0, *np.linspace(1, 2, 40)]), "mse", k=4)
    assert (found.kind, found.flat, found.negative) == ("plateau", 2, 0)
    assert found.condition == np.inf
    assert "plateau: 2 of the 4 lowest curvatures are zero" in str(found)


def test_the_origin_of_a_deep_linear_net_is_a_saddle():
    """At W1 = W2 = 0 the loss of W2 W1 x has the Hessian [[0, -c], [-c, 0]]: curvatures come in pairs."""
    keras.config.set_dtype_policy("float64")
    layers = [keras.layers.Dense(3, use_bias=False, kernel_initializer="zeros") for _ in range(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    x = np.eye(3) * [3, 2, 1]
    found = curvature(model, x, np.eye(3), "mse", k=9)
    # Mean over 9 entries of (y - W2 W1 x)^2: the cross term is -2/9 sum_i x_i (W2 W1)_ii.
    expected = np.repeat([2 / 9 * 3, 2 / 9 * 2, 2 / 9], 3)
    np.testing.assert_allclose(found.lowest, -expected, rtol=1e-9)
    assert found.largest == pytest.approx(expected[0])
    assert (found.kind, found.negative) == ("saddle", 9)
    assert "saddle: 9 of the 9 lowest curvatures are negative" in str(found)


def test_against_the_full_hessian_in_chunks():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float64")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(2)])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(25, 4)), rng.normal(size=(25, 2))
    found = curvature(model, x, y, "mse", k=5, batch_size=10)
    start = np.concatenate([w.ravel() for w in model.get_weights()])

    def gradient(vector):
        from kregkit.optimizers._solver import objective_of

        with objective_of(model, x, y, "mse", None, "refuse", "inference", 0) as f:
            return np.stack([f.value_and_gradient(row)[1] for row in vector])

    step = 1e-5
    hessian = (gradient(start + step * np.eye(len(start))) - gradient(start - step * np.eye(len(start)))) / (2 * step)
    eigenvalues = np.linalg.eigvalsh((hessian + hessian.T) / 2)
    np.testing.assert_allclose(found.lowest, eigenvalues[:5], atol=1e-7)
    assert found.largest == pytest.approx(eigenvalues[-1], rel=1e-6)
    assert not found.stationary
    assert "still leads down" in str(found)


def test_leaves_the_weights_and_refuses_a_moving_objective():
    model, x, y = linear([1.0, 2.0, 3.0], "float32")
    model.set_weights([np.ones((3, 1))])
    curvature(model, x, y, "mse", k=1)
    np.testing.assert_array_equal(model.get_weights()[0], 1)
    noisy = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="Received: stochastic='refuse'"):
        curvature(noisy, x, y, "mse")
    with pytest.raises(ValueError, match="Received: k=0"):
        curvature(model, x, y, "mse", k=0)
