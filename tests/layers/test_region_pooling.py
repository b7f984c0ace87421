import keras
import numpy as np
import pytest
import tensorflow as tf

from kregkit.layers import fractional_max_pool

pytestmark = pytest.mark.one_in(2)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def gradient_of(function, x, weight):
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        loss = tf.reduce_sum(y * tf.cast(weight, y.dtype))
    return y.numpy(), tape.gradient(loss, x).numpy()


def by_hand(x, boundaries, overlapping, weight):
    """Rectangle by rectangle, in float64, for a channels-last image and regions shared by the batch."""
    x = x.astype("float64")
    rows, columns = boundaries
    y = np.zeros((x.shape[0], len(rows) - 1, len(columns) - 1, x.shape[3]))
    gradient = np.zeros_like(x)
    for b, i, j, c in np.ndindex(*y.shape):
        window = x[b, rows[i] : rows[i + 1] + overlapping, columns[j] : columns[j + 1] + overlapping, c]
        y[b, i, j, c] = window.max()
        r, s = np.unravel_index(window.argmax(), window.shape)
        gradient[b, rows[i] + r, columns[j] + s, c] += weight[b, i, j, c]
    return y, gradient


@pytest.mark.parametrize("how", ["graph", "jit", "eager", "plain"])
@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("pseudo_random", [False, True])
def test_equals_tensorflows_operation_on_its_sequences(pseudo_random, overlapping, how):
    x = normal(3, 13, 17, 4)
    weight = normal(3, 9, 11, 4, seed=1)
    pool = tf.nn.fractional_max_pool
    ratio = (1, 13 / 9, 17 / 11, 1)
    with tf.GradientTape() as tape:
        images = tf.constant(x)
        tape.watch(images)
        expected, rows, columns = pool(images, ratio, pseudo_random=pseudo_random, overlapping=overlapping, seed=5)
        loss = tf.reduce_sum(expected * weight)
    expected_gradient = tape.gradient(loss, images)

    def run(x):
        regions = [tf.cast(rows, "int32"), tf.cast(columns, "int32")]
        compiled = False if how == "plain" else None
        return fractional_max_pool(x, regions, overlapping, "channels_last", compiled=compiled)

    if how != "eager":
        run = tf.function(run, jit_compile=how == "jit")
    y, gradient = gradient_of(run, x, weight)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("overlapping", [False, True])
def test_long_and_uneven_windows(overlapping):
    x = normal(2, 12, 10, 3)
    boundaries = [[0, 5, 6, 10, 12], [0, 1, 2, 9, 10]]
    weight = normal(2, 4, 4, 3, seed=1)
    expected, expected_gradient = by_hand(x, boundaries, overlapping, weight)
    y, gradient = gradient_of(lambda x: fractional_max_pool(x, boundaries, overlapping, "channels_last"), x, weight)
    np.testing.assert_array_equal(y, expected.astype("float32"))
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
    # Tensors can be looked at as well where no graph is traced.
    tensors = [tf.constant(one) for one in boundaries]
    np.testing.assert_array_equal(fractional_max_pool(x, tensors, overlapping, "channels_last"), y)


@pytest.mark.parametrize("overlapping", [False, True])
def test_ties_share_nothing_out_twice(overlapping):
    x = np.zeros((1, 6, 6, 1), "float32")
    boundaries = [[0, 2, 3, 6], [0, 1, 3, 6]]
    _, gradient = gradient_of(
        lambda x: fractional_max_pool(x, boundaries, overlapping, "channels_last"), x, np.ones((1, 3, 3, 1))
    )
    expected = np.zeros((6, 6))
    expected[np.ix_([0, 2, 3], [0, 1, 3])] = 1
    np.testing.assert_array_equal(gradient[0, :, :, 0], expected)


