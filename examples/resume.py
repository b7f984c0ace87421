"""A training that may be killed at any instant: start it again, and it goes on as if nothing had happened.

    python examples/resume.py [--epochs 10] [--smoke]
    python -m kregkit.resume_check examples/resume.py --kills 5

Interrupt it (Ctrl-C, `kill -9`, a power cut) and type the same line again. The second line proves on this machine that
the bits are the same: it runs the script once to its end and once with kills, each in a directory of its own. All is
written below `resume-example` in the working directory; delete that to train anew.
"""

import argparse
import pathlib

import keras

from kregkit import data
from kregkit.callbacks import CosineDecay, PolyakAveraging, Resume, Warmup

BATCH_SIZE = 32
EPOCHS = 10
SEED = 0
# Relative to the working directory, so that `kregkit.resume_check` can give each run one of its own.
RUN = pathlib.Path("resume-example")


def build():
    layers = [keras.Input((8, 8, 1))]
    for filters in (16, 32):
        layers += [keras.layers.Conv2D(filters, 3, padding="same", use_bias=False), keras.layers.BatchNormalization()]
        layers += [keras.layers.ReLU(), keras.layers.MaxPooling2D()]
    layers += [keras.layers.Flatten(), keras.layers.Dropout(0.3), keras.layers.Dense(10)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(0.003), loss, metrics=["accuracy"])
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--smoke", action="store_true", help="two epochs on a part of the data")
    arguments = parser.parse_args()
    epochs = 2 if arguments.smoke else arguments.epochs
    keras.utils.set_random_seed(SEED)

    train, test = (data.digits(split, as_arrays=True) for split in ("train", "test"))
    if arguments.smoke:
        train, test = (tuple(part[:320] for part in each) for each in (train, test))
    # Augmented images, in an order and with random numbers that follow from the seed.
    batches = data.pipeline(train, BATCH_SIZE, [data.RandomCrop(1)], seed=SEED)
    callbacks = [
        Resume(RUN / "checkpoints", save_freq=10),
        Warmup(1),
        CosineDecay(),
        PolyakAveraging(0.99),
        keras.callbacks.CSVLogger(RUN / "log.csv"),
        keras.callbacks.ModelCheckpoint(RUN / "best.keras", monitor="val_accuracy", save_best_only=True),
    ]
    RUN.mkdir(exist_ok=True)
    validation = (test[0] / 255.0, test[1])
    history = (
        build()
        .fit(batches, epochs=epochs, validation_data=validation, shuffle=False, verbose=2, callbacks=callbacks)
        .history
    )
    print(f"validation accuracy, epoch by epoch: {[round(value, 4) for value in history['val_accuracy']]}")


if __name__ == "__main__":
    main()
