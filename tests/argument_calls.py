"""Every public constructor and function called with one argument that makes no sense, found by introspection.

A call is *clear* if it works, or raises a `ValueError`, a `TypeError` or, for paths, a `FileNotFoundError` that names
the parameter. It is *unclear* if it raises anything else, or doesn't name the parameter. It is *accepted nonsense* if
it works where no reader could say what it does: NaN, an infinity, `10**400` or bytes anywhere; True, a set, a function
or a negative number, where a number above zero belongs; a word or a number where a Boolean belongs. It is a *hang* if
it takes too long.

    python tests/argument_calls.py              # all calls, and how many there are of each kind
    python tests/argument_calls.py '^search'    # those whose name matches
"""

import collections
import contextlib
import dataclasses
import faulthandler
import functools
import importlib
import inspect
import math
import os
import pathlib
import pkgutil
import re
import resource
import signal
import sys
import tempfile
import time
import types
import warnings

import keras
import numpy as np

import kregkit

ROOMS = [room.name for room in pkgutil.iter_modules(kregkit.__path__) if not room.name.startswith("_")]
# Records that kregkit fills and hands out. NaN is a value in them, and nobody constructs one.
RECORDS = {
    *("ActivationComparison", "Finding", "LearningRateRange", "PreflightReport", "Problem", "Marginal", "Member"),
    *("Report", "Curvature", "CrossValidation", "SearchResult", "Trial", "FineTuned", "LinearProbe", "Similarity"),
    # Made by `uniform`, `choice`, `recommend` and alike, which check what they are given.
    *("Choice", "Range", "Plan", "Verification"),
    *("Calibrated", "DifferentBasinsError", "LossAlong", "Preview", "WeightPosterior"),
}
# Their good calls train a model, or read one of many megabytes.
TRAIN = {
    *(f"diagnostics.compare_{what}" for what in ("activations", "learning_rates")),
    *("diagnostics.learning_rate", "diagnostics.learning_rate_range", "diagnostics.overfit_small_batch"),
    *("diagnostics.preflight", "diagnostics.update_ratio", "diagnostics.label_signal", "diagnostics.gradient_check"),
    *("optimizers.curvature", "optimizers.minimize", "search.cross_validate", "search.search", "search.grid"),
    *("transfer.backbone", "transfer.digits_backbone", "transfer.fine_tune", "transfer.linear_probe"),
    *("transfer.measure_similarity", "data.load", "data.digits"),
}
SECONDS = 20
LARGEST = 8 << 30

BAD = {
    "NaN": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "10**400": 10**400,
    "bytes": b"bytes",
    "True": True,
    "-1": -1,
    "0": 0,
    "10**12": 10**12,
    "None": None,
    "empty list": [],
    "empty string": "",
    "a word": "a word",
    "list of NaN": [math.nan, math.nan],
    "an object": types.SimpleNamespace(),
    "a dictionary": {"a": 1},
    "NumPy's NaN": np.float16(math.nan),
    "a set": {1, 2},
    "a function of nothing": lambda: 1,
}
# Parameters that may be negative, or infinite.
SIGNED = {
    *("low", "high", "floor", "coefficient", "angle", "angles", "seed", "num_parallel_calls", "prefetch"),
    *("tolerance", "bounds", "fill", "data.make_keys.epoch"),
}
INFINITE = {"limits", "bounds"}
# A path or a Boolean: no kind of its own.
OTHER = {"cache"}


