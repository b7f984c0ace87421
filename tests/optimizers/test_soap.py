"""SOAP's choice of sides, what it is for, and what must not move. The rule itself is in test_rules.py."""

import keras
import numpy as np
import pytest

from kregkit.optimizers import SOAP
from kregkit.optimizers.soap import _matrix_shape

pytestmark = pytest.mark.trains


def slots_of(shape, **kwargs):
    optimizer = SOAP(**kwargs)
    optimizer.build([keras.Variable(np.zeros(shape))])
    (slots,) = optimizer._slots
    return tuple(slots.shape), [tuple(basis.shape) for basis in slots.bases]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5,), (5,)),
        ((), ()),
        ((7, 3), (7, 3)),
        ((3, 3, 16, 32), (144, 32)),
        ((3, 3, 64, 128), (576, 128)),
        ((3, 3, 3, 64), (27, 64)),
        ((64, 8, 8), (64, 64)),  # A query's kernel of an attention layer,
        ((8, 8, 64), (64, 64)),  # and its output's.
        ((4, 3, 4), (12, 4)),  # On a draw the last axis stands by itself.
    ],
)
def test_kernels_are_split_most_evenly(shape, expected):
    assert _matrix_shape(shape) == expected


@pytest.mark.parametrize(
    ("shape", "limit", "matrix", "bases"),
    [
        ((6, 4), 6, (6, 4), [(6, 6), (4, 4)]),
        ((6, 4), 5, (6, 4), [(4, 4)]),
        ((6, 4), 3, (6, 4), []),
        ((6, 1), 6, (6, 1), [(6, 6)]),
        ((3, 3, 2, 16), 18, (18, 16), [(18, 18), (16, 16)]),
        ((3, 3, 2, 16), 2, (3, 3, 2, 16), []),
        ((4,), 32, (4,), []),
    ],
)
def test_long_sides_keep_their_axes(shape, limit, matrix, bases):
    assert slots_of(shape, max_precondition_dim=limit) == (matrix, bases)


def descend(optimizer, gradient, start, steps):
    x = keras.Variable(start, dtype="float32")
    for _ in range(steps):
        optimizer.apply([keras.ops.convert_to_tensor(gradient(keras.ops.convert_to_numpy(x)), "float32")], [x])
    return keras.ops.convert_to_numpy(x)


def test_without_sides_it_is_adamw():
    def gradient(x):
        return np.sin(3 * x)

    start = np.random.default_rng(0).normal(size=(6, 4))
    arguments = {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-8, "weight_decay": 0.1}
    ours = descend(SOAP(0.01, max_precondition_dim=0, **arguments), gradient, start, 20)
    theirs = descend(keras.optimizers.AdamW(0.01, **arguments), gradient, start, 20)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_before_the_first_turn_it_is_adam_for_the_smallest_gradients_too():
    """No rounding of a rotation is about yet: nothing may hold back entries a hundred million times the smaller."""
    scales = np.geomspace(1, 1e-8, 24).reshape(6, 4)

    def gradient(x):
        return scales * np.sin(3 * x)

    start = np.random.default_rng(0).normal(size=(6, 4))
    arguments = {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 0.0}
    ours = descend(SOAP(0.01, precondition_frequency=10, **arguments), gradient, start, 20)
    theirs = descend(keras.optimizers.Adam(0.01, **arguments), gradient, start, 20)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_a_rotated_valley_is_as_good_as_a_straight_one():
    rng = np.random.default_rng(0)
    scales = np.geomspace(1, 0.01, 16)
    turns = [np.linalg.qr(rng.normal(size=(16, 16)))[0] for _ in range(4)]
    target = rng.normal(size=(16, 16))

    def loss_after(optimizer, rotated):
        a = turns[0] * scales @ turns[1] if rotated else np.diag(scales)
        b = turns[2] * scales @ turns[3] if rotated else np.diag(scales)
        x = descend(optimizer, lambda x: a.T @ (a @ (x - target) @ b) @ b.T, np.zeros((16, 16)), 120)
        return np.sum((a @ (x - target) @ b) ** 2) / np.sum((a @ target @ b) ** 2)

    assert loss_after(SOAP(0.1, beta_1=0.8, beta_2=0.95), rotated=True) < 1e-3
    assert loss_after(SOAP(0.1, beta_1=0.8, beta_2=0.95), rotated=False) < 1e-3
    assert loss_after(keras.optimizers.Adam(0.1, beta_1=0.9, beta_2=0.99), rotated=True) > 1.5e-3


def test_weights_without_gradient_dont_move():
    """Dead units: the rounding of the other columns, turned to and fro, must not drive them."""
    rng = np.random.default_rng(0)

    def gradient(x):
        g = rng.normal(size=x.shape)
        g[:, 2] = 0
        g[3] = 0
        return g

    start = rng.normal(size=(6, 5)).astype("float32")
    end = descend(SOAP(0.01, beta_2=0.8, precondition_frequency=2), gradient, start, 100)
    moved = np.abs(end - start)
    dead = np.zeros((6, 5), bool)
    dead[:, 2] = dead[3] = True
    assert moved[dead].max() < 1e-2 * np.median(moved[~dead])


def test_nothing_but_zero_gradients_leaves_everything():
    start = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
    end = descend(SOAP(0.1, beta_2=0.5, precondition_frequency=1), np.zeros_like, start, 6)
    np.testing.assert_array_equal(end, start)


def test_bases_stay_orthogonal():
    optimizer = SOAP(0.01, beta_2=0.5, precondition_frequency=1)
    rng = np.random.default_rng(0)
    descend(optimizer, lambda x: rng.normal(size=x.shape), np.zeros((20, 12)), 50)
    for basis in optimizer._slots[0].bases:
        basis = keras.ops.convert_to_numpy(basis)
        np.testing.assert_allclose(basis.T @ basis, np.eye(len(basis)), atol=1e-5)


def test_half_precision_weights_have_float32_state():
    optimizer = SOAP(0.01, beta_2=0.5, precondition_frequency=2)
    x = keras.Variable(np.ones((3, 3)), dtype="bfloat16")
    for _ in range(5):
        optimizer.apply([keras.ops.eye(3, dtype="bfloat16")], [x])
    assert optimizer._slots[0].bases[0].dtype == "float32"
    moved = keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")) < 1
    np.testing.assert_array_equal(moved, np.eye(3, dtype=bool))


@pytest.mark.parametrize(("beta_2", "frequency", "first"), [(0.95, 10, 20), (0.95, 3, 21), (0.0, 1, 1), (0.9, 25, 25)])
def test_the_first_turn_waits_for_the_averages(beta_2, frequency, first):
    optimizer = SOAP(0.01, beta_2=beta_2, precondition_frequency=frequency)
    assert optimizer.first_refresh == first
    rng = np.random.default_rng(0)
    x = keras.Variable(np.zeros((4, 3)))
    for step in range(1, first + 1):
        optimizer.apply([keras.ops.convert_to_tensor(rng.normal(size=(4, 3)), "float32")], [x])
        own = np.array_equal(keras.ops.convert_to_numpy(optimizer._slots[0].bases[0]), np.eye(4))
        assert own == (step < first)