def regions(rank, batch, channels, size, outputs, seed):
    random = np.random.default_rng(seed)
    shape = {1: (), 2: (batch,), 3: (batch, channels)}[rank]
    found = np.zeros((*shape, outputs + 1), int)
    for index in np.ndindex(*shape):
        found[index][1:-1] = np.sort(random.choice(np.arange(1, size), outputs - 1, replace=False))
        found[index][-1] = size
    return found


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_regions_per_example_and_channel(rank, data_format):
    x = normal(3, 7, 8, 2)
    boundaries = [regions(rank, 3, 2, 7, 4, 0), regions(rank, 3, 2, 8, 5, 1)]
    weight = normal(3, 4, 5, 2, seed=1)
    expected, expected_gradient = np.zeros((3, 4, 5, 2)), np.zeros(x.shape)
    for b in range(3):
        for c in range(2):
            index = {1: (), 2: (b,), 3: (b, c)}[rank]
            part = np.s_[b : b + 1, :, :, c : c + 1]
            expected[part], expected_gradient[part] = by_hand(
                x[part], [one[index] for one in boundaries], True, weight[part]
            )
    if data_format == "channels_first":
        x, weight, expected, expected_gradient = (
            np.moveaxis(a, -1, 1) for a in (x, weight, expected, expected_gradient)
        )
    y, gradient = gradient_of(lambda x: fractional_max_pool(x, boundaries, True, data_format), x, weight)
    np.testing.assert_array_equal(y, expected.astype("float32"))
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_exact(dtype):
    x = keras.ops.cast(normal(2, 9, 9, 3), dtype)
    boundaries = [[0, 2, 3, 5, 7, 9], [0, 1, 3, 5, 7, 9]]
    y, gradient = gradient_of(lambda x: fractional_max_pool(x, boundaries, True, "channels_last"), x, 1)
    full = np.asarray(keras.ops.cast(x, "float32"))
    expected, expected_gradient = by_hand(full, boundaries, True, np.ones((2, 5, 5, 3)))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.astype("float32"), expected.astype("float32"))
    np.testing.assert_allclose(gradient.astype("float32").sum(), expected_gradient.sum(), rtol=1e-2)


@pytest.mark.parametrize("axes", [1, 3])
def test_one_and_three_axes(axes):
    x = normal(2, *[6, 5, 7][:axes], 2)
    boundaries = [[0, 2, 3, 4, 6], [0, 1, 3, 5], [0, 2, 4, 5, 7]][:axes]
    y = np.asarray(fractional_max_pool(x, boundaries, data_format="channels_last"))
    for index in np.ndindex(*y.shape[1:-1]):
        window = tuple(slice(one[i], one[i + 1]) for one, i in zip(boundaries, index))
        expected = x[(slice(None), *window)].max(axis=tuple(range(1, axes + 1)))
        np.testing.assert_array_equal(y[(slice(None), *index)], expected)


def test_refuses_what_does_not_fit():
    x = normal(1, 6, 6, 1)
    for rows in ([0, 2, 5], [1, 3, 6], [0, 3, 3, 6]):
        with pytest.raises(ValueError, match=r"rise from 0 to the axis's length 6. Received: boundaries="):
            fractional_max_pool(x, [rows, [0, 3, 6]], data_format="channels_last")
        with pytest.raises(ValueError, match=r"rise from 0 to the axis's length 6. Received: boundaries="):
            fractional_max_pool(x, [tf.constant(rows), [0, 3, 6]], data_format="channels_last")
    with pytest.raises(ValueError, match=r"must be integers. Received: boundaries=\[0.0, 2.5, 6.0\]"):
        fractional_max_pool(x, [[0, 2.5, 6], [0, 3, 6]], data_format="channels_last")
    with pytest.raises(ValueError, match=r"each of the 2 spatial axes. Received: len\(boundaries\)=1"):
        fractional_max_pool(x, [[0, 3, 6]], data_format="channels_last")
    with pytest.raises(ValueError, match="same rank"):
        fractional_max_pool(x, [[0, 3, 6], [[0, 3, 6]]], data_format="channels_last")
