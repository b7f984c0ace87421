"""The callbacks' rows of the contract table."""

import json

import keras
import numpy as np
from contracts import Case, dense_model

from kregkit import schedules
from kregkit.callbacks import (
    Cooldown,
    CosineDecay,
    ExponentialDecay,
    InverseTimeDecay,
    LearningRate,
    NoiseSchedule,
    OneCycle,
    PlateauDecay,
    PolyakAveraging,
    RateCallback,
    Resume,
    SharpnessAware,
    SnapshotEnsemble,
    StepDecay,
    TracedCallback,
    Triangular,
    UpdateRatio,
    Warmup,
)


def averages(callback, model, history):
    state = callback.get_state()
    moments = [array for name in ("mean", "squares", "deviations") for array in state["moments"][name]]
    return [*(array for average in state["averages"] for array in average), state["updates"], *moments]


def members(callback, model, history):
    manifest = json.loads((callback.directory.path / "manifest.json").read_text())
    rows = [[member["step"], member["epoch"], member["learning_rate"]] for member in manifest["members"]]
    weights = []
    for member in manifest["members"]:
        model.load_weights(callback.directory.path / member["file"])
        weights += model.get_weights()
    return [np.asarray(rows), *weights]


def ratios(callback, model, history):
    return [np.asarray(values) for name, values in history.history.items() if name.startswith("update_ratio/")]


def noisy_model():
    """The rows' model behind a layer that drops nothing as it is, so that a plain fit has one result."""
    inputs = keras.Input((8,))
    return keras.Model(inputs, dense_model()(keras.layers.Dropout(1e-9, seed=1)(inputs)))


class Halving(RateCallback):
    """A user's own rate, of a schedule that isn't kregkit's."""

    def make_schedule(self, unit_steps, total_steps):
        return lambda step: 0.5 ** keras.ops.floor(keras.ops.cast(step, "float32") / unit_steps)


# What differs among these is a function of the step: whether it compiles, and whether it counts batches.
RATE_MODES = ("graph", "jit", "steps_per_execution")

