"""The layers' rows in the table of contracts."""

import contracts
import keras

from kregkit import layers


def branch(units=8):
    return keras.Sequential([
        keras.layers.Dense(units, activation="relu", kernel_initializer=keras.initializers.GlorotUniform(seed=1)),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(units, kernel_initializer=keras.initializers.GlorotUniform(seed=2)),
    ])  # fmt: skip


BAD_DEPTH = [
    ({"branch": "relu"}, "layer or model"),
    ({"branch": branch(), "survival_probability": 0.0}, "(0, 1]"),
    ({"branch": branch(), "survival_probability": 1.5}, "(0, 1]"),
    ({"branch": branch(), "mode": "row"}, "'batch', 'sample', 'subset'"),
    ({"branch": branch(), "shortcut": 3}, "layer or model, or None"),
    ({"branch": branch(), "scale": "both"}, "'train', 'test'"),
    ({"branch": branch(), "seed": -1}, "integer >= 0"),
]

CASES = [
    *[
        contracts.Case(
            layers.StochasticDepth,
            lambda mode=mode: layers.StochasticDepth(branch(), 0.6, mode=mode, seed=3),
            bad=BAD_DEPTH if mode == "batch" else [],
            same=False,
            name=mode,
        )
        for mode in ("batch", "sample", "subset")
    ],
]
