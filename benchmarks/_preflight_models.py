"""Healthy models, and models with one fault planted, for `preflight_verdicts.py`.

Each function returns `(model, data)`, as `preflight` takes them. `HEALTHY` and `FAULTS` hold them by name; a fault
comes with the names of findings that count as right.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from kregkit.data import digits

HEALTHY, FAULTS = {}, {}

Dense, Input = layers.Dense, keras.Input
SPARSE = "sparse_categorical_crossentropy"


def healthy(build):
    """Registers a model that trains as it should."""
    HEALTHY[build.__name__] = build
    return build


def fault(*right):
    """Registers a model with a fault, and the names under which it may be found."""

    def register(build):
        FAULTS[build.__name__] = (build, right)
        return build

    return register


def sparse_logits():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


# Data.


def images(num=1024, scale="standard"):
    """Returns handwritten digits, and their classes."""
    x, y = digits("train", as_arrays=True)
    x, y = x[:num].astype("float32"), y[:num].astype("int32")
    if scale == "standard":
        x = (x - x.mean()) / x.std()
    return (x / 255 if scale == "unit" else x), y


def colour_images(num=256, size=32, seed=0):
    """Returns uint8 images whose class shows in the frequency of their stripes, and the classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, num)
    wave = np.sin(np.arange(size)[None] * (0.3 + 0.4 * y[:, None]) + rng.uniform(0, 6, (num, 1)))
    x = 120 + 60 * wave[:, :, None, None] + rng.normal(0, 25, (num, size, size, 3)) + rng.normal(0, 20, (num, 1, 1, 3))
    return np.clip(x, 0, 255).astype("uint8"), y.astype("int32")


