"""Random search, grid search and coarse-to-fine search at equal budgets; and what a trial costs beyond Optuna's own.

    python benchmarks/search.py                  # both parts: about a quarter of an hour on one core
    python benchmarks/search.py --part budget --seeds 5 10   # some of the seeds; all results are kept and shown
    python benchmarks/search.py --part overhead  # about a minute: run it alone on the machine
    python benchmarks/search.py --smoke          # seconds

Budget: a small network on real digits with one parameter that matters, the learning rate over four decades, and two
that hardly do. A grid of 3 x 3 x 3 settings at 9 epochs spends 243 epochs; random search spends them on 27 random
settings, and coarse to fine on 50, 25 and 13 settings of 1, 3 and 9 epochs, its defaults for 88 trials. No method
prunes by comparison; all end a trial whose loss explodes. The weights' and the draws' seeds differ from trial to trial.

Overhead: the same trainings, each a freshly built network, through `kregkit.search.search` and through a plain Optuna
objective with Optuna's own calls to report and prune, on the same kind of storage, in turn. What is counted as overhead
is all time outside `train`, plus what the callback takes inside it.
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
import optuna
import tensorflow as tf
from _interleave import print_table
from keras import layers, ops

from kregkit import plots
from kregkit.data import digits
from kregkit.search import Space, build_and_fit, grid, log_uniform, mean_interval, search, uniform

SEEDS, POINTS, EPOCHS, TRIALS, BATCH_SIZE = 20, 3, 9, 88, 32
SPACE = Space(
    learning_rate=log_uniform(1e-4, 1.0),
    weight_decay=log_uniform(1e-8, 1e-5),
    input_noise=uniform(0.0, 0.05),
)
OVERHEAD_TRIALS, OVERHEAD_REPEATS = 6, 5
OUTPUT = pathlib.Path(__file__).parent / "output" / "search"


class Settable(layers.Layer):
    """Adds noise to its input and a penalty on the next kernel, with strengths that need no new trace."""

    def build(self, input_shape):
        self.noise = self.add_weight(shape=(), trainable=False, name="noise")
        self.decay = self.add_weight(shape=(), trainable=False, name="decay")
        self.random = keras.random.SeedGenerator(0)

    def call(self, inputs, training=False):
        return inputs + self.noise * keras.random.normal(ops.shape(inputs), seed=self.random) if training else inputs


class TracedOnce:
    """Trains one network anew for each setting: its variables are set back, its traced functions are kept.

    Thousands of trainings are needed; tracing each anew would take ten times as long and change no number.
    """

    def __init__(self, train, validation):
        # Endless, with steps counted, so that Keras makes one iterator a fit: making them would take most of the time.
        num = len(train[0])
        self.steps = num // BATCH_SIZE
        self.train = tf.data.Dataset.from_tensor_slices(train).shuffle(num).batch(BATCH_SIZE, True).repeat()
        self.validation = tf.data.Dataset.from_tensors(validation).repeat()
        self.settable = Settable()
        self.dense = layers.Dense(32, activation="relu")
        inputs = keras.Input(train[0].shape[1:])
        outputs = layers.Dense(10, activation="softmax")(self.dense(self.settable(inputs)))
        self.model = keras.Model(inputs, outputs)
        self.dense.kernel.regularizer = lambda kernel: self.settable.decay * ops.sum(ops.square(kernel))
        self.model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            steps_per_execution=self.steps,
            jit_compile=False,
        )
        self.model.optimizer.build(self.model.trainable_variables)

    def __call__(self, parameters, epochs, callbacks):
        # The search has set all seeds: these are the trial's own.
        for layer in self.model.layers:
            if isinstance(layer, layers.Dense):
                layer.kernel.assign(keras.initializers.GlorotUniform()(layer.kernel.shape))
                layer.bias.assign(ops.zeros_like(layer.bias))
        for variable in self.model.optimizer.variables:
            variable.assign(ops.zeros_like(variable))
        self.model.optimizer.learning_rate = parameters["learning_rate"]
        self.settable.decay.assign(parameters["weight_decay"])
        self.settable.noise.assign(parameters["input_noise"])
        return self.model.fit(
            self.train,
            steps_per_epoch=self.steps,
            epochs=epochs,
            validation_data=self.validation,
            validation_steps=1,
            callbacks=callbacks,
            verbose=0,
        )


def data():
    train, validation = digits(["train[:80%]", "train[80%:]"], as_arrays=True)
    return tuple(
        (images.reshape(len(images), -1).astype("float32") / 255, labels) for images, labels in (train, validation)
    )


def curve(result, budget):
    """Returns the best value so far after each epoch spent; NaN before the first trial has ended."""
    best, values = float("nan"), []
    for trial in result.trials:
        values += [best] * (trial.epochs - 1)
        if trial.value is not None:
            best = np.fmin(best, trial.value)
        values.append(best)
    return np.array([*values, *[best] * budget][:budget])


def measure_budget(seeds, points, epochs, trials, output):
    # A network this small is slower on several threads than on one.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    train = TracedOnce(*data())
    budget = points ** len(SPACE.parameters) * epochs
    methods = {
        "grid": lambda **arguments: grid(train, SPACE, points, epochs=epochs, **arguments),
        "random": lambda **arguments: search(
            train, SPACE, points ** len(SPACE.parameters), rounds=1, epochs=epochs, **arguments
        ),
        "coarse to fine": lambda **arguments: search(train, SPACE, trials, rounds=3, epochs=epochs, **arguments),
    }
    output.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for name, run in methods.items():
            path = output / f"{name.replace(' ', '-')}-{seed}.npy"
            if not path.exists():
                result = run(seed=seed, verbose=0, pruner=optuna.pruners.NopPruner())
                np.save(path, curve(result, budget))
        print(f"seed {seed} done", flush=True)
    done = [
        seed for seed in range(1000) if all((output / f"{n.replace(' ', '-')}-{seed}.npy").exists() for n in methods)
    ]
    curves = {n: np.array([np.load(output / f"{n.replace(' ', '-')}-{seed}.npy") for seed in done]) for n in methods}
    report_budget(curves, budget, output)


def report_budget(curves, budget, output):
    goals = curves["grid"][:, -1]
    rows = []
    for name, runs in curves.items():
        reached = runs <= goals[:, None]
        # After how many epochs each run first had what the grid had at its end.
        needed = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)
        ends = (mean_interval(runs[:, at]) for at in (budget // 2 - 1, -1))
        # One seed has no interval.
        cells = [f"{mean:.4f}" + (f" ± {high - mean:.4f}" if len(runs) > 1 else "") for mean, _, high in ends]
        rows.append(
            [
                name,
                *cells,
                f"{np.median(needed):.0f} ({np.median(needed) / budget:.2f})",
                f"{np.mean(needed <= budget / 2):.0%}",
            ]
        )
    interval = " ± half of the 95% interval" if len(goals) > 1 else ""
    print(f"\nbest validation loss, {len(goals)} seeds, mean{interval}; {budget} epochs each")
    header = ["method", "at half", "at the end", "median epochs to grid's best", "runs there within half"]
    print_table(header, rows)
    axes = plots.best_so_far(curves, budget="epochs spent", value="best validation loss so far", log=True)
    axes.axvline(budget / 2, color="0.4", linestyle=":", linewidth=1)
    axes.axhline(goals.mean(), color="0.4", linestyle="--", linewidth=1)
    axes.annotate(
        "grid's best", (budget, goals.mean()), xytext=(0, 3), textcoords="offset points", ha="right", fontsize=8
    )
    axes.annotate("half of the budget", (budget / 2, axes.get_ylim()[1]), xytext=(3, -8), textcoords="offset points",
                  fontsize=8)  # fmt: skip
    axes.figure.savefig(output / "best_so_far.png", dpi=150)
    print(f"\npicture: {output / 'best_so_far.png'}")


def build(parameters):
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(64, activation="relu"),
            layers.Dropout(parameters["input_noise"]),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.SGD(parameters["learning_rate"], momentum=0.9), "sparse_categorical_crossentropy")
    return model


class Reporting(keras.callbacks.Callback):
    """What a plain Optuna objective for Keras has."""

    def __init__(self, trial):
        super().__init__()
        self.trial = trial

    def on_epoch_end(self, epoch, logs=None):
        self.trial.report(logs["val_loss"], epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def measure_overhead(trials, repeats, epochs):
    fit = build_and_fit(build, *data(), batch_size=BATCH_SIZE)
    space = Space(learning_rate=log_uniform(1e-3, 1e-1), input_noise=uniform(0.0, 0.1))
    inside = []

    def train(parameters, epochs, callbacks):
        start = time.perf_counter()
        history = fit(parameters, epochs, callbacks)
        inside.append(time.perf_counter() - start)
        return history

    def plain(storage, seed):
        def objective(trial):
            keras.utils.set_random_seed(seed)
            parameters = {
                "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True),
                "input_noise": trial.suggest_float("input_noise", 0.0, 0.1),
            }
            return min(train(parameters, epochs, [Reporting(trial)]).history["val_loss"])

        study = optuna.create_study(
            storage=storage, sampler=optuna.samplers.RandomSampler(seed=seed), pruner=optuna.pruners.NopPruner()
        )
        study.optimize(objective, n_trials=trials)

    def ours(storage, seed):
        search(train, space, [trials], epochs=[epochs], storage=storage, seed=seed, verbose=0,
               pruner=optuna.pruners.NopPruner())  # fmt: skip

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = ("memory", "journal", "sqlite")
    # Each with storages of its own, opened before: making a database's tables isn't a trial's cost.
    times = {(kind, method): [] for kind in kinds for method in ("optuna", "kregkit")}
    fit({"learning_rate": 0.01, "input_noise": 0.0}, 1, [])
    with tempfile.TemporaryDirectory() as directory:

        def storage(kind, method):
            if kind == "memory":
                return optuna.storages.InMemoryStorage()
            path = f"{directory}/{kind}-{method}"
            if kind == "sqlite":
                return optuna.storages.RDBStorage(f"sqlite:///{path}-{time.time_ns()}")
            return optuna.storages.JournalStorage(
                optuna.storages.journal.JournalFileBackend(f"{path}-{time.time_ns()}")
            )

        for repeat in range(repeats):
            for kind in kinds:
                order = (("optuna", plain), ("kregkit", ours))
                for method, run in order if repeat % 2 else order[::-1]:
                    opened = storage(kind, method)
                    inside.clear()
                    start = time.perf_counter()
                    run(opened, repeat)
                    total = time.perf_counter() - start
                    times[kind, method].append((total / trials, (total - sum(inside)) / trials))
    print(f"\ntime per trial of {epochs} epochs, median of {repeats} runs of {trials} trials each")
    rows = []
    for kind in kinds:
        optunas, ourss = times[kind, "optuna"], times[kind, "kregkit"]
        ratio = statistics.median(one[0] / other[0] for one, other in zip(ourss, optunas))
        outside = [statistics.median(one[1] for one in found) for found in (optunas, ourss)]
        share = (outside[1] - outside[0]) / statistics.median(one[0] for one in optunas)
        totals = [statistics.median(one[0] for one in found) for found in (optunas, ourss)]
        rows.append([kind, *(f"{1000 * t:.0f} ms" for t in totals), f"{ratio:.3f}",
                     *(f"{1000 * t:.1f} ms" for t in outside), f"{share:+.1%}"])  # fmt: skip
    print_table(
        ["storage", "Optuna", "kregkit", "ratio", "outside train: Optuna", "kregkit", "difference / trial"], rows
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["budget", "overhead"])
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, SEEDS), metavar=("FIRST", "END"))
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.part != "overhead":
        if arguments.smoke:
            with tempfile.TemporaryDirectory() as directory:
                measure_budget(range(2), 2, 1, 8, pathlib.Path(directory))
        else:
            measure_budget(range(*arguments.seeds), POINTS, EPOCHS, TRIALS, OUTPUT)
    if arguments.part != "budget":
        measure_overhead(*((2, 1, 1) if arguments.smoke else (OVERHEAD_TRIALS, OVERHEAD_REPEATS, 5)))


if __name__ == "__main__":
    main()
