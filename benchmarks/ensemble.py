"""Time to predict with an ensemble, against its members' `predict` one after the other.

    python benchmarks/ensemble.py            # about a minute
    python benchmarks/ensemble.py --smoke    # seconds, for seeing that it runs

An ensemble should cost the members' forward passes and nothing more. "forward passes" is their sum alone: each member's
compiled predict function on batches that are tensors already, without data pipeline or progress bar. The ways take
turns; times are medians, ratios medians of the rounds' ratios. "first" is the first call, tracing included.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _interleave import median_ratio, print_table
from keras import layers

from kregkit.inference import Ensemble

MEMBERS = 6
ROUNDS = 15
BATCH_SIZE = 32


def mlp():
    hidden = [layers.Dense(256, activation="relu") for _ in range(8)]
    return keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10, activation="softmax")])


def cnn():
    model = keras.Sequential([keras.Input((32, 32, 3))])
    for width in (32, 64, 64):
        model.add(layers.Conv2D(width, 3, padding="same", activation="relu"))
        model.add(layers.BatchNormalization())
        model.add(layers.MaxPooling2D())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10, activation="softmax"))
    return model


MODELS = {"mlp": (mlp, (512, 8192)), "cnn": (cnn, (64, 1024))}


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def row(name, make, images, members, rounds):
    models = [make() for _ in range(members)]
    ensemble = Ensemble(models)
    x = np.random.default_rng(0).normal(size=(images, *models[0].input_shape[1:])).astype("float32")
    batches = [keras.ops.convert_to_tensor(x[start : start + BATCH_SIZE]) for start in range(0, images, BATCH_SIZE)]

    def one_by_one():
        return np.mean([model.predict(x, verbose=0) for model in models], axis=0)

    def together():
        return ensemble.predict(x, verbose=0)

    def forward_passes():
        for model in models:
            for batch in batches:
                model.predict_function([(batch,)]).numpy()

    first = [seconds(one_by_one), seconds(together)]
    assert np.allclose(one_by_one(), together(), atol=1e-5)
    forward_passes()
    times = list(zip(*([seconds(run) for run in (one_by_one, together, forward_passes)] for _ in range(rounds))))
    apart, ours, bare = (f"{1e3 * statistics.median(column):.0f} ms" for column in times)
    return [
        f"{name}, {images} images", apart, ours, f"{median_ratio(times[1], times[0]):.2f}", bare,
        f"{median_ratio(times[1], times[2]):.2f}", f"{first[0]:.2f} s", f"{first[1]:.2f} s",
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small numbers")
    smoke = parser.parse_args().smoke
    members, rounds = (2, 2) if smoke else (MEMBERS, ROUNDS)
    rows = [
        row(name, make, images // 8 if smoke else images, members, rounds)
        for name, (make, sizes) in MODELS.items()
        for images in sizes
    ]
    print(f"{members} members, batches of {BATCH_SIZE}\n")
    header = ["", "one by one", "ensemble", "ratio", "forward passes", "ratio", "first: one by one", "ensemble"]
    print_table(header, rows)


if __name__ == "__main__":
    main()
