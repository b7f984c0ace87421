"""What averages over weights and noise cost, and what each is worth on one split of MNIST's 5000 digits.

    python benchmarks/averages.py                 # the costs, about two minutes
    python benchmarks/averages.py --comparison    # 5 seeds, a quarter of an hour; goes on where it was stopped
    python benchmarks/averages.py --write         # the table of docs/inference.md from what was measured
    python benchmarks/averages.py --smoke         # both in small, for seeing that it runs

Costs: 30 draws of weights against 30 forward passes of the model; a fit that gathers a posterior against one that
doesn't, in processor time; and the memory that a soup of 8 members needs beside that of 2. The ways take turns.

`_averages_comparison.py` says what is compared; each seed becomes a line of benchmarks/output/averages.jsonl.
"""

import argparse
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _averages_comparison import compare, write
from _interleave import interleaved_fits, median_ratio, print_table
from _memory import forget_peak, resident
from keras import layers

from kregkit.callbacks import PolyakAveraging
from kregkit.inference import laplace, marginalize, soup

OUTPUT = pathlib.Path(__file__).parent / "output" / "averages.jsonl"


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
    """Returns rows: fits with and without gathering, in processor time per epoch.

    Gathering once in 64 updates is less than what such times vary by. Gathering at every update is 64 times as much, so
    that its 64th part is known better.
    """
    rounds, (x, y) = (2, rows_of(512)) if smoke else (15, rows_of(8192))

    def run(callbacks):
        return lambda timer, epochs: mlp(512).fit(x, y, 32, epochs, verbose=0, callbacks=[*callbacks(), timer])

    fits = {
        "Polyak average": run(lambda: [PolyakAveraging("uniform")]),
        "posterior at epoch ends": run(lambda: [PolyakAveraging("uniform", posterior=True)]),
        "posterior every 64 updates": run(lambda: [PolyakAveraging("uniform", posterior=True, posterior_every=64)]),
        "posterior every update": run(lambda: [PolyakAveraging("uniform", posterior=True, posterior_every=1)]),
    }
    processor = {}
    interleaved_fits(fits, rounds, processor=processor)
    base = processor["Polyak average"]
    more = {name: 100 * (median_ratio(seconds, base) - 1) for name, seconds in processor.items()}
    rows = [[name, f"{statistics.median(seconds):.3f} s", f"{more[name]:+.1f}%"] for name, seconds in processor.items()]
    return [*rows, ["of the last one, a 64th part", "", f"{more['posterior every update'] / 64:+.2f}%"]]


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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small numbers")
    parser.add_argument("--only", choices=["draws", "gathering", "soup"], help="one of the costs")
    parser.add_argument("--comparison", action="store_true", help="the comparison in place of the costs")
    parser.add_argument("--seeds", type=int, default=5, help="how many trainings of each kind are compared")
    parser.add_argument("--at-most", type=int, help="how many of these to train in this run")
    parser.add_argument("--write", action="store_true", help="put what was compared into docs/inference.md")
    arguments = parser.parse_args()
    smoke = arguments.smoke
    if not arguments.comparison and not arguments.write:
        header = ["", "30 forward passes", "30 draws", "ratio", "drawing, once"]
        header = [cell.replace("30", "3") if smoke else cell for cell in header]
        costs = {
            "draws": (header, draws_cost),
            "gathering": (["", "processor time of an epoch", "more"], gathering_cost),
            "soup": (["soup", "memory beside the members"], soup_memory),
        }
        for name, (columns, cost) in costs.items():
            if arguments.only in (None, name):
                print_table(columns, cost(smoke))
                print()
    if smoke and arguments.only is None:
        with tempfile.TemporaryDirectory() as folder:
            compare(pathlib.Path(folder) / "averages.jsonl", 1, 4, 3, smoke=True)
    elif arguments.comparison:
        compare(OUTPUT, arguments.seeds, 16, 30, arguments.at_most)
    if arguments.write:
        write(OUTPUT)


if __name__ == "__main__":
    main()
