"""How long the steps of Adam and of AdaGrad are over time, with and without what mends them.

    python examples/step_sizes.py [--smoke]

Left, what Adam's bias correction is for: its averages start at zero, the second one's much longer, so that without the
correction the first steps are several times the learning rate. Right, AdaGrad sums all squares that it ever saw, so its
steps die out; RMSProp's average forgets. Each rule trains the same small network on 300 digits from three seeds. The
picture is saved to examples/output/step_sizes.png.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from keras import layers

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from kregkit import optimizers
from kregkit.data import digits

SMOKE = "--smoke" in sys.argv
OUTPUT = pathlib.Path(__file__).parent / "output"
STEPS, SEEDS, RATE = (10, 1, 1e-3) if SMOKE else (300, 3, 1e-3)
RULES = {
    "Adam, uncorrected": (lambda: optimizers.Adam(RATE, bias_correction=False), "#f2849e"),
    "Adam": (lambda: optimizers.Adam(RATE), "#c9184a"),
    "AdaGrad": (lambda: keras.optimizers.Adagrad(RATE, initial_accumulator_value=0.0), "#c08a00"),
    "RMSProp": (lambda: keras.optimizers.RMSprop(RATE), "#3a9d23"),
}


def step_lengths(optimizer, seed):
    """Trains a network; returns the root mean square over its weights of every update, in learning rates."""
    keras.utils.set_random_seed(seed)
    x, y = digits("train[:300]", as_arrays=True)
    x = (x / 255.0).astype("float32")
    hidden = [layers.Dense(32, activation="relu"), layers.Dense(32, activation="relu")]
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), *hidden, layers.Dense(10)])
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        before = [tf.identity(variable.value) for variable in model.trainable_variables]
        optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_variables)
        moved = [tf.reduce_sum((now.value - then) ** 2) for now, then in zip(model.trainable_variables, before)]
        return tf.sqrt(tf.add_n(moved) / model.count_params()) / RATE

    batches = np.random.default_rng(seed).integers(0, len(x), (STEPS, 30))
    return np.array([float(step(x[batch], y[batch])) for batch in batches])


def main():
    lengths = {
        name: np.stack([step_lengths(make(), seed) for seed in range(SEEDS)]) for name, (make, _) in RULES.items()
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    steps = np.arange(1, STEPS + 1)
    for axis, names in ((left, ("Adam, uncorrected", "Adam")), (right, ("AdaGrad", "RMSProp"))):
        for name in names:
            for number, run in enumerate(lengths[name]):
                axis.plot(steps, run, color=RULES[name][1], linewidth=1.4, alpha=0.75, label=None if number else name)
        axis.set(xlabel="step", ylabel="length of the step, in learning rates")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    left.set_title("Adam's correction: the first steps", fontweight="bold", loc="left")
    left.set(xlim=(0, min(60, STEPS)), ylim=(0, None))
    right.set_title("AdaGrad's steps die out", fontweight="bold", loc="left")
    right.set_yscale("log")
    right.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    right.yaxis.set_major_formatter("{x:g}")
    seeds = f"{SEEDS} seeds, a line each" if SEEDS > 1 else "one seed"
    figure.supxlabel(f"root mean square over all weights; {seeds}", fontsize=9, color="0.4")
    figure.suptitle("How long the steps are", fontsize=14, fontweight="bold", color="0.2")
    OUTPUT.mkdir(exist_ok=True)
    figure.savefig(OUTPUT / "step_sizes.png", dpi=130)
    for name, runs in lengths.items():
        print(f"{name:18} longest {runs.max():5.2f} learning rates, last ten {runs[:, -10:].mean():.3f}")
    print("saved", OUTPUT / "step_sizes.png")


main()
