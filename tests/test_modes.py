"""The table of modes: a few cells in the short run, others by `KREGKIT_TEST_SEED`, all of them before a release.

`benchmarks/modes.py` writes the table to `docs/modes.md`.
"""

import os
import random

import contracts
import keras
import mode_pairs
import pytest

pytestmark = pytest.mark.trains

FAULTS = ("differs", "not finite", "raises")
ROWS = mode_pairs.rows()
EACH_ROW = pytest.mark.parametrize(
    ("kind", "case", "cells"), [pytest.param(*row, id=f"{row[0]}-{row[1]}") for row in ROWS]
)
SEED = int(os.environ.get("KREGKIT_TEST_SEED", "0"))


def drawn(seed):
    """Returns one cell of a row of three kinds, other ones with each seed."""
    numbers, found = random.Random(seed), []
    pairs = [cell for cell in mode_pairs.cells() if len(cell) == 2 and frozenset(cell) not in mode_pairs.IMPOSSIBLE]
    for kind in numbers.sample(("layer", "optimizer", "schedule", "callback", "pipeline"), 3):
        _, case, _ = numbers.choice([row for row in ROWS if row[0] == kind and row[2] == mode_pairs.cells()])
        found.append((kind, case, numbers.choice(pairs)))
    return found


def name(value):
    return "+".join(value) if isinstance(value, tuple) else str(value)


def check(kind, case, modes, memory=None):
    cell = mode_pairs.outcome(kind, case, modes, memory)
    assert cell.verdict not in FAULTS, cell


@pytest.mark.parametrize(("kind", "case", "modes"), drawn(SEED), ids=name)
def test_a_drawn_cell(kind, case, modes):
    check(kind, case, modes)


@pytest.mark.slow
@EACH_ROW
def test_one_cell_of_each_row(kind, case, cells):
    check(kind, case, random.Random(f"{SEED} {case}").choice(cells))


@pytest.mark.slow
@pytest.mark.endurance
@EACH_ROW
def test_all_cells(kind, case, cells):
    memory = {}
    for modes in cells:
        check(kind, case, modes, memory)


def test_no_cell_is_left_out():
    rest = set(mode_pairs.MODES) - {"graph"}
    singles = {cell[0] for cell in mode_pairs.cells() if len(cell) == 1}
    pairs = [frozenset(cell) for cell in mode_pairs.cells() if len(cell) == 2]
    assert singles == set(mode_pairs.MODES)
    assert set(pairs) == {frozenset({one, other}) for one in rest for other in rest - {one}}
    assert len(pairs) == len(set(pairs)) and set(mode_pairs.IMPOSSIBLE) <= set(pairs)
    whole = {case.component for _, case, cells in ROWS if cells == mode_pairs.cells()}
    bases = (
        keras.layers.Layer,
        keras.optimizers.Optimizer,
        keras.optimizers.schedules.LearningRateSchedule,
        keras.callbacks.Callback,
    )
    public = {one for base in bases for one in contracts.public_components(base)}
    assert {one for one in public if not issubclass(one, keras.Model)} <= whole
    kind, case, _ = ROWS[0]
    assert mode_pairs.outcome(kind, case, ("eager", "jit")).verdict == "none"


def test_loss_scaling_on_replicas_is_refused_without_its_mend():
    kind, case, (modes,) = ROWS[-1]
    cell = mode_pairs.outcome(kind, case, modes)
    assert cell.verdict == "refused" and "enable_loss_scaling" in cell.note


def test_a_wrong_expectation_is_found():
    class Biased(keras.layers.Layer):
        """Adds noise around zero, and around one in half precision."""

        def __init__(self):
            super().__init__()
            self.seeds = keras.random.SeedGenerator(0)

        def call(self, inputs):
            noise = keras.random.normal(keras.ops.shape(inputs), seed=self.seeds)
            return noise + (1.0 if self.compute_dtype == "bfloat16" else 0.0)

    case, memory = contracts.Case(Biased, Biased, same=False), {}
    assert mode_pairs.outcome("layer", case, ("graph",), memory).verdict == "works"
    assert mode_pairs.outcome("layer", case, ("mixed_bfloat16",), memory).verdict == "differs"


def test_an_update_of_other_examples_is_found():
    """An optimizer that averages the micro-batches of an update agrees; one that takes half of each doesn't."""

    class Forgetful(keras.optimizers.SGD):
        def apply(self, grads, trainable_variables=None):
            return super().apply([0.5 * grad for grad in grads], trainable_variables)

    kind, case, _ = ROWS[0]
    subject, memory = mode_pairs.subject_of(kind, case), {}
    assert mode_pairs.comparison(subject, case, ("accumulation",), memory).verdict == "works"
    subject.make_optimizer = lambda together=1: Forgetful(1e-2, momentum=0.5)
    assert mode_pairs.comparison(subject, case, ("accumulation",), memory).verdict == "differs"
