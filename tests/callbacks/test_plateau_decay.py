"""Plateau decay against Keras's own counting and against runs worked by hand."""

import json

import keras
import numpy as np
import probes
import pytest

from kregkit.callbacks import PlateauDecay, StepDecay, Warmup


class Script(keras.callbacks.Callback):
    """Puts the next number into the logs at each epoch's end."""

    def __init__(self, values, name="val_score"):
        super().__init__()
        self.values, self.name, self.place = list(values), name, 0

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.values[self.place]
        self.place += 1


def run(values, callbacks, epochs=None, initial_epoch=0, steps=2, model=None, name="val_score"):
    """Returns the rate of each epoch's steps, relative to the base of 0.5."""
    model = model or probes.slope_model(keras.optimizers.SGD(0.5))
    record = probes.record_rate(256)
    data = probes.ones(steps)
    model.fit(
        data, data, batch_size=1, epochs=epochs or initial_epoch + len(values), initial_epoch=initial_epoch, verbose=0,
        callbacks=[Script(values, name), *callbacks, record],
    )  # fmt: skip
    rates = record.rows[:, 0].reshape(-1, steps) / 0.5
    np.testing.assert_array_equal(rates[:, :1], rates[:, -1:])
    return rates[:, 0]


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        ([3, 2, 2, 2, 2, 2], {"patience": 2}, [1, 1, 1, 1, 0.5, 0.5]),
        # An improvement by no more than min_delta is none.
        ([3, 2.9, 2.75, 2.6, 2.5, 2.4], {"patience": 2, "min_delta": 0.2}, [1, 1, 1, 1, 1, 1]),
        ([3, 2.9, 2.85, 2.7, 2.6], {"patience": 2, "min_delta": 0.2}, [1, 1, 1, 0.5, 0.5]),
        # The decay at epoch 2 is followed by one epoch that isn't counted.
        ([1, 1, 1, 1, 1, 1, 1], {"patience": 1, "cooldown": 1}, [1, 1, 0.5, 0.25, 0.125, 0.0625, 0.03125]),
        ([1, 1, 1, 1, 1, 1, 1], {"patience": 1, "cooldown": 2}, [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]),
        ([1, 1, 1, 1, 1], {"patience": 1, "minimum_factor": 0.3}, [1, 1, 0.5, 0.3, 0.3]),
        ([1, 2, 3, 3, 3], {"patience": 1, "mode": "max"}, [1, 1, 1, 1, 0.5]),
        # NaN is never better, also not at first.
        ([np.nan, np.nan, 1, np.nan, 1], {"patience": 2}, [1, 1, 0.5, 0.5, 0.5]),
        # Patience in steps, two an epoch, is rounded up.
        ([1, 1, 1, 1, 1, 1], {"patience": 3, "unit": "step"}, [1, 1, 1, 0.5, 0.5, 0.25]),
    ],
)
def test_worked_by_hand(values, settings, expected):
    rates = run(values, [PlateauDecay("val_score", factor=0.5, **{"min_delta": 0.0, **settings})])
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_counts_as_keras_does(seed):
    rng = np.random.default_rng(seed)
    values = np.round(np.cumsum(rng.normal(-0.02, 0.1, 40)), 2)
    settings = {"patience": int(rng.integers(1, 4)), "cooldown": int(rng.integers(0, 3)), "min_delta": 0.025}
    ours = run(values, [PlateauDecay("val_score", factor=0.5, mode="min", **settings)])
    keras_own = keras.callbacks.ReduceLROnPlateau("val_score", factor=0.5, mode="min", **settings)
    theirs = run(values, [keras_own])
    assert ours[-1] < 0.5  # something happened
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_multiplies_with_the_others():
    values = [1.0] * 4
    rates = run(
        values, [Warmup(8, unit="epoch"), PlateauDecay("val_score", 0.5, patience=1), StepDecay(0.1, 2)], steps=1
    )
    expected = np.array([1, 2, 3, 4]) / 8 * [1, 1, 0.5, 0.25] * [1, 1, 0.1, 0.1]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_a_fit_with_initial_epoch_goes_on_and_one_from_zero_starts_anew():
    callback = PlateauDecay("val_score", 0.5, patience=2)
    np.testing.assert_array_equal(run([1, 1], [callback]), [1, 1])
    np.testing.assert_array_equal(run([1, 1], [callback], initial_epoch=2), [1, 0.5])
    np.testing.assert_array_equal(run([5, 5, 5, 5], [callback]), [1, 1, 1, 0.5])


@pytest.mark.parametrize("split", [1, 2, 3, 5])
def test_state_leaves_and_comes_back(split):
    values = [3, 3, 2, 2, 2, 2, 1, 1]

    def make():
        return PlateauDecay("val_score", 0.5, patience=2, cooldown=1)

    whole = run(values, [make()])
    first = make()
    before = run(values[:split], [first])
    state = json.loads(json.dumps(first.get_state()))
    second = make()
    second.set_state(state)
    after = run(values[split:], [second], initial_epoch=split)
    np.testing.assert_array_equal([*before, *after], whole)
    # Also where the next fit counts its epochs from 0.
    third = make()
    third.set_state(state)
    np.testing.assert_array_equal(run(values[split:], [third]), whole[split:])


def test_direction_by_name_and_messages(capsys):
    assert PlateauDecay("val_accuracy").mode == "max"
    assert PlateauDecay("val_loss").mode == "min"
    callback = PlateauDecay("val_accuracy", 0.5, patience=1, verbose=1)
    run([0.5, 0.5], [callback], name="val_accuracy")
    assert "Epoch 2: val_accuracy is flat, learning rate times 0.5" in capsys.readouterr().out


def test_a_missing_quantity_warns_with_what_there_is():
    with pytest.warns(UserWarning, match=r"watches 'val_loss', which is not in the logs; there are \['learn"):
        rates = run([1, 1, 1], [PlateauDecay(patience=1)])
    np.testing.assert_array_equal(rates, [1, 1, 1])
