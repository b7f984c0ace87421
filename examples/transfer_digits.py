"""How many examples of new classes a network needs that knows other ones: digits 5 to 9 after digits 0 to 4.

    python examples/transfer_digits.py            # about five minutes on two cores
    python examples/transfer_digits.py --smoke    # seconds: one short run of each, for seeing that it works

A convolutional network is trained on the digits 0 to 4. Then four ways to learn 5 to 9 get the same few examples per
class and the same number of steps: from scratch (the same network with new weights), a linear probe on the frozen last
stage, fine-tuning all layers at once, and gradual unfreezing from the top at lower rates. Every seed draws other
examples (but for "all") and other new weights. The tables show the test error's mean over seeds, and the paired
difference to training from scratch, each with a 95 % interval of the mean (Student's t). The picture is saved to
examples/output/transfer_digits/.

Digits of 8x8 pixels are learned from nothing as well: no difference of fine-tuning to training from scratch exceeds its
interval. And the frozen features lack what the new digits need: the linear probe, which `recommend` plans for ten
examples per class, has the most errors by far. A plan is where to begin; what decides is a measurement like this one.
"""

import argparse
import logging
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from scipy import stats

from kregkit import plots
from kregkit.data import digits
from kregkit.transfer import (
    GradualUnfreeze,
    digits_backbone,
    linear_probe,
    measure_similarity,
    recommend,
    reinitialize,
    replace_head,
)

PER_CLASS, NUM_TEST, SEEDS = (1, 2, 5, 10, 50, "all"), 400, 4
EPOCHS, STEPS, BATCH_SIZE = 6, 25, 32
# For each way the best of three, on other draws of five per class, by images that are not among those tested here.
SCRATCH_RATE, FINE_TUNING_RATE, HEAD_RATE, FACTOR = 1e-2, 1e-2, 3e-2, 0.1
WAYS = ("from scratch", "linear probe", "fine-tuned", "gradual")
OUTPUT = pathlib.Path(__file__).parent / "output" / "transfer_digits"


def fit(model, x, y, rate, epochs, rng, callbacks=()):
    """Trains for the same number of steps, however few examples there are."""
    rounds = -(-STEPS * BATCH_SIZE // len(x))
    order = np.concatenate([rng.permutation(len(x)) for _ in range(rounds)])[: STEPS * BATCH_SIZE]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, steps_per_execution=STEPS)
    model.fit(x[order], y[order], BATCH_SIZE, epochs, verbose=0, callbacks=list(callbacks))
    return model


def train(way, backbone, x, y, epochs, seed):
    """Returns a model with five logits."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    if way == "linear probe":
        return linear_probe(backbone, (x, y), penalty=0.01, seed=seed).model
    model = replace_head(backbone, num_classes=5)
    if way == "from scratch":
        reinitialize(model, ".*")
        return fit(model, x, y, SCRATCH_RATE, epochs, rng)
    if way == "fine-tuned":
        return fit(model, x, y, FINE_TUNING_RATE, epochs, rng)
    # The head for a third of the time, then the upper half of the body, then all of it.
    stages = [(0, "head"), (epochs // 3, "conv_3"), (2 * epochs // 3, "conv_1")]
    return fit(model, x, y, HEAD_RATE, epochs, rng, [GradualUnfreeze(stages, FACTOR)])


def interval(values):
    """Returns the mean and half the width of its 95 % interval; of one value, the half is 0."""
    if len(values) < 2:
        return float(np.mean(values)), 0.0
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(half)


def main():
    # Each of the many models is traced once, which TensorFlow takes for one that is traced many times.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="one seed, two examples per class, half the steps")
    smoke = parser.parse_args().smoke
    sizes, seeds, epochs = ((2,), 1, 3) if smoke else (PER_CLASS, SEEDS, EPOCHS)

    x, y = digits("train+test", as_arrays=True)
    x, y = x[y > 4].astype("float32") / 255, y[y > 4] - 5
    x, y, x_test, y_test = x[:-NUM_TEST], y[:-NUM_TEST], x[-NUM_TEST:], y[-NUM_TEST:]
    start = time.perf_counter()
    backbone = digits_backbone(epochs=1) if smoke else digits_backbone()
    print(f"A backbone that knows the digits 0 to 4, after {time.perf_counter() - start:.0f} s of training")
    similarity = measure_similarity(backbone, (x, y), stages=1 if smoke else 4)
    print(similarity)
    print(recommend(50, 5, similarity))
    print(f"\nDigits 5 to 9: {len(x)} to draw from, {len(x_test)} to test on; {seeds} seeds, {epochs * STEPS} steps")

    members = [np.flatnonzero(y == label) for label in range(5)]
    largest = min(map(len, members))
    counts = {largest if size == "all" else size: str(size) for size in sizes}
    errors = {way: {count: [] for count in counts} for way in WAYS}
    for seed in range(seeds):
        rng = np.random.default_rng(100 + seed)
        shuffled = [rng.permutation(indices) for indices in members]
        for count, name in counts.items():
            # All are all, also of the classes with more.
            chosen = np.concatenate([one if name == "all" else one[:count] for one in shuffled])
            for way in WAYS:
                model = train(way, backbone, x[chosen], y[chosen], epochs, seed)
                logits = keras.ops.convert_to_numpy(model(x_test, training=False))
                errors[way][count].append(100 * float(np.mean(logits.argmax(-1) != y_test)))
            found = ", ".join(f"{way} {errors[way][count][-1]:.1f}" for way in WAYS)
            print(f"  seed {seed}, {name:>3} per class, {time.perf_counter() - start:4.0f} s: {found}", flush=True)

    print(
        f"\nTest error in percent {f'over {seeds} seeds, 95 % interval of the mean' if seeds > 1 else 'of one seed'}\n"
    )
    print(f"  {'per class':<10}" + "".join(f"{way:>18}" for way in WAYS))
    for count, name in counts.items():
        cells = (interval(errors[way][count]) for way in WAYS)
        texts = (f"{mean:.2f}" + (f" +- {half:.2f}" if seeds > 1 else "") for mean, half in cells)
        print(f"  {name:<10}" + "".join(f"{text:>18}" for text in texts))

    if seeds > 1:
        print("\nMinus from scratch, with the same examples and seeds\n")
        for count, name in counts.items():
            cells = (interval(np.subtract(errors[way][count], errors["from scratch"][count])) for way in WAYS[1:])
            print(f"  {name:<28}" + "".join(f"{f'{mean:+.2f} +- {half:.2f}':>18}" for mean, half in cells))
    draw(errors, largest, seeds)


def draw(errors, largest, seeds):
    axes = plots.transfer_curves(errors, labels={largest: f"all ({largest})"})
    axes.set_xlabel("examples of digits 5 to 9, per class")
    axes.set_ylabel(f"test error (%), mean and range of {seeds} seeds" if seeds > 1 else "test error (%), one seed")
    title = "New digits for a network that knows 0 to 4"
    if any(min(values) == 0 for by_size in errors.values() for values in by_size.values()):
        title += "\n(a bar that reaches the bottom: a seed without errors)"
    axes.figure.suptitle(title, fontsize=12, fontweight="bold", color="0.2")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    axes.figure.savefig(OUTPUT / "errors.png", dpi=150)
    print(f"\nPicture: {OUTPUT / 'errors.png'}")


if __name__ == "__main__":
    main()
