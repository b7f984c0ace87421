"""A later fit reuses what an earlier one traced, exactly where a new trace would be the same."""

import copy
import gc
import weakref

import keras
import numpy as np
import probes
import pytest
import tensorflow as tf

from kregkit.callbacks import (
    CosineDecay,
    ExponentialDecay,
    LearningRate,
    OneCycle,
    PlateauDecay,
    PolyakAveraging,
    SnapshotEnsemble,
    StepDecay,
    TracedCallback,
    Triangular,
    UpdateRatio,
    Warmup,
)
from kregkit.callbacks._trace_key import Unrepeatable, is_alive, value_key
from kregkit.transfer import GradualUnfreeze

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]


class Counting(keras.Sequential):
    """Counts how often its train step is traced."""

    def train_step(self, data):
        self.__dict__["traces"] = self.__dict__.get("traces", 0) + 1
        return super().train_step(data)


def counting_model(optimizer=None, **arguments):
    layer = keras.layers.Dense(1, name="layer", kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    model = Counting([keras.Input((2,)), layer])
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse", **{"jit_compile": False, **arguments})
    return model


def fit(model, callbacks, **arguments):
    """Returns how many traces the fit made, and its history."""
    before = model.__dict__.get("traces", 0)
    x, y = probes.regression(8)
    history = model.fit(x, y, callbacks=callbacks, **{"batch_size": 2, "verbose": 0, "shuffle": False, **arguments})
    return model.__dict__["traces"] - before, history.history


def all_kinds(directory):
    return {
        "rates": lambda: [Warmup(1), CosineDecay(), StepDecay(0.5, every=0.5), Triangular(0.7)],
        "more rates": lambda: [OneCycle(), ExponentialDecay(0.3), StepDecay(0.5, at=[0.5, 1.25])],
        "schedule": lambda: [LearningRate(keras.optimizers.schedules.CosineDecay(0.1, 9), unit="epoch")],
        "plateau": lambda: [PlateauDecay("loss", 0.5, patience=1, min_delta=1e6)],
        "averages": lambda: [PolyakAveraging([0.9, "uniform"], start_step=1)],
        "snapshots": lambda: [SnapshotEnsemble(directory, 2, overwrite=True)],
        "ratio": lambda: [UpdateRatio(every=2)],
    }


LENGTHS = [{"epochs": 2}, {"epochs": 3, "batch_size": 4}, {"epochs": 4, "initial_epoch": 1}]


@pytest.mark.filterwarnings("ignore:PolyakAveraging chooses")
@pytest.mark.parametrize("kind", all_kinds(None))
def test_later_fits_of_other_lengths_trace_nothing_and_are_those_of_a_new_model(kind, tmp_path):
    # Batches of any size share a trace, as their number is not part of the shape.
    make, model = all_kinds(tmp_path)[kind], counting_model()
    start = model.get_weights()
    for index, length in enumerate(LENGTHS):
        if kind == "snapshots":
            length = {**length, "initial_epoch": 0}
        callbacks, others = make(), make()
        model.set_weights(start)
        traces, history = fit(model, callbacks, **length)
        # Keras relaxes the batch's size at the second one, with a trace of its own.
        assert traces == (index < 2 if index else 1)
        fresh = counting_model()
        _, expected = fit(fresh, others, **length)
        for name, values in expected.items():
            np.testing.assert_allclose(history[name], values, rtol=2e-6, err_msg=name)
        np.testing.assert_allclose(model.get_weights()[0], fresh.get_weights()[0], rtol=2e-6)
    assert fit(model, make(), epochs=2)[0] == 0


def test_a_plain_fit_in_between_has_its_own_trace():
    model = counting_model()
    rates = lambda: [StepDecay(0.5, every=1)]  # noqa: E731
    assert fit(model, rates())[0] == 1
    traces, history = fit(model, [])
    assert traces == 1 and "learning_rate" not in history
    for callbacks in (rates(), [], rates(), []):
        traces, history = fit(model, callbacks, epochs=2)
        assert traces == 0 and ("learning_rate" in history) == bool(callbacks)
    assert history.keys() == {"loss"}


def test_other_settings_and_kinds_have_their_own_traces():
    model = counting_model()
    for make, rate in (
        (lambda: [StepDecay(0.5, every=1)], 0.05),
        (lambda: [StepDecay(0.1, every=1)], 0.01),
        (lambda: [StepDecay(0.1, every=1), StepDecay(0.5, every=1)], 0.005),
        (lambda: [StepDecay(0.1, every=1), UpdateRatio(every=2)], 0.01),
    ):
        for expected in (1, 0):
            traces, history = fit(model, make(), epochs=2)
            assert traces == expected
            assert history["learning_rate"] == pytest.approx([0.1 if rate else 0, rate], rel=1e-6)


CHANGES = {
    "compile": lambda model: model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False),
    "another loss": lambda model: model.compile(model.optimizer, "mae", jit_compile=False),
    "another optimizer": lambda model: setattr(model, "optimizer", keras.optimizers.SGD(0.1)),
    "frozen weight": lambda model: setattr(model.layers[0].bias, "trainable", False),
    "momentum": lambda model: setattr(model.optimizer, "clipnorm", 1e-3),
    "jit": lambda model: setattr(model, "jit_compile", True),
    "execution": lambda model: setattr(model, "steps_per_execution", 2),
    "made anew": lambda model: model.make_train_function(force=True),
    "another step": lambda model: setattr(model, "train_step", lambda data: Counting.train_step(model, data)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_trace_has_baked_in_makes_a_new_one(change):
    def callbacks():
        return [ExponentialDecay(0.1, unit="step"), PolyakAveraging(0.5)]

    model = counting_model()
    fit(model, callbacks())
    CHANGES[change](model)
    held = model.get_weights()
    traces, history = fit(model, callbacks())
    assert traces >= 1
    fresh = counting_model()
    CHANGES[change](fresh)
    fresh.set_weights(held)
    _, expected = fit(fresh, callbacks())
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], fresh.get_weights()[0], rtol=1e-5)
    assert fit(model, callbacks())[0] == 0


