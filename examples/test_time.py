"""What averaging at test time brings: dropout, fractional pooling, ten-crop, snapshots, and all of them at once.

    python examples/test_time.py            # about three minutes on two cores
    python examples/test_time.py --smoke    # seconds: one short run of each, for seeing that it works

Two tasks on real images, several seeds each. Digits: one network with dropout and fractional max pooling, trained by
SnapshotEnsemble. Photographs: scikit-learn's two are cut into small grey patches, left halves to train on and right
halves to test on, and the network says which photograph a patch is from. The learning rate of each is the one of three
with the fewest errors on the last quarter of the training set, when trained on the rest: the test images have no say.
The table is printed with 95% intervals over the seeds, and pictures are saved to examples/output/test_time/: errors,
error against draws, and the test images that the network is least sure of.
"""

import argparse
import logging
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers
from scipy import stats
from sklearn.datasets import load_sample_images

from kregkit import plots
from kregkit.callbacks import SnapshotEnsemble
from kregkit.data import Augment, RandomCrop, RandomFlip, TenCrop, digits
from kregkit.inference import Ensemble, marginalize
from kregkit.layers import FractionalMaxPooling2D

SEEDS, EPOCHS, CYCLES, BATCH_SIZE = 3, 36, 3, 32
LEARNING_RATES = (0.1, 0.03, 0.01)
# Few digits to learn from, so that there are errors to mend.
TRAIN, TEST = "train[:20%]", "train[20%:]+test"
DRAWS = (1, 4, 12, 50)
PATCH, VIEW, NUM_PATCHES = 14, 12, 1200
OUTPUT = pathlib.Path(__file__).parent / "output" / "test_time"


def compiled(rate, *stack):
    model = keras.Sequential(stack)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss, metrics=["accuracy"])
    return model


def digits_network(rate):
    return compiled(
        rate,
        keras.Input((8, 8, 1)),
        layers.Conv2D(24, 3, padding="same", activation="relu"),
        FractionalMaxPooling2D(2**0.5),
        layers.Conv2D(32, 2, padding="same", activation="relu"),
        FractionalMaxPooling2D(2**0.5),
        layers.Conv2D(48, 2, padding="same", activation="relu"),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.Dense(10),
    )


