"""Curves of runs that really have the fault they are read for."""

import faults
import keras
import numpy as np
import pytest
from keras import layers

from kregkit.callbacks import StepDecay
from kregkit.diagnostics import diagnose_curves

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(widths=(64,), activation="relu", initializer="he_normal", features=64):
    keras.utils.set_random_seed(1)
    hidden = [layers.Dense(width, activation, kernel_initializer=initializer) for width in widths]
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), *hidden, layers.Dense(10)])


def fit(model, optimizer, epochs, examples=1400, batch=64, scale=1.0):
    (x, y), (x_test, y_test) = faults.data(), faults.data("test")
    model.compile(optimizer, SPARSE)
    return model.fit(
        scale * x[:examples],
        y[:examples],
        batch,
        epochs,
        validation_data=(scale * x_test, y_test),
        verbose=0,
    ).history


def jumping(epochs=12, then=0):
    """At this rate the weights of a convex model jump about above the minimum; `then` epochs at a tenth follow."""
    (x, y), (x_test, y_test) = faults.data(), faults.data("test")
    rng = np.random.default_rng(0)
    # Labels that are partly wrong keep the minimum above zero.
    y, y_test = (np.where(rng.random(len(one)) < 0.3, rng.integers(0, 10, len(one)), one) for one in (y, y_test))
    model = network(())
    model.compile(keras.optimizers.SGD(3.0), SPARSE)
    first = model.fit(x, y, 8, epochs, validation_data=(x_test, y_test), verbose=0).history
    model.optimizer.learning_rate = 0.3
    return first, model.fit(x, y, 8, then, verbose=0).history if then else None


RUNS = {
    "healthy": lambda: fit(network(), keras.optimizers.Adam(2e-3), 12),
    # Gradients through five layers of tiny weights are tinier still, until they have grown.
    "flat start": lambda: fit(
        network((64,) * 4, "tanh", keras.initializers.RandomNormal(stddev=0.01)),
        keras.optimizers.SGD(0.05, momentum=0.9),
        20,
    ),
    "rate too low": lambda: fit(network(), keras.optimizers.SGD(1e-4), 12),
    "divergence": lambda: fit(network(activation="tanh"), keras.optimizers.SGD(30.0, momentum=0.95), 6),
    "plateau": lambda: jumping()[0],
    "overfitting": lambda: fit(network((256, 256)), keras.optimizers.Adam(2e-3), 25, examples=150, batch=32),
    "underfitting": lambda: fit(network((2,)), keras.optimizers.Adam(2e-2), 20),
}


@pytest.fixture(scope="module")
def histories():
    return {name: run() for name, run in RUNS.items()}


@pytest.mark.parametrize("name", [name for name in RUNS if name != "healthy"])
def test_fault_of_a_real_run_is_read_off(histories, name):
    finding = diagnose_curves(histories[name])
    assert name in finding.faults, (str(finding), histories[name])
    problem = next(problem for problem in finding.problems if problem.name == name)
    assert problem.figure and problem.expected and problem.remedy


def test_divergence_to_nan_is_read_off():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    x, y = faults.data()
    finding = diagnose_curves(model.fit(x[:640], y[:640], epochs=4, verbose=0))
    assert finding.faults == ["divergence"] and "not finite from epoch" in finding.problems[0].figure


def test_run_that_died_in_its_first_epoch_is_a_plateau_from_the_second():
    history = fit(network(), keras.optimizers.SGD(1.0, momentum=0.9), 6, scale=10.0)
    assert history["loss"][0] > 100 and min(history["loss"]) > 2.2
    finding = diagnose_curves(history)
    assert finding.faults == ["plateau"] and finding.problems[0].where == "epoch 2"
    assert "start anew" in finding.problems[0].remedy


def test_healthy_run_passes(histories):
    finding = diagnose_curves(histories["healthy"])
    assert finding.status == "pass", (str(finding), histories["healthy"])


def test_no_run_is_accused_of_what_another_has(histories):
    allowed = {"underfitting": {"underfitting", "plateau"}}
    for name, history in histories.items():
        assert set(diagnose_curves(history).faults) <= allowed.get(name, {name}), (name, str(diagnose_curves(history)))


def test_numbers_are_the_curves_own(histories):
    history = histories["overfitting"]
    numbers = diagnose_curves(history).details
    assert numbers["start"] == history["loss"][0] and numbers["end"] == history["loss"][-1]
    assert numbers["best_epoch"] == 1 + int(np.argmin(history["val_loss"]))
    assert numbers["gap"] == pytest.approx(history["val_loss"][-1] / history["loss"][-1] - 1)


