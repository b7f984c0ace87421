"""Each check against numbers worked out apart."""

import keras
import numpy as np
import pytest
from keras import layers

from kregkit import diagnostics as room

RNG = np.random.default_rng(0)
X = RNG.normal(size=(128, 5)).astype("float32")


def dense(outputs=3, activation=None, loss="mse", optimizer="sgd", **arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(16, "relu"), layers.Dense(outputs, activation, **arguments)]
    )
    model.compile(optimizer, loss)
    return model


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda x: x, None),
        (lambda x: np.where(np.arange(128)[:, None] == 3, np.nan, x), "NaN in inputs"),
        (lambda x: x + 2, "inputs not centred"),
        (lambda x: 100 * x, "unscaled inputs"),
        (lambda x: 1e-4 * x, "unscaled inputs"),
        (lambda x: x * (np.arange(5) < 2), "constant features"),
        (lambda x: x * np.where(np.arange(5) == 0, 5000, 1e-3), "unscaled inputs"),
    ],
)
def test_input_statistics(change, fault):
    finding = room.input_statistics(dense(1), (change(X).astype("float32"), X[:, :1]))
    assert finding.faults == ([] if fault is None else [fault])


@pytest.mark.parametrize(
    ("loss", "outputs", "activation", "y", "fault"),
    [
        ("sparse_categorical_crossentropy", 3, "softmax", np.arange(128) % 3, None),
        ("sparse_categorical_crossentropy", 3, "softmax", np.arange(128) % 4, "labels out of range"),
        ("sparse_categorical_crossentropy", 3, "softmax", np.arange(128) % 3 - 1, "labels out of range"),
        ("categorical_crossentropy", 3, "softmax", np.eye(3)[np.arange(128) % 3], None),
        ("categorical_crossentropy", 3, "softmax", np.ones((128, 3)), "labels out of range"),
        ("binary_crossentropy", 1, "sigmoid", np.arange(128)[:, None] % 2, None),
        ("binary_crossentropy", 1, "sigmoid", np.arange(128)[:, None] % 2 + 1, "labels out of range"),
        ("mse", 1, None, 1000 + X[:, :1], "unscaled targets"),
        ("mse", 1, None, np.full((128, 1), np.nan), "NaN in labels"),
    ],
)
def test_labels(loss, outputs, activation, y, fault):
    finding = room.input_statistics(dense(outputs, activation, loss), (X, y))
    assert finding.faults == ([] if fault is None else [fault])


def test_preprocessing_inside_of_the_model_counts():
    model = keras.Sequential([keras.Input((5,)), layers.Rescaling(0.01), layers.Dense(1)])
    model.compile("sgd", "mse")
    assert room.input_statistics(model, (100 * X, X[:, :1])).status == "pass"


def test_tokens():
    model = keras.Sequential(
        [keras.Input((6,), dtype="int32"), layers.Embedding(50, 4), layers.Flatten(), layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    tokens = RNG.integers(0, 50, (128, 6))
    assert room.input_statistics(model, (tokens, X[:, :1])).status == "pass"
    assert room.input_statistics(model, (tokens + 1, X[:, :1])).faults == ["tokens out of range"]


def test_leave_one_out_against_refitting():
    from kregkit.diagnostics.inputs import _leave_one_out

    x, y = X[:20].astype("float64"), X[:20, :1] - X[:20, :1].mean()
    distances = ((x[:, None] - x) ** 2).sum(-1)
    kernel = np.exp(-distances / np.median(distances))
    kernel = kernel - kernel.mean()
    score = 0
    for index in range(20):
        rest = np.delete(np.arange(20), index)
        solution = np.linalg.solve(kernel[np.ix_(rest, rest)] + 0.1 * np.eye(19), y[rest])
        score += (kernel[index, rest] @ solution * y[index]).item() / 20
    assert _leave_one_out(x, y, 20)[0] == pytest.approx(score, rel=1e-9)


@pytest.mark.parametrize(
    ("loss", "outputs", "activation", "y", "expected"),
    [
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), 7, None, np.arange(128) % 7, np.log(7)),
        ("categorical_crossentropy", 4, "softmax", np.eye(4)[np.arange(128) % 4], np.log(4)),
        ("binary_crossentropy", 1, "sigmoid", np.arange(128)[:, None] % 2, np.log(2)),
        (keras.losses.BinaryCrossentropy(from_logits=True), 3, None, np.ones((128, 3)), np.log(2)),
        ("mse", 5, None, X, np.mean(X.astype("float64") ** 2)),
        ("mae", 5, None, X, np.mean(np.abs(X.astype("float64")))),
    ],
)
def test_expected_initial_loss(loss, outputs, activation, y, expected):
    finding = room.initial_loss(dense(outputs, activation, loss, kernel_initializer="zeros"), (X, y))
    # Zero weights know nothing: the loss itself is the expectation.
    assert finding.details["expected"] == pytest.approx(expected, rel=1e-5)
    assert finding.details["loss"] == pytest.approx(expected, rel=1e-5)
    assert finding.status == "pass"