CASES = [
    Case(
        NoiseSchedule,
        lambda directory: NoiseSchedule(".*", schedules.Triangular(0.5, 0.1, period=5)),
        model=noisy_model,
        observe=lambda callback, model, history: [history.history["noise_rate"]],
        bad=[
            ({"layers": 3, "schedule": schedules.Triangular(0.5, 0.1, period=5)}, "regular expression"),
            ({"layers": "(", "schedule": schedules.Triangular(0.5, 0.1, period=5)}, "regular expression"),
            ({"layers": ".*", "schedule": 0.1}, "LearningRateSchedule"),
            ({"layers": ".*", "schedule": schedules.Triangular(0.5, 0.1, period=5), "unit": "day"}, "unit"),
            ({"layers": ".*", "schedule": schedules.Triangular(0.5, 0.1, period=5), "relative": 2}, "relative"),
        ],
    ),
    Case(RateCallback, lambda directory: Halving(), bad=[({"unit": "day"}, "unit")]),
    Case(UpdateRatio, lambda directory: UpdateRatio(every=5), observe=ratios, bad=[({"every": 0}, "every")]),
    Case(TracedCallback, lambda directory: TracedCallback(), observe=lambda callback, model, _: model.get_weights()),
    Case(
        LearningRate,
        lambda directory: LearningRate(schedules.Triangular(0.01, 0.001, period=5)),
        bad=[({"schedule": 0.1}, "LearningRateSchedule"), ({"schedule": None, "unit": "batch"}, "'epoch', 'step'")],
    ),
    Case(
        SharpnessAware,
        lambda directory: SharpnessAware(0.1, every=2),
        observe=lambda callback, model, _: model.get_weights(),
        # Each replica looks from the worst weights of its own part of the batch, as documented.
        tolerance={"mirrored": 1e-1},
        bad=[({"rho": 0}, "rho"), ({"adaptive": 1}, "adaptive"), ({"every": 0}, "every")],
    ),
    Case(
        StepDecay,
        lambda directory: StepDecay(0.5, every=0.5),
        modes=RATE_MODES,
        bad=[
            ({"every": 0}, "every"),
            ({"every": 1, "at": [2]}, "exactly one"),
            ({}, "exactly one"),
            ({"factor": 0, "every": 1}, "factor"),
            ({"at": [2, 1]}, "increasing"),
            ({"at": 30}, "list"),
            ({"at": [2], "unit": "day"}, "unit"),
        ],
    ),
    Case(ExponentialDecay, lambda directory: ExponentialDecay(0.5), modes=RATE_MODES, bad=[({"rate": -1}, "rate")]),
    Case(
        InverseTimeDecay,
        lambda directory: InverseTimeDecay(0.1, unit="step"),
        modes=RATE_MODES,
        bad=[({"rate": "big"}, "rate")],
    ),
    Case(
        Cooldown,
        lambda directory: Cooldown(1, shape="1-sqrt", to=0.1),
        bad=[
            ({"length": 0}, "length"),
            ({"length": 1, "shape": "sqrt"}, "'linear', '1-sqrt', 'cosine'"),
            ({"length": 1, "to": 2}, "to"),
            ({"length": 1, "floor": -1}, "floor"),
        ],
    ),
    Case(
        CosineDecay,
        lambda directory: CosineDecay(),
        modes=RATE_MODES,
        bad=[({"length": 0}, "length"), ({"final_factor": 1.5}, "final_factor")],
    ),
    Case(
        Warmup,
        lambda directory: Warmup(1.25, start_factor=0.1),
        modes=RATE_MODES,
        bad=[({"length": -1}, "length"), ({"length": 1, "start_factor": -0.1}, "start_factor")],
    ),
    Case(
        Triangular,
        lambda directory: Triangular(1.5, minimum_factor=0.2, amplitude_decay=0.5),
        modes=RATE_MODES,
        bad=[
            ({"period": 0}, "period"),
            ({"period": 2, "minimum_factor": 1}, "minimum_factor"),
            ({"period": 2, "amplitude_decay": 2}, "amplitude_decay"),
            ({"period": 2, "scale": "step"}, "'cycle', 'exp'"),
        ],
    ),
    Case(
        OneCycle,
        lambda directory: OneCycle(),
        modes=RATE_MODES,
        bad=[
            ({"length": 0}, "length"),
            ({"warmup_fraction": 0}, "warmup_fraction"),
            ({"shape": "round"}, "shape"),
            ({"final_divisor": 0}, "final_divisor"),
        ],
    ),
    Case(
        PlateauDecay,
        lambda directory: PlateauDecay("loss", factor=0.5, patience=1, min_delta=1e6),
        bad=[
            ({"factor": 1.0}, "factor"),
            ({"patience": -1}, "patience"),
            ({"min_delta": -1}, "min_delta"),
            ({"mode": "up"}, "mode"),
            ({"minimum_factor": 2}, "minimum_factor"),
        ],
    ),
    Case(
        PolyakAveraging,
        lambda directory: PolyakAveraging([0.9, "uniform"], start_step=2, posterior=True, rank=2, posterior_every=2),
        observe=averages,
        bad=[
            ({"decay": 1.0}, "decay"),
            ({"decay": "mean"}, "uniform"),
            ({"decay": []}, "decay"),
            ({"decay": [0.9, 0.9]}, "different"),
            ({"start_step": -1}, "start_step"),
            ({"monitor": "val_loss", "mode": "best"}, "mode"),
            ({"posterior": "yes"}, "posterior"),
            ({"rank": 1}, "rank"),
            ({"posterior_every": 0}, "posterior_every"),
        ],
    ),
    Case(
        Resume,
        lambda directory: Resume(directory, save_freq=2),
        observe=lambda callback, model, _: model.get_weights(),
        bad=[
            ({"directory": ""}, "directory"),
            ({"directory": "DIRECTORY", "save_freq": 0}, "save_freq"),
            ({"directory": "DIRECTORY", "save_freq": "batch"}, "save_freq"),
            ({"directory": "DIRECTORY", "seconds": 0}, "seconds"),
            ({"directory": "DIRECTORY", "keep": 0}, "keep"),
            ({"directory": "DIRECTORY", "data": "skip"}, "data"),
        ],
    ),
    Case(
        SnapshotEnsemble,
        lambda directory: SnapshotEnsemble(directory, cycles=3, max_learning_rate=0.02),
        observe=members,
        bad=[
            ({"directory": "DIRECTORY", "cycles": 0}, "cycles"),
            ({"directory": "DIRECTORY", "max_learning_rate": 0}, "max_learning_rate"),
            (
                {"directory": "DIRECTORY", "max_learning_rate": 0.1, "min_learning_rate": 0.2},
                "min_learning_rate",
            ),
            ({"directory": "DIRECTORY", "restart_multiplier": 0.9}, "restart_multiplier"),
        ],
    ),
    Case(
        SnapshotEnsemble,
        # Twelve steps in cycles of 5, 5 and 2: they end inside executions of three.
        lambda directory: SnapshotEnsemble(directory, cycles=2, restart_multiplier=1.5, min_learning_rate=0.001),
        observe=members,
        name="inside-executions",
    ),
]
