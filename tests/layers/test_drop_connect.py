import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kregkit.layers import DropConnect

pytestmark = pytest.mark.one_in(2)

BIAS = keras.initializers.RandomNormal(stddev=0.7, seed=9)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def draws(layer, x, num):
    """Returns `(num, ...)` outputs of training calls, one after the other in one graph."""
    layer.build(x.shape)

    @tf.function
    def run():
        def draw(_):
            return layer(x, training=True)

        return tf.map_fn(draw, tf.range(num), fn_output_signature=tf.float32, parallel_iterations=1)

    return run().numpy().astype("float64")


@pytest.mark.parametrize("rate", [0.5, 0.3])
@pytest.mark.parametrize("mask", ["example", "batch", "exact"])
def test_moments_are_those_of_bernoulli_masks(mask, rate):
    inner = layers.Dense(3, bias_initializer=BIAS)
    layer = DropConnect(inner, rate, mask, seed=4)
    x = np.repeat(normal(1, 4), 40, axis=0)
    num = 150 if mask == "exact" else 500
    ys = draws(layer, x, num)
    kernel, bias = (weight.numpy().astype("float64") for weight in inner.weights)
    terms = np.concatenate([x[0, :, None] * kernel, bias[None]])
    mean = terms.sum(axis=0)
    variance = rate / (1 - rate) * (terms**2).sum(axis=0)
    deviation = np.sqrt(variance)
    # Examples of one draw are independent only with the exact masks; batch and shared masks count once per draw.
    samples = num * 40 if mask == "exact" else num
    per_draw = ys.mean(axis=1) if mask != "exact" else ys.reshape(-1, 3)
    np.testing.assert_array_less(np.abs(per_draw.mean(axis=0) - mean), 5 * deviation / np.sqrt(samples))
    first = ys[:, 0]
    spread = np.sqrt(2 / num) + 0.05
    np.testing.assert_array_less(np.abs(first.var(axis=0) / variance - 1), 5 * spread)
    # Outputs don't share masks: no covariance between any two.
    correlation = np.corrcoef(first.T) - np.eye(3)
    assert np.abs(correlation).max() < 5 / np.sqrt(num)
    same = np.allclose(ys[:, 0], ys[:, 1])
    assert same == (mask == "batch")


@pytest.mark.parametrize("rate", [0.5, 0.3])
@pytest.mark.parametrize("mask", ["example", "batch", "exact"])
def test_covariance_of_any_two_outputs_is_exact(mask, rate):
    inner = layers.Dense(3, bias_initializer=BIAS)
    x = normal(2, 4, seed=1)
    num = 4000
    # As many examples in a call as may share a draw: two, of which all masks but the exact ones make one sample.
    layer = DropConnect(inner, rate, mask, seed=5)
    ys = draws(layer, x, num).reshape(num, 6)
    kernel, bias = (weight.numpy().astype("float64") for weight in inner.weights)
    expected = np.zeros((2, 3, 2, 3))
    for a, b, unit in np.ndindex(2, 2, 3):
        if a == b or mask == "batch":
            shared = (x[a] * x[b] * kernel[:, unit] ** 2).sum() + bias[unit] ** 2
            expected[a, unit, b, unit] = rate / (1 - rate) * shared
    expected = expected.reshape(6, 6)
    variance = np.diag(expected)
    # Fourth moments of such sums are below the normal law's, or not far above it.
    deviation = np.sqrt((np.outer(variance, variance) + expected**2) / num)
    np.testing.assert_array_less(np.abs(np.cov(ys.T) - expected), 6.5 * deviation)


def test_same_draw_in_every_mode():
    x = normal(70, 80)
    for mask in ("example", "batch", "exact"):
        layer = DropConnect(layers.Dense(90), 0.4, mask, seed=6)
        layer.build(x.shape)
        state = layer.seed_generator.state.numpy()
        runs = [layer.draw_call, tf.function(layer.draw_call), tf.function(layer.draw_call, jit_compile=True)]
        found = []
        for run in runs:
            layer.seed_generator.state.assign(state)
            found.append(np.asarray(run(tf.constant(x))))
        for other in found[1:]:
            np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-4)