@pytest.mark.parametrize(
    ("loss", "outputs", "activation", "fault"),
    [
        ("sparse_categorical_crossentropy", 3, None, "logits into a from_logits=False loss"),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), 3, "softmax", "probabilities into a from_logits=True loss"),  # noqa: E501
        ("binary_crossentropy", 1, None, "logits into a from_logits=False loss"),
        (keras.losses.BinaryCrossentropy(from_logits=True), 1, "sigmoid", "probabilities into a from_logits=True loss"),
    ],
)  # fmt: skip
def test_kind_of_outputs(loss, outputs, activation, fault):
    y = np.arange(128) % (3 if outputs == 3 else 2)
    assert room.initial_loss(dense(outputs, activation, loss), (X, y if outputs == 3 else y[:, None])).faults == [fault]


def test_initial_loss_sizes():
    classes = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = dense(3, loss=classes, kernel_initializer=keras.initializers.RandomNormal(stddev=20.0))
    assert room.initial_loss(model, (X, np.arange(128) % 3)).faults == ["initial loss too high"]
    model = dense(
        3, loss=classes, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant([9.0, 0, 0])
    )
    assert room.initial_loss(model, (X, np.zeros(128, int))).faults == ["initial loss too low"]
    model = dense(1, kernel_regularizer=keras.regularizers.L2(1e4))
    assert "penalty outweighs the loss" in room.initial_loss(model, (X, X[:, :1])).faults


def deep(activation, initializer, depth=12, width=40):
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(width, activation, kernel_initializer=initializer, name=f"h{i}") for i in range(depth)]
    model = keras.Sequential([keras.Input((5,)), *hidden, layers.Dense(1, name="top")])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    ("activation", "initializer", "faults"),
    [
        ("relu", "he_normal", set()),
        ("tanh", "glorot_normal", set()),
        ("tanh", keras.initializers.RandomNormal(stddev=0.01), {"vanishing activations", "vanishing gradients"}),
        ("relu", keras.initializers.RandomNormal(stddev=3.0), {"exploding activations", "exploding gradients"}),
        ("tanh", keras.initializers.RandomNormal(stddev=5.0), {"saturation"}),
        ("sigmoid", keras.initializers.RandomNormal(stddev=20.0), {"saturation"}),
    ],
)
def test_signal_flow(activation, initializer, faults):
    found = set(room.signal_flow(deep(activation, initializer), (X, X[:, :1])).faults)
    assert faults <= found
    if not faults:
        assert not found


def test_signal_flow_numbers():
    model = dense(1)
    rows = room.signal_flow(model, (X, X[:, :1])).details["layers"]
    order = np.random.default_rng(0).permutation(128)
    kernel, bias, top, offset = (weight.astype("float64") for weight in model.get_weights())
    hidden = np.maximum(X[order] @ kernel + bias, 0)
    assert rows[0]["std"] == pytest.approx(hidden.std(), rel=1e-5)
    assert rows[0]["dead"] == np.mean((hidden == 0).all(0))
    slope = 2 * (hidden @ top + offset - X[order, :1]) / 128
    assert rows[1]["gradient"] == pytest.approx(np.sqrt(np.mean(slope**2)), rel=1e-4)
    assert rows[0]["gradient"] == pytest.approx(np.sqrt(np.mean((slope @ top.T) ** 2)), rel=1e-4)


@pytest.mark.parametrize("kind", ["dense", "convolution", "recurrent", "normalized", "embedding", "attention"])
def test_gradients_of_keras_layers_are_right(kind):
    keras.utils.set_random_seed(0)
    x = X.reshape(128, 5, 1)
    inputs = keras.Input((5, 1))
    if kind == "embedding":
        x, inputs = RNG.integers(0, 9, (128, 5)), keras.Input((5,), dtype="int32")
    body = {
        "dense": lambda z: layers.Dense(6, "elu")(layers.Flatten()(z)),
        "convolution": lambda z: layers.Flatten()(layers.MaxPooling1D()(layers.Conv1D(4, 3, activation="relu")(z))),
        "recurrent": lambda z: layers.LSTM(4)(z),
        "normalized": lambda z: layers.LayerNormalization()(layers.BatchNormalization()(layers.Dense(4)(layers.Flatten()(z)))),  # noqa: E501
        "embedding": lambda z: layers.Flatten()(layers.Embedding(9, 3)(z)),
        "attention": lambda z: layers.Flatten()(layers.MultiHeadAttention(2, 3)(layers.Dense(4)(z), layers.Dense(4)(z))),  # noqa: E501
    }[kind]  # fmt: skip
    model = keras.Model(inputs, layers.Dense(1)(body(inputs)))
    model.compile("sgd", "mse")
    finding = room.gradient_check(model, (x, X[:, :1]))
    assert finding.status == "pass", str(finding)
    assert finding.details["largest_error"] < 1e-6 and finding.details["checked"] > 5