def test_decay_at_the_epoch_that_a_plateau_names_helps(histories):
    problem = next(p for p in diagnose_curves(histories["plateau"]).problems if p.name == "plateau")
    epoch = int(problem.where.split()[1])
    assert f"at=[{epoch}]" in problem.remedy
    decayed = jumping(epoch, then=3)[1]["loss"]
    after = histories["plateau"]["loss"][epoch : epoch + 3]
    assert decayed[-1] < 0.5 * np.mean(after)


def test_sparse_validation_is_read_at_its_own_epochs(histories):
    history = histories["overfitting"]
    every = {"loss": history["loss"], "val_loss": history["val_loss"][4::5]}
    best = 5 * (1 + int(np.argmin(every["val_loss"])))
    assert diagnose_curves(every).details["best_epoch"] == best


def test_loss_below_zero_is_read_alike():
    """A cosine similarity falls from 0 to -1."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 5)).astype("float32")
    model = keras.Sequential([keras.Input((5,)), layers.Dense(32, "relu"), layers.Dense(3)])
    model.compile(keras.optimizers.Adam(3e-3), "cosine_similarity")
    y = np.stack([x[:, 0], x[:, 1], np.sign(x[:, 2])], 1)
    history = model.fit(x[:400], y[:400], 16, 10, validation_data=(x[400:], y[400:]), verbose=0).history
    assert history["loss"][-1] < history["val_loss"][-1] < -0.9
    assert diagnose_curves(history).status == "pass", (str(diagnose_curves(history)), history)
    risen = {key: [*values, -0.2, -0.2] for key, values in history.items()}
    assert diagnose_curves(risen).faults == ["divergence"]


def noisy(optimizer, epochs, width, callbacks=()):
    """A regression of which half can't be learned, only known by heart."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)).astype("float32")
    y = (x[:, :1] + rng.normal(size=(300, 1))).astype("float32")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(width, "relu"), layers.Dense(1)])
    model.compile(optimizer, "mse")
    held = (x[100:], y[100:])
    return model.fit(x[:100], y[:100], 20, epochs, validation_data=held, verbose=0, callbacks=[*callbacks]).history


def test_rate_that_has_been_decayed_is_not_to_be_decayed_again():
    history = noisy(keras.optimizers.SGD(0.02, momentum=0.9), 24, 2, [StepDecay(0.05, at=[5])])
    constant = {key: values for key, values in history.items() if key != "learning_rate"}
    assert "plateau" in diagnose_curves(constant).faults
    assert "plateau" not in diagnose_curves(history).faults


def test_decay_counts_where_the_plateau_begins():
    loss = [2.0, 1.0, *[0.9] * 10]
    for rates, found in (
        ([0.1] * 12, ["plateau"]),
        ([0.1, 0.005, *[0.005] * 10], []),
        ([*[0.1] * 8, *[0.001] * 4], ["plateau"]),
    ):
        assert diagnose_curves({"loss": loss, "learning_rate": rates}).faults == found


def test_loss_that_climbs_back_has_diverged():
    history = fit(network((64,) * 3, "tanh"), keras.optimizers.Adam(0.1), 8, examples=640, batch=32)
    assert history["loss"][-1] < history["loss"][0]
    finding = diagnose_curves(history)
    assert finding.faults == ["divergence"], (str(finding), history)
    assert f"after epoch {1 + np.argmin(history['loss'])}" in finding.problems[0].figure


def test_gap_is_overfitting_also_once_training_has_stopped_falling():
    history = noisy(keras.optimizers.Adam(1e-2), 40, 128)
    assert history["val_loss"][-1] > 1.5 * history["loss"][-1]
    stopped = {key: [*values, *values[-1:] * 40] for key, values in history.items()}
    for record in (history, stopped):
        assert "overfitting" in diagnose_curves(record).faults, record


@pytest.mark.parametrize(
    ("history", "text"),
    [
        ({"accuracy": [0.1]}, "must hold 'loss'"),
        (3, "Received: history=3"),
        ({"loss": [1.0, 0.5]}, "Received: epochs=2"),
    ],
)
def test_bad_histories(history, text):
    with pytest.raises(ValueError, match=text):
        diagnose_curves(history)
