"""The simulated rates against those of a fit, step by step."""

import keras
import numpy as np
import probes
import pytest

from kregkit import callbacks as kc
from kregkit.callbacks import simulate
from kregkit.schedules import Triangular

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]
STEPS, EPOCHS = 5, 4


class Constant(keras.callbacks.Callback):
    """Gives the quantities that a plateau watches."""

    def __init__(self, logs):
        super().__init__()
        self.logs = logs

    def on_epoch_end(self, epoch, logs=None):
        for name, curve in self.logs.items():
            logs.pop(name, None)
            if curve[epoch] is not None:
                logs[name] = curve[epoch]


CURVES = {"val_loss": [1.0, None, 2.0, 0.5], "score": [0.1, 0.1, 0.1, 0.1]}


@pytest.mark.parametrize(
    "make",
    [
        lambda _: [kc.Warmup(1.5), kc.CosineDecay(floor=0.1)],
        lambda _: [kc.LearningRate(Triangular(0.2, 0.1, 7)), kc.Cooldown(2, "1-sqrt")],
        lambda _: [kc.PlateauDecay(patience=2, cooldown=1), kc.StepDecay(0.5, every=3, unit="step")],
        lambda _: [kc.PlateauDecay("score", mode="max", patience=0, factor=0.5), kc.OneCycle()],
        lambda path: [kc.SnapshotEnsemble(path, cycles=3, max_learning_rate=0.4, min_learning_rate=0.01), kc.Warmup(1)],
    ],
    ids=["decay", "schedule", "plateau", "plateau at once", "snapshots"],
)
def test_as_in_fit(make, tmp_path):
    callbacks = make(tmp_path / "members")
    arguments = {"epochs": EPOCHS, "steps_per_epoch": STEPS, "learning_rate": 0.3, "logs": CURVES}
    rates = simulate(callbacks, **arguments)
    assert not (tmp_path / "members").exists()
    assert rates.shape == (EPOCHS * STEPS,) and rates.dtype == np.float32
    model, record = probes.slope_model(keras.optimizers.SGD(0.3)), probes.record_rate()
    data = probes.ones(STEPS)
    arguments_of_fit = {"batch_size": 1, "epochs": EPOCHS, "verbose": 0, "validation_data": (data, data)}
    model.fit(data, data, **arguments_of_fit, callbacks=[Constant(CURVES), *callbacks, record])
    np.testing.assert_array_equal(rates, record.rows[:, 0].astype("float32"))
    # The fit's counts are the callback's own, and a simulation neither reads nor moves them.
    state = callbacks[0].get_state() if isinstance(callbacks[0], kc.PlateauDecay) else None
    if not isinstance(callbacks[0], kc.SnapshotEnsemble):
        np.testing.assert_array_equal(simulate(callbacks, **arguments), rates)
    assert state is None or callbacks[0].get_state() == state


def test_models_made_afterwards_are_as_without_it():
    made = []
    for before in (lambda: None, lambda: simulate([kc.Warmup(1)], 2, 3, 0.1)):
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        before()
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile("sgd", "mse")
        made.append((model.name, model.layers[0].name, model.optimizer.name, model.get_weights()[0].tolist()))
    assert made[0] == made[1]


def test_other_callbacks_are_left_out():
    callbacks = [keras.callbacks.EarlyStopping("val_loss"), kc.PolyakAveraging(0.9)]
    np.testing.assert_array_equal(simulate(callbacks, 2, 3, 0.5), np.full(6, 0.5, "float32"))
    both = simulate([*callbacks, kc.Warmup(1)], 2, 3, 0.5)
    np.testing.assert_allclose(both, np.float32(0.5) * np.minimum(np.arange(1, 7) / 3, 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("callbacks", "arguments", "message"),
    [
        ([kc.PlateauDecay()], {}, r"depends on 'val_loss'.*Received: logs=\[\]"),
        ([kc.PlateauDecay()], {"logs": {"val_loss": [1.0]}}, "one value per epoch.*'val_loss': 1 values"),
        ([kc.Cooldown(5)], {}, "shorter one"),
        ([kc.Warmup(1), keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)], {}, "LearningRateScheduler"),
        ([kc.LearningRate(Triangular(0.2, 0.1, 7)), kc.LearningRate(Triangular(0.2, 0.1, 7))], {}, "share one"),
        ([], {"epochs": 0}, "epochs"),
        ([], {"steps_per_epoch": 1.5}, "steps_per_epoch"),
        ([], {"learning_rate": 0}, "learning_rate"),
    ],
)
def test_what_fit_refuses(callbacks, arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(callbacks, **{"epochs": 2, "steps_per_epoch": 3, "learning_rate": 0.1, **arguments})
    assert all(getattr(callback, "train_step", None) is None for callback in callbacks)


def test_many_in_a_row_bring_no_warning_of_retracing(caplog):
    for _ in range(6):
        simulate([kc.Warmup(1)], epochs=1, steps_per_epoch=2, learning_rate=0.1)
    assert "retracing" not in caplog.text
