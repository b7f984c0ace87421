"""Batch normalisation as noise: what a network says of one image while training depends on the images beside it.

    python examples/batch_noise.py [--smoke]

A small network with batch normalisation is trained on 300 digits. Then the same test image goes through it in 200
random batches, normalised by the batch as in training: its probability becomes a cloud, which is narrower the larger
the batch is, and which the running statistics of testing replace by one number. The picture is saved to
examples/output/batch_noise.png.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np
from keras import layers

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from kregkit.data import digits

SMOKE = "--smoke" in sys.argv
OUTPUT = pathlib.Path(__file__).parent / "output"
BATCHES, EPOCHS = (5, 1) if SMOKE else (200, 8)
SIZES = (4, 16, 64, 256)


def trained(x, y):
    keras.utils.set_random_seed(0)
    stack = [keras.Input((64,))]
    for _ in range(2):
        stack += [layers.Dense(32, use_bias=False), layers.BatchNormalization(momentum=0.9), layers.ReLU()]
    model = keras.Sequential([*stack, layers.Dense(10)])
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, 32, EPOCHS, 0)
    return model


def probabilities(model, batch, training):
    """Returns the classes' probabilities for a batch's first image; the running statistics aren't moved."""
    values = batch
    for layer in model.layers:
        if training and isinstance(layer, layers.BatchNormalization):
            mean, variance = keras.ops.moments(values, axes=[0])
            values = layer.gamma * (values - mean) / keras.ops.sqrt(variance + layer.epsilon) + layer.beta
        else:
            values = layer(values, training=False)
    return keras.ops.convert_to_numpy(keras.ops.softmax(values))[0]


def main():
    x, y = digits("train[:300]", as_arrays=True)
    x_test, y_test = digits("test", as_arrays=True)
    x, x_test = (images.reshape(-1, 64).astype("float32") / 255 for images in (x, x_test))
    model = trained(x, y)
    sure = keras.ops.convert_to_numpy(keras.ops.softmax(model(x_test, training=False)))[np.arange(len(y_test)), y_test]
    # One image that the network knows well, one that it half knows, and one between.
    chosen = [int(np.argmin(np.abs(sure - wanted))) for wanted in (0.99, 0.8, 0.5)]
    rng = np.random.default_rng(0)
    figure, grid = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
    for axis, index in zip(grid, chosen):
        label = y_test[index]
        for place, size in enumerate(SIZES):
            clouds = []
            for _ in range(BATCHES):
                mates = x[rng.integers(0, len(x), size - 1)]
                clouds.append(probabilities(model, np.concatenate([x_test[index : index + 1], mates]), True)[label])
            jitter = place + rng.uniform(-0.28, 0.28, BATCHES)
            axis.plot(jitter, clouds, ".", color="#2a6fbb", markersize=4, alpha=0.45)
            axis.plot([place - 0.35, place + 0.35], [np.mean(clouds)] * 2, color="#12365f", linewidth=2.2)
            print(f"digit {label}, batches of {size:3}: spread {np.std(clouds):.3f}")
        test = probabilities(model, x_test[index : index + 1], False)[label]
        axis.axhline(test, color="#c9184a", linestyle="--", linewidth=1.4)
        axis.set_xticks(range(len(SIZES)), SIZES)
        axis.set(xlabel="images in the batch", ylim=(-0.02, 1.02))
        axis.set_title(f"an image of a {label}", fontweight="bold", loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        picture = axis.inset_axes([0.8, 0.06, 0.17, 0.24])
        picture.imshow(x_test[index].reshape(8, 8), cmap="gray_r")
        picture.set_xticks([])
        picture.set_yticks([])
    grid[0].set_ylabel("probability of its digit")
    figure.suptitle("The same image among other batch mates", fontsize=14, fontweight="bold", color="0.2")
    figure.supxlabel(
        f"a dot: one of {BATCHES} random batches, normalised as in training; bar: their mean; "
        "dashed: as in testing, by running statistics",
        fontsize=9,
        color="0.4",
    )
    OUTPUT.mkdir(exist_ok=True)
    figure.savefig(OUTPUT / "batch_noise.png", dpi=120)
    print("saved", OUTPUT / "batch_noise.png")


main()
