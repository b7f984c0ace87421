"""How long later fits of one model take to their first step, and what they leave in memory, with and without callbacks.

    python benchmarks/second_fit.py            # about four minutes
    python benchmarks/second_fit.py --smoke    # a small network, for seeing that it runs

MobileNetV2 at 64 pixels is fitted again and again, an epoch of two batches each time. The first fit traces the step;
the later ones should begin as fast as plain Keras's. The average keeps one float32 copy of the weights, and arrays of
it between fits. Memory is what the process holds after each fit, as a slope over the later half of the fits.
"""

import argparse
import gc
import os
import resource
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _interleave import print_table

from kregkit.callbacks import CosineDecay, PolyakAveraging, SnapshotEnsemble, StepDecay, UpdateRatio, Warmup

FITS = 12


class FirstStep(keras.callbacks.Callback):
    """Takes the time at which the fit's first step has ended."""

    def on_train_begin(self, logs=None):
        self.ended = None

    def on_train_batch_end(self, batch, logs=None):
        self.ended = self.ended or time.perf_counter()


def rss_mebibytes():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def measure(make_model, pixels, callbacks, fits):
    """Returns the seconds to each fit's first step, and the mebibytes that a later fit leaves behind."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, pixels, pixels, 3)).astype("float32"), rng.integers(0, 10, 16)
    model = make_model()
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy", jit_compile=False)
    seconds, memory, first = [], [], FirstStep()
    for _ in range(fits):
        start = time.perf_counter()
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[*callbacks(), first])
        seconds.append(first.ended - start)
        memory.append(rss_mebibytes())
    half = memory[fits // 2 :]
    return seconds, (half[-1] - half[0]) / (len(half) - 1)


def mobile_net(pixels):
    return keras.applications.MobileNetV2((pixels, pixels, 3), weights=None, classes=10)


def small_net(pixels):
    layers = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), keras.layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((pixels, pixels, 3)), *layers, keras.layers.Dense(10, "softmax")])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a small network, four fits")
    smoke = parser.parse_args().smoke
    pixels, fits, make_model = (8, 4, small_net) if smoke else (64, FITS, mobile_net)
    with tempfile.TemporaryDirectory() as directory:
        rows = {
            "plain fit": list,
            "Warmup, CosineDecay": lambda: [Warmup(1), CosineDecay()],
            "PolyakAveraging": lambda: [PolyakAveraging(0.9)],
            "four callbacks": lambda: [
                *(Warmup(1), StepDecay(0.5, every=1), PolyakAveraging(0.9)),
                UpdateRatio(),
            ],
            "SnapshotEnsemble": lambda: [SnapshotEnsemble(directory, cycles=1, overwrite=True)],
        }
        table = []
        for name, callbacks in rows.items():
            seconds, mebibytes = measure(lambda: make_model(pixels), pixels, callbacks, fits)
            later = seconds[1:]
            figures = (seconds[0], statistics.median(later), max(later), mebibytes)
            table.append((name, *(f"{figure:.2f}" for figure in figures)))
    print_table(("", "1st fit, s", "later, median s", "slowest s", "MiB a fit"), table)


if __name__ == "__main__":
    main()
