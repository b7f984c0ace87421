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
    ({"branch": branch(), "layer_scale": 0}, "> 0"),
]

CASES = [
    *[
        contracts.Case(
            layers.StochasticDepth,
            lambda mode=mode: layers.StochasticDepth(branch(), 0.6, mode=mode, seed=3),
            bad=BAD_DEPTH if mode == "batch" else [],
            same=False,
            modes=tuple(contracts.MODES) if mode == "subset" else contracts.COMPILED,
            name=mode,
        )
        for mode in ("batch", "sample", "subset")
    ],
    contracts.Case(
        layers.StochasticDepth,
        lambda: layers.StochasticDepth(branch(), 0.6, seed=3, layer_scale=1e-2),
        same=False,
        name="layer_scale",
    ),
    contracts.Case(
        layers.DropPath,
        lambda: layers.DropPath(0.3, seed=1),
        bad=[({"rate": 1.0}, "[0, 1)"), ({"rate": 0.1, "seed": -1}, "integer >= 0")],
        same=False,
    ),
    contracts.Case(
        layers.DropBlock2D,
        lambda: layers.DropBlock2D(0.3, 2, "channels_last", seed=1),
        bad=[
            ({"rate": -0.1}, "[0, 1)"),
            ({"rate": 0.1, "block_size": 0}, ">= 1"),
            ({"rate": 0.1, "data_format": "NHWC"}, "'channels_last', 'channels_first'"),
        ],
        input_shape=(4, 5, 2),
        same=False,
    ),
]

GLOROT = keras.initializers.GlorotUniform(seed=1)


def dense():
    return keras.layers.Dense(5, activation="tanh", kernel_initializer=GLOROT)


BAD_POOLING = [
    ({}, "Exactly one"),
    ({"pool_ratio": 1.5, "output_size": 3}, "Exactly one"),
    ({"pool_ratio": 0.9}, ">= 1"),
    ({"pool_ratio": (1.5,) * 4}, "one for each of"),
    ({"output_size": 0}, ">= 1"),
    ({"pool_ratio": 1.5, "regions": "regular"}, "'pseudorandom', 'random'"),
    ({"pool_ratio": 1.5, "share": "all"}, "'batch', 'example', 'channel'"),
    ({"pool_ratio": 1.5, "overlapping": "yes"}, "True, False"),
    ({"pool_ratio": 1.5, "data_format": "NHWC"}, "'channels_last', 'channels_first'"),
]

CASES += [
    contracts.Case(
        layers.DropConnect,
        lambda mask=mask, inference=inference: layers.DropConnect(dense(), 0.4, mask, inference, seed=2),
        bad=[
            ({"layer": keras.layers.ReLU()}, "Dense"),
            ({"layer": dense(), "rate": 1.0}, "[0, 1)"),
            ({"layer": dense(), "mask": "all"}, "'example', 'batch', 'exact'"),
            ({"layer": dense(), "inference": "mode"}, "'mean', 'gaussian'"),
            ({"layer": dense(), "draws": 0}, ">= 1"),
        ]
        if mask == "example"
        else [],
        same=False,
        modes=tuple(contracts.MODES) if mask == "example" else contracts.COMPILED,
        name=f"{mask}-{inference}",
    )
    for mask, inference in (("example", "gaussian"), ("batch", "mean"), ("exact", "mean"))
]
CASES += [
    contracts.Case(
        layers.DropConnect,
        lambda make=make, mask=mask: layers.DropConnect(make(3, kernel_initializer=GLOROT), 0.4, mask, seed=2),
        input_shape=(4, 2),
        same=False,
        name=f"{make.__name__}-{mask}",
    )
    for make, mask in ((keras.layers.LSTM, "batch"), (keras.layers.GRU, "example"))
]
CASES += [
    contracts.Case(
        layer,
        lambda layer=layer, arguments=arguments: layer(**arguments, data_format="channels_last", seed=4),
        bad=BAD_POOLING if index == 0 else [],
        input_shape=(*shape, 2),
        same=False,
        modes=tuple(contracts.MODES) if name == "batch" else contracts.COMPILED,
        name=name,
    )
    for layer, shape, name, index, arguments in [
        (layers.FractionalMaxPooling1D, (9,), "", 0, {"pool_ratio": 1.6}),
        (layers.FractionalMaxPooling2D, (7, 8), "batch", 0, {"pool_ratio": 1.5}),
        (layers.FractionalMaxPooling2D, (7, 8), "example", 1, {"output_size": (4, 5), "share": "example"}),
        (layers.FractionalMaxPooling2D, (7, 8), "channel", 1, {"pool_ratio": 2.3, "share": "channel"}),
        (layers.FractionalMaxPooling3D, (4, 5, 3), "", 0, {"pool_ratio": 1.4, "regions": "random"}),
    ]
]
CASES += [
    contracts.Case(
        layers.Maxout,
        lambda: layers.Maxout(4, 3, kernel_initializer=GLOROT),
        bad=[({"units": 0}, ">= 1"), ({"units": 3, "pieces": 0}, ">= 1")],
    ),
    contracts.Case(
        layers.MaxoutConv2D,
        lambda: layers.MaxoutConv2D(4, 3, 2, padding="same", kernel_initializer=GLOROT, data_format="channels_last"),
        bad=[({"filters": 0, "kernel_size": 3}, ">= 1"), ({"filters": 3, "kernel_size": 3, "pieces": 1.5}, ">= 1")],
        input_shape=(5, 5, 2),
        # Two pieces closer than half precision resolves change places, and one position's gradient with them.
        tolerance={"mixed_float16": 6e-2},
    ),
]