def test_each_stage_of_gradual_unfreezing_has_a_trace_that_stays():
    layers = [keras.Input((2,)), keras.layers.Dense(2, name="body"), keras.layers.Dense(1, name="head")]
    model = Counting(layers)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)

    def callbacks():
        return [GradualUnfreeze([(0, "head"), (1, "body")], 0.5), StepDecay(0.5, every=2)]

    for expected in (2, 0):
        body = model.layers[0].get_weights()[0]
        traces, history = fit(model, callbacks(), epochs=1 + 2)
        assert traces == expected
        assert history["learning_rate"] == pytest.approx([0.1, 0.05, 0.025])
        assert not np.array_equal(model.layers[0].get_weights()[0], body)
    body = model.layers[0].get_weights()[0]
    assert fit(model, callbacks(), epochs=1)[0] == 0
    np.testing.assert_array_equal(model.layers[0].get_weights()[0], body)


def test_eager_steps_and_graph_steps_take_turns():
    model = counting_model()
    for eager in (False, True, False):
        model.run_eagerly = eager
        traces, history = fit(model, [StepDecay(0.5, every=0.5)])
        assert traces == (4 if eager else 1 if "seen" not in vars(model) else 0)
        assert history["learning_rate"] == pytest.approx([0.05])
        vars(model)["seen"] = True


class Fail(keras.callbacks.Callback):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.batch:
            raise OSError("stop")


def test_an_error_leaves_a_trace_that_serves_the_next_fit():
    model, average = counting_model(), PolyakAveraging(0.5)
    with pytest.raises(OSError, match="stop"):
        fit(model, [StepDecay(0.5, every=0.5), average, Fail(1)])
    assert float(model.optimizer.learning_rate) == np.float32(0.1)
    traces, history = fit(model, [StepDecay(0.5, every=0.5), PolyakAveraging(0.5)])
    assert traces == 0 and history["learning_rate"] == pytest.approx([0.05])


def test_an_error_while_tracing_leaves_none():
    model = counting_model()

    class Broken(TracedCallback):
        broken = True

        def after_step(self, step, logs):
            if type(self).broken:
                raise OSError("stop")
            logs["seen"] = step

    with pytest.raises(OSError, match="stop"):
        fit(model, [Broken()])
    Broken.broken = False
    assert fit(model, [Broken()]) == (1, {"loss": pytest.approx([0], abs=1e9), "seen": [3]})


