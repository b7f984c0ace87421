"""Trainings that other processes can import."""

import os

import keras
import numpy as np

kept = []


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype("float32")
    return x, (x @ np.array([[1.0], [-2.0], [0.5], [0.0]], "float32"))


def build(parameters):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(parameters["rate"]), "mse", jit_compile=False)
    return model


def fit(parameters, epochs, callbacks):
    return build(parameters).fit(*data(), validation_data=data(), epochs=epochs, callbacks=callbacks, verbose=0)


class Peculiar(Exception):
    """Takes other arguments than it keeps, so that it doesn't unpickle."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def by_kind(parameters, epochs, callbacks):
    if parameters["kind"] == "raise":
        raise ArithmeticError("no such thing")
    if parameters["kind"] == "peculiar":
        raise Peculiar(1, 2)
    if parameters["kind"] == "die":
        os._exit(9)
    return fit({"rate": {"good": 0.1, "hopeless": 50.0}[parameters["kind"]]}, epochs, callbacks)


def leak(parameters, epochs, callbacks):
    # 16 MiB each time, really touched.
    kept.append(np.ones(2 * 1024**2))
    return {"val_loss": [parameters["rate"]], "process": [float(os.getpid())]}
