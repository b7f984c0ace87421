"""Finds a small network's hyperparameters on real digits: at random, from coarse to fine.

    python examples/search_digits.py            # about two minutes on two cores
    python examples/search_digits.py --smoke    # seconds: a handful of trials, for seeing that it works

The trials are kept in examples/output/search_digits/trials.journal. Started again, the search goes on where it was
stopped; started twice at the same time, the two share the trials; delete the file to start over. A table of all trials
and a picture are saved beside it.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from keras import layers

from kregkit.data import digits
from kregkit.search import Space, build_and_fit, choice, integer, log_uniform, search, uniform

TRIALS, EPOCHS, BATCH_SIZE, SEED = 70, 12, 32, 0
SPACE = Space(
    learning_rate=log_uniform(1e-5, 1.0),
    weight_decay=log_uniform(1e-6, 1.0),
    dropout=uniform(0.0, 0.5),
    units=integer(16, 128, log=True),
    optimizer=choice(["sgd", "adam"]),
    momentum=uniform(0.5, 0.95, limits=(0.0, 0.99)).when(optimizer="sgd"),
)
OUTPUT = pathlib.Path(__file__).parent / "output" / "search_digits"


def build(parameters):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(
                parameters["units"],
                activation="relu",
                kernel_regularizer=keras.regularizers.L2(parameters["weight_decay"]),
            ),
            layers.Dropout(parameters["dropout"]),
            layers.Dense(10, activation="softmax"),
        ]
    )
    if parameters["optimizer"] == "sgd":
        optimizer = keras.optimizers.SGD(parameters["learning_rate"], momentum=parameters["momentum"])
    else:
        optimizer = keras.optimizers.Adam(parameters["learning_rate"])
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true")
    smoke = parser.parse_args().smoke
    train, validation, test = digits(["train[:80%]", "train[80%:]", "test"], as_arrays=True)
    output = OUTPUT / "smoke" if smoke else OUTPUT
    result = search(
        build_and_fit(build, train, validation, batch_size=BATCH_SIZE, validation_batch_size=512),
        SPACE,
        trials=7 if smoke else TRIALS,
        epochs=2 if smoke else EPOCHS,
        metric="val_accuracy",
        storage=output / "trials.journal",
        seed=SEED,
    )
    print(result)
    result.to_csv(output / "trials.csv")
    result.plot("learning_rate", "weight_decay")[0].figure.savefig(output / "search.png", dpi=150)
    # The validation set chose the setting: the test set says how good it is.
    keras.utils.set_random_seed(SEED)
    model = build(result.best_parameters)
    model.fit(*train, batch_size=BATCH_SIZE, epochs=2 if smoke else EPOCHS, verbose=0)
    accuracy = model.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    print(f"test accuracy of the best setting, trained again: {100 * accuracy:.2f} %")
    print(f"table and picture: {output}")


if __name__ == "__main__":
    main()
