"""The small models of the transfer room's tests."""

import keras
import numpy as np

L = keras.layers


def images(num=12, seed=0):
    return np.random.default_rng(seed).normal(size=(num, 8, 8, 1)).astype("float32")


def vectors(num=24, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num, 4)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32")


def convolutional():
    """Returns a functional model whose parts have names: two stages, a skip, pooling and a softmax head."""
    inputs = keras.Input((8, 8, 1))
    low = L.Conv2D(3, 3, padding="same", use_bias=False, name="conv_1")(inputs)
    low = L.ReLU(name="relu_1")(L.BatchNormalization(name="norm_1")(low))
    high = L.Conv2D(3, 3, padding="same", name="conv_2")(low)
    high = L.ReLU(name="relu_2")(L.BatchNormalization(name="norm_2")(high))
    x = L.Add(name="skip")([low, high])
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, L.Dense(5, activation="softmax", name="classes")(x), name="convolutional")


def dense(compiled=None, seed=0, **arguments):
    """Returns layers low, norm, middle, head; with an optimizer, compiled for two classes."""
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input((4,)),
        L.Dense(6, "tanh", name="low"),
        L.BatchNormalization(momentum=0.5, name="norm"),
        L.Dense(5, "tanh", name="middle"),
        L.Dense(2, name="head"),
    ]
    model = keras.Sequential(layers, name="net")
    if compiled is not None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(compiled, loss, **{"jit_compile": False, **arguments})
    return model


def randomised(model, seed=1):
    """Gives every weight, statistics included, a number of its own, so that a mix-up shows."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.2, 1.0, weight.shape) for weight in model.get_weights()])
    return model


def values(model):
    """Returns a dictionary from `layer/weight` to bits."""
    return {
        f"{layer.name}/{weight.name}": np.array(keras.ops.convert_to_numpy(weight)).tobytes()
        for layer in model._flatten_layers(include_self=False)
        if not isinstance(layer, keras.Model)
        for weight in layer.weights
    }
