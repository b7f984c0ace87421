"""A run that doesn't learn, repaired step by step by what preflight says.

    python examples/babysit.py            # about two minutes
    python examples/babysit.py --smoke    # seconds: the last repairs only, for seeing that it runs

Five things are wrong at once: pixels are unscaled, labels were shuffled apart from their images, the loss takes logits
for probabilities, the weights start too small for their depth, and the learning rate is a thousand times too high.
Preflight is asked, the first failure that it names is repaired, and so on, until it passes. After each repair the
model trains for a few epochs, to see what the repair was worth. Then it trains for longer, and the curves are asked:
they say that it overfits, so it gets dropout. Pictures are saved to examples/output/babysit/.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.pyplot as plt
import numpy as np
from _babysit_pictures import activation_curves, compare_centering, draw_activation_functions, draw_centering
from keras import layers

from kregkit import plots
from kregkit.callbacks import UpdateRatio
from kregkit.data import digits
from kregkit.diagnostics import (
    compare_activations,
    compare_learning_rates,
    diagnose_curves,
    learning_rate_range,
    preflight,
)

DEPTH, WIDTH, EPOCHS, LONG, BATCH_SIZE = 5, 64, 8, 20, 32
OUTPUT = pathlib.Path(__file__).parent / "output" / "babysit"

# What preflight may name, and the setting that mends it.
REPAIRS = {
    "unscaled inputs": "scaled",
    "shuffled labels": "paired",
    "logits into a from_logits=False loss": "from_logits",
    "vanishing activations": "batch_normalization",
    "vanishing gradients": "batch_normalization",
    "learning rate too high": "lower_rate",
}
DROPOUT = 0.2


def data(settings):
    (x, y), (x_test, y_test) = (digits(split, as_arrays=True) for split in ("train", "test"))
    x, x_test = x.astype("float32"), x_test.astype("float32")
    if "scaled" in settings:
        mean, deviation = x.mean(), x.std()
        x, x_test = (x - mean) / deviation, (x_test - mean) / deviation
    if "paired" not in settings:
        y = np.random.default_rng(0).permutation(y)
    return (x, y), (x_test, y_test)


def build(settings):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten()])
    for level in range(1, DEPTH + 1):
        small = keras.initializers.RandomNormal(stddev=0.01)
        model.add(layers.Dense(WIDTH, kernel_initializer=small, name=f"dense_{level}"))
        if "batch_normalization" in settings:
            # An epoch has 45 batches: statistics that average over hundreds would lag behind the weights.
            model.add(layers.BatchNormalization(momentum=0.9))
        model.add(layers.Activation("tanh", name=f"tanh_{level}"))
        if "dropout" in settings:
            model.add(layers.Dropout(DROPOUT))
    model.add(layers.Dense(10, name="top"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits="from_logits" in settings)
    rate = 1e-3 if "lower_rate" in settings else 1.0
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def train(settings, epochs):
    train_data, test_data = data(settings)
    callbacks = [keras.callbacks.TerminateOnNaN(), UpdateRatio(every=10)]
    model = build(settings)
    return model.fit(*train_data, BATCH_SIZE, epochs, validation_data=test_data, verbose=0, callbacks=callbacks).history


def repair(settings, epochs, checks):
    """Asks, mends, trains, and asks again; returns a list of `(what was mended, report, history)`."""
    steps, mended = [], "as it was"
    while True:
        report = preflight(build(settings), data(settings)[0], checks)
        history = train(settings, epochs)
        accuracy = history["val_accuracy"][-1]
        print(f"\n=== {mended}: test accuracy {accuracy:.1%} after {len(history['loss'])} epochs\n\n{report}")
        steps.append((mended, report, history))
        named = [fault for fault in report.faults if fault in REPAIRS and REPAIRS[fault] not in settings]
        if not named:
            return steps
        settings, mended = settings | {REPAIRS[named[0]]}, named[0]


def draw_steps(steps):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    names = ["as it was", *[f"{name}: mended" for name, _, _ in steps[1:]]]
    places, start = np.arange(len(steps)), np.zeros(len(steps))
    for status, color in (("fail", "#c0392b"), ("warn", "#d98e04"), ("pass", "#2a8c4a")):
        counts = np.array([sum(one.status == status for one in report.findings) for _, report, _ in steps])
        left.barh(places, counts, left=start, color=color, label=status)
        start = start + counts
    left.set_yticks(places, names)
    left.invert_yaxis()
    left.set_xlabel("number of preflight's checks")
    left.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for axes in (left, right):
        axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    # From light to dark, and none of the verdicts' colours.
    for place, color, (_, _, history) in zip(places, plt.cm.Purples(np.linspace(0.5, 1, len(steps))), steps):
        epochs = np.arange(1, len(history["loss"]) + 1)
        right.plot(epochs, 100 * np.array(history["val_accuracy"]), "o-", markersize=3, linewidth=1.8, color=color)
        left.get_yticklabels()[place].set_color(color)
    right.axhline(10, color="0.4", linestyle="--", linewidth=1)
    right.set(xlabel="epoch (colours as of the names, left)", ylabel="test accuracy (%), dashed: chance", ylim=(0, 100))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_overfitting(curves):
    """Draws the repaired run's loss without and with dropout."""
    figure = plt.figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for (name, history), color in zip(curves.items(), ("#c0392b", "#2a8c4a")):
        plots.loss_curves(history, axes, label=name, color=color)
    axes.set_ylabel("loss (nats), dashed: training")
    return figure