def test_examples_are_uncorrelated_with_sign_masks():
    inner = layers.Dense(1, use_bias=False)
    x = np.repeat(normal(1, 6), 2, axis=0)
    ys = draws(DropConnect(inner, 0.5, seed=4), x, 1500)[:, :, 0]
    assert abs(np.corrcoef(ys.T)[0, 1]) < 5 / np.sqrt(1500)


@pytest.mark.parametrize("mask", ["example", "batch", "exact"])
def test_every_output_is_that_of_a_zero_one_mask(mask):
    # Powers of three: the output tells which weights were kept.
    inner = layers.Dense(2, bias_initializer=keras.initializers.Constant(729.0))
    layer = DropConnect(inner, 0.5, mask, seed=0)
    layer.build((None, 6))
    inner.kernel.assign(3.0 ** np.arange(6)[:, None] * np.ones((6, 2)))
    ys = draws(layer, np.ones((5, 6), "float32"), 60).reshape(-1) / 2
    allowed = {sum(3**k for k in range(7) if bits >> k & 1) for bits in range(128)}
    found = np.unique(ys.round().astype(int))
    assert set(found.tolist()) <= allowed
    np.testing.assert_allclose(ys, ys.round(), atol=1e-2)
    assert len(found) > 40


def test_sign_masks_are_exactly_bernoulli_at_one_half():
    inner = layers.Dense(2, use_bias=False)
    layer = DropConnect(inner, 0.5, seed=0)
    layer.build((None, 2))
    inner.kernel.assign([[1.0, 1.0], [3.0, 3.0]])
    ys = draws(layer, np.ones((3, 2), "float32"), 2000)[:, 1] / 2
    codes = (ys[:, 0] * 5 + ys[:, 1]).round().astype(int)
    # Four independent bits: sixteen outcomes of equal probability.
    outcomes, counts = np.unique(codes, return_counts=True)
    assert len(outcomes) == 16
    assert np.abs(counts - 125).max() < 5 * np.sqrt(125)


@pytest.mark.parametrize("inputs, units", [(2, 1), (1, 2)])
def test_masks_of_two_examples_are_independent_along_a_column_and_a_row(inputs, units):
    # (R s_1) (R s_2) = s_1 s_2 is a fair coin for every input, and so are the signs on outputs for every unit: four
    # independent bits. Without the signs on inputs (or outputs), the column (or row) of one example would be the
    # other's or its complement: half of the outcomes.
    inner = layers.Dense(units, use_bias=False)
    layer = DropConnect(inner, 0.5, seed=7)
    layer.build((None, inputs))
    inner.kernel.assign(np.ones((inputs, units)) * np.array([[1.0], [2.0]])[:inputs])
    num = 1600
    ys = (draws(layer, np.ones((2, inputs), "float32"), num) / 2).round().astype(int)
    bits = ys[..., 0, None] >> np.arange(2) & 1 if units == 1 else ys
    codes = bits.reshape(num, 4) @ [1, 2, 4, 8]
    counts = np.bincount(codes, minlength=16)
    statistic = ((counts - num / 16) ** 2).sum() / (num / 16)
    # The chi-squared law with 15 degrees of freedom exceeds this once in a million.
    assert statistic < 56.5


def test_batch_gradient_is_masked_as_the_weights_are():
    inner = layers.Dense(4)
    layer = DropConnect(inner, 0.5, "batch", seed=0)
    layer.build((None, 1))
    x = np.ones((3, 1), "float32")
    with tf.GradientTape() as tape:
        y = layer(x, training=True)
    gradient = tape.gradient(y, inner.kernel.value)
    kept = np.abs(np.asarray(y)[0]) > 0
    np.testing.assert_array_equal(np.asarray(gradient)[0], np.where(kept, 6.0, 0.0))


@pytest.mark.parametrize("mask", ["example", "batch", "exact"])
def test_gradients_are_those_of_the_masks_drawn(mask):
    # With its masks fixed, the output is linear in the weights: the gradient is what one weight alone gives.
    inner = layers.Dense(3, bias_initializer=BIAS)
    layer = DropConnect(inner, 0.4, mask, seed=0)
    x, upstream = normal(3, 2), normal(3, 3, seed=1)
    layer.build(x.shape)
    state = layer.seed_generator.state.numpy()

    @tf.function
    def value_and_gradients():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(layer(x, training=True) * upstream)
        return value, tape.gradient(value, [weight.value for weight in inner.weights])

    def run():
        layer.seed_generator.state.assign(state)
        return value_and_gradients()

    gradients = [np.asarray(gradient) for gradient in run()[1]]
    for weight, gradient in zip(inner.weights, gradients):
        alone = np.zeros_like(gradient)
        for index in np.ndindex(*gradient.shape):
            for other in inner.weights:
                other.assign(np.zeros(other.shape))
            one = np.zeros(weight.shape)
            one[index] = 1
            weight.assign(one)
            alone[index] = run()[0]
        np.testing.assert_allclose(gradient, alone, rtol=1e-5, atol=1e-5)


