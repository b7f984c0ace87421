"""A residual network on real digits, without noise, with each of kregkit's stochastic layers, and with all of them.

    python examples/regularized_digits.py            # about seven minutes on two cores
    python examples/regularized_digits.py --smoke    # seconds: one short run of the plain and the full variant
    python examples/regularized_digits.py --masks    # instead: DropConnect's three masks beside each other

All variants get the same few training images, the same steps and the same seeds, and train through plain `fit`. The
table shows the test error's mean over seeds with a 95 % interval of the mean (Student's t), and the paired difference
to the plain network. Pictures are saved to examples/output/regularized_digits/. With `--masks`, two wide dense layers
answer whether DropConnect's cheap masks do as well as those that are independent from example to example.

Random pooling regions lower the error of this small network by more than the 95 % interval of three seeds; the other
layers don't, nor do all four together.
"""

import argparse
import functools
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers
from scipy import stats
from sklearn.datasets import load_sample_image

from kregkit import plots
from kregkit.data import digits
from kregkit.layers import DropConnect, FractionalMaxPooling2D, Maxout, MaxoutConv2D, StochasticDepth, linear_survival

NUM_TRAIN, EPOCHS, BATCH_SIZE, SEEDS = 300, 60, 30, 3
LEARNING_RATE, CHANNELS, BLOCKS, FINAL_SURVIVAL = 2e-3, 24, 4, 0.6
VARIANTS = {
    "plain": set(),
    "stochastic depth": {"depth"},
    "DropConnect": {"connect"},
    "fractional max pooling": {"pooling"},
    "maxout": {"maxout"},
    "all four": {"depth", "connect", "pooling", "maxout"},
}
MASK_SEEDS, MASK_UNITS = 10, 256
OUTPUT = pathlib.Path(__file__).parent / "output" / "regularized_digits"


def branch(channels):
    return keras.Sequential(
        [
            layers.Conv2D(channels, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2D(channels, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
        ]
    )


def build(parts, seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    if "maxout" in parts:
        x = MaxoutConv2D(CHANNELS, 3, pieces=2, padding="same")(inputs)
    else:
        x = layers.Conv2D(CHANNELS, 3, padding="same", activation="relu")(inputs)
    for index, survival in enumerate(linear_survival(BLOCKS, FINAL_SURVIVAL)):
        if "depth" in parts:
            x = StochasticDepth(branch(CHANNELS), survival, mode="batch")(x)
        else:
            x = layers.Add()([x, branch(CHANNELS)(x)])
        x = layers.ReLU()(x)
        if index % 2:
            # 8 to 5 to 3, by regions that change, or the same that don't.
            pool = FractionalMaxPooling2D(1.6, share="example")
            if "pooling" not in parts:
                pool = FixedRegions(1.6)
            x = pool(x)
    x = layers.Flatten()(x)
    hidden = layers.Dense(64, activation="relu")
    x = DropConnect(hidden, rate=0.5)(x) if "connect" in parts else hidden(x)
    x = Maxout(32, pieces=2)(x) if "maxout" in parts else layers.Dense(32, activation="relu")(x)
    model = keras.Model(inputs, layers.Dense(10)(x))
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def build_dense(mask, seed):
    """Returns two hidden layers whose weights are dropped, by masks of the given kind; by none if that is None."""
    keras.utils.set_random_seed(seed)
    hidden = [layers.Dense(MASK_UNITS, activation="relu") for _ in range(2)]
    if mask is not None:
        hidden = [DropConnect(layer, 0.5, mask, seed=seed) for layer in hidden]
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), *hidden, layers.Dense(10)])
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


class FixedRegions(FractionalMaxPooling2D):
    """The same pooling with the regions of test time in training too, so that only the noise differs."""

    def draw_call(self, inputs, training=None):
        return self.call(inputs, training=False)


def interval(values):
    """Returns the mean and half the width of its 95 % interval; of one value, the half is 0."""
    if len(values) < 2:
        return float(np.mean(values)), 0.0
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(half)


