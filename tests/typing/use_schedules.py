"""What a user writes with the schedules; read by the type checker, never run."""

from typing import assert_type

import keras
from matplotlib.axes import Axes

from kregkit import callbacks, optimizers, plots, schedules


def compile_with(model: keras.Model, steps: int) -> Axes:
    cycles = schedules.CosineCycles(0.1, steps, cycles=4, restart_multiplier=2.0)
    assert_type(cycles.ends, list[int])
    listed: list[keras.optimizers.schedules.LearningRateSchedule] = [
        schedules.Warmup(cycles, 100, start_factor=0.1),
        schedules.Cooldown(0.1, steps, length=steps / 5, shape="1-sqrt"),
        schedules.Cooldown(keras.optimizers.schedules.CosineDecay(0.1, steps), steps, 10),
        schedules.OneCycle(0.1, steps, shape="linear"),
        schedules.StepDecay(0.1, 0.1, at=[steps // 2, steps * 3 // 4]),
        schedules.StepDecay(0.1, 0.5, every=10.0),
        schedules.Triangular(0.1, 0.01, period=20, scale="cycle"),
    ]
    axes = None
    for schedule in listed:
        model.compile(optimizers.Momentum(schedule), "mse")
        axes = plots.learning_rate_curve(schedule, axes, steps=steps, label=type(schedule).__name__)
    driven = callbacks.LearningRate(listed[0], unit="step")
    model.fit([[1.0]], [[1.0]], callbacks=[driven])
    assert axes is not None
    return axes