WRAPPED = [
    (lambda: layers.Dense(3, bias_initializer=BIAS), (4,)),
    (lambda: layers.Dense(3), (5, 4)),
    (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de", bias_initializer=BIAS), (5, 4)),
    (lambda: layers.EinsumDense("...x,xy->...y", 3, bias_axes="y"), (5, 4)),
    (lambda: layers.Conv1D(3, 3, padding="causal", dilation_rate=2, bias_initializer=BIAS), (8, 4)),
    (lambda: layers.Conv2D(4, 3, strides=2, padding="same", groups=2, bias_initializer=BIAS), (5, 6, 4)),
    (lambda: layers.Conv3D(2, 2), (3, 4, 3, 2)),
]


@pytest.mark.parametrize("mask", ["example", "batch", "exact"])
@pytest.mark.parametrize("index", range(len(WRAPPED)))
def test_wraps_layers(index, mask):
    make, shape = WRAPPED[index]
    inner = make()
    inner.build((None, *shape))
    names = [weight.name for weight in inner.weights]
    x = normal(2, *shape)
    plain = np.asarray(inner(x))
    layer = DropConnect(inner, 0.5, mask, seed=1)
    np.testing.assert_array_equal(layer(x), plain)
    assert [weight.name for weight in layer.weights] == names
    assert layer.compute_output_shape((None, *shape)) == inner.compute_output_shape((None, *shape))
    num = 20 if mask == "exact" else 250
    ys = draws(layer, x, num)
    error = np.abs(ys.mean(axis=0) - plain)
    deviation = ys.std(axis=0) / np.sqrt(num)
    # Some outputs have few terms, so that few draws estimate their deviation badly: hence the second term.
    np.testing.assert_array_less(error, 7 * deviation + (2.0 if mask == "exact" else 0.1))
    assert ys.std(axis=0).max() > 0.1


@pytest.mark.parametrize("mask", ["example", "batch", "exact"])
@pytest.mark.parametrize("index", range(4))
def test_an_examples_mask_is_one_at_all_positions(index, mask):
    make, shape = [
        (lambda: layers.Dense(3), (5, 4)),
        (lambda: layers.EinsumDense("abc,cd->abd", (None, 3)), (5, 4)),
        (lambda: layers.EinsumDense("...c,cd->...d", 3), (2, 3, 4)),
        (lambda: layers.Conv2D(3, 2), (4, 4, 2)),
    ][index]
    inner = make()
    layer = DropConnect(inner, 0.5, mask, seed=1)
    layer.build((None, *shape))
    x = np.broadcast_to(normal(3, *[1] * (len(shape) - 1), shape[-1]), (3, *shape))
    y = np.asarray(layer(x, training=True)).reshape(3, -1, 3)
    np.testing.assert_allclose(y, np.broadcast_to(y[:, :1], y.shape), rtol=1e-4, atol=1e-5)
    assert not np.allclose(y, np.asarray(inner(x)).reshape(y.shape))


@pytest.mark.parametrize("mask", ["example", "batch", "exact"])
def test_both_data_formats_draw_and_expect_the_same(mask):
    x = normal(3, 5, 4, 2)
    found = []
    for data_format in ("channels_last", "channels_first"):
        inner = layers.Conv2D(4, 2, strides=2, activation="tanh", data_format=data_format, bias_initializer=BIAS)
        layer = DropConnect(inner, 0.4, mask, "gaussian", seed=1)
        first = data_format == "channels_first"
        inputs = np.moveaxis(x, -1, 1) if first else x
        layer.build(inputs.shape)
        inner.kernel.assign(normal(2, 2, 2, 4, seed=3))
        # TensorFlow on CPUs has channels first nowhere but under XLA.
        run = tf.function(layer, jit_compile=True)
        ys = [run(tf.constant(inputs), training=training).numpy() for training in (True, False)]
        found.append([np.moveaxis(y, 1, -1) if first else y for y in ys])
    for one, other in zip(*found):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_an_exact_draw_is_a_masked_kernel_in_numpy():
    inner = layers.Conv2D(2, 2, use_bias=False)
    layer = DropConnect(inner, 0.5, "exact", seed=1)
    layer.build((None, 3, 3, 1))
    inner.kernel.assign(3.0 ** np.arange(8).reshape(2, 2, 1, 2))
    y = np.asarray(layer(np.ones((4, 3, 3, 1), "float32"), training=True)) / 2
    # The same mask at every position of an example, another one for each example.
    assert (y == y[:, :1, :1]).all()
    assert len(np.unique(y[:, 0, 0], axis=0)) > 1
    digits = y[:, 0, 0].round().astype(int)
    allowed = [{sum(3 ** (2 * k + f) for k in range(4) if bits >> k & 1) for bits in range(16)} for f in range(2)]
    assert all(value in allowed[f] for row in digits for f, value in enumerate(row))


def test_exact_masks_of_different_seeds_have_nothing_in_common():
    inner = layers.Dense(10, use_bias=False, kernel_initializer="ones")
    x = np.ones((40, 8), "float32")
    inner.build(x.shape)
    inner.kernel.assign(3.0 ** np.arange(8)[:, None] * np.ones((8, 10)))
    # An output's digits in base three say which of eight weights were kept; ten outputs have eighty independent bits.
    drawn = [np.asarray(DropConnect(inner, 0.5, "exact", seed=seed)(x, training=True)) for seed in range(3)]
    assert len(np.unique(np.concatenate(drawn).round(), axis=0)) == 3 * 40


@pytest.mark.parametrize("activation", ["linear", "tanh"])
@pytest.mark.parametrize("inference", ["mean", "gaussian"])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_its_own_dtype_is_that_of_training_and_inference(activation, inference, rate):
    x = normal(3, 4)
    for dtype, precision in (("float16", 2.0**-9), ("mixed_bfloat16", 2.0**-6), ("float64", 1e-6)):
        inner = layers.Dense(2, activation=activation, bias_initializer=BIAS)
        layer = DropConnect(inner, rate, inference=inference, draws=4, seed=0, dtype=dtype)
        found = [layer(x, training=training) for training in (False, True)]
        assert [keras.backend.standardize_dtype(y.dtype) for y in found] == [layer.compute_dtype] * 2
        expected = DropConnect(inner, rate, inference=inference, draws=4)(x)
        np.testing.assert_allclose(keras.ops.cast(found[0], "float32"), expected, rtol=0, atol=8 * precision)


def test_gaussian_inference_against_sampling_in_numpy():
    random = np.random.default_rng(0)
    x = normal(3, 5)
    for activation, function, tolerance in [
        ("relu", lambda u: np.maximum(u, 0), 0.01),
        ("tanh", np.tanh, 0.01),
        ("linear", lambda u: u, 1e-5),
        ("softmax", lambda u: np.exp(u) / np.exp(u).sum(-1, keepdims=True), 0.03),
    ]:
        inner = layers.Dense(4, activation=activation, bias_initializer=BIAS)
        layer = DropConnect(inner, 0.4, inference="gaussian", draws=64)
        y = np.asarray(layer(x))
        kernel, bias = (weight.numpy().astype("float64") for weight in inner.weights)
        mean = x @ kernel + bias
        deviation = np.sqrt(0.4 / 0.6 * (x**2 @ kernel**2 + bias**2))
        if activation == "linear":
            expected = mean
        else:
            expected = function(mean + deviation * random.normal(size=(100_000, 3, 4))).mean(axis=0)
        np.testing.assert_allclose(y, expected, atol=tolerance)
        np.testing.assert_array_equal(layer(x), y)
        np.testing.assert_allclose(layer(x[:1]), y[:1], atol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_gaussian_inference_of_a_convolution(activation):
    inner = layers.Conv2D(3, 3, activation=activation, bias_initializer=BIAS)
    x = normal(2, 6, 5, 2)
    layer = DropConnect(inner, 0.5, inference="gaussian", draws=32)
    y = np.asarray(layer(x))
    mean = np.asarray(tf.nn.conv2d(x, inner.kernel.value, 1, "VALID")) + inner.bias.numpy()
    variance = np.asarray(tf.nn.conv2d(x**2, inner.kernel.value**2, 1, "VALID")) + inner.bias.numpy() ** 2
    noise = np.random.default_rng(0).normal(size=(20_000, 1, 1, 1, 1))
    function = np.tanh if activation == "tanh" else lambda u: np.maximum(u, 0)
    expected = function(mean + np.sqrt(variance) * noise).mean(axis=0)
    np.testing.assert_allclose(y, expected, atol=0.1 if activation == "relu" else 0.03)


@pytest.mark.parametrize("mask", ["example", "batch", "exact"])
def test_activity_regularizer_of_the_layer_counts_in_training_and_at_inference(mask):
    inner = layers.Dense(3, activation="relu", activity_regularizer=keras.regularizers.L2(0.1), bias_initializer=BIAS)
    x = normal(5, 4)
    for inference in ("mean", "gaussian"):
        layer = DropConnect(inner, 0.5, mask, inference, seed=0)
        for training in (True, False):
            y = np.asarray(layer(x, training=training))
            assert [float(loss) for loss in layer.losses] == [pytest.approx(0.1 * (y**2).sum() / 5, rel=1e-5)]


def test_masks_of_steps_go_on_where_the_layer_lets_them():
    inputs = keras.Input((8,), dtype="int32")
    x = layers.Embedding(5, 3, mask_zero=True)(inputs)
    assert DropConnect(layers.Dense(4))(x)._keras_mask is not None
    with pytest.warns(UserWarning, match="does not support masking"):
        shorter = DropConnect(layers.Conv1D(4, 3, strides=2))(x)
        y = keras.Model(inputs, layers.GlobalAveragePooling1D()(shorter))(np.ones((2, 8), "int32"))
    assert getattr(shorter, "_keras_mask", None) is None
    assert y.shape == (2, 4)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_gaussian_inference_in_half_precision_keeps_what_its_squares_would_lose(activation):
    x = np.array([[400.0, -300.0], [3e-4, 2e-4]], "float32")
    found = {}
    for dtype in ("float32", "mixed_float16"):
        layer = DropConnect(layers.Dense(2, activation=activation, dtype=dtype), 0.5, inference="gaussian")
        layer.build(x.shape)
        layer.layer.kernel.assign([[0.5, 1.0], [0.25, 0.75]])
        found[dtype] = np.asarray(layer(x)).astype("float32")
    assert np.isfinite(found["mixed_float16"]).all()
    np.testing.assert_allclose(found["mixed_float16"], found["float32"], rtol=2e-3)


@pytest.mark.parametrize("mask", ["example", "batch", "exact"])
def test_draw_call_in_half_precision(mask):
    layer = DropConnect(layers.Dense(3, bias_initializer=BIAS, dtype="mixed_float16"), mask=mask, seed=0)
    layer.build((None, 4))
    assert layer.draw_call(normal(2, 4)).dtype == "float16"


def test_draw_call_draws_at_inference_and_rate_zero_is_the_layer():
    x = normal(4, 3)
    layer = DropConnect(layers.Dense(3), 0.5, seed=0)
    expected = np.asarray(layer(x, training=False))
    assert not np.allclose(layer.draw_call(x, training=False), expected)
    layer = DropConnect(layers.Dense(3), 0.0, seed=0)
    np.testing.assert_array_equal(layer(x, training=True), layer(x))


@pytest.mark.parametrize("mask", ["example", "batch", "exact"])
def test_replicas_share_the_masks_of_a_batch_and_differ_in_those_of_examples(mask):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
    with strategy.scope():
        inner = layers.Dense(40, kernel_initializer="ones", bias_initializer="ones")
        layer = DropConnect(inner, 0.5, mask, seed=3)
        layer.build((None, 1))
    for inputs in (0.0, 1.0):  # The biases' masks alone, then the kernels' too.
        x = np.full((2, 1), inputs, "float32")
        ones, others = strategy.run(tf.function(lambda x=x: layer(x, training=True))).values
        assert np.array_equal(ones, others) == (mask == "batch")
