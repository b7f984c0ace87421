"""Learning rates in `fit`, step by step, against float64 functions of the step."""

import csv
import math

import keras
import numpy as np
import probes
import pytest
import tensorflow as tf
from callbacks.rates import BASE, EPOCHS, STEPS, fit_rates, half_cosine

from kregkit import schedules
from kregkit.callbacks import (
    CosineDecay,
    ExponentialDecay,
    LearningRate,
    OneCycle,
    PlateauDecay,
    StepDecay,
    Warmup,
)

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]

KERAS = keras.optimizers.schedules


def product(s):
    return min((s + 1) / 10, 1) * 0.5 ** (s // 7) * math.exp(-0.05 * s)


def several():
    return [Warmup(10, unit="step"), StepDecay(0.5, every=1), ExponentialDecay(0.05, unit="step")]


@pytest.mark.parametrize("mode", [{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 5}])
def test_callbacks_multiply(mode):
    rates, _ = fit_rates(several(), probes.slope_model(keras.optimizers.SGD(BASE), **mode))
    np.testing.assert_allclose(rates, [BASE * product(s) for s in range(21)], rtol=3e-6)


def test_the_same_callbacks_serve_fit_after_fit():
    callbacks, model = several(), probes.slope_model(keras.optimizers.SGD(BASE))
    first, _ = fit_rates(callbacks, model)
    model.compile(keras.optimizers.SGD(BASE), lambda y, prediction: prediction, jit_compile=False)
    second, _ = fit_rates(callbacks, model)
    model.optimizer.learning_rate = BASE / 2
    third, _ = fit_rates(callbacks, model, epochs=2)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(third, first[:14] / 2, rtol=1e-6)


@pytest.mark.parametrize("where", ["steps_per_epoch", "cardinality"])
def test_length_may_be_told(where):
    data = tf.data.Dataset.from_generator(
        lambda: ((probes.ones(1), probes.ones(1)) for _ in range(10**6 if where == "steps_per_epoch" else STEPS)),
        output_signature=(tf.TensorSpec((1, 1)), tf.TensorSpec((1, 1))),
    )
    arguments = {}
    if where == "cardinality":
        data = data.apply(tf.data.experimental.assert_cardinality(STEPS))
    else:
        arguments["steps_per_epoch"] = STEPS
    model, record = probes.slope_model(keras.optimizers.SGD(BASE)), probes.record_rate()
    model.fit(data, epochs=EPOCHS, verbose=0, callbacks=[CosineDecay(), record], **arguments)
    np.testing.assert_allclose(record.rows[:, 0], [BASE * half_cosine(s / 21) for s in range(21)], rtol=1e-5)


def unknown_length():
    return tf.data.Dataset.from_generator(
        lambda: ((probes.ones(1), probes.ones(1)) for _ in range(STEPS)),
        output_signature=(tf.TensorSpec((1, 1)), tf.TensorSpec((1, 1))),
    )


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (StepDecay(0.5, every=2), [1, 1, 0.5]),
        (StepDecay(0.5, at=[1, 2]), [1, 0.5, 0.25]),
        (LearningRate(KERAS.InverseTimeDecay(2 * BASE, 1, 1.0), unit="epoch"), [2, 1, 2 / 3]),
        (PlateauDecay("loss", patience=1, factor=0.5, min_delta=1e6), [1, 1, 0.5]),
    ],
)
def test_whole_epochs_suffice_where_the_length_is_unknown(callback, expected):
    model, record = probes.slope_model(keras.optimizers.SGD(BASE)), probes.record_rate()
    model.fit(unknown_length(), epochs=EPOCHS, verbose=0, callbacks=[callback, record])
    np.testing.assert_allclose(record.rows[:, 0], BASE * np.repeat(expected, STEPS), rtol=1e-6)