def save(figure, name, title):
    figure.suptitle(title, fontsize=12, fontweight="bold", color="0.2")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUTPUT / f"{name}.png", dpi=110)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="the last repairs only")
    smoke = parser.parse_args().smoke
    settings = {"scaled", "paired", "from_logits", "batch_normalization"} if smoke else set()
    checks = ["input_statistics", "initial_loss", "learning_rate", "update_ratio"] if smoke else "all"
    steps = repair(settings, 4 if smoke else EPOCHS, checks)
    save(steps[0][1].plot(), "before", "Preflight of the run as it was")
    save(steps[-1][1].plot(), "after", "Preflight of the repaired run")
    save(draw_steps(steps), "steps", "What each repair was worth")
    healthy = set(REPAIRS.values())
    curves = {"repaired": steps[-1][2] if smoke else train(healthy, LONG)}
    found = diagnose_curves(curves["repaired"])
    print("\n=== the repaired run's curves\n\n", found)
    if "overfitting" in found.faults:
        curves[f"and dropout {DROPOUT}"] = train(healthy | {"dropout"}, LONG)
        print(f"\n=== and with dropout {DROPOUT}\n\n", diagnose_curves(curves[f"and dropout {DROPOUT}"]))
    save(draw_overfitting(curves), "overfitting", "The repaired run, without and with dropout")

    (x, y), _ = data(healthy)
    model = build(healthy)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    found = learning_rate_range(model, (x, y), steps=30 if smoke else 100)
    print("\n", found)
    found.plot(axes[0])
    rates = {"good": 1e-3, "too high": 2.0} if smoke else None
    plots.learning_rates(compare_learning_rates(model, (x, y), rates, steps=30 if smoke else 200), axes[1])
    for one in axes:
        one.set_ylabel("training loss (nats)")
    save(figure, "learning_rates", "Left: one run while its rate rises. Right: runs at one rate each")
    widths, runs = ([32] * 3, {"initializers": ["He"], "activations": ["tanh", "ReLU"]}) if smoke else (None, {})
    compared = compare_activations(widths, **runs).plot()
    save(compared, "activations_through_depth", "Histograms of the outputs, first layer to last")
    save(draw_activation_functions(activation_curves()), "activation_functions", "Activation functions")
    two = np.isin(y, (0, 1))
    flat = x[two].reshape(two.sum(), -1) - x[two].reshape(two.sum(), -1).mean(0)
    directions = np.linalg.svd(flat, full_matrices=False)[2][:2]
    centring = draw_centering(compare_centering(flat @ directions.T, y[two]))
    save(centring, "centring", "Uncentred inputs make the loss sensitive to the weights")
    print(f"\npictures in {OUTPUT}")


if __name__ == "__main__":
    main()