def test_kinks_are_counted_and_no_errors():
    model = dense(1)
    # Zero inputs and zero biases: every unit stands exactly on its kink.
    finding = room.gradient_check(model, (np.zeros((32, 5), "float32"), X[:32, :1]))
    assert finding.status == "pass" and finding.details["kinks"] > 0


def test_layer_in_fixed_precision_is_said_so():
    class Single(layers.Layer):
        def call(self, inputs):
            return keras.ops.matmul(keras.ops.cast(inputs, "float32"), keras.ops.ones((5, 5), "float64"))

    model = keras.Sequential([keras.Input((5,)), layers.Dense(5), layers.Lambda(lambda x: x)])
    model.compile("sgd", "mse")
    assert room.gradient_check(model, (X, X)).status == "pass"


def test_overfit_finds_what_can_not_learn():
    model = dense(1, "sigmoid")
    finding = room.overfit_small_batch(model, (X, X[:, :1] * 3))  # values that a sigmoid can't take
    assert finding.faults == ["can't overfit"]
    assert room.overfit_small_batch(dense(1), (X, X[:, :1])).status == "pass"


def test_overfit_knows_the_floor_of_smoothed_labels():
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    finding = room.overfit_small_batch(dense(3, loss=loss), (X, np.eye(3)[(X[:, 0] > 0) * 1].astype("float32")))
    soft = np.array([0.2 / 3 + 0.8, 0.2 / 3, 0.2 / 3])
    assert finding.details["floor"] == pytest.approx(-np.sum(soft * np.log(soft)), rel=1e-6)
    assert finding.status == "pass"


def test_range_of_a_quadratic_ends_at_its_limit():
    # mse of y = w x with E x^2 = 1: SGD diverges beyond a rate of 1.
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = np.sign(X[:, :1]) + 0 * X[:, :1]
    found = room.learning_rate_range(model, (x, 2 * x), low=1e-4, high=100, steps=120)
    assert 1.0 < found.divergence < 20
    assert found.lowest < 1.0 and found.suggestion <= found.divergence / 3
    # Below the limit the loss follows (1 - 2 rate)^2 a step.
    expected = 4 * np.cumprod(np.concatenate([[1.0], (1 - 2 * found.rates[:60]) ** 2]))[:60]
    np.testing.assert_allclose(found.losses[:60], expected, rtol=1e-3, atol=1e-6)
    assert found.reason.startswith("Start from") and "diverged" in found.reason
    assert found.to_dict()["current"] == pytest.approx(0.01)


def test_rate_of_a_schedule_is_its_highest():
    schedule = keras.optimizers.schedules.CosineDecay(0.0, 500, warmup_target=0.3, warmup_steps=100)
    model = dense(1, optimizer=keras.optimizers.SGD(schedule))
    assert room.learning_rate_range(model, (X, X[:, :1]), steps=10).current == pytest.approx(0.3, rel=0.2)


@pytest.mark.parametrize(
    ("rate", "fault"), [(0.05, []), (50.0, ["learning rate too high"]), (1e-7, ["learning rate too low"])]
)
def test_learning_rate(rate, fault):
    assert room.learning_rate(dense(1, optimizer=keras.optimizers.SGD(rate)), (X, X[:, :1])).faults == fault


def test_update_ratio_by_hand():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    finding = room.update_ratio(model, (X, X[:, :1]), steps=1)
    order = np.random.default_rng(0).permutation(128)[:32]
    gradient = 2 * X[order].T @ (X[order].sum(1, keepdims=True) - X[order, :1]) / 32
    expected = 0.01 * np.linalg.norm(gradient) / np.sqrt(5)
    assert next(iter(finding.details["ratios"].values())) == pytest.approx(expected, rel=1e-4)
    assert finding.status == "pass"


def test_no_rate_helps_where_nothing_can_be_learned():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(1, trainable=False)])
    model.compile("sgd", "mse")
    assert room.learning_rate(model, (X, X[:, :1])).faults == ["no learning rate helps"]
