"""An ordinary Keras script, and the same one with kregkit in it: the diff, and what it brings.

    python examples/existing_project.py [--smoke]

Both scripts stand below as they would in files of their own. The diff is at most five lines; the error is that on held
out images, as the mean over seeds.
"""

import difflib
import os
import statistics
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

SMOKE = "--smoke" in sys.argv
EPOCHS, SEEDS = (2, 1) if SMOKE else (20, 5)

BEFORE = """\
import keras
from sklearn.datasets import load_digits

images, labels = load_digits(return_X_y=True)
x, y, x_test, y_test = images[:900] / 16, labels[:900], images[900:] / 16, labels[900:]

hidden = [keras.layers.Dense(64, activation="relu"), keras.layers.Dropout(0.2)]
model = keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10, activation="softmax")])
model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])

model.fit(x, y, batch_size=16, epochs=EPOCHS, verbose=0)
error = 100 * (1 - model.evaluate(x_test, y_test, verbose=0)[1])
"""

AFTER = """\
import keras
from sklearn.datasets import load_digits

from kregkit.callbacks import CosineDecay, PolyakAveraging, Warmup

images, labels = load_digits(return_X_y=True)
x, y, x_test, y_test = images[:900] / 16, labels[:900], images[900:] / 16, labels[900:]

hidden = [keras.layers.Dense(64, activation="relu"), keras.layers.Dropout(0.2)]
model = keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10, activation="softmax")])
model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])

kit = [Warmup(1), CosineDecay(), PolyakAveraging(0.99)]
model.fit(x, y, batch_size=16, epochs=EPOCHS, verbose=0, callbacks=kit)
error = 100 * (1 - model.evaluate(x_test, y_test, verbose=0)[1])
"""


def changed_lines():
    """Returns the diff's lines, and how many of them were added or removed (empty lines don't count)."""
    diff = list(
        difflib.unified_diff(BEFORE.splitlines(), AFTER.splitlines(), "before.py", "after.py", n=1, lineterm="")
    )
    return diff, sum(line[0] in "+-" and len(line) > 1 for line in diff[2:])


def run(script, seed):
    """Runs a script and returns its error in percent."""
    import keras

    keras.utils.set_random_seed(seed)
    namespace = {"EPOCHS": EPOCHS}
    exec(script, namespace)
    return namespace["error"]


def main():
    diff, count = changed_lines()
    print("\n".join(diff))
    print(f"\n{count} lines.\n")
    for name, script in (("before", BEFORE), ("after", AFTER)):
        errors = [run(script, seed) for seed in range(SEEDS)]
        spread = f" (standard deviation {statistics.stdev(errors):.2f})" if SEEDS > 1 else ""
        print(f"{name}: {statistics.mean(errors):.2f} % wrong{spread}, {SEEDS} seed(s), {EPOCHS} epochs")


if __name__ == "__main__":
    main()