def test_steps_need_no_length():
    model, record = probes.slope_model(keras.optimizers.SGD(BASE)), probes.record_rate()
    callbacks = [ExponentialDecay(0.1, unit="step"), CosineDecay(14, unit="step"), record]
    model.fit(unknown_length(), epochs=EPOCHS, verbose=0, callbacks=callbacks)
    expected = [BASE * math.exp(-0.1 * s) * half_cosine(s / 14) for s in range(21)]
    np.testing.assert_allclose(record.rows[:, 0], expected, rtol=3e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("callback", "arguments", "text"),
    [
        (StepDecay(0.5, every=1.5), {}, "StepDecay needs the number of steps per epoch"),
        (ExponentialDecay(0.1), {}, "ExponentialDecay needs the number of steps per epoch"),
        (CosineDecay(unit="step"), {}, r"CosineDecay needs a `length`.*Received: length=None"),
        (OneCycle(unit="step"), {}, "OneCycle needs a `length`"),
        (Warmup(3, unit="step"), {"initial_epoch": 1}, r"came before `initial_epoch`.*Received: initial_epoch=1"),
    ],
)
def test_what_needs_the_length_says_so_before_the_first_step(callback, arguments, text):
    model = probes.slope_model(keras.optimizers.SGD(BASE))
    with pytest.raises(ValueError, match=text):
        model.fit(unknown_length(), epochs=EPOCHS, verbose=0, callbacks=[callback], **arguments)
    assert model.get_weights()[0] == 0
    assert int(model.optimizer.iterations) == 0


