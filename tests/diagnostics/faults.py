"""A healthy model on real digits, and the same with one fault planted."""

import keras
import numpy as np
from keras import layers, ops

from kregkit.data import digits


def data(split="train"):
    """Returns standardised digits `(num, 8, 8, 1)` and labels."""
    x, y = digits(split, as_arrays=True)
    x = x.astype("float32")
    return (x - 78.0) / 96.0, y


def healthy(head="logits", rate=1e-3, normalize=True, **compile_arguments):
    """Returns a compiled convolutional network for `data()`."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = inputs
    for filters in (8, 16):
        x = layers.Conv2D(filters, 3, padding="same", kernel_initializer="he_normal")(x)
        if normalize:
            x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Dense(32, "relu", kernel_initializer="he_normal")(layers.Flatten()(x))
    x = layers.Dropout(0.2)(x)
    model = keras.Model(inputs, layers.Dense(10, "softmax" if head == "probabilities" else None, name="top")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=head == "logits")
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], **compile_arguments)
    return model


@keras.saving.register_keras_serializable(package="tests")
class DoubledGradient(layers.Layer):
    """The identity, whose gradient is wrong by a factor of two."""

    def call(self, inputs):
        @ops.custom_gradient
        def identity(x):
            return x, lambda *args, upstream=None: 2 * (args[0] if upstream is None else upstream)

        return identity(inputs)


def shuffled_labels():
    x, y = data()
    return healthy(), (x, np.random.default_rng(0).permutation(y))


def frozen_layer():
    model = healthy()
    model.layers[1].trainable = False
    return model, data()


def detached_branch():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.Flatten()(inputs)
    one = layers.Dense(24, "relu", name="attached")(x)
    other = layers.Lambda(ops.stop_gradient)(layers.Dense(8, "relu", name="detached")(x))
    model = keras.Model(inputs, layers.Dense(10)(layers.Concatenate()([one, other])))
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model, data()


def logits_as_probabilities():
    model = healthy()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy())
    return model, data()


def rate_too_high():
    return healthy(rate=1.0), data()


def unscaled_inputs():
    x, y = digits("train", as_arrays=True)
    return healthy(), (x.astype("float32"), y)


def wrong_gradient():
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(24, "relu", name="before"), DoubledGradient(), layers.Dense(16, "tanh", name="after")]
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), *hidden, layers.Dense(10)])
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model, data()


def dead_relus():
    model = healthy(normalize=False)
    model.layers[1].bias.assign(-20.0 * np.ones(8))
    return model, data()


# What is planted, and the name by which it must be found.
PLANTED = {
    "shuffled labels": shuffled_labels,
    "frozen layer": frozen_layer,
    "detached branch": detached_branch,
    "logits into a from_logits=False loss": logits_as_probabilities,
    "learning rate too high": rate_too_high,
    "unscaled inputs": unscaled_inputs,
    "wrong gradient": wrong_gradient,
    "dead ReLUs": dead_relus,
}
