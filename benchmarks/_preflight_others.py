"""The judging part of `preflight_verdicts.py`: faults and healthy models on which nothing was tuned.

They were written down before the checks were last changed, in other styles than those of `_preflight_models.py`, and
what the first run over them gave is what `README.md` reports.
"""

import keras
import numpy as np
import tensorflow as tf
from _preflight_models import (
    SPARSE,
    Dense,
    Doubled,
    Input,
    Slices,
    binary_table,
    blobs,
    classes_table,
    colour_images,
    images,
    language,
    sequences,
    series,
    sparse_logits,
    table,
    texts,
)
from keras import layers, ops

HEALTHY, FAULTS = {}, {}


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


def stack(shape, *parts, optimizer="adam", loss="mse", **options):
    """Returns a compiled sequential model."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([Input(shape, **options), *parts])
    model.compile(optimizer, loss)
    return model


def conv_net(*top, loss=SPARSE, optimizer="adam", shape=(8, 8, 1), filters=12, **options):
    body = [layers.Conv2D(filters, 3, activation="relu", **options), layers.Conv2D(16, 3, activation="relu")]
    return stack(shape, *body, layers.GlobalAveragePooling2D(), *top, loss=loss, optimizer=optimizer)


def two_inputs(scale=1.0, optimizer="adam", broken=False, activation="sigmoid"):
    """Returns a model of an image and a table, and its data as dictionaries."""
    x, y = images(512)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(512, 6)).astype("float32")
    rows[:, 0] += 0.5 * (y > 4)
    keras.utils.set_random_seed(3)
    image, row = Input((8, 8, 1), name="image"), Input((6,), name="row")
    hidden = layers.GlobalMaxPooling2D()(layers.Conv2D(16, 3, activation="relu")(image))
    hidden = layers.Concatenate()([Dense(16, "relu")(hidden), Dense(16, "relu")(row)])
    model = keras.Model({"image": image, "row": row}, Dense(1, activation)(hidden))
    model.compile(optimizer, "binary_crossentropy")
    rows = rows * scale
    if broken:
        rows[3, 2] = np.nan
    return model, ({"image": x, "row": rows.astype("float32")}, (y > 4).astype("float32")[:, None])


# Healthy ones.


@healthy
def image_beside_table():
    return two_inputs()


@healthy
def multi_label_from_logits():
    x, y = images()
    labels = np.stack([y % 2 == 0, y > 6, y < 3], 1).astype("float32")
    return conv_net(Dense(3), loss=keras.losses.BinaryCrossentropy(from_logits=True)), (x, labels)


@healthy
def regression_dataset_with_dropout():
    x, y = table()
    parts = [Dense(48), layers.BatchNormalization(), layers.ReLU(), layers.Dropout(0.3), Dense(1)]
    return stack((12,), *parts), tf.data.Dataset.from_tensor_slices((x, y)).shuffle(1024).batch(64)


@healthy
def masked_text_one_hot():
    x, y = texts()
    kinds = (y + (x[:, 0] > 400)).astype(int)
    parts = [layers.Embedding(500, 16, mask_zero=True), layers.Bidirectional(layers.LSTM(12)), Dense(3, "softmax")]
    model = stack((24,), *parts, loss="categorical_crossentropy", dtype="int32")
    return model, (x, np.eye(3, dtype="float32")[kinds])


@healthy
def sequence_to_sequence():
    x, _ = sequences()
    parts = [layers.LSTM(16), layers.RepeatVector(8), layers.LSTM(16, return_sequences=True), Dense(2)]
    return stack((16, 2), *parts, optimizer=keras.optimizers.Adam(3e-3)), (x, x[:, :8])


@healthy
def segmentation_of_three_classes():
    rng = np.random.default_rng(0)
    _, y = blobs()
    sign = rng.choice([-1, 1], (len(y), 1, 1, 1))
    x = (sign * y + 0.3 * rng.normal(size=y.shape)).astype("float32")
    kinds = (y * (1 + (sign > 0)))[..., 0].astype("int32")
    parts = [layers.Conv2D(8, 3, padding="same", activation="relu") for _ in range(2)]
    return stack((16, 16, 1), *parts, layers.Conv2D(3, 1, activation="softmax"), loss=SPARSE), (x, kinds)


@healthy
def convolutional_autoencoder():
    x, _ = images(scale="unit")
    down = [layers.Conv2D(8, 3, 2, padding="same", activation="relu"), layers.Conv2D(4, 3, padding="same")]
    up = [layers.Conv2DTranspose(8, 3, 2, padding="same", activation="relu"), layers.Conv2D(1, 3, padding="same")]
    return stack((8, 8, 1), *down, *up, layers.Activation("sigmoid")), (x, x)


@healthy
def denoising_autoencoder():
    x, _ = table()
    x[:, 6:] = x[:, :6] + 0.1 * x[:, 6:]
    return stack((12,), layers.GaussianNoise(0.2), Dense(24, "relu"), Dense(6), Dense(24, "relu"), Dense(12)), (x, x)


class LossLayer(layers.Layer):
    """Adds the error of its inputs to the loss: targets are an input."""

    def call(self, inputs):
        target, prediction = inputs
        self.add_loss(ops.mean(ops.square(target - prediction)))
        return prediction


@healthy
def targets_as_an_input():
    x, y = table()
    keras.utils.set_random_seed(3)
    features, target = Input((12,), name="features"), Input((1,), name="target")
    model = keras.Model([features, target], LossLayer()([target, Dense(1)(Dense(24, "relu")(features))]))
    model.compile("adam")
    return model, ([x, y[:, None]], y[:, None])


class OwnStep(keras.Model):
    """Trains by a step of its own."""

    def __init__(self):
        super().__init__()
        self.one, self.two = Dense(32, "relu"), Dense(5)

    def call(self, inputs):
        return self.two(self.one(inputs))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
        slopes = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(slopes, self.trainable_variables))
        return {"loss": loss}


@healthy
def own_train_step():
    keras.utils.set_random_seed(3)
    model = OwnStep()
    model.compile(keras.optimizers.Adam(2e-3), sparse_logits())
    return model, classes_table()


class OwnLoss(keras.Model):
    """Computes its loss itself."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(ops.square(y - y_pred)) + 0.01 * ops.mean(ops.abs(y_pred))