@functools.cache
def things():
    """Returns what good calls need, made once."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 4)).astype("float32")
    y = np.arange(24) % 3
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="tanh", name="hidden"),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(5, activation="tanh"),
            keras.layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=False)
    return types.SimpleNamespace(x=x, y=y, model=model, rng=rng)


def fresh_model():
    model = keras.models.clone_model(things().model)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=False)
    return model


def axes():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    return Figure().add_subplot()


def data():
    return things().x, things().y


def smooth(x):
    return (x**2).sum() if isinstance(x, np.ndarray) else keras.ops.sum(x**2)


def views():
    from kregkit import data

    return data.Augment([data.RandomFlip()])


def space():
    from kregkit import search

    return search.Space(x=search.uniform(0.0, 1.0))


def never(*_, **__):
    """A training that a search never comes to, since its arguments are refused first."""
    return {"val_loss": [1.0]}


class Begins(BaseException):
    """The arguments are accepted, and what would take minutes begins."""


def begin(*_, **__):
    raise Begins


def empty_script():
    path = pathlib.Path(tempfile.mkdtemp()) / "script.py"
    path.write_text("")
    return path


def built(parameters):
    return fresh_model()


def schedule():
    return keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)


def trial_rows():
    return [
        {
            "round": 1,
            "index": i,
            "state": "complete",
            "parameters": {"a": 0.1 * (i + 1), "x": 0.1},
            "value": float(i),
            "metrics": {},
        }
        for i in range(3)
    ]


def word_vectors():
    path = pathlib.Path(tempfile.mkdtemp()) / "vectors.txt"
    path.write_text("cat 1 2\ndog 3 4\n")
    return str(path)


@functools.cache
def folder():
    import tensorflow as tf

    root = pathlib.Path(tempfile.mkdtemp())
    (root / "cat").mkdir()
    (root / "cat" / "1.png").write_bytes(tf.io.encode_png(np.zeros((4, 4, 3), "uint8")).numpy())
    return str(root)


def curve(*_):
    return [{"name": "random", "budget": [1.0, 2.0], "value": [0.5, 0.4]}]


def activation_runs():
    layer = {"histogram": [0.5, 1.0], "edges": [-1.0, 0.0, 1.0], "std": 0.4}
    run = {"initializer": "He", "activation": "tanh", "batch_normalization": False, "verdict": "healthy"}
    return [{**run, "layers": [layer, layer]}]


def landscapes():
    def bowl(x, y):
        return x**2 + 2 * y**2 + 0.5

    paths = {"a": np.array([[1.0, 1.0], [0.5, 0.25], [0.0, 0.0]])}
    return {"one": {"function": bowl, "paths": paths, "limits": ((-2, 2), (-2, 2)), "minima": [(0, 0)], "lowest": 0.5}}


def report():
    check = {"status": "pass", "figure": "2.3", "expected": "3", "problems": [], "details": {}}
    return {"status": "pass", "faults": [], "checks": {"label_distribution": check}}


def sweep():
    rates = np.geomspace(1e-3, 1, 6)
    losses = np.array([1.0, 0.9, 0.8, 0.5, 0.6, 2.0])
    names = ("steepest", "lowest", "divergence", "suggestion", "current")
    return {"rates": rates, "losses": losses, "smoothed": losses, "reason": "", **dict.fromkeys(names, 0.1)}


def normalized():
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    return model


# Good values by the parameter's name; a callable makes one. What a call needs otherwise stands in `BY_CALL`.
BY_NAME = {
    "model": fresh_model,
    "data": data,
    "x": lambda: things().x,
    "y": lambda: things().y,
    "directory": tempfile.mkdtemp,
    "length": 3,
    "rate": 0.1,
    "period": 4,
    "every": 2,
    "schedule": schedule,
    "operations": lambda: views().operations,
    "size": 4,
    "sizes": lambda: [4, 6],
    "num_views": 2,
    "augment": views,
    "seed": 0,
    "epoch": 0,
    "index": 0,
    "axes": axes,
    "figure": lambda: axes().figure,
    "history": lambda: {
        "loss": [1.0, 0.5, 0.4, 0.3],
        "accuracy": [0.1, 0.2, 0.3, 0.4],
        "val_loss": [1.0, 0.6, 0.5, 0.5],
    },
    "learning_rate": 0.1,
    "initial_learning_rate": 0.1,
    "maximum_learning_rate": 0.1,
    "minimum_learning_rate": 0.01,
    "total_steps": 20,
    "steps": 3,
    "units": 3,
    "filters": 3,
    "kernel_size": 3,
    "pool_ratio": 1.5,
    "batch_size": 8,
    "num_classes": 3,
    "train": lambda: never,
    "build": lambda: built,
    "train_data": data,
    "validation_data": data,
    "space": space,
    "trials": 1,
    "options": lambda: ["a", "b"],
    "low": 0.1,
    "high": 1.0,
    "points": 2,
    "labels": lambda: things().y,
    "folds": 3,
    "values": lambda: [0.1, 0.2, 0.3],
    "name": "name",
    "num_examples": 100,
    "similarity": 0.5,
    "stages": lambda: [(0, "head")],
    "layers": lambda: ["head"],
    "layer": lambda: keras.layers.Dense(3),
    "after": "hidden",
    "max_learning_rate": 0.2,
    "num_blocks": 4,
}
BY_CALL = {
    "callbacks.StepDecay": {"factor": 0.5, "every": 2},
    "callbacks.NoiseSchedule": {"layers": "all"},
    "callbacks.simulate": {
        "callbacks": lambda: [kregkit.callbacks.CosineDecay()],
        "epochs": 2,
        "steps_per_epoch": 3,
    },
    "data.MixUp": {"num_classes": 3},
    "data.CutMix": {"num_classes": 3},
    "data.Standardize": {"mean": "channel"},
    "data.load": {"name": "digits", "split": "train", "download": False},
    "data.make_keys": {"index": lambda: np.arange(3)},
    "data.pipeline": {"source": lambda: (np.zeros((8, 4, 4, 3), "uint8"), np.arange(8) % 3), "batch_size": 4},
    "data.image_folder": {"directory": folder},
    "data.restore": {
        "predictions": lambda: np.zeros((1, 4, 4, 2), "float32"),
        "matrices": lambda: np.eye(3, dtype="float32"),
    },
    "diagnostics.compare_activations": {
        "data": lambda: things().x,
        "model": fresh_model,
        "initializers": ("He",),
        "activations": ("ReLU",),
        "batch_normalization": (False,),
    },
    "diagnostics.compare_centering": {
        "x": lambda: things().x,
        "y": lambda: things().y % 2,
        "angles": lambda: [0.0, 0.1],
    },
    "diagnostics.compare_learning_rates": {"rates": lambda: {"a": 0.1, "b": 0.2}, "steps": 2},
    "diagnostics.activation_curves": {"num": 5},
    "diagnostics.label_signal": {"num_permutations": 20},
    "diagnostics.learning_rate": {"steps": 10},
    "diagnostics.learning_rate_range": {"steps": 10},
    "diagnostics.overfit_small_batch": {"max_steps": 2},
    "diagnostics.preflight": {"checks": lambda: ["loss_sign"], "verbose": 0},
    "diagnostics.update_ratio": {"steps": 2},
    "data.ViewProduct": {"views": lambda: [kregkit.data.Flips(), kregkit.data.MultiScale([4, 6])]},
    "data.preview": {
        "dataset": lambda: kregkit.data.pipeline((np.zeros((8, 4, 4, 3), "uint8"), np.arange(8) % 3), 4),
        "num": 2,
    },
    "inference.calibrate": {"predictor": fresh_model, "validation": data},
    "inference.loss_along": {"a": fresh_model, "b": fresh_model, "points": 3},
    "inference.soup": {"members": lambda: [fresh_model(), fresh_model()], "validation": data},
    "inference.Ensemble": {"models": lambda: [things().model, things().model]},
    "inference.marginalize": {"draws": 2},
    "inference.recompute_batch_normalization": {"model": normalized},
    "layers.FractionalMaxPooling1D": {"pool_ratio": 1.5},
    "layers.FractionalMaxPooling2D": {"pool_ratio": 1.5},
    "layers.FractionalMaxPooling3D": {"pool_ratio": 1.5},
    "layers.StochasticDepth": {"branch": lambda: keras.layers.Dense(4)},
    "layers.fractional_max_pool": {
        "inputs": lambda: np.zeros((1, 6, 6, 2), "float32"),
        "boundaries": lambda: [np.array([0, 2, 4, 6]), np.array([0, 3, 6])],
    },
    "optimizers.LayerwiseLearningRate": {
        "optimizer": lambda: keras.optimizers.SGD(0.1),
        "multipliers": lambda: {"head": 0.5},
    },
    "optimizers.curvature": {"y": lambda: things().y, "stochastic": "inference", "k": 1},
    "optimizers.minimize": {"y": lambda: things().y, "max_iterations": 1, "verbose": 0, "stochastic": "inference"},
    "optimizers.minimize_function": {"f": lambda: smooth, "x0": lambda: np.ones(3), "max_iterations": 1, "verbose": 0},
    "plots.activation_histograms": {"runs": activation_runs},
    "plots.best_so_far": {"curves": lambda: {"random": ([1, 2], [0.5, 0.4])}},
    "plots.contact_sheet": {"images": lambda: np.zeros((2, 4, 4, 3), "float32")},
    "plots.loss_line": {"positions": lambda: [0.0, 0.5, 1.0], "losses": lambda: [0.2, 1.5, 0.3]},
    "plots.reliability": {"probabilities": lambda: [0.2, 0.9], "labels": lambda: [0, 1]},
    "plots.ensemble_size": {
        "predictions": lambda: np.full((3, 24, 3), 1 / 3),
        "num_subsets": 2,
    },
    "plots.error_against_draws": {"draws": lambda: [1, 2, 4], "errors": lambda: [0.3, 0.2, 0.1], "label": "a"},
    "plots.errors": {"values": lambda: {"a": 0.1, "b": 0.2}},
    "plots.learning_rate_curve": {"rates": schedule, "steps": 20, "steps_per_epoch": 5},
    "plots.learning_rates": {"curves": lambda: {"a": {"rate": 0.1, "losses": np.array([1.0, 0.5])}}},
    "plots.learning_rate_sweep": {"sweep": sweep},
    "plots.findings": {
        "report": report,
    },
    "plots.trajectories": {"landscapes": landscapes},
    "plots.survival_probabilities": {"probabilities": lambda: [0.9, 0.5]},
    "plots.search_importance": {"importance": lambda: {"a": 0.5, "b": 0.5}},
    "plots.search_ranges": {"rounds": lambda: [{**space().to_json(), "a": {"low": 0.1, "high": 1.0, "log": True}}]},
    "plots.search_results": {
        "trials": trial_rows,
        "rounds": lambda: [{**space().to_json(), "a": {"low": 0.1, "high": 1.0, "log": True}}],
        "importance": lambda: {"a": 1.0},
    },
    "plots.search_scatter": {"trials": trial_rows, "x": "a", "y": "a"},
    "plots.transfer_curves": {"errors": lambda: {"a": {10: [0.1, 0.2]}}},
    "distribution.is_chief": {"strategy": None},
    "resume_check.verify": {"script": empty_script, "start": lambda: begin},
    "schedules.StepDecay": {"factor": 0.5, "every": 2},
    "schedules.Triangular": {},
    "schedules.Warmup": {"steps": 5},
    "search.cross_validate": {"epochs": 1},
    "search.integer": {"low": 1, "high": 4},
    "search.search": {"rounds": 1, "epochs": 1, "verbose": 0},
    "search.grid": {"epochs": 1},
    "transfer.Plan": {
        "strategy": "probe",
        "train": "head",
        "reinitialize": lambda: [],
        "head_learning_rate": 0.1,
        "learning_rate_factor": 0.1,
        "head_epochs": 1,
        "epochs": 1,
        "augment": False,
        "reasons": lambda: [],
    },
    "transfer.embedding_from_vectors": {"vocabulary": lambda: ["cat", "dog"], "file": word_vectors},
    "transfer.features": {},
    "transfer.fine_tune": {"train": data, "validation": data},
    "transfer.freeze": {"until": "hidden"},
    "transfer.unfreeze": {"start": "head"},
    "transfer.linear_probe": {"validation": data, "layers": lambda: ["hidden"]},
    "transfer.measure_similarity": {"stages": 1},
    "transfer.reinitialize": {"layers": lambda: ["head"]},
    "transfer.insert": {"layer": lambda: keras.layers.Dense(5)},
    "transfer.backbone": {"weights": None},
    "transfer.digits_backbone": {"epochs": 1},
}


def calls():
    """Returns `{"room.name": (callable, parameters)}` of all that is public, but records and what takes no argument."""
    found = {}
    for room in ROOMS:
        module = importlib.import_module(f"kregkit.{room}")
        for name in module.__all__:
            if name in RECORDS:
                continue
            parameters = [
                one
                for one in inspect.signature(getattr(module, name)).parameters.values()
                if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
            ]
            if parameters:
                found[f"{room}.{name}"] = getattr(module, name), parameters
    return found


def good_values(key, parameters):
    """Returns the arguments of a call that works, as functions that make them."""
    own = BY_CALL.get(key, {})
    values = dict(own)
    for one in parameters:
        if one.default is one.empty and one.name not in own:
            values[one.name] = BY_NAME[one.name]
    return values


def made(value):
    return (
        value()
        if isinstance(value, types.FunctionType | functools._lru_cache_wrapper | type(tempfile.mkdtemp))
        else value
    )


def kind_of(key, parameter):
    """Returns `"number"`, `"boolean"`, `"word"` or `"other"`: what a good value of the parameter is."""
    value = parameter.default
    if value is None or value is parameter.empty:
        value = BY_CALL.get(key, {}).get(parameter.name, BY_NAME.get(parameter.name))
    if isinstance(value, bool) and parameter.name not in OTHER:
        return "boolean"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    return "word" if isinstance(value, str) else "other"


def is_nonsense(key, parameter, what):
    """Whether a call that works with this argument has accepted nonsense."""
    kind, name = kind_of(key, parameter), parameter.name
    if what in ("infinity", "minus infinity") and name in INFINITE:
        return False
    if what in ("NaN", "NumPy's NaN", "infinity", "minus infinity", "10**400", "bytes"):
        return True
    if what == "-1":
        return kind == "number" and not {name, f"{key}.{name}"} & SIGNED
    if what == "True":
        return kind == "number" and name != "verbose"
    if what in ("a set", "a function of nothing") and kind in ("number", "boolean"):
        # Keras takes functions as learning rates.
        return what == "a set" or name != "learning_rate"
    return kind == "boolean" and what in ("10**12", "a word", "empty string", "empty list", "a dictionary", "an object")


@dataclasses.dataclass
class Outcome:
    key: str
    name: str
    what: str
    kind: str
    text: str

    def __str__(self):
        return f"{self.key}({self.name}={self.what}): {self.text[:160]}"


class Hang(BaseException):
    """A call took too long."""


def _ring(*_):
    raise Hang


def outcome_of(key, function, parameters, parameter, what, seconds=SECONDS):
    """Calls a function with one bad argument, and says how it went."""
    arguments = {name: made(value) for name, value in good_values(key, parameters).items()}
    arguments[parameter.name] = BAD[what]
    old = [signal.signal(kind, _ring) for kind in (signal.SIGPROF, signal.SIGALRM)]
    # Of this process's time, since others share the machine, and many times that for what only waits.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 15 * seconds)
    try:
        with warnings.catch_warnings(), contextlib.suppress(Begins):
            warnings.simplefilter("ignore")
            function(**arguments)
    except Hang:
        return Outcome(key, parameter.name, what, "hang", f"over {seconds} seconds")
    except (ValueError, TypeError, FileNotFoundError) as error:
        named = re.search(rf"\b{re.escape(parameter.name)}\b", str(error))
        kind = "clear error" if named else "unclear"
        return Outcome(key, parameter.name, what, kind, f"{type(error).__name__}: {error}")
    except Exception as error:
        return Outcome(key, parameter.name, what, "unclear", f"{type(error).__name__}: {error}")
    finally:
        for timer, kind, handler in zip(
            (signal.ITIMER_PROF, signal.ITIMER_REAL), (signal.SIGPROF, signal.SIGALRM), old, strict=True
        ):
            signal.setitimer(timer, 0)
            signal.signal(kind, handler)
    kind = "accepted nonsense" if is_nonsense(key, parameter, what) else "works"
    return Outcome(key, parameter.name, what, kind, "no error")


def outcome_of_good(key):
    """Calls a public name with good values; returns `"works"`, or fails."""
    function, parameters = calls()[key]
    with contextlib.suppress(Begins):
        function(**{name: made(value) for name, value in good_values(key, parameters).items()})
    return "works"


def walk(every=1, offset=0, only="", without=()):
    """Yields the outcomes of all calls, or of every `every`-th, of the names that match `only`."""
    number = 0
    for key, (function, parameters) in calls().items():
        if key in without:
            continue
        for parameter in parameters:
            for what, value in BAD.items():
                if value is parameter.default:
                    # A call with its default.
                    continue
                number += 1
                if (number + offset) % every == 0 and re.search(only, f"{key}.{parameter.name}"):
                    yield outcome_of(key, function, parameters, parameter, what)


def main():
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    # A size that would fill the machine ends in a MemoryError.
    resource.setrlimit(resource.RLIMIT_DATA, (LARGEST, LARGEST))
    # Where words are taken for paths.
    os.chdir(tempfile.mkdtemp())
    outcomes, slow = [], []
    start = before = time.process_time()
    for outcome in walk(only=only):
        # What no signal ends, such as a loop in C, ends here.
        faulthandler.dump_traceback_later(30 * SECONDS, exit=True)
        outcomes.append(outcome)
        if outcome.kind not in ("works", "clear error"):
            print(outcome.kind, "|", outcome, flush=True)
        if time.process_time() - before > 1:
            slow.append((time.process_time() - before, outcome))
        before = time.process_time()
    for seconds, outcome in sorted(slow, key=lambda one: -one[0])[:60]:
        print(f"slow | {seconds:.1f}", outcome)
    found = collections.Counter(outcome.kind for outcome in outcomes)
    print(
        f"{len(outcomes)} calls: {found['accepted nonsense']} accepted nonsense, {found['hang']} hangs, "
        f"{found['unclear']} unclear errors, {found['clear error']} clear errors, {found['works']} work; "
        f"{time.process_time() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
