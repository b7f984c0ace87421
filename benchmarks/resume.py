"""What checkpoints cost: `Resume` beside Keras's `BackupAndRestore` and a plain fit, at one save per 100 steps.

    python benchmarks/resume.py           # about twelve minutes on two cores
    python benchmarks/resume.py --part saves --only digits
    python benchmarks/resume.py --smoke   # few steps of the small model, for seeing that it runs

Two measurements, since a save is small beside the noise of a fit:

- `saves`: what one save costs. Within one fit, blocks of a few steps with a save at their begin take turns with blocks
  without, in random order within each pair. What is still being written at a block's end is waited for within the
  block. The cost is the median over pairs of the difference, as a part of 100 steps, with a 95% interval of the median.
- `whole`: all that a fit pays, what its hooks do in each step too. Fits take turns, one epoch each, in a new random
  order each round; costs are medians over rounds of one epoch's time over the plain fit's of the same round.

Processor times are those of all threads, the writing one among them, and so an upper bound where a processor idles;
other work on the machine hardly changes them. Goal: `Resume` below 2%.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _interleave import interleaved_fits, median_ratio, print_table

from kregkit.callbacks import Resume
from kregkit.data import digits

SMOKE = "--smoke" in sys.argv
EVERY = 5 if SMOKE else 100


NEVER = 10**9
KINDS = (Resume, keras.callbacks.BackupAndRestore)


def wait_until_written():
    for thread in threading.enumerate():
        if thread.name == "kregkit-resume":
            thread.join()


class Written(keras.callbacks.Callback):
    """Waits at an epoch's end until the background has written what it was given."""

    def on_epoch_end(self, epoch, logs=None):
        wait_until_written()


class Blocks(keras.callbacks.Callback):
    """Has every second block of steps, or its neighbour, begin with a save, and times each.

    Args:
        saving: `Resume` or `BackupAndRestore`, which comes after this one in the list of callbacks.
        steps: Integer, the steps of a block.
    """

    def __init__(self, saving, steps):
        super().__init__()
        self.saving, self.steps = saving, steps
        # `(saved, seconds, processor seconds)` of each block.
        self.blocks = []
        self.numbers, self.coming, self.start = random.Random(0), [], None

    def on_train_batch_end(self, batch, logs=None):
        self.saving.save_freq = NEVER
        if (batch + 1) % self.steps:
            return
        wait_until_written()
        now = time.perf_counter(), time.process_time()
        if self.start is not None:
            self.blocks.append((self.saves, now[0] - self.start[0], now[1] - self.start[1]))
        self.coming = self.coming or self.numbers.sample([False, True], 2)
        self.saves, self.start = self.coming.pop(), now
        if self.saves:
            # `saving` is called next.
            self.saving.save_freq = 1


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


def median_interval(values):
    """Returns the median and its 95% interval, from the order of the values alone."""
    values = sorted(values)
    # The number of values below the median is binomial, here about normal.
    reach = 0.98 * len(values) ** 0.5
    low, high = int(max(len(values) / 2 - reach, 0)), int(min(len(values) / 2 + reach, len(values) - 1))
    return statistics.median(values), values[low], values[high]


def measure_saves(make, block, pairs, kinds):
    """Prints the cost of one save of each kind; the first pair of blocks warms up."""
    rows = []
    for kind in kinds:
        with tempfile.TemporaryDirectory() as directory:
            saving = kind(directory, save_freq=NEVER)
            blocks = Blocks(saving, block)
            fit_with(make, [blocks, saving], block * (2 * pairs + 3))(Written(), 1)
        both = list(zip(blocks.blocks[::2], blocks.blocks[1::2]))[1:]
        timed = [{saved: clocks for saved, *clocks in pair} for pair in both]
        cells = [kind.__name__]
        for clock in (0, 1):
            hundred = 100 / block * statistics.median(pair[False][clock] for pair in timed)
            costs = median_interval([pair[True][clock] - pair[False][clock] for pair in timed])
            cells += [f"{1000 * hundred:.0f}", f"{1000 * costs[0]:.1f}"]
            middle, low, high = (f"{100 * cost / hundred:+.2f}" for cost in costs)
            cells += [f"{middle}% ({low}, {high})"]
        rows.append(cells)
    header = ["100 steps, ms", "a save, ms", "per 100 steps"]
    print_table(["", *header, *(f"processor: {header[0]}", *header[1:])], rows)
    print(f"{len(timed)} pairs of blocks of {block} steps")


def measure_whole(make, steps, rounds):
    """Prints what a step takes in whole fits."""
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
    rows = []
    for row in fits:
        cells = [row]
        for times in (seconds, processor):
            cost = median_ratio(times[row], times["plain fit"]) - 1
            cells += [f"{1000 * statistics.median(times[row]) / steps:.2f}"]
            cells += ["" if row == "plain fit" else f"{100 * cost:+.1f}%"]
        rows.append(cells)
    print_table(["", "ms per step", "cost", "processor ms", "cost"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="a part of a model's name", default="digits" if SMOKE else "")
    parser.add_argument("--part", choices=("saves", "whole"))
    parser.add_argument(
        "--rounds", type=int, default=2 if SMOKE else None, help="epochs, or pairs of blocks, that count"
    )
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    # No epoch is a multiple of 100 steps, so that all checkpoints but the fit's last fall within one.
    for name, make, steps, rounds, block, pairs in (
        ("digits CNN", digits_model, 4 * EVERY + EVERY // 3, 15, 50, 120),
        ("MobileNetV2, 64 pixels", mobilenet, EVERY + EVERY // 3, 5, 15, 30),
    ):
        if arguments.only not in name:
            continue
        if arguments.part != "whole":
            print(f"\n{name}: what one save costs\n")
            kinds = [kind for kind in KINDS if arguments.callback in (None, kind.__name__)]
            measure_saves(make, block, arguments.rounds or pairs, kinds)
        if arguments.part != "saves":
            print(f"\n{name}: whole fits, one save per {EVERY} steps\n")
            measure_whole(make, steps, arguments.rounds or rounds)


if __name__ == "__main__":
    main()
