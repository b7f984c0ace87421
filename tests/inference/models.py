"""Small models of every kind, shared by this room's tests."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 6)).astype("float32")
LABELS = rng.integers(0, 3, 40)


def classifier(seed, activation="softmax", units=5, head=3, loss="auto"):
    """A compiled Sequential classifier; without activation its loss takes logits."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([
        keras.Input((6,)),
        layers.Dense(units, activation="tanh"),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.Dense(head, activation=activation, kernel_initializer="random_normal", bias_initializer="random_normal"),
    ])  # fmt: skip
    if loss == "auto":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None)
    if loss is not None:
        model.compile("sgd", loss, metrics=["accuracy"])
    for variable in model.variables:
        if "moving" in variable.path:
            variable.assign(np.random.default_rng(seed).uniform(0.5, 2.0, variable.shape))
    return model


def functional(*tail, shape=(8,), seed=0):
    keras.utils.set_random_seed(seed)
    inputs = outputs = keras.Input(shape)
    for layer in tail:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def two_headed(seed, as_dictionary=True):
    """Two inputs; a classification from logits and a regression."""
    keras.utils.set_random_seed(seed)
    image, features = keras.Input((4, 4, 1), name="image"), keras.Input((6,), name="features")
    x = layers.Flatten()(layers.Conv2D(2, 3, activation="relu")(image))
    x = layers.Concatenate()([x, layers.Dense(4, activation="relu")(features)])
    kind, size = layers.Dense(3, name="kind")(x), layers.Dense(1, name="size")(x)
    outputs = {"kind": kind, "size": size} if as_dictionary else [kind, size]
    model = keras.Model({"image": image, "features": features} if as_dictionary else [image, features], outputs)
    losses = {"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "size": "mse"}
    model.compile("sgd", losses, metrics={"kind": ["accuracy"], "size": ["mae"]})
    return model


@keras.saving.register_keras_serializable(package="kregkit_tests")
class Subclassed(keras.Model):
    """A subclassed model with a nested one, whose `call` knows no `training`."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.inner = keras.Sequential([layers.Dense(units, activation="relu"), layers.BatchNormalization()])
        self.head = layers.Dense(3, activation="softmax")

    def call(self, inputs):
        return self.head(self.inner(inputs))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def subclassed(seed):
    keras.utils.set_random_seed(seed)
    model = Subclassed()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model(X[:2])
    return model


def softmax(z):
    z = np.exp(np.asarray(z, "float64") - np.max(z, axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-np.asarray(z, "float64")))


def permuted(seed):
    """Two models that predict the same, whose hidden units stand in another order."""
    keras.utils.set_random_seed(seed)
    models = []
    for _ in range(2):
        body = [layers.Dense(8, "tanh"), layers.Dense(3, "softmax")]
        models.append(keras.Sequential([keras.Input((6,)), *body]))
        models[-1].compile("sgd", "sparse_categorical_crossentropy")
    kernel, bias, head, last = [4 * weight for weight in models[0].get_weights()]
    order = np.roll(np.arange(8), 1)
    models[0].set_weights([kernel, bias, head, last])
    models[1].set_weights([kernel[:, order], bias[order], head[order], last])
    return models
