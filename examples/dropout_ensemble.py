"""Dropout as an ensemble of 2^n networks that share their weights: four of them, then the mean.

    python examples/dropout_ensemble.py [--smoke]

A network of 64 hidden units learns two classes of points in the plane, with dropout. Each mask of its 64 units is a
network of its own: four of the 2^64 are drawn by their decision, then the mean over 500, which testing approximates by
scaling. Right, the units' reliance on each other: how the training accuracy falls when units are taken away at random,
from this network and from one trained without dropout. The picture is saved to examples/output/dropout_ensemble.png.
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

SMOKE = "--smoke" in sys.argv
OUTPUT = pathlib.Path(__file__).parent / "output"
UNITS, EPOCHS, DRAWS = (64, 2, 10) if SMOKE else (64, 300, 500)


def points():
    """Returns 120 points of two half moons, with noise."""
    rng = np.random.default_rng(1)
    angle = rng.uniform(0, np.pi, 120)
    y = np.arange(120) % 2
    x = np.stack([np.cos(angle), np.sin(angle)], 1) * np.where(y, -1, 1)[:, None] + np.where(y, 1, 0)[:, None] * [
        1,
        0.35,
    ]
    return (x + 0.25 * rng.normal(size=x.shape)).astype("float32"), y


def weights_of_network(rate, x, y):
    """Trains a hidden layer with dropout; returns its kernels and biases."""
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(UNITS, activation="relu")
    stack = [keras.Input((2,)), hidden, keras.layers.Dropout(rate), keras.layers.Dense(1)]
    model = keras.Sequential(stack)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, steps_per_execution=4)
    model.fit(x, y, 30, EPOCHS, 0)
    return model.get_weights()


def probability(weights, x, mask):
    """Returns the probability of class 1; `mask` holds a factor for each unit."""
    kernel, bias, top, offset = weights
    return 1 / (1 + np.exp(-((np.maximum(x @ kernel + bias, 0) * mask) @ top + offset)[:, 0]))


def main():
    x, y = points()
    dropped, plain = weights_of_network(0.5, x, y), weights_of_network(0.0, x, y)
    rng = np.random.default_rng(0)
    masks = 2.0 * (rng.random((DRAWS, UNITS)) < 0.5)
    grid = np.stack(np.meshgrid(np.linspace(-1.9, 2.9, 160), np.linspace(-1.5, 1.9, 120)), -1)
    flat = grid.reshape(-1, 2)
    maps = {f"network {index + 1} of $2^{{{UNITS}}}$": probability(dropped, flat, masks[index]) for index in range(4)}
    maps[f"the mean of {DRAWS}"] = np.mean([probability(dropped, flat, mask) for mask in masks], axis=0)
    maps["all units (testing)"] = probability(dropped, flat, np.ones(UNITS))

    figure = plt.figure(figsize=(14.5, 5.6), layout="constrained")
    layout = figure.add_gridspec(2, 4, width_ratios=[1, 1, 1, 1.35])
    places = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (1, 2)]
    for (row, column), (title, values) in zip(places, maps.items()):
        axis = figure.add_subplot(layout[row, column])
        axis.contourf(
            *np.moveaxis(grid, -1, 0), values.reshape(grid.shape[:2]), 16, cmap="RdBu", alpha=0.5, vmin=0, vmax=1
        )
        axis.contour(*np.moveaxis(grid, -1, 0), values.reshape(grid.shape[:2]), [0.5], colors="0.2", linewidths=1.2)
        for label, color in ((0, "#8c1c2b"), (1, "#17457a")):
            axis.plot(*x[y == label].T, "o", color=color, markersize=4.5, markeredgecolor="white", markeredgewidth=0.6)
        bold = "bold" if column == 2 else "normal"
        axis.set_title(title, fontsize=11, fontweight=bold, loc="left")
        axis.set(xticks=[], yticks=[])
    figure.supxlabel(
        "Left: the plane of the two inputs, coloured by the probability of the blue class; black: where it is one half",
        fontsize=9,
        color="0.4",
    )
    axis = figure.add_subplot(layout[:, 3])
    parts = np.linspace(0, 0.9, 10)
    for name, weights, color in (("trained with dropout", dropped, "#2a6fbb"), ("without", plain, "#c9184a")):
        rights = []
        for part in parts:
            # Scaled as inverted dropout scales, so that only the choice of units matters.
            trials = [(rng.random(UNITS) >= part) / (1 - part) for _ in range(min(200, DRAWS))]
            rights.append([100 * np.mean((probability(weights, x, mask) > 0.5) == y) for mask in trials])
        middle = np.mean(rights, axis=1)
        low, high = np.quantile(rights, [0.1, 0.9], axis=1)
        axis.plot(100 * parts, middle, "o-", color=color, markersize=4, label=name)
        axis.fill_between(100 * parts, low, high, color=color, alpha=0.15, linewidth=0)
        print(f"{name:22} half of the units away: {middle[5]:.1f} % right")
    axis.set(xlabel="units taken away at random (%)", ylabel="training points right (%)")
    axis.set_title("How much units rely on each other", fontsize=11, fontweight="bold", loc="left")
    axis.legend(frameon=False, loc="lower left", title="band: 10 to 90% of the choices", title_fontsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        "Dropout trains an ensemble of networks that share their weights", fontsize=14, fontweight="bold", color="0.2"
    )
    OUTPUT.mkdir(exist_ok=True)
    figure.savefig(OUTPUT / "dropout_ensemble.png", dpi=110)
    print("saved", OUTPUT / "dropout_ensemble.png")


main()
