"""Time and memory of averaging 32 draws of dropout, against loops over the model.

    python benchmarks/marginalize.py            # about three minutes
    python benchmarks/marginalize.py --smoke    # seconds, for seeing that it runs

The loops are what people write: `model(x, training=True)` as it is, the same compiled once by `tf.function`, and
`model.predict` (whose dropout is off: it is here for its cost alone). kregkit is timed as a call and as `predict`. The
ways take turns; times are medians, ratios medians of the rounds' ratios to the compiled loop. Peak memory is the most
that a process of its own holds while it predicts, at 8 and at 512 draws, and in brackets by how much that is more than
what it held before.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from _interleave import median_ratio, print_table
from keras import layers

from kregkit.inference import marginalize

DRAWS = 32
ROUNDS = 9


def mlp():
    model = keras.Sequential([keras.Input((64,))])
    for _ in range(3):
        model.add(layers.Dense(256, activation="relu"))
        model.add(layers.Dropout(0.5))
    model.add(layers.Dense(10, activation="softmax"))
    return model


def cnn():
    model = keras.Sequential([keras.Input((16, 16, 3))])
    for width in (32, 64):
        model.add(layers.Conv2D(width, 3, padding="same", activation="relu"))
        model.add(layers.SpatialDropout2D(0.2))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(128, activation="relu"))
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(10, activation="softmax"))
    return model


MODELS = {"mlp": mlp, "cnn": cnn}


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def row(name, images, draws, rounds):
    model = MODELS[name]()
    x = np.random.default_rng(0).normal(size=(images, *model.input_shape[1:])).astype("float32")
    tensor = tf.constant(x)
    compiled = tf.function(lambda x: model(x, training=True))
    marginal = marginalize(model, draws=draws)
    ways = {
        "compiled loop": lambda: np.mean([compiled(tensor).numpy() for _ in range(draws)], axis=0),
        "loop": lambda: np.mean([model(tensor, training=True).numpy() for _ in range(draws)], axis=0),
        "predict loop": lambda: np.mean([model.predict(x, verbose=0) for _ in range(draws)], axis=0),
        "marginalize": lambda: marginal(tensor).numpy(),
        "its predict": lambda: marginal.predict(x, verbose=0),
    }
    for run in ways.values():
        run()
    times = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            times[way].append(seconds(run))
    base = times["compiled loop"]
    cells = [f"{name}, {images} images"]
    for way, column in times.items():
        cells.append(f"{1e3 * statistics.median(column):.1f} ms")
        if way != "compiled loop":
            cells.append(f"{median_ratio(column, base):.2f}")
    return cells


def resident(field):
    """Returns a field of this process's memory in megabytes: `VmRSS` now, `VmHWM` at its peak."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))


def peak(name, images, draws):
    """Prints the megabytes that this process holds before it predicts, and at its peak while it does."""
    model = MODELS[name]()
    x = np.random.default_rng(0).normal(size=(images, *model.input_shape[1:])).astype("float32")
    model.predict(x, verbose=0)
    marginal = marginalize(model, draws=draws)
    before = resident("VmRSS")
    # The peak until now, which imports set, is forgotten.
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    marginal.predict(x, verbose=0)
    print(before, resident("VmHWM"))


def memory_row(name, images, counts):
    cells = [f"{name}, {images} images"]
    peaks = []
    for draws in counts:
        command = [sys.executable, __file__, "--peak", name, str(images), str(draws)]
        before, after = map(float, subprocess.check_output(command, text=True).split()[-2:])
        peaks.append(after)
        cells.append(f"{after:.0f} MB (+{after - before:.0f})")
    return [*cells, f"{peaks[1] / peaks[0]:.3f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small numbers")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        name, images, draws = arguments.peak
        return peak(name, int(images), int(draws))
    draws, rounds = (4, 2) if arguments.smoke else (DRAWS, ROUNDS)
    sizes = (16,) if arguments.smoke else (16, 360)
    print(f"{draws} draws\n")
    header = ["", "compiled loop", "loop", "ratio", "predict loop", "ratio", "marginalize", "ratio"]
    rows = [row(name, images, draws, rounds) for name in MODELS for images in sizes]
    print_table([*header, "its predict", "ratio"], rows)
    print("\nPeak memory\n")
    counts = (2, 8) if arguments.smoke else (8, 512)
    print_table(
        ["", *(f"{count} draws" for count in counts), "ratio"],
        [memory_row(name, 16 if arguments.smoke else 360, counts) for name in MODELS],
    )


if __name__ == "__main__":
    main()
