"""The schedules' rows of the contract table."""

import keras
from contracts import Case

from kregkit.schedules import Cooldown, CosineCycles, OneCycle, StepDecay, Triangular, Warmup

CASES = [
    Case(
        StepDecay,
        lambda: StepDecay(0.1, 0.5, every=2.5),
        bad=[
            ({"initial_learning_rate": 0.0, "factor": 0.5, "every": 2}, "initial_learning_rate"),
            ({"initial_learning_rate": 0.1, "factor": -1.0, "every": 2}, "factor"),
            ({"initial_learning_rate": 0.1, "factor": 0.5}, "exactly one"),
            ({"initial_learning_rate": 0.1, "factor": 0.5, "every": 1, "at": [1]}, "exactly one"),
            ({"initial_learning_rate": 0.1, "factor": 0.5, "at": [3, 3]}, "increasing"),
            ({"initial_learning_rate": 0.1, "factor": 0.5, "at": []}, "non-empty"),
            ({"initial_learning_rate": 0.1, "factor": 0.5, "at": 3}, "list"),
        ],
    ),
    Case(StepDecay, lambda: StepDecay(0.1, 0.5, at=[3, 7]), name="at"),
    Case(
        CosineCycles,
        lambda: CosineCycles(0.1, 12, cycles=3, minimum_learning_rate=0.01, restart_multiplier=1.5),
        bad=[
            ({"maximum_learning_rate": 0.1, "total_steps": 0}, "total_steps"),
            ({"maximum_learning_rate": 0.1, "total_steps": 5, "cycles": 4}, "4 cycles"),
            ({"maximum_learning_rate": 0.1, "total_steps": 9, "minimum_learning_rate": 0.2}, "minimum_learning_rate"),
            ({"maximum_learning_rate": 0.1, "total_steps": 9, "restart_multiplier": 0.5}, "restart_multiplier"),
        ],
    ),
    Case(
        Cooldown,
        lambda: Cooldown(keras.optimizers.schedules.CosineDecay(0.1, 20), total_steps=12, length=5, shape="cosine"),
        bad=[
            ({"learning_rate": 0.0, "total_steps": 9, "length": 3}, "learning_rate"),
            ({"learning_rate": 0.1, "total_steps": 0, "length": 3}, "total_steps"),
            ({"learning_rate": 0.1, "total_steps": 9, "length": 10}, "length"),
            ({"learning_rate": 0.1, "total_steps": 9, "length": 3, "shape": "sqrt"}, "shape"),
            ({"learning_rate": 0.1, "total_steps": 9, "length": 3, "to": -0.1}, "to"),
        ],
    ),
    Case(
        Triangular,
        lambda: Triangular(0.1, 0.01, period=5, amplitude_decay=0.5),
        bad=[
            ({"maximum_learning_rate": 0.1, "minimum_learning_rate": 0.2, "period": 4}, "minimum_learning_rate"),
            ({"maximum_learning_rate": 0.1, "minimum_learning_rate": 0.0, "period": 0}, "period"),
            (
                {"maximum_learning_rate": 1.0, "minimum_learning_rate": 0.0, "period": 4, "amplitude_decay": 0},
                "amplitude",
            ),
        ],
    ),
    Case(
        OneCycle,
        lambda: OneCycle(0.1, 20, warmup_fraction=0.4, initial_divisor=10.0, final_divisor=100.0, shape="linear"),
        bad=[
            ({"maximum_learning_rate": 0.1, "total_steps": 1}, "total_steps"),
            ({"maximum_learning_rate": 0.1, "total_steps": 9, "warmup_fraction": 1.0}, "warmup_fraction"),
            ({"maximum_learning_rate": 0.1, "total_steps": 9, "shape": "square"}, "'cosine', 'linear'"),
            ({"maximum_learning_rate": 0.1, "total_steps": 9, "initial_divisor": 0.5}, "initial_divisor"),
        ],
    ),
    Case(
        Warmup,
        lambda: Warmup(keras.optimizers.schedules.CosineDecay(0.1, 20), steps=4, start_factor=0.1),
        bad=[
            ({"learning_rate": "fast", "steps": 4}, "learning_rate"),
            ({"learning_rate": 0.1, "steps": 0}, "steps"),
            ({"learning_rate": 0.1, "steps": 4, "start_factor": 2}, "start_factor"),
        ],
    ),
    Case(Warmup, lambda: Warmup(0.1, steps=4), name="float"),
]