def drawn_boundaries(layer, size):
    """Returns one draw of a layer's regions along an axis, read from the maxima of a ramp."""
    ramp = np.broadcast_to(np.arange(size, dtype="float32")[:, None, None], (1, size, 2, 1))
    ends = layer.draw_call(keras.ops.convert_to_tensor(ramp))
    return [0, *(keras.ops.convert_to_numpy(ends)[0, :, 0, 0].astype(int) + 1)]


def save(figure, name, title):
    figure.suptitle(title, fontsize=13 if figure.get_figwidth() > 8 else 11, fontweight="bold", color="0.2")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUTPUT / name, dpi=150)
    plt.close(figure)


def draw_regions(image, rows, columns, axes, title, color="tab:orange"):
    """Draws an image with the boundaries of its pooling regions."""
    image = np.asarray(image)
    height, width = image.shape[:2]
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    axes.imshow(image, cmap="gray", interpolation="nearest", extent=(0, width, height, 0))
    # Thin enough that a dense grid leaves the image visible.
    line = {"color": color, "linewidth": min(1.8, max(0.35, 14 / max(len(rows), len(columns)))), "alpha": 0.9}
    axes.hlines(rows, 0, width, **line, clip_on=False)
    axes.vlines(columns, 0, height, **line, clip_on=False)
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)


def picture_regions():
    photograph = load_sample_image("flower.jpg")[40:424, 120:504] / 255.0
    photograph = photograph.reshape(24, 16, 24, 16, 3).mean(axis=(1, 3))
    figure, grid = plt.subplots(2, 4, figsize=(12, 6.6), layout="constrained")
    for row, regions in zip(grid, ("pseudorandom", "random")):
        for index, axes in enumerate(row):
            cuts = []
            for seed in (index, 100 + index):
                # Along the other axis there is nothing to cut.
                layer = FractionalMaxPooling2D(
                    (1.6, 1), regions, overlapping=False, data_format="channels_last", seed=seed
                )
                cuts.append(drawn_boundaries(layer, len(photograph)))
            draw_regions(photograph, *cuts, axes, f"{regions}, draw {index + 1}", "deepskyblue")
    title = "Fractional max pooling: four draws of regions, 24 x 24 to 15 x 15 (pseudorandom: spaced more evenly)"
    save(figure, "regions_photograph.png", title)

    image = digits("train", as_arrays=True)[0][7] / 255.0
    figure, grid = plt.subplots(2, 4, figsize=(12, 6.6), layout="constrained")
    for index in range(4):
        cuts = []
        for seed in (index, 100 + index):
            layer = FractionalMaxPooling2D((1.6, 1), overlapping=False, data_format="channels_last", seed=seed)
            cuts.append(drawn_boundaries(layer, 8))
        draw_regions(image, *cuts, grid[0, index], f"draw {index + 1}: 8 x 8")
        pooled = [
            [image[top:bottom, left:right].max() for left, right in zip(cuts[1], cuts[1][1:])]
            for top, bottom in zip(cuts[0], cuts[0][1:])
        ]
        draw_regions(pooled, range(6), range(6), grid[1, index], "pooled to 5 x 5")
    save(figure, "regions_digit.png", "One digit, four draws of the regions: above the regions, below their maxima")


def draw_depths(probabilities, axes, label):
    """Draws how many blocks survive: the law of a sum of Bernoulli variables, computed exactly."""
    law = np.ones(1)
    for probability in probabilities:
        law = np.convolve(law, [1 - probability, probability])
    mean = f"expected depth {sum(probabilities):.4g}"
    bars = axes.bar(np.arange(len(law)), law, width=0.85, alpha=0.55, label=label)
    axes.axvline(sum(probabilities), color=bars.patches[0].get_facecolor()[:3], linestyle="--", label=mean)
    axes.set_xlabel("blocks computed at a step")
    axes.set_ylabel("probability")
    axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)


def picture_depth():
    figure, grid = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for (left, right), (name, blocks, final) in zip(
        grid, (("this network", BLOCKS, FINAL_SURVIVAL), ("ResNet-110", 54, 0.5))
    ):
        plots.survival_probabilities(linear_survival(blocks, final), left, label=name)
        draw_depths(linear_survival(blocks, final), right, name)
    save(figure, "depth.png", "Stochastic depth: how likely each block survives, and how many do")


