"""Ten thousand steps with every callback and a pipeline: does memory stay flat?

    python benchmarks/soak.py            # minutes
    python benchmarks/soak.py --smoke    # seconds, for seeing that it runs

Two fits on the digits through `data.pipeline`, of ten thousand steps each, since not all callbacks go together: one
with every decay, and one with the cycles of `SnapshotEnsemble`. In both are averages with a posterior, sharpness-aware
steps, a noise schedule, gradual unfreezing, sizes of updates, a checkpoint of `Resume` per 100 steps, and Keras's own
`ModelCheckpoint`, `CSVLogger` and `EarlyStopping`.

Some thirty times in a fit stand what the process holds in memory (the resident set, after a garbage collection), its
open files, threads and Python objects. The first fifth of a fit warms up: layers thaw, which traces the step anew, and
pools fill. From there to the end memory must stay within 1%: the last, largest and smallest value are compared with
the first.
"""

import argparse
import gc
import os
import tempfile
import threading

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from _memory import resident

from kregkit import schedules
from kregkit.callbacks import (
    Cooldown,
    CosineDecay,
    ExponentialDecay,
    InverseTimeDecay,
    LearningRate,
    NoiseSchedule,
    OneCycle,
    PlateauDecay,
    PolyakAveraging,
    Resume,
    SharpnessAware,
    SnapshotEnsemble,
    StepDecay,
    Triangular,
    UpdateRatio,
    Warmup,
)
from kregkit.data import ColorJitter, RandomCrop, digits, pipeline
from kregkit.transfer import GradualUnfreeze

BATCH_SIZE = 32


class Watch(keras.callbacks.Callback):
    """Prints, some thirty times in a fit, megabytes, open files, threads and Python objects.

    Args:
        epochs: Integer, the epochs of the fit.
        steps: Integer, the steps of an epoch.
    """

    def __init__(self, epochs, steps):
        super().__init__()
        self.steps, self.every, self.rows = steps, max(epochs // 30, 1), []

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        gc.collect()
        objects = len(gc.get_objects())
        row = (epoch + 1) * self.steps, resident("VmRSS"), len(os.listdir("/proc/self/fd")), threading.active_count()
        self.rows.append(row)
        print(f"{row[0]:>6} {row[1]:>8.1f} {row[2]:>6} {row[3]:>8} {objects:>8}", flush=True)


def build():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, activation="relu", name="body"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, name="head"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=["accuracy"], jit_compile=False)
    return model


def common_callbacks(directory, steps):
    """Returns the callbacks of both fits."""
    return [
        PolyakAveraging([0.99, "uniform"], monitor="val_loss", posterior=True, rank=4, posterior_every=50),
        SharpnessAware(0.05, every=5),
        NoiseSchedule(".*", keras.optimizers.schedules.PolynomialDecay(0.3, steps, 0.1)),
        GradualUnfreeze([(0, "head"), (1, "body")]),
        Warmup(1),
        UpdateRatio(every=100),
        Resume(f"{directory}/resume", save_freq=100),
        keras.callbacks.ModelCheckpoint(f"{directory}/last.weights.h5", save_weights_only=True),
        keras.callbacks.CSVLogger(f"{directory}/log.csv"),
        keras.callbacks.EarlyStopping(patience=10_000),
    ]


def decays(steps):
    """Returns all callbacks of rates that go together; their product falls to zero, which memory doesn't mind."""
    return [
        LearningRate(schedules.Triangular(0.1, 0.05, period=1000)),
        PlateauDecay("val_loss", patience=20, minimum_factor=0.1),
        CosineDecay(),
        StepDecay(0.9, every=50),
        ExponentialDecay(0.001),
        InverseTimeDecay(0.001),
        Triangular(20, minimum_factor=0.5),
        OneCycle(),
        Cooldown(2),
    ]


def soak(name, extra, steps):
    """Runs one fit; prints its rows and how far memory moves after the warm-up."""
    keras.utils.set_random_seed(0)
    train = pipeline(digits("train"), BATCH_SIZE, [RandomCrop(1), ColorJitter(0.2, 0.2, 0)], seed=1)
    epochs = -(-steps // len(train))
    watch = Watch(epochs, len(train))
    test = digits("test", as_arrays=True)
    print(f"\n{name}\n\n{'step':>6} {'MiB':>8} {'files':>6} {'threads':>8} {'objects':>8}")
    with tempfile.TemporaryDirectory() as directory:
        callbacks = [*common_callbacks(directory, steps), *extra(directory), watch]
        build().fit(train, epochs=epochs, validation_data=(test[0] / 255.0, test[1]), verbose=0, callbacks=callbacks)
    warm = [row for row in watch.rows if row[0] >= epochs * len(train) / 5]
    memory = np.array([row[1] for row in warm]) / warm[0][1] - 1
    print(
        f"from step {warm[0][0]} to {warm[-1][0]}: memory {memory[-1]:+.2%}, at most {memory.max():+.2%}, at least "
        f"{memory.min():+.2%}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--only", choices=("decays", "cycles"), help="one of the two fits")
    arguments = parser.parse_args()
    steps = 450 if arguments.smoke else 10_000
    fits = {
        "decays": lambda directory: decays(steps),
        "cycles": lambda directory: [SnapshotEnsemble(f"{directory}/snapshots", cycles=10, max_learning_rate=0.1)],
    }
    for name, extra in fits.items():
        if arguments.only in (None, name):
            soak(name, extra, steps)


if __name__ == "__main__":
    main()