def test_one_callback_object_serves_two_models_in_turn():
    rate, average, models = StepDecay(0.5, every=1), PolyakAveraging("uniform"), [counting_model(), counting_model()]
    expected = None
    for turn in range(2):
        for model in models:
            model.set_weights([np.ones((2, 1)), np.zeros(1)])
            traces, history = fit(model, [rate, average], epochs=2)
            assert traces == (turn == 0)
            expected = expected or history["loss"]
            assert history["loss"] == expected
            assert history["learning_rate"] == pytest.approx([0.1, 0.05])
            assert average.get_state()["updates"] == 8


def test_averages_of_two_callbacks_don_t_share_what_they_remember():
    model, first, second = counting_model(), PolyakAveraging(0.5), PolyakAveraging(0.5)
    fit(model, [first])
    kept = copy.deepcopy(first.get_state())
    model.set_weights([np.ones((2, 1)), np.zeros(1)])
    assert fit(model, [second])[0] == 0
    for one, other in zip(first.get_state()["averages"][0], kept["averages"][0]):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(second.get_state()["averages"][0][0], kept["averages"][0][0])


def test_bases_are_those_of_each_fit():
    model = counting_model()
    for base in (0.1, 0.02):
        model.optimizer.learning_rate = base
        _, history = fit(model, [StepDecay(0.5, every=1)], epochs=2)
        assert history["learning_rate"] == pytest.approx([base, base / 2])
        assert float(model.optimizer.learning_rate) == np.float32(base)

    class SetRate(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.optimizer.learning_rate = 0.4

    for callbacks in ([StepDecay(0.5, every=1), SetRate()], [SetRate(), StepDecay(0.5, every=1)]):
        model.optimizer.learning_rate = 0.1
        assert fit(model, callbacks, epochs=2)[1]["learning_rate"] == pytest.approx([0.4, 0.2])


class Own(TracedCallback):
    """Logs a number that is traced in, and remembers things that aren't."""

    untraced_attributes = ("seen",)

    def __init__(self, value, make=None):
        super().__init__()
        self.value, self.make, self.seen = value, make, []

    def after_step(self, step, logs):
        self.left_by_the_trace = step
        logs["value"] = tf.constant(float(self.value if self.make is None else self.make()))

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(logs["value"])


class OwnSchedule(keras.optimizers.schedules.LearningRateSchedule):
    peak = 0.1

    def __call__(self, step):
        return tf.constant(self.peak)


class OwnRate(LearningRate):
    def rate_at(self, step, base):
        return base * self.schedule(step)


def test_code_of_the_user_s_is_traced_anew_in_each_fit_since_nobody_can_tell_what_it_reads(monkeypatch):
    model, one = counting_model(), Own(1)
    for value in (1, 1, 2, 3.5):
        one.value = value
        traces, history = fit(model, [one])
        assert (traces, history["value"]) == (1, [value])
    assert [fit(model, [Own(0, lambda number=number: number)])[1]["value"] for number in (4, 5)] == [[4], [5]]
    rates = []
    for peak in (0.1, 0.01):
        monkeypatch.setattr(OwnSchedule, "peak", peak)
        rates.append(fit(model, [LearningRate(OwnSchedule())])[1]["learning_rate"][0])
    assert rates == pytest.approx([0.1, 0.01])
    constant = [keras.optimizers.schedules.PiecewiseConstantDecay([1000], [rate, 0.0]) for rate in (0.5, 0.25)]
    rates = [fit(model, [OwnRate(schedule)])[1]["learning_rate"][0] for schedule in constant]
    assert rates[0] == pytest.approx(2 * rates[1])
    decay = StepDecay(0.5, every=1)
    for value in (1.0, 2.0):
        decay.after_step = lambda step, logs, value=value: logs.update(own=tf.constant(value))
        assert fit(model, [decay])[1]["own"] == [value]


def test_a_new_variable_of_a_hook_is_written_not_an_old_one():
    model, record = counting_model(), probes.record_rate()
    for _ in range(2):
        fit(model, [StepDecay(0.5, every=0.5), record])
        np.testing.assert_allclose(record.rows[:, 0], [0.1, 0.1, 0.05, 0.05], rtol=1e-6)


def test_the_same_object_twice_in_a_list_is_refused():
    model, rate = counting_model(), StepDecay(0.5, every=1)
    with pytest.raises(ValueError, match=r"The same StepDecay object .* twice.*Received: callbacks=\['StepDecay'"):
        fit(model, [rate, UpdateRatio(), rate])
    assert fit(model, [rate], epochs=2)[1]["learning_rate"] == pytest.approx([0.1, 0.05])


def test_release_comes_after_the_last_on_train_end():
    events = []

    class Release(TracedCallback):
        def on_train_end(self, logs=None):
            super().on_train_end(logs)
            events.append("end")

        def release(self):
            events.append("release")

    class End(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            events.append("end of another")

    fit(counting_model(), [Release(), StepDecay(0.5, every=1), Release(), End()])
    assert events == ["end", "end", "end of another", "release", "release"]


def test_nothing_keeps_a_model_or_a_callback_alive():
    model, average = counting_model(), PolyakAveraging(0.5)
    fit(model, [average, StepDecay(0.5, every=1)])
    dead = [weakref.ref(average), weakref.ref(model)]
    keras.backend.clear_session()
    del average
    gc.collect()
    assert dead[0]() is None
    del model
    gc.collect()
    assert dead[1]() is None


def test_a_step_with_another_optimizer_beside_is_told():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = keras.layers.Dense(1), keras.layers.Dense(1)
            self.others = [keras.optimizers.SGD(0.1, name="undriven")]

        def call(self, x):
            return self.one(x) + self.two(x)

        def train_step(self, data):
            with tf.GradientTape(persistent=True) as tape:
                loss = tf.reduce_mean(tf.square(self(data[0]) - data[1]))
            for optimizer, part in ((self.optimizer, self.one), (self.others[0], self.two)):
                optimizer.apply(tape.gradient(loss, part.trainable_variables), part.trainable_variables)
            return {"loss": loss}

    for eager in (False, True):
        model = Two()
        model(np.ones((2, 2), "float32"))
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=eager, jit_compile=False)
        for _ in range(2):
            with pytest.warns(UserWarning, match=r"StepDecay acts on .*also trains by \['undriven'\]") as told:
                model.fit(*probes.regression(4), verbose=0, callbacks=[StepDecay(0.5, every=1)])
            assert sum("also trains by" in str(one.message) for one in told) == 1


def test_an_eager_step_that_uses_the_compiled_optimizer_every_third_time_is_taken():
    class Third(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.other, self.count = keras.layers.Dense(1), keras.optimizers.SGD(0.1, name="undriven"), 0

        def call(self, x):
            return self.one(x)

        def train_step(self, data):
            self.count += 1
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self(data[0]) - data[1]))
            optimizer = self.other if self.count % 3 else self.optimizer
            optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
            return {"loss": loss}

    model = Third()
    model(np.ones((2, 2), "float32"))
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    with pytest.warns(UserWarning, match=r"StepDecay acts on .*also trains by \['undriven'\]"):
        model.fit(*probes.regression(8), batch_size=2, verbose=0, callbacks=[StepDecay(0.5, every=1)])
    assert model.count == 4 and int(model.optimizer.iterations) == 1
    with pytest.raises(ValueError, match="StepDecay would have no effect"):
        # Two steps an epoch: the third never comes.
        model.count = 0
        model.fit(*probes.regression(4), batch_size=2, verbose=0, callbacks=[StepDecay(0.5, every=1)])


def test_keys_see_what_is_inside():
    class Thing:
        pass

    def closed(number):
        return lambda: number

    a, b = tf.Variable(1.0), tf.Variable(1.0)
    for one, same, other in (
        ([1, {"a": (2.0,)}], [1, {"a": (2.0,)}], [1, {"a": (2,)}]),
        (float("nan"), float("nan"), 0.0),
        (0.0, 0.0, -0.0),
        (True, True, 1),
        (np.arange(3), np.arange(3), np.arange(3.0)),
        ({"x": 1, "inner": [a]}, {"x": 1, "inner": [a]}, {"x": 1, "inner": [b]}),
        (closed(1), closed(1), closed(2)),
        ({1, 2}, {2, 1}, {1, 3}),
        (tf.constant(1.0), tf.constant(1.0), tf.constant(2.0)),
    ):
        assert value_key(one) == value_key(same) != value_key(other)
        assert hash(value_key(one)) == hash(value_key(same))
    circle = []
    circle.append(circle)
    value_key(circle)
    for unseen in (iter([1]), Thing()):
        with pytest.raises(Unrepeatable):
            value_key([unseen])
    key = value_key([a])
    assert is_alive(key)
    del a, one, same, other
    gc.collect()
    assert not is_alive(key)