def compare(variants, epochs, seeds, base):
    """Trains every variant with every seed, prints the table, and returns the test errors by name.

    Args:
        variants: Dictionary of functions of a seed that return a compiled model.
        epochs, seeds: Integers.
        base: String, the variant that the others' paired differences are to.
    """
    x, y = digits(f"train[:{NUM_TRAIN}]", as_arrays=True)
    x_test, y_test = digits("test", as_arrays=True)
    x_more, y_more = digits(f"train[{NUM_TRAIN}:]", as_arrays=True)
    x, x_test = x / 255.0, np.concatenate([x_test, x_more]) / 255.0
    y_test = np.concatenate([y_test, y_more])
    print(f"{len(x)} digits to train on, {len(x_test)} to test on; {epochs} epochs, {seeds} seeds")

    errors = {name: [] for name in variants}
    training = {name: [] for name in variants}
    for seed in range(seeds):
        for name, variant in variants.items():
            model = variant(seed)
            model.fit(x, y, BATCH_SIZE, epochs, verbose=0)
            for found, images, labels in ((errors, x_test, y_test), (training, x, y)):
                predicted = model.predict(images, batch_size=256, verbose=0).argmax(axis=-1)
                found[name].append(100 * float(np.mean(predicted != labels)))
            print(f"  seed {seed}, {name:<24} test error {errors[name][-1]:5.2f} %", flush=True)

    over = f"over {seeds} seeds, 95 % interval of the mean" if seeds > 1 else "of one seed"
    print(f"\nTest error in percent {over}\n")
    print(f"  {'':<24} {'test error':>14}   {'minus ' + base:>15}   training error")
    for name, values in errors.items():
        mean, half = interval(values)
        difference, other = interval(np.subtract(values, errors[base]))
        cells = [f"{mean:.2f}", f"{difference:+.2f}"]
        if seeds > 1:
            cells = [f"{cell} +- {each:.2f}" for cell, each in zip(cells, (half, other))]
        print(f"  {name:<24} {cells[0]:>14}   {cells[1]:>15}   {np.mean(training[name]):14.2f}")
    return errors


def picture_errors(errors, seeds):
    means, intervals = {}, {}
    for name, values in errors.items():
        mean, half = interval(values)
        difference, other = interval(np.subtract(values, errors["plain"]))
        label = name if name == "plain" else f"{name}\n({difference:+.2f} ± {other:.2f})"
        means[label], intervals[label] = mean, (max(0.0, mean - half), mean + half)
    axes = plots.errors(means, intervals=intervals, baseline="plain")
    axes.figure.set_size_inches(6.4, 4.4)
    axes.set_xlabel("test error (%)")
    title = f"Test error after {NUM_TRAIN} digits; lines: 95% intervals over {seeds} seeds\n"
    save(axes.figure, "errors.png", title + "dashed: plain; in brackets: paired difference to plain")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="one seed, two epochs, two variants")
    parser.add_argument("--masks", action="store_true", help="compare DropConnect's masks with each other instead")
    arguments = parser.parse_args()
    epochs, seeds = (2, 1) if arguments.smoke else (EPOCHS, MASK_SEEDS if arguments.masks else SEEDS)
    if arguments.masks:
        masks = {"plain": None, "exact": "exact", "example": "example", "batch": "batch"}
        variants = {name: functools.partial(build_dense, mask) for name, mask in masks.items()}
        compare(variants, epochs, seeds, base="exact")
        return
    names = ("plain", "all four") if arguments.smoke else VARIANTS
    variants = {name: functools.partial(build, VARIANTS[name]) for name in names}
    errors = compare(variants, epochs, seeds, base="plain")
    picture_regions()
    picture_depth()
    if not arguments.smoke:
        picture_errors(errors, seeds)
    print(f"\nPictures: {OUTPUT}")


if __name__ == "__main__":
    main()
