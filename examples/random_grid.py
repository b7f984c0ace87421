"""Random against grid search, the lecture's picture: nine trials of two hyperparameters, of which one matters.

    python examples/random_grid.py [--smoke]

A small network is trained on 300 digits with nine learning rates and sizes of the first weights, on a grid and at
random. The learning rate decides, the size hardly matters: the grid tries three rates, the random search nine. Above
each square stands what each trial's rate is worth. The picture is saved to examples/output/random_grid.png.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from kregkit.data import digits
from kregkit.search import Space, grid, log_uniform, search

SMOKE = "--smoke" in sys.argv
OUTPUT = pathlib.Path(__file__).parent / "output"
POINTS, STEPS = (2, 10) if SMOKE else (3, 120)
LOW, HIGH, SCALES = 1e-4, 3.0, (0.5, 2.0)


def trainer():
    """Returns `train(parameters, epochs, callbacks)`; one traced model serves all trials."""
    x, y = digits("train[:300]", as_arrays=True)
    x_held, y_held = digits("train[300:1000]", as_arrays=True)
    x, x_held = x / np.float32(255), x_held / np.float32(255)
    stack = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(32, activation="relu")]
    keras.utils.set_random_seed(0)
    model = keras.Sequential([*stack, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, steps_per_execution=STEPS, jit_compile=False)
    start = model.get_weights()
    order = np.random.default_rng(0).integers(0, len(x), STEPS * 30)

    def train(parameters, epochs, callbacks):
        model.set_weights([parameters["scale"] * value for value in start])
        model.optimizer.learning_rate = parameters["learning_rate"]
        model.fit(x[order], y[order], 30, 1, 0, shuffle=False)
        logits = keras.ops.convert_to_numpy(model(x_held, training=False))
        return {"val_error": [100 * float(np.mean(logits.argmax(-1) != y_held))]}

    return train


def main():
    train = trainer()
    space = Space(learning_rate=log_uniform(LOW, HIGH), scale=log_uniform(*SCALES))
    common = {"metric": "val_error", "direction": "min", "epochs": 1, "verbose": 0, "seed": 0}
    results = {
        f"grid, {POINTS} x {POINTS}": grid(train, space, POINTS, **common),
        f"random, {POINTS**2}": search(train, space, POINTS**2, 1, **common),
    }
    rates = np.geomspace(LOW, HIGH, 4 if SMOKE else 25)
    curve = [train({"learning_rate": rate, "scale": 1.0}, 1, ())["val_error"][0] for rate in rates]

    figure, axes = plt.subplots(
        2, 2, figsize=(10.5, 6.4), layout="constrained", sharex=True, sharey="row", height_ratios=[1, 1.25]
    )
    for column, (name, result) in enumerate(results.items()):
        above, below = axes[:, column]
        above.plot(rates, curve, color="0.6", linewidth=1.6)
        for trial in result.trials:
            rate, scale = trial.parameters["learning_rate"], trial.parameters["scale"]
            best = trial is result.best or trial.value == result.best.value
            color = "#c9184a" if best else "#2a6fbb"
            above.plot([rate] * 2, [0, trial.value], color=color, linewidth=0.8, alpha=0.6)
            above.plot(rate, trial.value, "o", color=color, markersize=6)
            below.plot(rate, scale, "o", color=color, markersize=9)
            below.axvline(rate, color=color, linewidth=0.8, alpha=0.35)
        above.set_title(f"{name}: best {result.best.value:.1f} %", fontweight="bold", loc="left")
        below.set(xscale="log", yscale="log", xlabel="learning rate (matters)")
        print(f"{name}: best held-out error {result.best.value:.1f} %")
    axes[0, 0].set_ylabel("held-out error (%)")
    axes[1, 0].set_ylabel("size of the first weights\n(matters little)")
    axes[1, 0].set_yticks([0.5, 1, 2], ["0.5", "1", "2"])
    axes[1, 0].minorticks_off()
    axes[0, 0].set_ylim(0, 100)
    for axis in axes.flat:
        axis.grid(alpha=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    note = "grey: all rates at size 1; red: the best trial; one draw of the random trials"
    figure.suptitle("Nine trials: a grid tries three rates, chance nine", fontsize=14, fontweight="bold", color="0.2")
    figure.supxlabel(note, fontsize=9, color="0.4")
    OUTPUT.mkdir(exist_ok=True)
    figure.savefig(OUTPUT / "random_grid.png", dpi=120)
    print("saved", OUTPUT / "random_grid.png")


main()