@healthy
def own_compute_loss():
    x, y = table()
    keras.utils.set_random_seed(3)
    inputs = Input((12,))
    model = OwnLoss(inputs, Dense(1)(Dense(24, "tanh")(inputs)))
    model.compile("adam")
    return model, (x, y[:, None])


@healthy
def nine_to_one():
    return stack((12,), Dense(32, "relu"), Dense(1, "sigmoid"), loss="binary_crossentropy"), binary_table(share=0.1)


class Weighted(Slices):
    """Batches with sample weights."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x, y, np.where(y > 0, 2.0, 1.0).astype("float32")


@healthy
def python_dataset_with_weights():
    return stack((12,), Dense(32, "relu"), Dense(1, "sigmoid"), loss="binary_crossentropy"), Weighted(*binary_table())


@healthy
def augmented_dataset():
    x, y = colour_images()
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(256).batch(32)
    data = data.map(lambda a, b: (tf.image.random_flip_left_right(tf.cast(a, tf.float32) / 127.5 - 1), b))
    return conv_net(Dense(4, "softmax"), shape=(32, 32, 3)), data


@healthy
def decoupled_decay_and_cosine():
    rate = keras.optimizers.schedules.CosineDecay(2e-3, 2000)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.05, clipnorm=1.0)
    return stack((10,), Dense(64, "gelu"), Dense(5, "softmax"), loss=SPARSE, optimizer=optimizer), classes_table()


@healthy
def mixed_bfloat16():
    parts = [Dense(32, "relu", dtype="mixed_bfloat16"), Dense(5, "softmax", dtype="float32")]
    return stack((10,), *parts, loss=SPARSE), classes_table()


@healthy
def residual_mlp_with_layer_normalization():
    keras.utils.set_random_seed(3)
    inputs = Input((12,))
    x = Dense(32)(inputs)
    for _ in range(4):
        x = x + Dense(32)(Dense(64, "gelu")(layers.LayerNormalization()(x)))
    model = keras.Model(inputs, Dense(1)(layers.LayerNormalization()(x)))
    model.compile(keras.optimizers.AdamW(1e-3), "mse")
    return model, table()


@healthy
def lion():
    optimizer = keras.optimizers.Lion(2e-4)
    return conv_net(Dense(10), loss=sparse_logits(), optimizer=optimizer), images()


@healthy
def plain_gradient_descent():
    optimizer = keras.optimizers.SGD(0.1)
    parts = [Dense(32, "relu", kernel_initializer="he_normal"), Dense(5, "softmax")]
    return stack((10,), *parts, loss=SPARSE, optimizer=optimizer), classes_table()


@healthy
def separable_convolutions():
    parts = [layers.SeparableConv2D(16, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU()]
    parts += [layers.SeparableConv2D(24, 3, activation="relu"), layers.GlobalAveragePooling2D(), Dense(4, "softmax")]
    return stack((32, 32, 3), layers.Rescaling(1 / 127.5, -1), *parts, loss=SPARSE), colour_images()


@healthy
def weak_signal_of_yes_and_no():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1500, 15)).astype("float32")
    y = rng.random(1500) < 1 / (1 + np.exp(-0.5 * x[:, 2]))
    return stack((15,), Dense(16, "relu"), Dense(1, "sigmoid"), loss="binary_crossentropy"), (x, y.astype("float32"))


@healthy
def counts_with_softplus():
    x, y = table()
    counts = np.random.default_rng(1).poisson(np.exp(0.3 + 0.5 * y)).astype("float32")
    return stack((12,), Dense(24, "relu"), Dense(1, "softplus"), loss="poisson"), (x, counts[:, None])


@healthy
def shares_by_a_sigmoid():
    x, y = table()
    return stack((12,), Dense(24, "relu"), Dense(1, "sigmoid")), (x, 1 / (1 + np.exp(-y[:, None])))


@healthy
def directions_by_cosine():
    x, y = classes_table()
    targets = np.random.default_rng(2).normal(size=(5, 16))[y].astype("float32")
    return stack((10,), Dense(32, "relu"), Dense(16), layers.UnitNormalization(), loss="cosine_similarity"), (
        x,
        targets,
    )


@healthy
def forecast_of_six_steps():
    x, _ = series()
    return stack((24, 1), layers.GRU(16), Dense(6)), (
        x[:-6],
        np.stack([x[i : len(x) - 6 + i, -1, 0] for i in range(1, 7)], 1),
    )


@healthy
def long_waveforms():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 256)
    x = np.sin(np.arange(400) * (0.1 + 0.1 * y[:, None]) + rng.uniform(0, 6, (256, 1))) + rng.normal(size=(256, 400))
    parts = [layers.Conv1D(8, 15, 4, activation="relu"), layers.Conv1D(16, 9, 4, activation="relu")]
    model = stack(
        (400, 1),
        *parts,
        layers.GlobalAveragePooling1D(),
        Dense(1),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    return model, (x[..., None].astype("float32"), y.astype("float32"))


@healthy
def attention_over_a_set():
    x, y = sequences()
    keras.utils.set_random_seed(3)
    inputs = Input((16, 2))
    hidden = Dense(16)(inputs)
    hidden = layers.LayerNormalization()(hidden + layers.MultiHeadAttention(2, 8)(hidden, hidden))
    model = keras.Model(inputs, Dense(3, "softmax")(Dense(32, "relu")(layers.Flatten()(hidden))))
    model.compile("adam", SPARSE)
    return model, (x, y)


@healthy
def linear_support_vectors():
    x, y = binary_table()
    return stack((12,), Dense(1, kernel_regularizer=keras.regularizers.L2(0.01)), loss="hinge"), (x, 2 * y[:, None] - 1)


@healthy
def trained_body_frozen():
    x, y = images()
    body = conv_net(Dense(10, "softmax"))
    body.fit(x, y, epochs=1, verbose=0)
    body = keras.Model(body.inputs, body.layers[-2].output)
    body.trainable = False
    return stack((8, 8, 1), body, Dense(16, "relu"), Dense(2, "softmax"), loss=SPARSE), (x, y % 2)


@healthy
def characters_by_a_gru():
    x, y = language()
    parts = [layers.Embedding(60, 16), layers.GRU(32, return_sequences=True), layers.Dropout(0.2), Dense(60, "softmax")]
    return stack((16,), *parts, loss=SPARSE, optimizer=keras.optimizers.Adam(3e-3), dtype="int32"), (x, y)


@healthy
def ages():
    x, y = table()
    return stack((12,), Dense(64, "relu"), Dense(1), loss="mae"), (x, np.clip(41 + 12 * y[:, None], 1, 95))


@healthy
def logistic_regression_of_words():
    x, y = texts(vocabulary=800)
    rows = np.stack([np.bincount(row[row > 0], minlength=800) > 0 for row in x]).astype("float32")
    rows *= np.log(len(x) / (1 + rows.sum(0)))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return stack((800,), Dense(2, "softmax"), loss=SPARSE), (rows, y.astype("int32"))


@healthy
def two_sigmoid_layers():
    return stack((10,), Dense(24, "sigmoid"), Dense(24, "sigmoid"), Dense(5, "softmax"), loss=SPARSE), classes_table()


@healthy
def hundred_classes():
    x, y = classes_table(2000, 100)
    return stack((10,), Dense(64, "relu"), Dense(100, "softmax"), loss=SPARSE), (x, y)


# Faults.


@fault("labels of the wrong shape")
def one_target_for_four_outputs():
    x, y = table()
    return stack((12,), Dense(24, "relu"), Dense(4), loss="huber"), (x, y[:, None])


@fault("labels of the wrong shape")
def column_of_yes_and_no_for_two_units():
    return stack((12,), Dense(24, "relu"), Dense(2, "sigmoid"), loss="binary_crossentropy"), binary_table()


@fault("labels of the wrong shape")
def mask_of_half_the_size():
    x, y = blobs()
    parts = [layers.Conv2D(8, 3, padding="same", activation="relu"), layers.Conv2D(1, 1, activation="sigmoid")]
    return stack((16, 16, 1), *parts, loss="binary_crossentropy"), (x, y[:, ::2, ::2])


@fault("labels of the wrong shape")
def a_step_too_many_dimensions():
    x, y = sequences()
    return stack((16, 2), layers.GRU(12, return_sequences=True), Dense(3, "softmax"), loss=SPARSE), (x, y)


@fault("dropout rate too high")
def spatial_dropout_means_keep():
    x, y = images()
    keras.utils.set_random_seed(3)
    parts = [layers.Conv2D(16, 3, activation="relu"), layers.SpatialDropout2D(0.85), layers.GlobalAveragePooling2D()]
    return stack((8, 8, 1), *parts, Dense(10, "softmax"), loss=SPARSE), (x, y)


@fault("dropout rate too high")
def dropout_of_all_but_a_tenth():
    parts = [Dense(64, "relu"), layers.Dropout(0.9), Dense(1, "sigmoid")]
    return stack((12,), *parts, loss="binary_crossentropy"), binary_table()


@fault("dropout behind the output")
def dropout_on_a_regression():
    return stack((12,), Dense(32, "relu"), Dense(1), layers.Dropout(0.2)), table()


@fault("dropout behind the output")
def noise_on_logits():
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return stack((12,), Dense(32, "relu"), Dense(1), layers.GaussianNoise(0.5), loss=loss), binary_table()


@fault("BatchNormalization momentum too slow")
def nearly_still_statistics():
    x, y = colour_images()
    parts = [layers.Conv2D(8, 3), layers.BatchNormalization(momentum=0.9995), layers.ReLU()]
    model = stack(
        (32, 32, 3),
        layers.Rescaling(1 / 127.5, -1),
        *parts,
        layers.GlobalAveragePooling2D(),
        Dense(4, "softmax"),
        loss=SPARSE,
    )
    return model, tf.data.Dataset.from_tensor_slices((x, y)).shuffle(256).batch(32)


@fault("negated loss")
def negative_weight_of_the_loss():
    x, y = table()
    model = stack((12,), Dense(24, "relu"), Dense(1))
    model.compile("adam", "mse", loss_weights=[-1.0])
    return model, (x, y[:, None])


@fault("negated loss")
def accuracy_as_a_loss():
    def agreement(y_true, y_pred):
        return ops.mean(y_true * y_pred + (1 - y_true) * (1 - y_pred), -1)

    x, y = binary_table()
    return stack((12,), Dense(24, "relu"), Dense(1, "sigmoid"), loss=agreement), (x, y[:, None])


@fault("negated loss")
def negated_absolute_error_of_images():
    x, _ = images(scale="unit")
    parts = [layers.Conv2D(8, 3, padding="same", activation="relu"), layers.Conv2D(1, 3, padding="same")]
    return stack((8, 8, 1), *parts, loss=lambda a, b: -ops.mean(ops.abs(a - b), -1)), (x, x)


@fault("sorted data")
def python_dataset_in_order_of_class():
    x, y = classes_table()
    order = np.argsort(y, kind="stable")
    return stack((10,), Dense(32, "relu"), Dense(5, "softmax"), loss=SPARSE), Slices(x[order], y[order])


@fault("sorted data")
def files_one_after_the_other():
    x, y = binary_table(1600)
    parts = [tf.data.Dataset.from_tensor_slices((x[y == kind], y[y == kind, None])) for kind in (0, 1)]
    model = stack((12,), Dense(32, "relu"), Dense(1, "sigmoid"), loss="binary_crossentropy")
    return model, parts[0].concatenate(parts[1]).batch(32)


@fault("sorted data")
def one_hot_rows_in_order():
    x, y = images()
    order = np.argsort(y, kind="stable")
    data = tf.data.Dataset.from_tensor_slices((x[order], np.eye(10, dtype="float32")[y[order]])).batch(64)
    return conv_net(Dense(10, "softmax"), loss="categorical_crossentropy"), data


@fault("class imbalance")
def one_in_two_hundred():
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return stack((12,), Dense(24, "relu"), Dense(1), loss=loss), binary_table(4000, share=0.005)


@fault("class imbalance")
def one_hot_with_a_class_of_almost_all():
    x, y = classes_table(3000, 3)
    chosen = (y == 1) | (np.random.default_rng(0).random(3000) < 0.02)
    model = stack((10,), Dense(24, "relu"), Dense(3, "softmax"), loss="categorical_crossentropy")
    return model, (x[chosen], np.eye(3, dtype="float32")[y[chosen]])


@fault("learning rate too high", "updates too large")
def adam_rate_of_a_half():
    return two_inputs(optimizer=keras.optimizers.Adam(0.5))


@fault("learning rate too high", "updates too large")
def rmsprop_rate_of_three():
    return stack((12,), Dense(24, "relu"), Dense(1), optimizer=keras.optimizers.RMSprop(3.0)), table()


@fault("learning rate too low", "updates too small")
def momentum_rate_of_a_ten_millionth():
    optimizer = keras.optimizers.SGD(1e-7, momentum=0.9)
    return conv_net(Dense(10, "softmax"), optimizer=optimizer), images()


@fault("learning rate is not above 0", "weights don't move", "learning rate too low")
def rate_of_zero():
    return stack(
        (10,), Dense(24, "relu"), Dense(5, "softmax"), loss=SPARSE, optimizer=keras.optimizers.Adam(0.0)
    ), classes_table()


@fault("learning rate falls too soon")
def cosine_over_ten_steps():
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 10))
    return stack((10,), Dense(24, "relu"), Dense(5, "softmax"), loss=SPARSE, optimizer=optimizer), classes_table()


@fault("frozen layer")
def random_embedding_frozen():
    x, y = texts()
    parts = [layers.Embedding(500, 16, trainable=False), layers.GlobalAveragePooling1D(), Dense(16, "relu")]
    return stack((24,), *parts, Dense(1, "sigmoid"), loss="binary_crossentropy", dtype="int32"), (x, y)


class Forgotten(keras.Model):
    """Calls a layer whose output goes nowhere."""

    def __init__(self):
        super().__init__()
        self.body, self.side, self.top = Dense(24, "relu"), Dense(8, "relu"), Dense(1)

    def call(self, inputs):
        hidden = self.body(inputs)
        self.side(hidden)
        return self.top(hidden)


@fault("detached branch")
def branch_that_goes_nowhere():
    keras.utils.set_random_seed(3)
    model = Forgotten()
    model.compile("adam", "mse")
    return model, table()


@fault("no nonlinearity")
def convolutions_without_activations():
    parts = [layers.Conv2D(8, 3), layers.Conv2D(16, 3), layers.Flatten(), Dense(10, "softmax")]
    return stack((8, 8, 1), *parts, loss=SPARSE), images()


@fault("NaN in sample weights")
def nan_in_weights():
    x, y = table()
    weights = np.ones(len(y), "float32")
    weights[3] = np.nan
    return stack((12,), Dense(24, "relu"), Dense(1)), (x, y, weights)


@fault("NaN in inputs")
def nan_in_one_of_two_inputs():
    return two_inputs(broken=True)


@fault("unscaled inputs")
def one_of_two_inputs_unscaled():
    return two_inputs(scale=3000.0)


@fault("unscaled inputs")
def time_stamps():
    x, y = table()
    x[:, 0] = 1.6e9 + 1e6 * x[:, 0]
    return stack((12,), Dense(24, "relu"), Dense(1)), (x, y)


@fault("unscaled inputs")
def divided_before_and_inside():
    x, y = colour_images()
    parts = [layers.Rescaling(1 / 255), layers.Conv2D(8, 3, activation="relu"), layers.GlobalAveragePooling2D()]
    return stack((32, 32, 3), *parts, Dense(4, "softmax"), loss=SPARSE), (x.astype("float32") / 255, y)


@fault("unscaled inputs")
def bytes_of_a_dataset():
    x, y = colour_images()
    data = tf.data.Dataset.from_tensor_slices((x.astype("float32"), y)).shuffle(256).batch(32)
    return conv_net(Dense(4, "softmax"), shape=(32, 32, 3)), data


@fault("tokens out of range")
def padding_of_minus_one():
    x, y = texts()
    parts = [layers.Embedding(500, 16), layers.GlobalAveragePooling1D(), Dense(1, "sigmoid")]
    return stack((24,), *parts, loss="binary_crossentropy", dtype="int32"), (np.where(x == 0, -1, x), y)


@fault("tokens out of range")
def vocabulary_without_the_last_word():
    x, y = language()
    parts = [layers.Embedding(59, 16), layers.GRU(16, return_sequences=True), Dense(60)]
    return stack((16,), *parts, loss=sparse_logits(), dtype="int32"), (x, y)


@fault("activation on probabilities", "initial loss too high", "logits into a from_logits=False loss")
def relu_as_a_probability():
    return stack((12,), Dense(24, "relu"), Dense(1, "relu"), loss="binary_crossentropy"), binary_table()


@fault("logits into a from_logits=False loss")
def tanh_as_a_probability():
    return stack((12,), Dense(24, "relu"), Dense(1, "tanh"), loss="binary_crossentropy"), binary_table()


@fault("probabilities into a from_logits=True loss")
def sigmoids_and_from_logits_for_masks():
    x, y = blobs()
    parts = [layers.Conv2D(8, 3, padding="same", activation="relu"), layers.Conv2D(1, 1, activation="sigmoid")]
    return stack((16, 16, 1), *parts, loss=keras.losses.BinaryCrossentropy(from_logits=True)), (x, y)


@fault("labels out of range", "softmax for labels that can occur together")
def several_labels_under_a_softmax():
    x, y = images()
    labels = np.stack([y % 2 == 0, y > 6, y < 3], 1).astype("float32")
    return conv_net(Dense(3, "softmax"), loss="categorical_crossentropy"), (x, labels)


@fault("units start equal")
def kernels_of_ones():
    parts = [Dense(24, "tanh", kernel_initializer="ones"), Dense(5, "softmax")]
    return stack((10,), *parts, loss=SPARSE), classes_table()


@fault("exploding activations", "initial loss too high", "saturation", "exploding gradients")
def orthogonal_times_fifty():
    init = keras.initializers.Orthogonal(gain=50.0)
    return stack(
        (10,), *[Dense(24, "relu", kernel_initializer=init) for _ in range(4)], Dense(5, "softmax"), loss=SPARSE
    ), classes_table()


@fault("dead ReLUs")
def convolution_with_low_biases():
    x, y = images()
    return conv_net(Dense(10, "softmax"), bias_initializer=keras.initializers.Constant(-20.0)), (x, y)


@fault("penalty outweighs the loss")
def penalty_on_convolutions():
    penalty = keras.regularizers.L1(1.0)
    return conv_net(Dense(10, "softmax", kernel_regularizer=penalty), kernel_regularizer=penalty), images()


@fault("clipping too tight", "updates too small", "learning rate too low")
def global_clipping_of_a_millionth():
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=1e-6)
    return stack((10,), Dense(24, "relu"), Dense(5, "softmax"), loss=SPARSE, optimizer=optimizer), classes_table()


@fault("weight decay too strong")
def decay_of_gradient_descent():
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    return stack((10,), Dense(24, "relu"), Dense(5, "softmax"), loss=SPARSE, optimizer=optimizer), classes_table()


@fault("shuffled labels")
def masks_of_other_images():
    x, y = blobs()
    parts = [layers.Conv2D(8, 3, padding="same", activation="relu"), layers.Conv2D(1, 1, activation="sigmoid")]
    return stack((16, 16, 1), *parts, loss="binary_crossentropy"), (x, np.random.default_rng(4).permutation(y))


@fault("shuffled labels")
def only_inputs_shuffled():
    x, y = sequences()
    parts = [layers.LSTM(16), Dense(3, "softmax")]
    return stack((16, 2), *parts, loss=SPARSE), Slices(np.random.default_rng(4).permutation(x), y)


@fault("label among the inputs")
def answer_in_the_table():
    model, (x, y) = two_inputs()
    x["row"][:, 5] = y[:, 0] * 3 - 1
    return model, (x, y)


class Reversed(layers.Layer):
    """The identity, whose gradient has the wrong sign."""

    def call(self, inputs):
        @tf.custom_gradient
        def identity(x):
            return tf.identity(x), lambda upstream: -upstream

        return identity(inputs)


@fault("wrong gradient")
def gradient_of_the_wrong_sign():
    parts = [layers.Conv2D(8, 3, activation="tanh"), Reversed(), layers.GlobalAveragePooling2D(), Dense(10, "softmax")]
    return stack((8, 8, 1), *parts, loss=SPARSE), images()


class DoubledModel(keras.Model):
    """A subclass with a wrong gradient inside."""

    def __init__(self):
        super().__init__()
        self.one, self.wrong, self.two = Dense(16, "sigmoid"), Doubled(), Dense(1)

    def call(self, inputs):
        return self.two(self.wrong(self.one(inputs)))


@fault("wrong gradient")
def gradient_doubled_in_a_subclass():
    keras.utils.set_random_seed(3)
    model = DoubledModel()
    model.compile("adam", "mse")
    return model, table()


@fault("labels out of range")
def five_classes_under_a_hinge():
    x, y = classes_table()
    return stack((10,), Dense(24, "relu"), Dense(1), loss="hinge"), (x, y[:, None].astype("float32"))


@fault("activations not finite", "initial loss not finite")
def logarithm_of_signed_inputs():
    return stack((12,), layers.Lambda(ops.log), Dense(24, "relu"), Dense(1)), table()


@fault("targets out of the output's range")
def softplus_on_signed_targets():
    return stack((12,), Dense(24, "relu"), Dense(1, "softplus"), loss="mae"), table()


@fault("constant features", "shuffled labels", "can't overfit")
def blank_pictures():
    x, y = images()
    return conv_net(Dense(10, "softmax")), (np.full_like(x, 0.5), y)


@fault("can't overfit", "shuffled labels", "constant features")
def same_row_other_target():
    x, y = table()
    return stack((12,), Dense(24, "relu"), Dense(1)), (np.tile(x[:1], (len(x), 1)) + 0.0, y)