def test_batches_are_the_clock_under_accumulation():
    optimizer = keras.optimizers.SGD(BASE, gradient_accumulation_steps=2)
    model, record = probes.slope_model(optimizer), probes.record_rate()
    data = probes.ones(8)
    model.fit(data, data, batch_size=1, epochs=2, verbose=0, callbacks=[StepDecay(0.5, every=3, unit="step"), record])
    np.testing.assert_array_equal(record.rows[:, 0], [BASE * 0.5 ** (s // 3) for s in range(16)])
    # Updates fall on every second batch and use its rate.
    expected = -sum(BASE * 0.5 ** (s // 3) for s in range(1, 16, 2))
    assert float(model.get_weights()[0][0, 0]) == pytest.approx(expected, rel=1e-6)


def test_batches_are_the_clock_where_loss_scaling_skips():
    model = probes.slope_model(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(BASE), initial_scale=4.0))
    record = probes.Record(lambda model: [model.optimizer.learning_rate, model.optimizer.iterations, model.weights[0]])
    data = probes.ones(8)
    data[[2, 5]] = np.inf
    callbacks = [StepDecay(0.5, every=3, unit="step"), record]
    model.fit(data, data, batch_size=1, shuffle=False, verbose=0, callbacks=callbacks)
    rates = [BASE * 0.5 ** (s // 3) for s in range(8)]
    skips = np.isin(np.arange(8), [2, 5])
    np.testing.assert_array_equal(record.rows[:, 0], rates)
    np.testing.assert_array_equal(record.rows[:, 1], np.cumsum(~skips))
    np.testing.assert_allclose(record.rows[:, 2], -np.cumsum(np.where(skips, 0, rates)), rtol=1e-6)


@probes.needs_multi_optimizer
@pytest.mark.parametrize("choose", ["map", "function"])
def test_several_optimizers_keep_their_own_base(choose):
    kernel, rest = keras.optimizers.SGD(0.4), keras.optimizers.SGD(0.1)
    if choose == "map":
        chosen = keras.optimizers.OptimizerMap(rest, {".*kernel": kernel})
    else:
        # Which optimizers there are is only known once this one is built.
        def chosen(variable):
            return kernel if "kernel" in variable.path else rest

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile(keras.optimizers.MultiOptimizer(chosen), lambda y, prediction: prediction, jit_compile=False)
    data = probes.ones(4)
    record = probes.Record(lambda model: [kernel.learning_rate, rest.learning_rate])
    history = model.fit(
        data, data, batch_size=1, epochs=2, verbose=0, callbacks=[StepDecay(0.5, every=0.5), Warmup(1), record]
    )
    factors = np.array([0.5 ** (s // 2) * min((s + 1) / 4, 1) for s in range(8)])
    np.testing.assert_allclose(record.rows, np.outer(factors, [0.4, 0.1]), rtol=1e-6)
    weights = [float(weight.squeeze()) for weight in model.get_weights()]
    np.testing.assert_allclose(weights, [-0.4 * factors.sum(), -0.1 * factors.sum()], rtol=1e-6)
    np.testing.assert_allclose(history.history["learning_rate"], 0.4 * factors[3::4], rtol=1e-6)
    np.testing.assert_allclose(history.history["learning_rate_1"], 0.1 * factors[3::4], rtol=1e-6)
    assert (float(kernel.learning_rate), float(rest.learning_rate)) == (np.float32(0.4), np.float32(0.1))


@pytest.mark.parametrize(
    ("schedule", "unit", "rate"),
    [
        (KERAS.CosineDecay(0.1, 10, warmup_target=0.4, warmup_steps=4), "step", None),
        (KERAS.PiecewiseConstantDecay([3, 9], [0.3, 0.2, 0.1]), "step", lambda s: 0.3 - 0.1 * ((s > 3) + (s > 9))),
        (KERAS.PolynomialDecay(0.4, 3, 0.1), "epoch", lambda s: 0.1 + 0.3 * (1 - s / 21)),
        (schedules.CosineCycles(0.4, 21, 3), "step", lambda s: 0.4 * half_cosine(s % 7 / 7)),
        (schedules.StepDecay(0.4, 0.5, every=0.5), "epoch", lambda s: 0.4 * 0.5 ** (2 * s // 7)),
        (schedules.Warmup(0.4, 1.0), "epoch", lambda s: 0.4 * min(s / 7 + 1, 1)),
    ],
)
def test_any_schedule_replaces_the_base(schedule, unit, rate):
    rates, _ = fit_rates([StepDecay(0.5, every=1), LearningRate(schedule, unit)])
    rate = rate or (lambda s: float(schedule(s)))
    np.testing.assert_allclose(rates, [rate(s) * 0.5 ** (s // 7) for s in range(21)], rtol=3e-6, atol=1e-8)


def test_own_schedule_in_plain_python():
    class Root(KERAS.LearningRateSchedule):
        def __call__(self, step):
            return 1.0 / keras.ops.sqrt(keras.ops.cast(step, "float32") + 1)

    rates, _ = fit_rates([LearningRate(Root())])
    np.testing.assert_allclose(rates, 1 / np.sqrt(np.arange(21) + 1), rtol=1e-6)


def test_the_same_curve_serves_compile_and_callback():
    curve = schedules.Triangular(0.4, 0.1, 5, 0.5)
    by_callback, _ = fit_rates([LearningRate(curve)])
    model = probes.slope_model(keras.optimizers.SGD(curve))
    record = probes.Record(lambda model: [model.weights[0]])
    data = probes.ones(STEPS)
    model.fit(data, data, batch_size=1, epochs=EPOCHS, verbose=0, callbacks=[record])
    np.testing.assert_allclose(-np.diff([0, *record.rows[:, 0]]), by_callback, atol=2e-6)


class Own(keras.callbacks.ReduceLROnPlateau):
    """A project's own kind of it."""


@pytest.mark.parametrize(
    ("others", "optimizer", "text"),
    [
        (
            [],
            lambda: keras.optimizers.SGD(KERAS.CosineDecay(0.1, 10)),
            r"schedule or function.*LearningRate\(schedule\)",
        ),
        ([], lambda: keras.optimizers.SGD(lambda: 0.1), "schedule or function"),
        (
            [],
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(KERAS.CosineDecay(0.1, 10))),
            "schedule or function",
        ),
        ([keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)], None, r"LearningRateScheduler.*Received: callb"),
        ([keras.callbacks.ReduceLROnPlateau("loss")], None, r"ReduceLROnPlateau.*PlateauDecay"),
        ([Own("loss")], None, r"ReduceLROnPlateau.*PlateauDecay"),
        ([LearningRate(KERAS.CosineDecay(0.1, 10)), LearningRate(KERAS.CosineDecay(0.1, 10))], None, "can't share"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_who_else_sets_the_rate_is_refused_before_the_first_step(others, optimizer, text, first):
    model = probes.slope_model(keras.optimizers.SGD(BASE) if optimizer is None else optimizer())
    callbacks = [Warmup(3), *others] if first else [*others, Warmup(3)]
    data = probes.ones(2)
    with pytest.raises(ValueError, match=text):
        model.fit(data, data, epochs=1, verbose=0, callbacks=callbacks)
    assert model.get_weights()[0] == 0
    # And the model is as it was.
    model.fit(data, data, epochs=1, verbose=0)
    assert "train_step" not in vars(model)


class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise OSError("killed")


@pytest.mark.parametrize("backup_first", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_backup_brings_no_decayed_rate_to_start_from(momentum, backup_first, tmp_path):
    data = probes.ones(2)

    def fit(others):
        model = probes.slope_model(keras.optimizers.SGD(BASE, momentum))
        ours = [keras.callbacks.BackupAndRestore(tmp_path / "backup"), StepDecay(0.5, every=1), *others]
        if not backup_first:
            ours[:2] = ours[1::-1]
        return model.fit(data, data, batch_size=1, epochs=4, verbose=0, callbacks=ours)

    with pytest.raises(OSError, match="killed"):
        fit([Kill()])
    history = fit([])
    assert history.epoch == [2, 3]
    assert history.history["learning_rate"] == [BASE / 4, BASE / 8]


def test_optimizer_logs_and_files_tell_the_rate(tmp_path):
    seen = {"begin": [], "end": [], "logs": []}

    class Reader(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen["begin"].append(float(self.model.optimizer.learning_rate))

        def on_train_batch_end(self, batch, logs=None):
            seen["end"].append(float(self.model.optimizer.learning_rate))
            seen["logs"].append(logs["learning_rate"])

    path = tmp_path / "log.csv"
    callbacks = [Reader(), StepDecay(0.5, every=2, unit="step"), keras.callbacks.CSVLogger(path)]
    rates, history = fit_rates(callbacks)
    np.testing.assert_array_equal(seen["end"], rates)
    np.testing.assert_array_equal(seen["logs"], rates)
    np.testing.assert_array_equal(seen["begin"], [BASE, *rates[:-1]])
    with open(path, newline="") as file:
        written = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(written, history.history["learning_rate"], rtol=1e-6)


def test_metrics_are_those_of_a_fit_without_callbacks():
    x, y = probes.regression()
    losses = []
    for callbacks in ([], [ExponentialDecay(0)]):
        model = probes.small_model(metrics=["mae"], steps_per_execution=3)
        history = model.fit(
            x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=callbacks, validation_data=(x, y)
        )
        losses.append([history.history[name] for name in ("loss", "mae", "val_loss", "val_mae")])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_a_whole_model_saved_within_the_fit_holds_that_moment(tmp_path):
    model = probes.slope_model(keras.optimizers.SGD(BASE))
    model.compile(keras.optimizers.SGD(BASE, momentum=0.5), "mse", jit_compile=False)
    data = probes.ones(4)
    path = str(tmp_path / "{epoch}.keras")
    model.fit(
        data, data, batch_size=1, epochs=2, verbose=0,
        callbacks=[StepDecay(0.5, every=1), keras.callbacks.ModelCheckpoint(path)],
    )  # fmt: skip
    first, last = (keras.models.load_model(tmp_path / f"{epoch}.keras") for epoch in (1, 2))
    assert float(first.optimizer.learning_rate) == BASE
    assert float(last.optimizer.learning_rate) == BASE / 2
    np.testing.assert_array_equal(last.get_weights()[0], model.get_weights()[0])
    # A loaded model trains on, with the base put back as the docstring says.
    last.optimizer.learning_rate = BASE
    history = last.fit(
        data, data, batch_size=1, epochs=3, initial_epoch=2, verbose=0, callbacks=[StepDecay(0.5, every=1)]
    )
    assert history.history["learning_rate"] == [BASE / 4]
