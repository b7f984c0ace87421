"""What kregkit's callbacks cost per training step, beside plain `fit` and Keras's own ways.

    python benchmarks/callback_overhead.py            # about nine minutes
    python benchmarks/callback_overhead.py --smoke    # seconds, for seeing that it runs

All rows of a table are fits in one process that take turns, an epoch at a time; a ratio is the median over rounds of
the row's epoch over the reference's epoch in the same round. "plain fit, again" is the same as "plain fit": how far it
is from 1 is what the machine's noise makes of nothing. Nothing else should run on the machine.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _interleave import interleaved_fits, median_ratio, print_table

from kregkit.callbacks import CosineDecay, PolyakAveraging, SnapshotEnsemble, StepDecay, UpdateRatio, Warmup

BATCH_SIZE = 32
STEPS = 60
ROUNDS = 61


class NaiveAverage(keras.callbacks.Callback):
    """What people write: an average per variable, updated in Python after each batch."""

    def on_train_begin(self, logs=None):
        self.averages = [weight.numpy() for weight in self.model.weights]

    def on_train_batch_end(self, batch, logs=None):
        for index, weight in enumerate(self.model.weights):
            self.averages[index] = 0.999 * self.averages[index] + 0.001 * weight.numpy()


def mlp():
    layers = [keras.layers.Dense(256, activation="relu") for _ in range(8)]
    return keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10)])


def cnn():
    layers = []
    for filters in (16, 32, 32):
        layers += [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
        ]
    return keras.Sequential(
        [keras.Input((16, 16, 3)), *layers, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    )


def fits(make_model, shape, steps_per_execution, directory):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH_SIZE * STEPS, *shape)).astype("float32")
    y = rng.integers(0, 10, size=len(x))

    def fit(callbacks=(), **optimizer):
        def run(turn, epochs):
            keras.utils.set_random_seed(0)
            model = make_model()
            model.compile(
                keras.optimizers.SGD(0.01, momentum=0.9, **optimizer),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                jit_compile=False,
                steps_per_execution=steps_per_execution,
            )
            model.fit(x, y, BATCH_SIZE, epochs, verbose=0, shuffle=False, callbacks=[*callbacks, turn])

        return run

    return {
        "plain fit": fit(),
        "use_ema=True": fit(use_ema=True, ema_momentum=0.999),
        "PolyakAveraging": fit([PolyakAveraging(0.999)]),
        "naive Python average": fit([NaiveAverage()]),
        "StepDecay": fit([StepDecay(0.1, every=30)]),
        "Warmup * CosineDecay": fit([Warmup(5), CosineDecay()]),
        "UpdateRatio, every=100": fit([UpdateRatio()]),
        "UpdateRatio, every=1": fit([UpdateRatio(every=1)]),
        "SnapshotEnsemble": fit([SnapshotEnsemble(directory, cycles=2, overwrite=True)]),
        "plain fit, again": fit(),
    }


def import_seconds(code, times):
    program = f"import keras, time; start = time.perf_counter(); {code}; print(time.perf_counter() - start)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return [
        float(subprocess.check_output([sys.executable, "-c", program], text=True, env=environment).split()[-1])
        for _ in range(times)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="one table, a few rounds")
    smoke = parser.parse_args().smoke
    rounds = 3 if smoke else ROUNDS
    small, large = ("MLP, 8 x Dense(256)", mlp, (64,)), ("CNN, 3 x Conv + BN", cnn, (16, 16, 3))
    for name, make_model, shape in (small,) if smoke else (small, large):
        for steps_per_execution in (10,) if smoke else (1, 10):
            with tempfile.TemporaryDirectory() as directory:
                seconds = interleaved_fits(fits(make_model, shape, steps_per_execution, directory), rounds)
            print(f"\n{name}, batch {BATCH_SIZE}, steps_per_execution={steps_per_execution}")
            rows = [
                (
                    row,
                    f"{1000 * statistics.median(times) / STEPS:.3f}",
                    f"{median_ratio(times, seconds['plain fit']):.3f}",
                    f"{median_ratio(times, seconds['use_ema=True']):.3f}",
                )
                for row, times in seconds.items()
            ]
            print_table(("", "ms per step", "to plain", "to use_ema"), rows)
    times = import_seconds("import kregkit", 2 if smoke else 9)
    print(f"\nimport kregkit after import keras: {1000 * statistics.median(times):.0f} ms (median of {len(times)})")


if __name__ == "__main__":
    main()
