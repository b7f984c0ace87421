"""Dropped recurrent kernels: masks that hold for a whole sequence, against a loop in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kregkit.inference import marginalize
from kregkit.layers import DropConnect

pytestmark = pytest.mark.one_in(2)

UNITS, STEPS, FEATURES = 3, 4, 2
X = np.random.default_rng(0).normal(size=(5, STEPS, FEATURES)).astype("float32")
KINDS = {
    "lstm": lambda **kwargs: layers.LSTM(UNITS, bias_initializer="normal", **kwargs),
    "gru": lambda **kwargs: layers.GRU(UNITS, bias_initializer="normal", **kwargs),
    "gru-before": lambda **kwargs: layers.GRU(UNITS, reset_after=False, bias_initializer="normal", **kwargs),
    "gru-unbiased": lambda **kwargs: layers.GRU(UNITS, use_bias=False, **kwargs),
    "simple": lambda **kwargs: layers.SimpleRNN(UNITS, bias_initializer="normal", **kwargs),
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(name, weights, x):
    """Returns the states of one sequence `(steps, features)`, float64."""
    kernel, recurrent, *bias = (np.asarray(weight, "float64") for weight in weights)
    bias = bias[0] if bias else np.zeros((2, kernel.shape[1]))
    h, c, states = np.zeros(UNITS), np.zeros(UNITS), []
    for step in np.asarray(x, "float64"):
        if name == "simple":
            h = np.tanh(step @ kernel + h @ recurrent + bias)
        elif name == "lstm":
            i, f, g, o = np.split(step @ kernel + h @ recurrent + bias, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            before = name == "gru-before"
            z, r, g = np.split(step @ kernel + (bias if before else bias[0]), 3)
            u = np.split(recurrent, 3, axis=1)
            b = np.zeros((3, UNITS)) if before else np.split(bias[1], 3)
            z, r = sigmoid(z + h @ u[0] + b[0]), sigmoid(r + h @ u[1] + b[1])
            g = np.tanh(g + ((r * h) @ u[2] if before else r * (h @ u[2] + b[2])))
            h = z * h + (1 - z) * g
        states.append(h)
    return np.array(states)


def recorded(layer):
    """Returns the list into which the layer writes the numbers it draws."""
    drawn = []
    plain, signs, factor = layer.kernel_factor, layer.signs, layer.factor

    def keep(function):
        def wrapped(*args, **kwargs):
            drawn.append(np.asarray(function(*args, **kwargs)))
            return drawn[-1]

        return wrapped

    layer.kernel_factor, layer.signs = keep(plain), keep(signs)
    layer.factor = factor
    return drawn


def masks_of(drawn, mask, input_kernel):
    """Returns, for each example, the factors of the recurrent and of the input kernel."""
    names = ("recurrent", "kernel") if input_kernel else ("recurrent",)
    factors = [{} for _ in X]
    if mask == "batch":
        for name, factor in zip(names, drawn, strict=True):
            for own in factors:
                own[name] = factor
        return factors
    # The products are made in the order recurrent kernel, kernel, each with a factor, signs in and signs out.
    for index, name in enumerate(names):
        factor, into, out_of = drawn[3 * index : 3 * index + 3]
        for own, s, r in zip(factors, into, out_of, strict=True):
            own[name] = 1 + (factor - 1) * np.outer(s, r)
    return factors


@pytest.mark.parametrize("input_kernel", [False, True])
@pytest.mark.parametrize("mask", ["batch", "example"])
@pytest.mark.parametrize("name", KINDS)
def test_a_mask_holds_for_a_whole_sequence(name, mask, input_kernel):
    keras.utils.set_random_seed(0)
    layer = DropConnect(KINDS[name](return_sequences=True), 0.5, mask, seed=1, input_kernel=input_kernel)
    layer.build(X.shape)
    drawn = recorded(layer)
    outputs = np.asarray(layer(X, training=True))
    kernel, recurrent, *bias = layer.layer.get_weights()
    for example, own in enumerate(masks_of(drawn, mask, input_kernel)):
        for factor in own.values():
            assert set(np.round(factor, 5).ravel().tolist()) <= {0.0, 2.0}
        weights = [kernel * own.get("kernel", 1), recurrent * own["recurrent"], *bias]
        np.testing.assert_allclose(outputs[example], by_hand(name, weights, X[example]), rtol=1e-4, atol=1e-5)
    expected = [by_hand(name, layer.layer.get_weights(), x) for x in X]
    np.testing.assert_allclose(np.asarray(layer(X, training=False)), expected, rtol=1e-4, atol=1e-5)
    assert "recurrent_kernel" in vars(layer.layer.cell) and layer.layer.cell.recurrent_kernel.trainable


@pytest.mark.parametrize("mask", ["batch", "example", "exact"])
def test_gradients_and_numbers_are_the_same_in_a_graph(mask):
    layer = DropConnect(layers.GRU(UNITS, return_state=True), 0.4, mask, seed=3)
    layer.build(X.shape)
    state = layer.seed_generator.state.numpy()
    steps = np.array([[True] * 4, [True] * 2 + [False] * 2] + [[True] * 3 + [False]] * 3)

    def run():
        with tf.GradientTape() as tape:
            output, last = layer(X, training=True, initial_state=[tf.ones((5, UNITS))], mask=steps)
        return output, last, tape.gradient(output, layer.layer.cell.recurrent_kernel.value)

    eager = run()
    layer.seed_generator.state.assign(state)
    for one, other in zip(tf.function(run)(), eager, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(eager[0], eager[1])
    assert np.abs(eager[2]).max() > 0


def test_exact_masks_are_independent():
    layer = DropConnect(layers.SimpleRNN(UNITS), 0.5, "exact", seed=3)
    same = np.repeat(X[:1], 40, axis=0)
    outputs = np.asarray(layer(same, training=True))
    # Nine entries have 512 masks.
    assert len(np.unique(outputs.round(5), axis=0)) > 30
    shared = np.asarray(DropConnect(layers.SimpleRNN(UNITS), 0.5, "batch", seed=3)(same, training=True))
    assert len(np.unique(shared.round(5), axis=0)) == 1


@pytest.mark.parametrize("mask", ["batch", "example", "exact"])
def test_marginalize_draws_masks(mask):
    keras.utils.set_random_seed(0)
    layer = DropConnect(layers.SimpleRNN(1, activation=None, use_bias=False), 0.5, mask)
    model = keras.Sequential([keras.Input((2, 1)), layer])
    model.set_weights([np.ones((1, 1)), np.ones((1, 1))])
    x = np.array([[[1.0], [0.0]], [[3.0], [0.0]]], "float32")
    # The output is `m x`, m = 0 or 2: the mean is x, the standard deviation too.
    mean = np.asarray(marginalize(model, draws=400, outputs="values", seed=2)(x))
    np.testing.assert_array_less(np.abs(mean[:, 0] - [1, 3]), 5 * np.array([1, 3]) / 20)
    np.testing.assert_allclose(np.asarray(model(x))[:, 0], [1, 3])
    one = np.asarray(marginalize(model, draws=1, outputs="values", seed=3)(x))[:, 0]
    assert set(one.tolist()) <= {0.0, 2.0, 6.0}
    with pytest.raises(ValueError, match="no analytic form for DropConnect"):
        marginalize(model, draws="analytic", outputs="values")


def test_weights_move_to_the_plain_layer_and_files_come_back(tmp_path):
    def model(wrap):
        recurrent = layers.LSTM(UNITS, return_sequences=True)
        recurrent = DropConnect(recurrent, 0.3, "batch", input_kernel=True) if wrap else recurrent
        return keras.Sequential([keras.Input((STEPS, FEATURES)), recurrent, layers.Dense(1)])

    dropped, plain = model(True), model(False)
    dropped.save(tmp_path / "dropped.keras")
    loaded = keras.models.load_model(tmp_path / "dropped.keras")
    plain.set_weights(loaded.get_weights())
    np.testing.assert_allclose(plain.predict(X, verbose=0), dropped.predict(X, verbose=0), rtol=1e-6)
    assert loaded.layers[0].input_kernel


def test_masked_steps_are_handed_on():
    embedding = layers.Embedding(5, FEATURES, mask_zero=True)
    recurrent = DropConnect(layers.LSTM(UNITS, return_sequences=True), 0.3, "batch")
    model = keras.Sequential([keras.Input((STEPS,)), embedding, recurrent, layers.LSTM(2)])
    tokens = np.array([[1, 2, 0, 0], [3, 1, 2, 4]])
    longer = model(tokens)[0]
    np.testing.assert_allclose(longer, keras.Sequential(model.layers)(tokens[:1, :2])[0], rtol=1e-5)


def test_what_cant_be_wrapped():
    for kwargs, match in (({"dropout": 0.1}, "SpatialDropout1D"), ({"recurrent_dropout": 0.1}, "SpatialDropout1D")):
        with pytest.raises(ValueError, match=match):
            DropConnect(layers.LSTM(2, **kwargs))
    with pytest.raises(ValueError, match="inference='mean'"):
        DropConnect(layers.LSTM(2), inference="gaussian")
    with pytest.raises(ValueError, match="one example at a time"):
        DropConnect(layers.LSTM(2, stateful=True), mask="exact")
    with pytest.raises(ValueError, match="Received: input_kernel=True"):
        DropConnect(layers.Dense(2), input_kernel=True)
    with pytest.raises(ValueError, match="own dtype"):
        DropConnect(layers.LSTM(2), dtype="float16")
