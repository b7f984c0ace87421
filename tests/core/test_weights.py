"""Weights leave and come back with every bit."""

import keras
import numpy as np
import probes
import pytest
from bits import same_bits

from kregkit._core.weights import assign_values, copy_values, swapped, training_state

ODD = np.array([0x7FC12345, 0x7F800000, 0xFF800000, 0x80000000, 0x00000001], "uint32").view("float32")


def variables():
    return [
        keras.Variable(ODD, name="odd"),
        keras.Variable([[1.5, -2.0]], dtype="bfloat16"),
        keras.Variable([1, 2], dtype="int32"),
        keras.Variable(True, dtype="bool"),
        keras.Variable([0.1], dtype="float64"),
    ]


def test_copies_are_not_changed_by_training():
    held = variables()
    values = copy_values(held)
    again = [value.copy() for value in values]
    for variable in held:
        variable.assign(keras.ops.zeros_like(variable))
    assert same_bits(values, again)
    assert same_bits([values[0]], [ODD])


def test_swapped_puts_every_bit_back_also_after_an_error():
    held = variables()
    before, others = copy_values(held), [np.ones(variable.shape, variable.dtype) for variable in held]
    with swapped(held, others):
        assert same_bits(copy_values(held), others)
    assert same_bits(copy_values(held), before)
    with pytest.raises(KeyboardInterrupt), swapped(held, others):
        raise KeyboardInterrupt
    assert same_bits(copy_values(held), before)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([np.zeros(2)], "Expected 2 arrays, one per variable. Received: 1 arrays"),
        ([np.zeros(2), np.zeros((3, 1))], r"shape \(3,\). Received: shape=\(3, 1\)"),
    ],
)
def test_nothing_is_assigned_unless_all_fits(values, text):
    held = [keras.Variable(np.ones(2, "float32")), keras.Variable(np.ones(3, "float32"))]
    with pytest.raises(ValueError, match=text):
        assign_values(held, values)
    assert same_bits(copy_values(held), [np.ones(2, "float32"), np.ones(3, "float32")])


def test_same_bits_tells_what_equality_doesn_t():
    assert same_bits([ODD], [ODD.copy()])
    assert not same_bits([np.zeros(1)], [-np.zeros(1)])
    assert not same_bits([np.zeros(1)], [np.zeros(1, "float32")])
    assert not same_bits([np.zeros((1, 2))], [np.zeros((2, 1))])
    assert not same_bits([np.zeros(1)], [])


def test_training_state_holds_seeds_and_slots_but_no_metrics():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    assert len(training_state(model)) == 3
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", metrics=["mae"], jit_compile=False)
    x, y = probes.regression(4)
    model.fit(x, y, verbose=0)
    state = training_state(model)
    # Kernel, bias, the dropout's seed; iterations, rate, two momenta.
    assert len(state) == 7
    assert len({id(variable) for variable in state}) == 7
    metrics = {id(variable) for variable in model.metrics_variables}
    assert metrics
    assert not metrics & {id(variable) for variable in state}
    assert sum("seed" in variable.path for variable in state) == 1
