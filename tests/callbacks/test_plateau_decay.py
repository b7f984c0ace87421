"""Plateau decay against Keras's own counting and against runs worked by hand."""

import copy
import json
import pickle
import warnings

import keras
import numpy as np
import probes
import pytest

from kregkit.callbacks import PlateauDecay, StepDecay, Warmup

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]


class Script(keras.callbacks.Callback):
    """Puts the next number into the logs at each epoch's end."""

    def __init__(self, values, name="val_loss"):
        super().__init__()
        self.values, self.name, self.place = list(values), name, 0

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.values[self.place]
        self.place += 1


def run(values, callbacks, epochs=None, initial_epoch=0, steps=2, model=None, name="val_loss"):
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
    rates = run(values, [PlateauDecay("val_loss", factor=0.5, **{"min_delta": 0.0, **settings})])
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_counts_as_keras_does(seed):
    rng = np.random.default_rng(seed)
    values = np.round(np.cumsum(rng.normal(-0.02, 0.1, 25)), 2)
    settings = {"patience": int(rng.integers(1, 4)), "cooldown": int(rng.integers(0, 3)), "min_delta": 0.025}
    ours = run(values, [PlateauDecay("val_loss", factor=0.5, mode="min", **settings)])
    keras_own = keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, mode="min", **settings)
    theirs = run(values, [keras_own])
    assert ours[-1] < 0.5  # something happened
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_multiplies_with_the_others():
    values = [1.0] * 4
    rates = run(
        values, [Warmup(8, unit="epoch"), PlateauDecay("val_loss", 0.5, patience=1), StepDecay(0.1, 2)], steps=1
    )
    expected = np.array([1, 2, 3, 4]) / 8 * [1, 1, 0.5, 0.25] * [1, 1, 0.1, 0.1]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_a_fit_with_initial_epoch_goes_on_and_one_from_zero_starts_anew():
    callback = PlateauDecay("val_loss", 0.5, patience=2)
    np.testing.assert_array_equal(run([1, 1], [callback]), [1, 1])
    np.testing.assert_array_equal(run([1, 1], [callback], initial_epoch=2), [1, 0.5])
    np.testing.assert_array_equal(run([5, 5, 5, 5], [callback]), [1, 1, 1, 0.5])


@pytest.mark.parametrize("split", [1, 2, 3, 5])
def test_state_leaves_and_comes_back(split):
    values = [3, 3, 2, 2, 2, 2, 1, 1]

    def make():
        return PlateauDecay("val_loss", 0.5, patience=2, cooldown=1)

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


def test_direction_of_the_metric_and_messages(capsys):
    callback = PlateauDecay("val_accuracy", 0.5, patience=1, verbose=1)
    rates = run([0.5, 0.6, 0.6], [callback], name="val_accuracy", epochs=3)
    np.testing.assert_array_equal(rates, [1, 1, 1])
    assert "Epoch 3: val_accuracy is flat, learning rate times 0.5" in capsys.readouterr().out
    model = probes.slope_model(keras.optimizers.SGD(0.5))
    with pytest.raises(ValueError, match=r'Pass `mode="max"` if larger is better'):
        model.fit(probes.ones(2), probes.ones(2), verbose=0, callbacks=[PlateauDecay("val_score")])
    with pytest.raises(ValueError, match="`monitor` must be the name of a logged quantity"):
        PlateauDecay(3)


def test_a_missing_quantity_warns_once_with_what_there_is():
    with pytest.warns(UserWarning, match=r"watches 'val_loss', which is not in the logs; there are \['learn") as seen:
        rates = run([1, 1, 1], [PlateauDecay(patience=1)], name="val_other")
    assert sum("watches" in str(warning.message) for warning in seen) == 1
    np.testing.assert_array_equal(rates, [1, 1, 1])


@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_epochs_without_validation_count(unit):
    # Validated at epochs 2, 4, 6, ...; the slope's loss on zeros is 0 from the start, so it never improves.
    model, record = probes.slope_model(keras.optimizers.SGD(0.5)), probes.record_rate()
    data, zeros = probes.ones(3), 0 * probes.ones(2)
    callback = PlateauDecay(factor=0.5, patience=4 if unit == "epoch" else 11, unit=unit)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not in the logs")
        model.fit(
            data, data, batch_size=1, epochs=8, verbose=0, callbacks=[callback, record],
            validation_data=(zeros, zeros), validation_freq=2,
        )  # fmt: skip
    rates = record.rows[::3, 0] / 0.5
    # Four epochs, or twelve steps, after the validation that followed the second epoch.
    np.testing.assert_array_equal(rates, [1] * 6 + [0.5] * 2)


@pytest.mark.parametrize("validation_freq", [1, 3])
def test_epochs_of_a_cooldown_do_not_count_whether_validated_or_not(validation_freq):
    model, record = probes.slope_model(keras.optimizers.SGD(0.5)), probes.record_rate()
    data, zeros = probes.ones(1), 0 * probes.ones(1)
    model.fit(
        data, data, epochs=18, verbose=0, callbacks=[PlateauDecay(factor=0.5, patience=3, cooldown=3), record],
        validation_data=(zeros, zeros), validation_freq=validation_freq,
    )  # fmt: skip
    rates = record.rows[:, 0] / 0.5
    decayed = [int(epoch) + 1 for epoch in np.flatnonzero(np.diff(rates))]
    # The epoch that ends a cooldown counts, as in Keras, and the third one decays: 2 + 3 epochs later, or at the next
    # validation.
    assert decayed == ([4, 9, 14] if validation_freq == 1 else [6, 12])


def test_no_patience_decays_at_each_epoch_without_improvement():
    rates = run([3, 3, 2, 2, 2], [PlateauDecay(factor=0.5, patience=0)])
    np.testing.assert_array_equal(rates, [1, 1, 0.5, 0.5, 0.25])


def test_a_restored_run_is_told_that_its_counts_are_lost(tmp_path):
    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise OSError("killed")

    def begin(callback, *others):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        model = probes.slope_model(keras.optimizers.SGD(0.5))
        data = probes.ones(2)
        model.fit(data, data, epochs=5, verbose=0, callbacks=[Script([1] * 5), backup, callback, *others])

    with pytest.raises(OSError, match="killed"):
        begin(PlateauDecay(patience=1), Kill())
    with pytest.warns(UserWarning, match=r"BackupAndRestore .*keeps no callback's state.*Received: initial_epoch=3"):
        begin(PlateauDecay(patience=1))


def test_it_is_pickled_and_copied_with_its_counts():
    callback = PlateauDecay(factor=0.5, patience=2)
    run([1, 1], [callback])
    for again in (pickle.loads(pickle.dumps(callback)), copy.deepcopy(callback)):
        assert again.get_state() == callback.get_state()
        np.testing.assert_array_equal(run([1, 1], [again], initial_epoch=2), [1, 0.5])
