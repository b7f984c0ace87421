"""What starting weights do to activations through ten layers, before any training.

    python examples/initialisations.py [--smoke]

Ten layers of 500 units, tanh and ReLU, get 256 standard normal inputs. Weights of 0.01 let the activations vanish,
those of N(0, 1) saturate tanh and let ReLU explode, Xavier's keep tanh alive and let ReLU fade, He's keep ReLU alive.
The picture is saved to examples/output/initialisations/depth.png.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib
import numpy as np

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from kregkit.diagnostics import compare_activations

SMOKE = "--smoke" in sys.argv
OUTPUT = pathlib.Path(__file__).parent / "output" / "initialisations"
WIDTHS = [50] * 3 if SMOKE else [500] * 10
NAMES = {"0.01 normal": "N(0, 0.01²)", "1 normal": "N(0, 1)", "Xavier": "Xavier", "He": "He"}
COLORS = {"0.01 normal": "#2a6fbb", "1 normal": "#c9184a", "Xavier": "#c08a00", "He": "#2a9d8f"}


def main():
    activations = ("tanh", "ReLU")
    found = compare_activations(WIDTHS, None, list(NAMES), activations, batch_normalization=[False])
    print(found)
    figure, grid = plt.subplots(2, 5, figsize=(14, 5.6), layout="constrained", width_ratios=[1.5, 1, 1, 1, 1])
    layers = np.arange(1, len(WIDTHS) + 1)
    for row, activation in zip(grid, activations):
        for name, axis in zip(NAMES, row[1:]):
            run = found[name, activation, False]
            spreads = [layer["std"] for layer in run["layers"]]
            row[0].plot(layers, spreads, "o-", markersize=4, color=COLORS[name], label=NAMES[name])
            last = run["layers"][-1]
            edges = np.array(last["edges"])
            axis.stairs(last["histogram"], edges, fill=True, color=COLORS[name], alpha=0.75)
            axis.set_title(f"{NAMES[name]}: {run['verdict']}", fontsize=10, fontweight="bold", color=COLORS[name])
            axis.set_yticks([])
            axis.set_xlabel(f"outputs of layer {len(WIDTHS)}", fontsize=9)
            axis.locator_params(axis="x", nbins=3)
            axis.ticklabel_format(axis="x", scilimits=(-2, 3))
        row[0].set(yscale="log", xlabel="layer", ylabel="standard deviation of outputs", title=activation)
        row[0].title.set_fontweight("bold")
        row[0].set_xticks(layers[:: 1 if SMOKE else 3])
        row[0].grid(alpha=0.25)
    grid[0, 0].legend(frameon=False, fontsize=8)
    for axis in grid.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(
        f"left: the spread of each layer's outputs; right: histograms of layer {len(WIDTHS)}'s outputs, of 256 inputs",
        fontsize=9,
        color="0.4",
    )
    figure.suptitle("Starting weights through depth", fontsize=14, fontweight="bold", color="0.2")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUTPUT / "depth.png", dpi=120)
    print("saved", OUTPUT / "depth.png")


main()
