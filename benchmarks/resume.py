"""What checkpoints cost: `Resume` beside Keras's `BackupAndRestore` and a plain fit, at one save per 100 steps.

    python benchmarks/resume.py           # about ten minutes on two cores
    python benchmarks/resume.py --only digits --rounds 5
    python benchmarks/resume.py --smoke   # few steps of the small model, for seeing that it runs

The three fits take turns, one epoch each, in a new random order each round. `Resume` writes in the background; what is
still being written at an epoch's end is waited for within the epoch, so that no other row pays for it. No epoch is a
multiple of 100 steps, so that all checkpoints but the fit's last fall within one. Times are medians over epochs, costs
medians over rounds of one epoch's time over the plain fit's of the same round. Processor times are those of all
threads, the writing one among them, and so an upper bound where a processor idles; other work on the machine hardly
changes them. Goal: `Resume` below 2%.
"""

import argparse
import os
import statistics
import sys
import tempfile
import threading

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _interleave import interleaved_fits, median_ratio, print_table

from kregkit.callbacks import Resume
from kregkit.data import digits

SMOKE = "--smoke" in sys.argv
EVERY = 5 if SMOKE else 100


class Written(keras.callbacks.Callback):
    """Waits at an epoch's end until the background has written what it was given."""

    def on_epoch_end(self, epoch, logs=None):
        for thread in threading.enumerate():
            if thread.name == "kregkit-resume":
                thread.join()


def digits_model():
    """The digits CNN; returns the model, its data and its batch size."""
    x, y = digits("train", as_arrays=True)
    layers = [keras.Input((8, 8, 1))]
    for filters in (32, 64):
        layers += [keras.layers.Conv2D(filters, 3, padding="same"), keras.layers.BatchNormalization()]
        layers += [keras.layers.ReLU(), keras.layers.MaxPooling2D()]
    layers += [keras.layers.Flatten(), keras.layers.Dropout(0.3), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model, (np.asarray(x, "float32"), np.asarray(y)), 32


def mobilenet():
    """MobileNetV2 at 64 pixels."""
    numbers = np.random.default_rng(0)
    x = numbers.uniform(-1, 1, (64, 64, 64, 3)).astype("float32")
    model = keras.applications.MobileNetV2((64, 64, 3), weights=None, classes=10)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model, (x, numbers.integers(0, 10, 64)), 16


def fit_with(make, callbacks, steps):
    """Returns the fit for `interleaved_fits`: epochs of so many steps, with these callbacks."""

    def fit(turn, epochs):
        model, (x, y), batch_size = make()
        rows = np.arange(steps * batch_size) % len(x)
        model.fit(
            x[rows], y[rows], batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[*callbacks, Written(), turn]
        )

    return fit


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="a part of a model's name", default="digits" if SMOKE else "")
    parser.add_argument("--rounds", type=int, default=2 if SMOKE else None, help="epochs of each fit that count")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    for name, make, steps, rounds in (
        ("digits CNN", digits_model, 4 * EVERY + EVERY // 3, arguments.rounds or 15),
        ("MobileNetV2, 64 pixels", mobilenet, EVERY + EVERY // 3, arguments.rounds or 5),
    ):
        if arguments.only not in name:
            continue
        with tempfile.TemporaryDirectory() as directory:
            resume = Resume(f"{directory}/resume", save_freq=EVERY)
            backup = keras.callbacks.BackupAndRestore(f"{directory}/backup", save_freq=EVERY)
            fits = {
                "plain fit": fit_with(make, [], steps),
                "Resume": fit_with(make, [resume], steps),
                "BackupAndRestore": fit_with(make, [backup], steps),
                "plain fit, again": fit_with(make, [], steps),
            }
            processor = {}
            seconds = interleaved_fits(fits, rounds, warmup=1, processor=processor)
        print(f"\n{name}: one save per {EVERY} steps\n")
        rows = []
        for row in fits:
            cells = [row]
            for times in (seconds, processor):
                cost = median_ratio(times[row], times["plain fit"]) - 1
                cells += [f"{1000 * statistics.median(times[row]) / steps:.2f}"]
                cells += ["" if row == "plain fit" else f"{100 * cost:+.1f}%"]
            rows.append(cells)
        print_table(["", "ms per step", "cost", "processor ms", "cost"], rows)


if __name__ == "__main__":
    main()
