"""One network on real digits, four ways to end its training: step decay, raw weights, their average, an ensemble.

    python examples/quickstart.py            # about two minutes on two cores
    python examples/quickstart.py --smoke    # seconds: one short run of each, for seeing that it works

Every way gets the same network, the same data and the same number of steps, with three seeds. The table is printed,
and pictures are saved to examples/output/quickstart/.
"""

import argparse
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kregkit import plots, schedules
from kregkit.callbacks import PolyakAveraging, SnapshotEnsemble, StepDecay
from kregkit.data import digits
from kregkit.inference import Ensemble

TRAIN, TEST = "train[:60%]", "train[60%:]+test"
EPOCHS, BATCH_SIZE, SEEDS = 48, 32, 3
LEARNING_RATE, CYCLE_LEARNING_RATE = 0.1, 0.2
CYCLES, DECAY = 4, 0.99
OUTPUT = pathlib.Path(__file__).parent / "output" / "quickstart"


class Bar(keras.callbacks.Callback):
    """One line of progress per fit."""

    def __init__(self, progress, task):
        super().__init__()
        self.progress, self.task = progress, task

    def on_epoch_end(self, epoch, logs=None):
        self.progress.update(self.task, advance=1, numbers=f"test error {100 * (1 - logs['val_accuracy']):5.2f} %")


def build(seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.RandomTranslation(0.13, 0.13, fill_mode="constant"),
            layers.Conv2D(24, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(24, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(48, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )
    model.compile(
        keras.optimizers.SGD(LEARNING_RATE, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="one seed and a few epochs")
    smoke = parser.parse_args().smoke
    epochs, seeds, cycles = (4, 1, 2) if smoke else (EPOCHS, SEEDS, CYCLES)

    x, y = digits(TRAIN, as_arrays=True)
    x_test, y_test = digits(TEST, as_arrays=True)
    x, x_test = x / 255.0, x_test / 255.0
    steps_per_epoch = -(-len(x) // BATCH_SIZE)
    print(f"{len(x)} digits to train on, {len(x_test)} to test on; {epochs} epochs of {steps_per_epoch} steps")

    def error(predictor):
        return 100 * float(np.mean(predictor.predict(x_test, verbose=0).argmax(axis=-1) != y_test))

    results, histories = {}, {}
    columns = (TextColumn("{task.description:<34}"), BarColumn(), TextColumn("{task.fields[numbers]}"))
    with Progress(*columns, TimeElapsedColumn()) as progress:

        def train(name, seed, callback):
            model = build(seed)
            task = progress.add_task(f"{name}, seed {seed}", total=epochs, numbers="")
            callbacks = [callback, Bar(progress, task)]
            histories[name] = model.fit(
                x, y, BATCH_SIZE, epochs, 0, validation_data=(x_test, y_test), callbacks=callbacks
            )
            return model

        for seed in range(seeds):
            decayed = train("step decay", seed, StepDecay(0.1, at=[epochs / 2, epochs * 3 / 4]))
            results.setdefault("step decay", []).append(error(decayed))

            average = PolyakAveraging(DECAY, warmup=True)
            averaged = train("constant rate, Polyak average", seed, average)
            with average.raw():
                results.setdefault("constant rate, last weights", []).append(error(averaged))
            results.setdefault("constant rate, Polyak average", []).append(error(averaged))

            with tempfile.TemporaryDirectory() as directory:
                train("snapshot ensemble", seed, SnapshotEnsemble(directory, cycles, CYCLE_LEARNING_RATE))
                ensemble = Ensemble.from_directory(directory)
            for index, member in enumerate(ensemble.members, start=1):
                results.setdefault(f"snapshot {index} alone", []).append(error(member))
            results.setdefault(f"ensemble of {cycles} snapshots", []).append(error(ensemble))

    means = {name: float(np.mean(errors)) for name, errors in results.items()}
    intervals = {name: (min(errors), max(errors)) for name, errors in results.items()}
    print(f"\nTest error in percent, mean of {seeds} seed{'s' if seeds > 1 else ''} (lowest to highest)\n")
    for name, mean in means.items():
        low, high = intervals[name]
        print(f"  {name:<34} {mean:5.2f}   ({low:.2f} to {high:.2f})")

    OUTPUT.mkdir(parents=True, exist_ok=True)
    total = epochs * steps_per_epoch
    over = {"steps": total, "steps_per_epoch": steps_per_epoch}
    decay = schedules.StepDecay(LEARNING_RATE, 0.1, at=[total / 2, total * 3 / 4])
    axes = plots.learning_rate_curve(decay, label="step decay", **over)
    axes = plots.learning_rate_curve(lambda step: LEARNING_RATE, axes, label="constant, for averaging", **over)
    cosine = schedules.CosineCycles(CYCLE_LEARNING_RATE, total, cycles)
    save(plots.learning_rate_curve(cosine, axes, label="snapshot cycles", **over), "learning_rate.png")
    axes = None
    for name, history in histories.items():
        axes = plots.loss_curves(history, axes, label=name)
    save(axes, "loss.png")
    axes = None
    for name, history in histories.items():
        axes = plots.error_curves(history, axes, label=name)
    save(axes, "error_curves.png")
    save(plots.errors(means, intervals=intervals, baseline="step decay"), "errors.png")
    probabilities = [
        keras.ops.convert_to_numpy(keras.ops.softmax(member.predict(x_test, verbose=0))) for member in ensemble.members
    ]
    save(plots.ensemble_size(np.stack(probabilities), y_test), "ensemble_size.png")
    print(f"\nPictures: {OUTPUT}")


def save(axes, name):
    axes.figure.savefig(OUTPUT / name, dpi=150)


if __name__ == "__main__":
    main()
