"""The callbacks' learning rates at every step of a fit, against formulas written down apart."""

import math

import keras
import numpy as np
import probes
import pytest
from callbacks.rates import BASE, EPOCHS, STEPS, fit_rates, half_cosine

from kregkit.callbacks import (
    Cooldown,
    CosineDecay,
    ExponentialDecay,
    InverseTimeDecay,
    OneCycle,
    StepDecay,
    Triangular,
    Warmup,
)

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]


def one_cycle(progress, warmup, initial, final):
    low, last = 1 / initial, 1 / (initial * final)
    if progress < warmup:
        return low + (1 - low) * (1 - half_cosine(progress / warmup))
    return last + (1 - last) * half_cosine((progress - warmup) / (1 - warmup))


# The callback, and its factor at step `s` of a fit of 3 epochs of 7 steps.
FACTORS = {
    "step decay, fractions of epochs": (lambda: StepDecay(0.5, every=0.5), lambda s: 0.5 ** (2 * s // STEPS)),
    "step decay, thirds": (lambda: StepDecay(0.5, every=1 / 3), lambda s: 0.5 ** (3 * s // STEPS)),
    "step decay at": (
        lambda: StepDecay(0.1, at=np.array([1, 2.5])),
        lambda s: 0.1 ** ((s >= 7) + (s >= 17.5)),
    ),
    "step decay, steps": (lambda: StepDecay(0.5, every=3, unit="step"), lambda s: 0.5 ** (s // 3)),
    "step decay at, steps": (
        lambda: StepDecay(0.5, at=[1, 4, 20], unit="step"),
        lambda s: 0.5 ** sum(s >= t for t in (1, 4, 20)),
    ),
    "exponential": (lambda: ExponentialDecay(0.7), lambda s: math.exp(-0.7 * s / STEPS)),
    "exponential, steps": (lambda: ExponentialDecay(0.01, unit="step"), lambda s: math.exp(-0.01 * s)),
    "exponential, none": (lambda: ExponentialDecay(0), lambda s: 1.0),
    "inverse time": (lambda: InverseTimeDecay(2.0), lambda s: 1 / (1 + 2.0 * s / STEPS)),
    "inverse time, steps": (lambda: InverseTimeDecay(0.3, unit="step"), lambda s: 1 / (1 + 0.3 * s)),
    "cosine": (lambda: CosineDecay(), lambda s: half_cosine(s / 21)),
    "cosine, part": (
        lambda: CosineDecay(1.5, final_factor=0.2),
        lambda s: 0.2 + 0.8 * half_cosine(s / 10.5),
    ),
    "cosine, steps": (lambda: CosineDecay(unit="step"), lambda s: half_cosine(s / 21)),
    "exponential, floor": (lambda: ExponentialDecay(0.7, floor=0.3), lambda s: max(math.exp(-0.7 * s / STEPS), 0.3)),
    "step decay, floor": (lambda: StepDecay(0.5, every=0.5, floor=0.1), lambda s: max(0.5 ** (2 * s // STEPS), 0.1)),
    "inverse time, floor": (
        lambda: InverseTimeDecay(2.0, floor=0.25),
        lambda s: max(1 / (1 + 2.0 * s / STEPS), 0.25),
    ),
    "cosine, floor": (lambda: CosineDecay(floor=0.4), lambda s: max(half_cosine(s / 21), 0.4)),
    "cool-down": (lambda: Cooldown(1), lambda s: min((21 - s) / 7, 1)),
    "cool-down, root": (
        lambda: Cooldown(1.5, "1-sqrt", to=0.1),
        lambda s: 0.1 + 0.9 * (1 - math.sqrt(max(s - 10.5, 0) / 10.5)),
    ),
    "cool-down, cosine, steps": (
        lambda: Cooldown(8, "cosine", unit="step", floor=0.2),
        lambda s: max(half_cosine(max(s - 13, 0) / 8), 0.2),
    ),
    "cool-down, whole fit": (lambda: Cooldown(3), lambda s: (21 - s) / 21),
    # The sum is a little more than 3.
    "cool-down, thirty tenths": (lambda: Cooldown(sum([0.1] * 30)), lambda s: (21 - s) / 21),
    "triangular, exp": (
        lambda: Triangular(1.0, 0.1, 0.9, scale="exp"),
        lambda s: 0.1 + 0.9 * 0.9**s * (1 - abs(2 * (s % 7) / 7 - 1)),
    ),
    "warm-up": (lambda: Warmup(1.25), lambda s: min((s + 1) / 8.75, 1)),
    "warm-up, steps": (lambda: Warmup(5, 0.2, "step"), lambda s: 0.2 + 0.8 * min((s + 1) / 5, 1)),
    "triangular": (
        lambda: Triangular(1.0, 0.1, 0.5),
        lambda s: 0.1 + 0.9 * 0.5 ** (s // 7) * (1 - abs(2 * (s % 7) / 7 - 1)),
    ),
    "triangular, steps": (
        lambda: Triangular(6, 0.25, unit="step"),
        lambda s: (0.25, 0.5, 0.75, 1.0, 0.75, 0.5)[s % 6],
    ),
    "one cycle": (lambda: OneCycle(), lambda s: one_cycle(s / 20, 0.3, 25, 1e4)),
    "one cycle, part": (
        lambda: OneCycle(2, 0.5, 10.0, 10.0),
        lambda s: one_cycle(min(s / 13, 1), 0.5, 10, 10),
    ),
    "one cycle, steps": (
        lambda: OneCycle(11, 0.4, 5.0, 1.0, "linear", "step"),
        lambda s: float(np.interp(s / 10, [0, 0.4, 1], [0.2, 1, 0.2])),
    ),
}


@pytest.mark.parametrize("name", FACTORS)
def test_every_step_has_its_rate(name):
    make, factor = FACTORS[name]
    model = probes.slope_model(keras.optimizers.SGD(BASE), steps_per_execution=3)
    rates, history = fit_rates([make()], model)
    expected = [BASE * factor(s) for s in range(STEPS * EPOCHS)]
    np.testing.assert_allclose(rates, expected, rtol=5e-5 if "cycle" in name else 3e-6, atol=1e-8)
    # An epoch's log is its last step's rate, and the base is back.
    np.testing.assert_array_equal(history.history["learning_rate"], rates[STEPS - 1 :: STEPS])
    assert float(model.optimizer.learning_rate) == BASE


@pytest.mark.parametrize("name", ["step decay, fractions of epochs", "cosine", "warm-up, steps", "one cycle"])
def test_a_later_first_epoch_goes_on_from_its_place(name):
    make, factor = FACTORS[name]
    rates, _ = fit_rates([make()], initial_epoch=1)
    expected = [BASE * factor(s) for s in range(STEPS, STEPS * EPOCHS)]
    np.testing.assert_allclose(rates, expected, rtol=5e-5, atol=1e-8)


def test_a_cool_down_longer_than_the_fit_is_refused():
    with pytest.raises(ValueError, match=r"The fit has 21 steps, fewer than the 28 .*length=4"):
        fit_rates([Cooldown(4)])


def test_a_branch_of_a_constant_run_cools_down_as_the_whole_run_does():
    whole, _ = fit_rates([Cooldown(1)])
    branch, _ = fit_rates([Cooldown(1)], epochs=EPOCHS, initial_epoch=EPOCHS - 1)
    np.testing.assert_array_equal(whole[-STEPS:], branch)
    # A shorter run's rate is the same until its own decay begins.
    shorter, _ = fit_rates([Cooldown(1)], epochs=2)
    np.testing.assert_array_equal(shorter[:STEPS], whole[:STEPS])