def table(num=1024, features=12, seed=0):
    """Returns standard normal features, and a function of three of them with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num, features)).astype("float32")
    y = x[:, 0] - 0.7 * x[:, 1] + np.tanh(2 * x[:, 2]) + 0.3 * rng.normal(size=num)
    return x, (y / y.std()).astype("float32")


def binary_table(num=1024, share=0.5, seed=0):
    x, y = table(num, seed=seed)
    return x, (y > np.quantile(y, 1 - share)).astype("float32")


def classes_table(num=1024, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, num).astype("int32")
    return (rng.normal(size=(classes, 10))[y] + rng.normal(size=(num, 10))).astype("float32"), y


def texts(num=1024, length=24, vocabulary=500, seed=0):
    """Returns rows of token numbers from 1, padded by 0, and whether the first half of the vocabulary prevails."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, num)
    low = rng.random((num, length)) < np.where(y, 0.65, 0.35)[:, None]
    words = np.where(
        low, rng.integers(1, vocabulary // 2, (num, length)), rng.integers(vocabulary // 2, vocabulary, (num, length))
    )
    words[np.arange(length) >= rng.integers(length // 2, length + 1, num)[:, None]] = 0
    return words.astype("int32"), y.astype("float32")


def sequences(num=512, steps=16, seed=0):
    """Returns noisy waves of two channels, and which of three frequencies they have."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, num)
    phase = np.arange(steps) * (0.4 + 0.5 * y[:, None]) + rng.uniform(0, 6, (num, 1))
    x = np.stack([np.sin(phase), np.cos(phase)], -1) * 1.4 + 0.3 * rng.normal(size=(num, steps, 2))
    return x.astype("float32"), y.astype("int32")


def series(num=800, steps=24, seed=0):
    """Returns windows of a standardised series, in the order of time, and the values that come next."""
    rng = np.random.default_rng(seed)
    time = np.arange(num + steps)
    values = np.sin(time / 7) + 0.5 * np.sin(time / 31) + 0.1 * rng.normal(size=len(time))
    values = (values - values.mean()) / values.std()
    x = np.stack([values[start : start + steps] for start in range(num)])
    return x[..., None].astype("float32"), values[steps:, None].astype("float32")


def language(num=384, length=16, vocabulary=60, seed=0):
    """Returns rows of tokens in which the next one mostly follows from the one before, and the next ones."""
    rng = np.random.default_rng(seed)
    follow, rows = rng.permutation(vocabulary), np.zeros((num, length + 1), "int32")
    rows[:, 0] = rng.integers(0, vocabulary, num)
    for place in range(length):
        rows[:, place + 1] = np.where(rng.random(num) < 0.7, follow[rows[:, place]], rng.integers(0, vocabulary, num))
    return rows[:, :-1], rows[:, 1:]


def blobs(num=256, size=16, seed=0):
    """Returns noisy images of a disc each, and for each pixel whether it lies on the disc."""
    rng = np.random.default_rng(seed)
    grid = np.mgrid[:size, :size]
    centre, radius = rng.uniform(4, size - 4, (num, 2, 1, 1)), rng.uniform(2, 4, (num, 1, 1))
    mask = ((grid[None] - centre) ** 2).sum(1) < radius**2
    x = (mask + 0.3 * rng.normal(size=mask.shape) - 0.15) / 0.5
    return x[..., None].astype("float32"), mask[..., None].astype("float32")


# Models.


def mlp(features, outputs, activation=None, loss="mse", optimizer=None, width=32, hidden="relu", depth=2, **options):
    keras.utils.set_random_seed(1)
    layer_options = {key: options.pop(key) for key in list(options) if key.endswith(("initializer", "regularizer"))}
    inner = [Dense(width, hidden, **layer_options) for _ in range(depth)]
    model = keras.Sequential([Input((features,)), *inner, Dense(outputs, activation, name="top")])
    model.compile(optimizer or keras.optimizers.Adam(1e-3), loss, **options)
    return model


def cnn(
    outputs=10,
    activation="softmax",
    loss=SPARSE,
    shape=(8, 8, 1),
    normalize=False,
    optimizer=None,
    before=(),
    after=(),
    **options,
):
    keras.utils.set_random_seed(1)
    x = inputs = Input(shape)
    for layer in before:
        x = layer(x)
    for filters in (8, 16):
        x = layers.Conv2D(filters, 3, padding="same", **options)(x)
        if normalize:
            x = layers.BatchNormalization(**(normalize if isinstance(normalize, dict) else {}))(x)
        x = layers.ReLU()(x)
    x = Dense(32, "relu")(layers.Flatten()(layers.MaxPooling2D()(x)))
    x = Dense(outputs, activation, name="top")(x)
    for layer in after:
        x = layer(x)
    model = keras.Model(inputs, x)
    model.compile(optimizer or keras.optimizers.Adam(1e-3), loss, metrics=[])
    return model


def text_classifier(vocabulary=500, activation="sigmoid", loss="binary_crossentropy", optimizer="adam", pool=None):
    keras.utils.set_random_seed(1)
    body = pool or layers.GlobalAveragePooling1D()
    model = keras.Sequential(
        [Input((24,), dtype="int32"), layers.Embedding(vocabulary, 16), body, Dense(16, "relu"), Dense(1, activation)]
    )
    model.compile(optimizer, loss)
    return model


def recurrent(kind=layers.LSTM, outputs=3, activation="softmax", loss=SPARSE, shape=(16, 2), optimizer=None, **options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([Input(shape), kind(24, **options), Dense(outputs, activation)])
    model.compile(optimizer or keras.optimizers.Adam(2e-3), loss)
    return model


def transformer(vocabulary=60, length=16, optimizer=None, dropout=0.1, activation=None, causal=True):
    keras.utils.set_random_seed(1)
    tokens = Input((length,), dtype="int32")
    places = layers.Embedding(length, 32)(ops.arange(length))
    x = layers.Embedding(vocabulary, 32)(tokens) + places
    for _ in range(2):
        attended = layers.MultiHeadAttention(2, 16, dropout=dropout)(
            layers.LayerNormalization()(x), layers.LayerNormalization()(x), use_causal_mask=causal
        )
        x = x + attended
        x = x + Dense(32)(Dense(64, "gelu")(layers.LayerNormalization()(x)))
    outputs = Dense(vocabulary, activation)(layers.LayerNormalization()(x))
    model = keras.Model(tokens, outputs)
    model.compile(optimizer or keras.optimizers.Adam(1e-3), sparse_logits())
    return model


# Healthy ones.


@healthy
def mlp_classes():
    return mlp(10, 5, "softmax", SPARSE), classes_table()


@healthy
def mlp_one_hot_smoothed():
    x, y = classes_table()
    return mlp(10, 5, "softmax", keras.losses.CategoricalCrossentropy(label_smoothing=0.1)), (x, np.eye(5)[y])


@healthy
def mlp_binary_logits():
    return mlp(12, 1, None, keras.losses.BinaryCrossentropy(from_logits=True)), binary_table(share=0.3)


@healthy
def mlp_sgd_momentum():
    return mlp(10, 5, "softmax", SPARSE, keras.optimizers.SGD(0.02, momentum=0.9)), classes_table()


@healthy
def mlp_selu_deep():
    return mlp(10, 5, "softmax", SPARSE, hidden="selu", depth=8, kernel_initializer="lecun_normal"), classes_table()


@healthy
def mlp_tanh_regression():
    return mlp(12, 1, hidden="tanh", loss="huber"), table()


@healthy
def regression_of_flat_targets():
    x, y = table()
    return mlp(12, 1, loss="mae", optimizer=keras.optimizers.RMSprop(1e-3)), (x, y)


@healthy
def regression_of_miles_per_gallon():
    x, y = table()
    return mlp(12, 1, loss="mae", width=64), (x, 23 + 8 * y)


@healthy
def regression_with_final_rescaling():
    x, y = table()
    model = mlp(12, 1)
    model = keras.Sequential([*model.layers, layers.Rescaling(5000.0, 20000.0)])
    model.build((None, 12))
    model.compile("adam", "mse")
    return model, (x, 20000 + 5000 * y[:, None])


@healthy
def regression_with_weak_signal():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 20)).astype("float32")
    return mlp(20, 1), (x, (0.25 * x[:, 0] + rng.normal(size=1000)).astype("float32"))


@healthy
def regression_with_raw_features_normalized_inside():
    x, y = table()
    x = (x * np.geomspace(0.1, 1e4, 12) + np.linspace(0, 5e4, 12)).astype("float32")
    normalization = layers.Normalization()
    normalization.adapt(x)
    keras.utils.set_random_seed(1)
    model = keras.Sequential([Input((12,)), normalization, Dense(32, "relu"), Dense(1)])
    model.compile("adam", "mse")
    return model, (x, y)


@healthy
def regression_with_batch_normalization_first():
    x, y = table()
    keras.utils.set_random_seed(1)
    model = keras.Sequential([Input((12,)), layers.BatchNormalization(), Dense(32, "relu"), Dense(1)])
    model.compile("adam", "mse")
    return model, ((x * np.geomspace(1, 100, 12) + 30).astype("float32"), y)


@healthy
def min_max_scaled_table():
    x, y = binary_table()
    return mlp(12, 1, "sigmoid", "binary_crossentropy"), ((x - x.min(0)) / np.ptp(x, 0), y)


@healthy
def products_of_features():
    x, _ = table(features=6)
    return mlp(6, 1, "sigmoid", "binary_crossentropy", width=64), (x, (x[:, 0] * x[:, 1] > 0).astype("float32"))


@healthy
def cnn_standard():
    return cnn(), images()


@healthy
def cnn_unit_range_with_normalization():
    x, y = colour_images()
    return cnn(4, shape=(32, 32, 3), normalize=True), (x.astype("float32") / 255, y)


@healthy
def cnn_rescaling_inside():
    return cnn(4, shape=(32, 32, 3), before=[layers.Rescaling(1 / 255)]), colour_images()


@healthy
def cnn_division_inside():
    return cnn(
        4, shape=(32, 32, 3), before=[layers.Lambda(lambda x: ops.cast(x, "float32") / 127.5 - 1)]
    ), colour_images()


@healthy
def cnn_dropout_and_augmentation():
    keras.utils.set_random_seed(1)
    parts = [layers.RandomTranslation(0.1, 0.1), layers.Conv2D(12, 3, activation="relu"), layers.Flatten()]
    parts += [Dense(48, "relu", kernel_regularizer="l2"), layers.Dropout(0.5), Dense(10)]
    model = keras.Sequential([Input((8, 8, 1)), *parts])
    model.compile("adam", sparse_logits(), metrics=["accuracy"])
    return model, images()


@healthy
def residual_network():
    keras.utils.set_random_seed(1)
    inputs = Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
    for _ in range(3):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        y = layers.Conv2D(16, 3, padding="same", use_bias=False)(y)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        x = x + layers.Conv2D(16, 3, padding="same", use_bias=False, kernel_initializer="zeros")(y)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))
    model = keras.Model(inputs, Dense(10, "softmax")(x))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), SPARSE, metrics=["accuracy"])
    return model, images()


@healthy
def mobilenet_preprocessed():
    keras.utils.set_random_seed(1)
    base = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None, pooling="avg")
    model = keras.Sequential([Input((32, 32, 3)), base, layers.Dropout(0.2), Dense(4, "softmax")])
    model.compile("adam", SPARSE, metrics=["accuracy"])
    x, y = colour_images(128)
    return model, (keras.applications.mobilenet_v2.preprocess_input(x.astype("float32")), y)


@healthy
def caffe_preprocessed():
    x, y = colour_images()
    return cnn(4, shape=(32, 32, 3), normalize=True), (
        keras.applications.resnet50.preprocess_input(x.astype("float32")),
        y,
    )


@healthy
def segmentation():
    keras.utils.set_random_seed(1)
    inputs = Input((16, 16, 1))
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    y = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.MaxPooling2D()(x))
    x = layers.Concatenate()([x, layers.UpSampling2D()(y)])
    model = keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return model, blobs()


@healthy
def segmentation_of_classes():
    x, y = blobs()
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [Input((16, 16, 1)), layers.Conv2D(8, 3, padding="same", activation="relu"), layers.Conv2D(2, 1)]
    )
    model.compile("adam", sparse_logits())
    return model, (x, y[..., 0].astype("int32"))


@healthy
def autoencoder():
    x, _ = images(scale="unit")
    keras.utils.set_random_seed(1)
    parts = [
        layers.Flatten(),
        Dense(32, "relu"),
        Dense(8),
        Dense(32, "relu"),
        Dense(64, "sigmoid"),
        layers.Reshape((8, 8, 1)),
    ]
    model = keras.Sequential([Input((8, 8, 1)), *parts])
    model.compile("adam", "binary_crossentropy")
    return model, (x, x)


class Sampling(layers.Layer):
    """Draws a code, and adds its divergence from the standard normal distribution to the loss."""

    def __init__(self, weight=1.0, **kwargs):
        super().__init__(**kwargs)
        self.weight, self.seeds = weight, keras.random.SeedGenerator(0)

    def call(self, inputs):
        mean, log_variance = inputs
        divergence = -0.5 * ops.mean(ops.sum(1 + log_variance - mean**2 - ops.exp(log_variance), -1))
        self.add_loss(self.weight * divergence)
        return mean + ops.exp(log_variance / 2) * keras.random.normal(ops.shape(mean), seed=self.seeds)


@healthy
def variational_autoencoder():
    x, _ = images(scale="unit")
    x = x.reshape(len(x), -1)
    keras.utils.set_random_seed(1)
    inputs = Input((64,))
    hidden = Dense(48, "relu")(inputs)
    code = Sampling(1 / 64)([Dense(4)(hidden), Dense(4)(hidden)])
    model = keras.Model(inputs, Dense(64, "sigmoid")(Dense(48, "relu")(code)))
    model.compile("adam", "binary_crossentropy")
    return model, (x, x)


class Reconstruction(layers.Layer):
    """Adds the distance between its inputs to the loss."""

    def call(self, inputs):
        self.add_loss(ops.mean((inputs[0] - inputs[1]) ** 2))
        return inputs[1]


@healthy
def add_loss_without_a_loss():
    x, _ = table()
    keras.utils.set_random_seed(1)
    inputs = Input((12,))
    model = keras.Model(inputs, Reconstruction()([inputs, Dense(12)(Dense(24, "relu")(inputs))]))
    model.compile("adam")
    return model, (x, x)


@healthy
def siamese_contrastive():
    rng = np.random.default_rng(0)
    x, y = images()
    other = np.where(rng.random(len(x)) < 0.5, np.arange(len(x)), 0)
    partner = np.array(
        [rng.choice(np.flatnonzero(y == y[i])) if other[i] else rng.integers(len(x)) for i in range(len(x))]
    )
    keras.utils.set_random_seed(1)
    encoder = keras.Sequential([Input((8, 8, 1)), layers.Flatten(), Dense(32, "relu"), Dense(16)])
    a, b = Input((8, 8, 1)), Input((8, 8, 1))
    distance = ops.sqrt(ops.sum((encoder(a) - encoder(b)) ** 2, -1, keepdims=True) + 1e-6)
    model = keras.Model([a, b], distance)

    def contrastive(y_true, y_pred):
        return ops.mean(y_true * y_pred**2 + (1 - y_true) * ops.maximum(1 - y_pred, 0) ** 2)

    model.compile("adam", contrastive)
    return model, ([x, x[partner]], (y == y[partner]).astype("float32")[:, None])


def pinball(y_true, y_pred):
    quantiles = ops.convert_to_tensor([0.1, 0.5, 0.9])
    error = y_true - y_pred
    return ops.mean(ops.maximum(quantiles * error, (quantiles - 1) * error), -1)


@healthy
def quantiles():
    x, y = table()
    return mlp(12, 3, loss=pinball), (x, y[:, None])


@healthy
def gaussian_likelihood():
    x, y = table()

    def likelihood(y_true, y_pred):
        mean, log_deviation = y_pred[:, :1], y_pred[:, 1:]
        return ops.mean(0.5 * ((y_true - mean) * ops.exp(-log_deviation)) ** 2 + log_deviation)

    return mlp(12, 2, loss=likelihood), (x, y[:, None])


@healthy
def poisson_counts():
    x, y = table()
    counts = np.random.default_rng(0).poisson(np.exp(1.5 + 0.7 * y)).astype("float32")
    return mlp(12, 1, "exponential", "poisson"), (x, counts)


@healthy
def focal_loss_with_rare_positives():
    x, y = binary_table(2000, share=0.04)
    bias = keras.initializers.Constant(np.log(0.04 / 0.96))
    keras.utils.set_random_seed(1)
    model = keras.Sequential([Input((12,)), Dense(32, "relu"), Dense(1, "sigmoid", bias_initializer=bias)])
    model.compile("adam", keras.losses.BinaryFocalCrossentropy())
    return model, (x, y)


@healthy
def bias_at_class_frequencies():
    x, y = binary_table(share=0.12)
    bias = keras.initializers.Constant(np.log(0.12 / 0.88))
    keras.utils.set_random_seed(1)
    model = keras.Sequential([Input((12,)), Dense(32, "relu"), Dense(1, bias_initializer=bias)])
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    return model, (x, y)


@healthy
def hinge_with_tanh():
    x, y = binary_table()
    return mlp(12, 1, "tanh", "hinge"), (x, 2 * y - 1)


@healthy
def squared_hinge_linear():
    x, y = binary_table()
    return mlp(12, 1, None, "squared_hinge"), (x, y[:, None])


@healthy
def rare_class_with_sample_weights():
    x, y = binary_table(2000, share=0.03)
    return mlp(12, 1, "sigmoid", "binary_crossentropy"), (x, y, np.where(y > 0, 1 / 0.06, 1 / 1.94).astype("float32"))


@healthy
def multi_label():
    x, y = table()
    rows = np.stack([x[:, 0] + y > 1, x[:, 3] > 1.2, y > 0, x[:, 5] + x[:, 6] > 1], 1)
    return mlp(12, 4, "sigmoid", "binary_crossentropy"), (x, rows.astype("float32"))


@healthy
def several_inputs_and_outputs():
    x, y = table()
    keras.utils.set_random_seed(1)
    inputs = {"left": Input((5,), name="left"), "right": Input((7,), name="right")}
    hidden = Dense(32, "relu")(layers.Concatenate()([Dense(16, "relu")(inputs["left"]), inputs["right"]]))
    outputs = {"value": Dense(1, name="value")(hidden), "sign": Dense(1, "sigmoid", name="sign")(hidden)}
    model = keras.Model(inputs, outputs)
    model.compile("adam", {"value": "mse", "sign": "binary_crossentropy"}, loss_weights={"value": 1.0, "sign": 0.5})
    return model, (
        {"left": x[:, :5], "right": x[:, 5:]},
        {"value": y[:, None], "sign": (y > 0).astype("float32")[:, None]},
    )


@healthy
def embeddings_of_users_and_items():
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 50, 1500), rng.integers(0, 80, 1500)
    ratings = (
        3
        + (rng.normal(size=(50, 1))[users] + rng.normal(size=(80, 1))[items])[:, 0] * 0.6
        + 0.2 * rng.normal(size=1500)
    )
    keras.utils.set_random_seed(1)
    one, other = Input((1,), dtype="int32", name="user"), Input((1,), dtype="int32", name="item")
    x = layers.Concatenate()(
        [layers.Flatten()(layers.Embedding(50, 8)(one)), layers.Flatten()(layers.Embedding(80, 8)(other))]
    )
    model = keras.Model([one, other], Dense(1)(Dense(32, "relu")(x)))
    model.compile("adam", "mse")
    return model, ([users[:, None].astype("int32"), items[:, None].astype("int32")], ratings.astype("float32")[:, None])


@healthy
def embedding_text():
    return text_classifier(), texts()


@healthy
def embedding_text_float_tokens():
    x, y = texts()
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [Input((24,)), layers.Embedding(500, 16, mask_zero=True), layers.LSTM(16), Dense(1, "sigmoid")]
    )
    model.compile(keras.optimizers.Adam(3e-3), "binary_crossentropy")
    return model, (x.astype("float32"), y[:, None])


@healthy
def convolutional_text():
    x, y = texts()
    keras.utils.set_random_seed(1)
    parts = [layers.Embedding(500, 16), layers.SpatialDropout1D(0.2), layers.Conv1D(24, 3, activation="relu")]
    model = keras.Sequential([Input((24,), dtype="int32"), *parts, layers.GlobalMaxPooling1D(), Dense(2, "softmax")])
    model.compile("adam", SPARSE)
    return model, (x, y.astype("int32"))


@healthy
def frequencies_of_words():
    x, y = texts(vocabulary=2000)
    counts = np.stack([np.bincount(row[row > 0], minlength=2000) for row in x]).astype("float32")
    rows = counts * np.log(len(x) / (1 + (counts > 0).sum(0)))
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return mlp(2000, 1, "sigmoid", "binary_crossentropy", width=16, depth=1), (rows.astype("float32"), y)


@healthy
def unit_rows():
    x, y = classes_table()
    x = np.tile(x, (1, 30)) * np.random.default_rng(0).normal(size=300)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return mlp(300, 5, "softmax", SPARSE), (x.astype("float32"), y)


@healthy
def one_hot_inputs():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 100, (1024, 3))
    x = np.concatenate([np.eye(100)[kinds[:, i]] for i in range(3)], 1).astype("float32")
    y = rng.normal(size=100)[kinds[:, 0]] + 0.3 * rng.normal(size=1024)
    return mlp(300, 1), (x, y.astype("float32"))


@healthy
def lstm_classes():
    return recurrent(), sequences()


@healthy
def gru_bidirectional():
    keras.utils.set_random_seed(1)
    parts = [layers.Bidirectional(layers.GRU(12, return_sequences=True)), layers.GRU(12, dropout=0.2), Dense(3)]
    model = keras.Sequential([Input((16, 2)), *parts])
    model.compile(keras.optimizers.Adam(2e-3, clipnorm=1.0), sparse_logits())
    return model, sequences()


@healthy
def lstm_adding_problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 20, 2)).astype("float32")
    x[..., 1] = 0
    for row in range(1000):
        x[row, rng.choice(20, 2, replace=False), 1] = 1
    return recurrent(layers.LSTM, 1, None, "mse", (20, 2), keras.optimizers.Adam(1e-3)), (
        x,
        (x[..., 0] * x[..., 1]).sum(1),
    )


@healthy
def forecast():
    return recurrent(layers.LSTM, 1, None, "mse", (24, 1), keras.optimizers.Adam(1e-3)), series()


@healthy
def forecast_dataset():
    x, y = series()
    model = recurrent(layers.GRU, 1, None, "mae", (24, 1), keras.optimizers.Adam(1e-3))
    return model, tf.data.Dataset.from_tensor_slices((x, y)).batch(32)


@healthy
def tags_of_sequences():
    x, _ = language()
    keras.utils.set_random_seed(1)
    parts = [
        layers.Embedding(60, 16),
        layers.Bidirectional(layers.LSTM(16, return_sequences=True)),
        Dense(2, "softmax"),
    ]
    model = keras.Sequential([Input((16,), dtype="int32"), *parts])
    model.compile("adam", SPARSE)
    return model, (x, (x * 37 % 60 < 30).astype("int32"))


@healthy
def causal_language_model():
    return transformer(), language()


@healthy
def transformer_with_tuned_rate():
    return transformer(optimizer=keras.optimizers.AdamW(3e-3, weight_decay=0.01)), language()


@healthy
def shuffled_dataset():
    x, y = images()
    return cnn(normalize=True), tf.data.Dataset.from_tensor_slices((x, y)).shuffle(1024).batch(32).prefetch(2)


class Slices(keras.utils.PyDataset):
    """Batches of arrays."""

    def __init__(self, x, y, batch_size=32):
        super().__init__()
        self.x, self.y, self.batch_size = x, y, batch_size

    def __len__(self):
        return len(self.x) // self.batch_size

    def __getitem__(self, index):
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return self.x[part], self.y[part]


@healthy
def python_dataset():
    return mlp(10, 5, "softmax", SPARSE), Slices(*classes_table())


class Subclassed(keras.Model):
    """A model of which Keras knows no graph."""

    def __init__(self):
        super().__init__()
        self.body, self.noise, self.top = Dense(32, "relu"), layers.Dropout(0.3), Dense(5)

    def call(self, inputs, training=False):
        return self.top(self.noise(self.body(inputs), training=training))


@healthy
def subclassed():
    x, y = classes_table()
    keras.utils.set_random_seed(1)
    model = Subclassed()
    model(x[:2])
    model.compile("adam", sparse_logits(), metrics=["accuracy"])
    return model, (x, y)


@healthy
def transfer_from_trained_layers():
    x, y = images()
    base = cnn()
    base.fit(x, y, epochs=2, verbose=0)
    body = keras.Model(base.inputs, base.layers[-2].output)
    body.trainable = False
    keras.utils.set_random_seed(1)
    model = keras.Sequential([Input((8, 8, 1)), body, Dense(1, "sigmoid")])
    model.compile("adam", "binary_crossentropy")
    return model, (x, (y > 4).astype("float32"))


@healthy
def continued_training():
    x, y = images()
    model = cnn()
    model.fit(x, y, epochs=3, verbose=0)
    model.compile(keras.optimizers.Adam(1e-4), SPARSE)
    return model, (x, y)


@healthy
def cosine_schedule_with_warmup():
    schedule = keras.optimizers.schedules.CosineDecay(0.0, 900, warmup_target=0.05, warmup_steps=100)
    return mlp(10, 5, "softmax", SPARSE, keras.optimizers.SGD(schedule, momentum=0.9)), classes_table()


@healthy
def mixed_strings_inside():
    rng = np.random.default_rng(0)
    words = np.array(["red", "green", "blue", "white"])
    x = words[rng.integers(0, 4, (600, 1))]
    y = np.isin(x[:, 0], ["red", "blue"]).astype("float32")
    keras.utils.set_random_seed(1)
    lookup = layers.StringLookup(vocabulary=list(words), output_mode="one_hot")
    inputs = Input((1,), dtype="string")
    model = keras.Model(inputs, Dense(1, "sigmoid")(Dense(8, "relu")(lookup(inputs))))
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    return model, tf.data.Dataset.from_tensor_slices((x, y[:, None])).batch(32)


# Faults.


@fault("shuffled labels")
def labels_shuffled_of_images():
    x, y = images()
    return cnn(), (x, np.random.default_rng(0).permutation(y))


@fault("shuffled labels")
def labels_shuffled_of_a_table():
    x, y = table()
    return mlp(12, 1), (x, np.random.default_rng(0).permutation(y))


@fault("shuffled labels")
def labels_shuffled_of_texts():
    x, y = texts()
    return text_classifier(), (x, np.random.default_rng(0).permutation(y))


@fault("shuffled labels")
def labels_off_by_one_row():
    x, y = classes_table()
    return mlp(10, 5, "softmax", SPARSE), (x, np.roll(y, 1))


@fault("labels out of range")
def labels_from_one():
    x, y = images()
    return cnn(), (x, y + 1)


@fault("no label is 0")
def labels_from_one_and_a_unit_too_many():
    x, y = images()
    return cnn(11), (x, y + 1)


@fault("labels out of range")
def labels_minus_one_in_binary():
    x, y = binary_table()
    return mlp(12, 1, "sigmoid", "binary_crossentropy"), (x, 2 * y - 1)


@fault("labels out of range")
def classes_under_a_binary_loss():
    x, y = classes_table()
    return mlp(10, 1, "sigmoid", "binary_crossentropy"), (x, y)


@fault("labels of the wrong shape")
def one_hot_under_a_sparse_loss():
    x, y = images()
    return cnn(), (x, np.eye(10, dtype="float32")[y])


@fault("labels of the wrong shape")
def integers_under_a_categorical_loss():
    return cnn(loss="categorical_crossentropy"), images()


@fault("labels of the wrong shape")
def column_against_ten_outputs():
    x, y = images()
    return cnn(10, None, "mse"), (x, y[:, None].astype("float32"))


@fault("labels of the wrong shape")
def sequence_against_one_label():
    x, y = series()
    return recurrent(layers.LSTM, 1, None, "mse", (24, 1), return_sequences=True), (x, y)


@fault("labels of the wrong shape")
def three_targets_against_one_output():
    x, y = table()
    return mlp(12, 1, loss="mae"), (x, np.stack([y, 2 * y, -y], 1))


@fault("NaN in labels")
def nan_in_targets():
    x, y = table()
    y = y.copy()
    y[7] = np.nan
    return mlp(12, 1), (x, y)


@fault("unscaled targets")
def targets_in_thousands():
    x, y = table()
    return mlp(12, 1), (x, 200000 + 80000 * y)


@fault("unscaled targets")
def targets_times_hundred():
    x, y = table()
    return mlp(12, 1, loss="mae"), (x, 150 * y)


@fault("class imbalance")
def rare_positives():
    return mlp(12, 1, "sigmoid", "binary_crossentropy"), binary_table(2000, share=0.02)


@fault("class imbalance")
def one_class_of_five_prevails():
    x, y = classes_table(4000)
    chosen = (y == 0) | (np.random.default_rng(0).random(4000) < 0.02)
    return mlp(10, 5, "softmax", SPARSE), (x[chosen], y[chosen])


@fault("constant labels")
def one_label_only():
    x, y = binary_table()
    return mlp(12, 1, "sigmoid", "binary_crossentropy"), (x, np.ones_like(y))


@fault("sorted data")
def dataset_sorted_by_class():
    x, y = images()
    order = np.argsort(y, kind="stable")
    return cnn(), tf.data.Dataset.from_tensor_slices((x[order], y[order])).batch(32)


@fault("sorted data", "constant labels")
def binary_dataset_sorted():
    x, y = binary_table(4000)
    order = np.argsort(y, kind="stable")
    return mlp(12, 1, "sigmoid", "binary_crossentropy"), tf.data.Dataset.from_tensor_slices(
        (x[order], y[order, None])
    ).batch(32)


@fault("sorted data")
def arrays_sorted_by_class():
    x, y = classes_table()
    order = np.argsort(y, kind="stable")
    return mlp(10, 5, "softmax", SPARSE), (x[order], y[order])


@fault("sorted data")
def dataset_shuffled_in_a_small_buffer():
    x, y = images()
    order = np.argsort(y, kind="stable")
    return cnn(), tf.data.Dataset.from_tensor_slices((x[order], y[order])).shuffle(50, seed=1).batch(32)


@fault("NaN in inputs")
def nan_in_features():
    x, y = table()
    x[5, 3] = np.nan
    return mlp(12, 1), (x, y)


@fault("NaN in inputs")
def infinite_feature():
    x, y = table()
    x[900, 2] = np.inf
    return mlp(12, 1), (x, y)


@fault("unscaled inputs")
def bytes_into_a_network():
    return cnn(), images(scale="raw")


@fault("unscaled inputs")
def bytes_into_normalized_network():
    return cnn(normalize=True), images(scale="raw")


@fault("unscaled inputs")
def raw_table():
    x, y = table()
    return mlp(12, 1), ((x * np.geomspace(1, 1e4, 12) + 50).astype("float32"), y)


@fault("unscaled inputs")
def one_large_feature():
    x, y = binary_table()
    x[:, 4] = 50000 + 9000 * x[:, 4]
    return mlp(12, 1, "sigmoid", "binary_crossentropy"), (x, y)


@fault("unscaled inputs")
def divided_twice():
    x, y = images(scale="unit")
    return cnn(), (x / 255, y)


@fault("unscaled inputs", "inputs not centred")
def inputs_with_an_offset():
    x, y = table()
    return mlp(12, 1), (x + 30, y)


@fault("constant features")
def black_images():
    x, y = images()
    return cnn(), (np.zeros_like(x), y)


@fault("constant features")
def most_columns_constant():
    x, y = table()
    x[:, 3:] = 1.0
    return mlp(12, 1), (x, y)


@fault("tokens out of range")
def vocabulary_too_small():
    return text_classifier(400), texts()


@fault("tokens out of range", "fractions into an Embedding")
def fractions_into_embedding():
    x, y = texts()
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [Input((24,)), layers.Embedding(500, 16), layers.GlobalAveragePooling1D(), Dense(1, "sigmoid")]
    )
    model.compile("adam", "binary_crossentropy")
    return model, ((x / 500).astype("float32"), y)


@fault("logits into a from_logits=False loss")
def softmax_forgotten():
    return cnn(activation=None), images()


@fault("logits into a from_logits=False loss")
def sigmoid_forgotten():
    return mlp(12, 1, None, "binary_crossentropy"), binary_table()


@fault("probabilities into a from_logits=True loss")
def softmax_and_from_logits():
    return cnn(loss=sparse_logits()), images()


@fault("probabilities into a from_logits=True loss")
def sigmoid_and_from_logits():
    return mlp(12, 1, "sigmoid", keras.losses.BinaryCrossentropy(from_logits=True)), binary_table()


@fault("sigmoid outputs into a softmax loss")
def sigmoids_for_classes():
    return cnn(activation="sigmoid"), images()


@fault("softmax of one unit")
def softmax_of_one():
    x, y = binary_table()
    return mlp(12, 1, "softmax", "binary_crossentropy"), (x, y)


@fault("softmax of one unit")
def one_unit_under_categorical():
    x, y = binary_table()
    return mlp(12, 1, "sigmoid", "categorical_crossentropy"), (x, y[:, None])


@fault("softmax twice")
def softmax_layer_after_softmax():
    return cnn(after=[layers.Softmax()]), images()


@fault("softmax over the wrong axis")
def softmax_over_time():
    x, y = language()
    keras.utils.set_random_seed(1)
    parts = [layers.Embedding(60, 16), layers.LSTM(16, return_sequences=True), Dense(60), layers.Softmax(axis=1)]
    model = keras.Sequential([Input((16,), dtype="int32"), *parts])
    model.compile("adam", SPARSE)
    return model, (x, y)


@fault("labels out of range", "softmax for labels that can occur together")
def softmax_for_multi_label():
    x, y = table()
    rows = np.stack([x[:, 0] + y > 1, x[:, 3] > 0, y > 0, x[:, 5] > 0], 1)
    return mlp(12, 4, "softmax", "binary_crossentropy"), (x, rows.astype("float32"))


@fault("activation on logits", "dead ReLUs")
def relu_on_logits():
    return cnn(activation="relu", loss=sparse_logits()), images()


@fault("targets out of the output's range")
def sigmoid_on_regression():
    return mlp(12, 1, "sigmoid"), table()


@fault("targets out of the output's range")
def relu_on_signed_targets():
    return mlp(12, 1, "relu"), table()


@fault("targets out of the output's range")
def tanh_on_standard_targets():
    x, y = table()
    return mlp(12, 1, "tanh"), (x, 3 * y)


@fault("negated loss")
def negated_squares():
    return mlp(12, 1, loss=lambda y_true, y_pred: -ops.mean((y_true - y_pred) ** 2, -1)), table()


@fault("negated loss")
def negated_crossentropy():
    return cnn(loss=lambda y_true, y_pred: -keras.losses.sparse_categorical_crossentropy(y_true, y_pred)), images()


@fault("negated loss")
def likelihood_instead_of_its_negative():
    def likelihood(y_true, y_pred):
        y_pred = ops.clip(y_pred, 1e-6, 1 - 1e-6)
        return ops.mean(y_true * ops.log(y_pred) + (1 - y_true) * ops.log(1 - y_pred), -1)

    x, y = binary_table()
    return mlp(12, 1, "sigmoid", likelihood), (x, y[:, None])


@fault("dead ReLUs")
def biases_far_below_zero():
    return mlp(10, 5, "softmax", SPARSE, bias_initializer=keras.initializers.Constant(-15.0)), classes_table()


@fault("exploding activations", "initial loss too high", "activations not finite")
def weights_too_large():
    large = keras.initializers.RandomNormal(stddev=2.0)
    return mlp(10, 5, "softmax", SPARSE, depth=5, kernel_initializer=large), classes_table()


@fault("vanishing activations", "vanishing gradients")
def weights_too_small():
    small = keras.initializers.RandomNormal(stddev=1e-3)
    return mlp(10, 5, "softmax", SPARSE, depth=5, kernel_initializer=small), classes_table()


@fault("vanishing gradients", "vanishing activations")
def deep_sigmoids():
    return mlp(10, 5, "softmax", SPARSE, hidden="sigmoid", depth=12), classes_table()


@fault("saturation")
def saturated_tanh():
    large = keras.initializers.RandomNormal(stddev=3.0)
    return mlp(10, 5, "softmax", SPARSE, hidden="tanh", kernel_initializer=large), classes_table()


@fault("units start equal", "vanishing gradients", "weights don't move", "dead ReLUs")
def zero_weights():
    model = mlp(10, 5, "softmax", SPARSE)
    for variable in model.trainable_variables:
        variable.assign(0 * variable)
    return model, classes_table()


@fault("units start equal")
def equal_weights():
    return mlp(
        10, 5, "softmax", SPARSE, hidden="tanh", kernel_initializer=keras.initializers.Constant(0.05)
    ), classes_table()


@fault("frozen layer")
def everything_frozen():
    model = cnn()
    model.trainable = False
    model.compile("adam", SPARSE)
    return model, images()


@fault("frozen layer")
def random_body_frozen():
    model = cnn()
    for layer in model.layers[:-1]:
        layer.trainable = False
    model.compile("adam", SPARSE)
    return model, images()


@fault("detached branch")
def stopped_gradient():
    keras.utils.set_random_seed(1)
    inputs = Input((10,))
    hidden = layers.Lambda(ops.stop_gradient)(Dense(32, "relu")(inputs))
    model = keras.Model(inputs, Dense(5, "softmax")(layers.Concatenate()([hidden, Dense(8, "relu")(inputs)])))
    model.compile("adam", SPARSE)
    return model, classes_table()


@fault("no nonlinearity")
def activations_forgotten():
    return mlp(10, 5, "softmax", SPARSE, hidden=None, depth=3), classes_table()


@fault("learning rate too high")
def rate_of_ten():
    return mlp(10, 5, "softmax", SPARSE, keras.optimizers.SGD(10.0)), classes_table()


@fault("learning rate too high")
def adam_rate_of_one():
    return cnn(optimizer=keras.optimizers.Adam(1.0)), images()


@fault("learning rate too low")
def rate_of_a_millionth():
    return mlp(10, 5, "softmax", SPARSE, keras.optimizers.SGD(1e-6)), classes_table()


@fault("learning rate too low", "updates too small")
def adam_rate_too_low():
    return cnn(optimizer=keras.optimizers.Adam(1e-8)), images()


@fault("learning rate falls too soon")
def decay_by_step_instead_of_epoch():
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-3, 1, 0.5)
    return cnn(optimizer=keras.optimizers.Adam(schedule)), images()


@fault("clipping too tight", "updates too small")
def tiny_clipping():
    return mlp(10, 5, "softmax", SPARSE, keras.optimizers.SGD(0.01, clipnorm=1e-5)), classes_table()


@fault("weight decay too strong")
def huge_weight_decay():
    return cnn(optimizer=keras.optimizers.AdamW(1e-3, weight_decay=50.0)), images()


@fault("penalty outweighs the loss")
def penalty_too_strong():
    return mlp(10, 5, "softmax", SPARSE, kernel_regularizer=keras.regularizers.L2(1.0)), classes_table()


@fault("negative penalty")
def penalty_of_wrong_sign():
    return mlp(10, 5, "softmax", SPARSE, kernel_regularizer=lambda w: -0.01 * ops.sum(w**2)), classes_table()


@fault("dropout rate too high")
def dropout_means_keep():
    keras.utils.set_random_seed(1)
    parts = [Dense(64, "relu"), layers.Dropout(0.8), Dense(64, "relu"), layers.Dropout(0.9), Dense(5, "softmax")]
    model = keras.Sequential([Input((10,)), *parts])
    model.compile("adam", SPARSE)
    return model, classes_table()


@fault("dropout rate too high")
def recurrent_dropout_means_keep():
    return recurrent(layers.LSTM, dropout=0.9), sequences()


@fault("dropout behind the output")
def dropout_after_softmax():
    return cnn(after=[layers.Dropout(0.3)]), images()


@fault("dropout behind the output")
def dropout_between_output_and_softmax():
    return cnn(activation=None, after=[layers.Dropout(0.5), layers.Softmax()]), images()


@fault("BatchNormalization momentum too slow")
def slow_statistics():
    return cnn(normalize={"momentum": 0.9999}), images()


@fault("BatchNormalization momentum too slow")
def slow_statistics_of_a_table():
    x, y = table(600)
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [Input((12,)), Dense(32), layers.BatchNormalization(momentum=0.999), layers.ReLU(), Dense(1)]
    )
    model.compile("adam", "mse")
    return model, (x, y)


@fault("BatchNormalization momentum too fast")
def momentum_of_another_library():
    return cnn(normalize={"momentum": 0.01}), images()


@fault("negative sample weights")
def weights_of_wrong_sign():
    x, y = table()
    return mlp(12, 1), (x, y, -np.ones(len(y), "float32"))


@fault("sample weights are all 0")
def weights_of_zero():
    x, y = table()
    return mlp(12, 1), (x, y, np.zeros(len(y), "float32"))


@fault("label among the inputs")
def label_as_a_feature():
    x, y = binary_table()
    return mlp(13, 1, "sigmoid", "binary_crossentropy"), (np.concatenate([x, 2 * y[:, None] - 1], 1), y)


@fault("label among the inputs")
def target_as_a_feature():
    x, y = table()
    return mlp(13, 1), (np.concatenate([x, y[:, None]], 1), y)


@fault("initial loss not finite", "labels out of range")
def poisson_of_linear_outputs():
    x, y = table()
    counts = np.random.default_rng(0).poisson(np.exp(0.5 + 0.5 * y)).astype("float32")
    return mlp(12, 1, None, "poisson"), (x, counts)


@fault("labels out of range")
def logarithms_of_negative_targets():
    return mlp(12, 1, None, "mean_squared_logarithmic_error"), table()


@fault("can't overfit", "shuffled labels")
def equal_images_with_other_labels():
    x, y = images()
    return cnn(), (np.repeat(x[:128], 8, 0), y)


@fault("wrong gradient")
def gradient_doubled():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([Input((10,)), Dense(24, "relu"), Doubled(), Dense(16, "tanh"), Dense(5, "softmax")])
    model.compile("adam", SPARSE)
    return model, classes_table()


class Doubled(layers.Layer):
    """The identity, whose gradient is wrong by a factor of two."""

    def call(self, inputs):
        @ops.custom_gradient
        def identity(x):
            return x, lambda *args, upstream=None: 2 * (args[0] if upstream is None else upstream)

        return identity(inputs)