def patches_network(rate):
    return compiled(
        rate,
        keras.Input((VIEW, VIEW, 1)),
        layers.Conv2D(16, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(32, 3, activation="relu"),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.Dense(2),
    )


def patches(num, left):
    """Returns grey patches `(num, PATCH, PATCH, 1)` in [0, 1] from one side of both photographs, and which each is."""
    random = np.random.default_rng(int(left))
    labels = random.integers(0, 2, num)
    photographs = [image[::4, ::4].mean(-1, dtype="float32") / 255 for image in load_sample_images().images]
    found = []
    for label in labels:
        height, width = photographs[label].shape
        low, high = (0, width // 2 - PATCH) if left else (width // 2, width - PATCH)
        top, side = random.integers(0, height - PATCH), random.integers(low, high)
        patch = photographs[label][top : top + PATCH, side : side + PATCH]
        # Brightness and contrast alone would tell the two apart.
        found.append((patch - patch.mean()) / (patch.std() + 0.02))
    return np.array(found, "float32")[..., None], labels


def fit(model, x, y, epochs, cycles):
    with tempfile.TemporaryDirectory() as directory:
        model.fit(
            x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0, callbacks=[SnapshotEnsemble(directory, cycles)]
        )
        return Ensemble.from_directory(directory, model=model)


def fit_digits(rate, seed, x, y, epochs, cycles):
    keras.utils.set_random_seed(seed)
    model = digits_network(rate)
    shifted = np.asarray(Augment([RandomCrop(1)]).views(3, seed=seed)(x))
    return model, fit(model, np.concatenate([x, *shifted]), np.tile(y, 4), epochs, cycles)


def fit_patches(rate, seed, x, y, epochs, cycles):
    keras.utils.set_random_seed(seed)
    model = patches_network(rate)
    views = Augment([RandomCrop(0, size=VIEW), RandomFlip()], value_range=(-10.0, 10.0)).views(3, seed=seed)
    return model, fit(model, np.concatenate(np.asarray(views(x))), np.tile(y, 3), epochs, cycles)


def central(patches):
    edge = (PATCH - VIEW) // 2
    return patches[:, edge : edge + VIEW, edge : edge + VIEW]


def choose_rate(rates, fitted, x, y, epochs, cycles, prepare=lambda x: x):
    """Returns the rate with the fewest errors on the last quarter of a training set; ties go by the loss."""
    held = len(x) * 3 // 4
    scores = {}
    for rate in rates:
        model, _ = fitted(rate, 0, x[:held], y[:held], epochs, cycles)
        loss, accuracy = model.evaluate(prepare(x[held:]), y[held:], verbose=0)
        scores[rate] = (100 * (1 - accuracy), loss)
    best = min(scores, key=scores.get)
    tried = ", ".join(f"{rate}: {wrong:.1f} %" for rate, (wrong, _) in scores.items())
    print(f"learning rate {best}, by the error on {len(x) - held} held-out training images ({tried})", flush=True)
    return best


def error(predictor, x, y):
    return 100 * float(np.mean(predictor.predict(x, verbose=0).argmax(axis=-1) != y))


def digits_errors(rate, seed, data, epochs, cycles, draws):
    """Returns errors by name, errors by number of draws, and a predictor with its spread."""
    x, y, x_test, y_test = data
    model, ensemble = fit_digits(rate, seed, x, y, epochs, cycles)
    dropout, pooling = [layers.Dropout], [FractionalMaxPooling2D]
    found = {"plain prediction": error(model, x_test, y_test)}
    curves = {}
    for name, noise in (("dropout", dropout), ("fractional pooling", pooling), ("both", "all")):
        curves[name] = [error(marginalize(model, n, noise=noise, seed=seed), x_test, y_test) for n in draws]
    found[f"dropout, {draws[-1]} draws"] = curves["dropout"][-1]
    for n, value in zip(draws, curves["fractional pooling"]):
        found[f"fractional pooling, {n} draw{'s' if n > 1 else ''}"] = value
    found[f"both, {draws[-1]} draws"] = curves["both"][-1]
    found["snapshot ensemble"] = error(ensemble, x_test, y_test)
    found[f"ensemble x both, {draws[-1]} draws"] = error(marginalize(ensemble, draws[-1], seed=seed), x_test, y_test)
    return found, curves, marginalize(ensemble, draws[-1], seed=seed, spread=True)


def patches_errors(rate, seed, data, epochs, cycles, draws):
    x, y, x_test, y_test = data
    model, ensemble = fit_patches(rate, seed, x, y, epochs, cycles)
    centre = central(x_test)
    ten = TenCrop(VIEW)
    return {
        "plain, central crop": error(model, centre, y_test),
        f"dropout, {draws[-1]} draws": error(marginalize(model, draws[-1], seed=seed), centre, y_test),
        "ten-crop": error(marginalize(model, views=ten, noise=None), x_test, y_test),
        "snapshot ensemble": error(ensemble, centre, y_test),
        "ensemble x ten-crop x dropout": error(marginalize(ensemble, 4, views=ten, seed=seed), x_test, y_test),
    }


def summary(rows):
    """Returns means, and 95% intervals of the mean by Student's t, over a list of dictionaries."""
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    if len(rows) == 1:
        return means, {}
    intervals = {}
    for name in means:
        half = stats.t.ppf(0.975, len(rows) - 1) * np.std([row[name] for row in rows], ddof=1) / np.sqrt(len(rows))
        intervals[name] = (max(0.0, means[name] - half), means[name] + half)
    return means, intervals


def show(title, means, intervals):
    print(f"\n{title}\n")
    for name, value in means.items():
        # One seed has no interval.
        interval = "   [{:5.2f}, {:5.2f}]".format(*intervals[name]) if name in intervals else ""
        print(f"{name:32}{value:7.2f} %{interval}")


def over(seeds, spread):
    return f"mean and {spread} of {seeds} seeds" if seeds > 1 else "one seed"


def save(axes, name, title):
    axes.figure.suptitle(title, fontsize=11, fontweight="bold", color="0.2")
    axes.figure.savefig(OUTPUT / name, dpi=130)


def least_sure(predictor, x, y, num=12):
    """Returns a figure of the images with the most uncertain predictions."""
    prediction, spread = predictor.predict(x, verbose=0)
    order = np.argsort(-spread["entropy"])[:num]
    figure, grid = plt.subplots(2, num // 2, figsize=(1.7 * num / 2, 5.5), layout="constrained")
    figure.get_layout_engine().set(hspace=0.12)
    p = np.exp(prediction - prediction.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    for axes, index in zip(grid.flat, order):
        first, second = np.argsort(-p[index])[:2]
        axes.imshow(x[index, ..., 0], cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(f"{first} {p[index, first]:.0%}, {second} {p[index, second]:.0%}", fontsize=9)
        right = f"is {y[index]}"
        axes.set_xlabel(
            f"{right}\nentropy {spread['entropy'][index]:.2f}\ndraws {spread['mutual_information'][index]:.2f}",
            fontsize=8, color="tab:green" if first == y[index] else "tab:red",
        )  # fmt: skip
        axes.set_xticks([])
        axes.set_yticks([])
    title = "The test images that the ensemble is least sure of: above, its two likeliest digits; below, what it is\n"
    title += "(green: right, red: wrong; entropy in nats; draws: the part of it that is their disagreement)"
    figure.suptitle(title, fontsize=11, fontweight="bold", color="0.2")
    return figure


def digits_part(rates, seeds, epochs, cycles, draws):
    x, y = digits(TRAIN, as_arrays=True)
    x_test, y_test = digits(TEST, as_arrays=True)
    data = (x / np.float32(255), y, x_test / np.float32(255), y_test)
    print(f"{len(x)} digits to train on, {len(x_test)} to test on, {seeds} seeds", flush=True)
    rate = choose_rate(rates, fit_digits, *data[:2], epochs, cycles)
    rows, curves = [], []
    for seed in range(seeds):
        row, curve, predictor = digits_errors(rate, seed, data, epochs, cycles, draws)
        rows.append(row)
        curves.append(curve)
        print(f"seed {seed}: plain {row['plain prediction']:.2f} %, best {min(row.values()):.2f} %", flush=True)
    means, intervals = summary(rows)
    show("Test error on the digits", means, intervals)
    axes = plots.errors(means, intervals=intervals, baseline="plain prediction")
    save(axes, "digits.png", f"Digits: test error, {over(seeds, '95% interval')}\n(dashed: plain prediction)")

    axes = None
    for name in curves[0]:
        axes = plots.error_against_draws(draws, [curve[name] for curve in curves], axes, label=name)
    plain = [row["plain prediction"] for row in rows]
    axes.axhline(np.mean(plain), color="0.4", linestyle="--", linewidth=1, label="plain prediction")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    save(axes, "draws.png", f"Digits: test error against draws, {over(seeds, 'range')}")
    least_sure(predictor, data[2], y_test).savefig(OUTPUT / "least_sure.png", dpi=130)


def photographs_part(rates, seeds, epochs, cycles, draws, num=NUM_PATCHES):
    data = (*patches(num, left=True), *patches(num, left=False))
    print(f"\n{num} patches of photographs to train on, {num} to test on, {seeds} seeds", flush=True)
    rate = choose_rate(rates, fit_patches, *data[:2], epochs, cycles, central)
    rows = [patches_errors(rate, seed, data, epochs, cycles, draws) for seed in range(seeds)]
    means, intervals = summary(rows)
    show("Test error on the photographs' patches", means, intervals)
    axes = plots.errors(means, intervals=intervals, baseline="plain, central crop")
    title = f"Photographs' patches: test error, {over(seeds, '95% interval')}\n(dashed: plain, central crop)"
    save(axes, "photographs.png", title)


def main():
    # Each of the many models is traced once, which TensorFlow takes for one that is traced many times.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one short run of each")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    if parser.parse_args().smoke:
        digits_part(LEARNING_RATES[:1], 1, 2, 2, (1, 2))
        photographs_part(LEARNING_RATES[:1], 1, 2, 2, (1, 2), num=64)
    else:
        digits_part(LEARNING_RATES, SEEDS, EPOCHS, CYCLES, DRAWS)
        photographs_part(LEARNING_RATES, SEEDS, EPOCHS, CYCLES, DRAWS)
    print(f"\nPictures in {OUTPUT}")


if __name__ == "__main__":
    main()
