"""What is traced into the step is gone when the fit ends, however it ends, and runs in any model's step."""

import subprocess
import sys
import types

import keras
import numpy as np
import probes
import pytest
import tensorflow as tf

from kregkit.callbacks import PolyakAveraging, StepDecay, TracedCallback

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]


class Raise(keras.callbacks.Callback):
    """Raises `error` in one hook."""

    def __init__(self, hook, error=None):
        super().__init__()
        error = error or RuntimeError("from a callback")

        def fail(*args, **kwargs):
            raise error

        setattr(self, hook, fail)


class Interrupt(TracedCallback):
    """Raises KeyboardInterrupt while the second step runs, as Ctrl-C does."""

    def after_step(self, step, logs):
        def stop(step):
            if step == 1:
                raise KeyboardInterrupt
            return step

        logs["seen"] = tf.py_function(stop, [step], tf.int64)


def failing_data(num):
    def batches():
        for _ in range(num):
            yield probes.ones(1), probes.ones(1)
        raise OSError("the disk is gone")

    signature = (tf.TensorSpec((1, 1)), tf.TensorSpec((1, 1)))
    data = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return data.apply(tf.data.experimental.assert_cardinality(4))


ENDS = {
    "data": {"x": lambda: failing_data(2)},
    "validation data": {"validation_data": lambda: failing_data(1)},
    "interrupted step": {"callbacks": [Interrupt()]},
    **{hook: {"callbacks": [Raise(hook)]} for hook in (
        "on_epoch_begin", "on_train_batch_begin", "on_train_batch_end", "on_epoch_end", "on_train_end",
        "on_test_begin", "on_test_batch_end", "on_test_end",
    )},
    "interrupted validation": {"callbacks": [Raise("on_test_batch_begin", KeyboardInterrupt())]},
    "interrupted callback": {"callbacks": [Raise("on_epoch_end", KeyboardInterrupt())]},
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_fit_that_fails_leaves_the_raw_model_while_its_error_is_handled(end, place):
    parts = ENDS[end]
    optimizer = keras.optimizers.SGD(0.5)
    model = probes.slope_model(optimizer)
    average = PolyakAveraging(0.5)
    record = probes.record_weights()
    ours, others = [StepDecay(0.5, every=1, unit="step"), average, record], parts.get("callbacks", [])
    x = parts["x"]() if "x" in parts else tf.data.Dataset.from_tensor_slices((probes.ones(4), probes.ones(4))).batch(1)
    validation = parts["validation_data"]() if "validation_data" in parts else (probes.ones(2), probes.ones(2))
    arguments = {"epochs": 2, "verbose": 0, "validation_data": validation}
    try:
        model.fit(x, callbacks=[*ours, *others] if place == "first" else [*others, *ours], **arguments)
    except BaseException as error:
        # Its traceback still holds the fit's frames: an interactive session keeps it until the next error.
        kept = error
        assert "train_step" not in vars(model)
        assert float(optimizer.learning_rate) == 0.5
        if (end, place) == ("on_train_end", "first"):
            # Training was complete, and so was what the average's own `on_train_end` did.
            with average.raw():
                raw = float(model.get_weights()[0][0, 0])
        else:
            raw = float(model.get_weights()[0][0, 0])
        assert raw == (record.rows[-1, 1] if len(record.rows) else 0.0)
        # What is loaded now is not overwritten when the next fit begins.
        model.set_weights([np.full((1, 1), 7.0, "float32")])
    assert kept is not None
    history = model.fit(probes.ones(4), probes.ones(4), batch_size=1, verbose=0)
    assert "learning_rate" not in history.history
    assert float(model.get_weights()[0][0, 0]) == 7.0 - 4 * 0.5


def test_an_error_in_on_train_begin_is_undone_with_its_traceback():
    model = probes.slope_model(keras.optimizers.SGD(0.5))
    with pytest.raises(RuntimeError):
        model.fit(probes.ones(2), probes.ones(2), verbose=0, callbacks=[StepDecay(0.5, 1), Raise("on_train_begin")])
    model.fit(probes.ones(2), probes.ones(2), batch_size=1, verbose=0)
    assert float(model.get_weights()[0][0, 0]) == -1.0


def test_evaluation_errors_that_a_callback_catches_don_t_end_the_fit():
    class Careful(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            with pytest.raises(Exception, match="incompatible"):
                self.model.evaluate(np.zeros((2, 3)), np.zeros((2, 1)), verbose=0)
            self.model.evaluate(probes.ones(2), probes.ones(2), verbose=0)
            self.model.predict(probes.ones(2), verbose=0)

    model = probes.slope_model(keras.optimizers.SGD(0.5))
    history = model.fit(
        probes.ones(2), probes.ones(2), batch_size=1, epochs=3, verbose=0, callbacks=[Careful(), StepDecay(0.5, 1)]
    )
    assert history.history["learning_rate"] == [0.5, 0.25, 0.125]


def test_train_on_batch_and_compile_afterwards_are_plain():
    model = probes.slope_model(keras.optimizers.SGD(0.5))
    model.fit(probes.ones(4), probes.ones(4), batch_size=1, verbose=0, callbacks=[StepDecay(0.5, 1, unit="step")])
    before = float(model.get_weights()[0][0, 0])
    assert before == -(0.5 + 0.25 + 0.125 + 0.0625)
    logs = model.train_on_batch(probes.ones(1), probes.ones(1), return_dict=True)
    assert set(logs) == {"loss"}
    assert float(model.get_weights()[0][0, 0]) == before - 0.5
    model.compile(keras.optimizers.SGD(0.25), lambda y, prediction: prediction)
    model.fit(probes.ones(1), probes.ones(1), verbose=0)
    assert float(model.get_weights()[0][0, 0]) == before - 0.75


def test_train_on_batch_within_the_fit_is_an_error():
    class Sneak(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.train_on_batch(probes.ones(1), probes.ones(1))

    model = probes.slope_model(keras.optimizers.SGD(0.5))
    with pytest.raises(RuntimeError, match="ended: by `train_on_batch`"):
        model.fit(probes.ones(2), probes.ones(2), epochs=3, verbose=0, callbacks=[Sneak(), StepDecay(0.5, 1)])
    assert float(model.optimizer.learning_rate) == 0.5


def test_a_step_set_on_the_model_itself_is_wrapped_and_put_back():
    model = probes.slope_model(keras.optimizers.SGD(0.5))

    def doubled(self, data):
        logs = type(self).train_step(self, data)
        return {**logs, "twice": 2.0 * logs["loss"]}

    model.train_step = own = types.MethodType(doubled, model)
    model.fit(probes.ones(2), probes.ones(2), batch_size=1, verbose=0, callbacks=[StepDecay(0.5, 1, unit="step")])
    assert vars(model)["train_step"] is own
    assert float(model.get_weights()[0][0, 0]) == -0.75
    assert "twice" in model.fit(probes.ones(2), probes.ones(2), verbose=0).history


class Custom(keras.Model):
    """A subclassed model with its own step, built by its first batch."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"mean": loss}


@pytest.mark.parametrize("built", [False, True])
def test_custom_steps_and_subclassed_models(built):
    model = Custom()
    if built:
        model(probes.ones(1))
    model.compile(keras.optimizers.SGD(0.5, momentum=0.5), jit_compile=False)
    history = model.fit(
        probes.ones(4), probes.ones(4), batch_size=1, epochs=2, verbose=0, callbacks=[StepDecay(0.5, every=1)]
    )
    assert history.history["learning_rate"] == [0.5, 0.25]
    assert set(history.history) == {"mean", "learning_rate"}
    assert float(model.optimizer.learning_rate) == 0.5


class Adversary(keras.Model):
    """Trains by an optimizer of its own, as two-player models do, and leaves Keras its default one."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")

    def call(self, x):
        return self.dense(x)

    def compile(self, own, **arguments):
        super().compile(**arguments)
        self.own = own

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self(data[0], training=True))
        self.own.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"mean": loss}


@pytest.mark.parametrize("ours", [StepDecay(0.5, every=1), PolyakAveraging(0.5)])
@pytest.mark.parametrize("mode", [{}, {"steps_per_execution": 2}, {"jit_compile": True}])
def test_a_step_that_trains_by_another_optimizer_is_refused_before_it_runs(ours, mode):
    model = Adversary()
    model(probes.ones(1))
    model.compile(keras.optimizers.SGD(0.5), **{"jit_compile": False, **mode})
    with pytest.raises(
        ValueError, match=rf"{type(ours).__name__} would have no effect.* Received: optimizer='rm_?sprop"
    ):
        model.fit(probes.ones(4), probes.ones(4), batch_size=1, verbose=0, callbacks=[ours])
    assert float(model.get_weights()[0][0, 0]) == 0.0
    assert "apply" not in vars(model.optimizer)
    # What needs no optimizer works, and so does the optimizer that the step uses.
    model.fit(probes.ones(4), probes.ones(4), batch_size=1, verbose=0, callbacks=[TracedCallback()])
    assert float(model.get_weights()[0][0, 0]) == -2.0
    model.compile(model.own, optimizer=model.own, jit_compile=False)
    model.fit(probes.ones(4), probes.ones(4), batch_size=1, verbose=0, callbacks=[ours])
    assert "apply" not in vars(model.optimizer)


def test_hooks_run_once_per_batch_and_per_update():
    class Count(TracedCallback):
        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)
            self.counts = tf.Variable([0, 0, 0])

        def before_step(self, step):
            self.counts.assign_add([1, 0, 0])

        def after_step(self, step, logs):
            self.counts.assign_add([0, 1, 0])
            logs["step"] = step

        def after_update(self, step):
            self.counts.assign_add([0, 0, 1])

    count = Count()
    model = probes.slope_model(keras.optimizers.SGD(0.5, gradient_accumulation_steps=3), steps_per_execution=4)
    history = model.fit(probes.ones(10), probes.ones(10), batch_size=1, epochs=2, verbose=0, callbacks=[count])
    np.testing.assert_array_equal(count.counts.numpy(), [20, 20, 6])
    assert history.history["step"] == [9, 19]


@probes.needs_multi_optimizer
def test_updates_are_those_of_the_inner_optimizers():
    class Count(TracedCallback):
        updates = None

        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)
            self.updates = tf.Variable(0)

        def after_update(self, step):
            self.updates.assign_add(1)

    count, inner = Count(), keras.optimizers.SGD(0.5, gradient_accumulation_steps=2)
    model = probes.slope_model(keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(inner)))
    model.fit(probes.ones(8), probes.ones(8), batch_size=1, verbose=0, callbacks=[count])
    assert int(count.updates) == 4


def test_data_that_ends_unannounced_begins_no_step():
    class Clock(TracedCallback):
        def after_step(self, step, logs):
            logs["step"] = step

    data = tf.data.Dataset.from_tensor_slices((probes.ones(5), probes.ones(5))).batch(1).filter(lambda x, y: True)
    model = probes.slope_model(keras.optimizers.SGD(0.5))
    history = model.fit(data, epochs=3, verbose=0, callbacks=[Clock()])
    assert history.history["step"] == [4, 9, 14]


def test_a_callback_list_of_the_user_s_is_left_as_it_was():
    model = probes.slope_model(keras.optimizers.SGD(0.5))
    fit = {"batch_size": 1, "epochs": 2, "verbose": 0}
    callbacks = keras.callbacks.CallbackList(
        [StepDecay(0.5, every=1)], add_history=True, model=model, epochs=2, steps=2
    )
    before = set(vars(callbacks))
    for _ in range(2):
        history = model.fit(probes.ones(2), probes.ones(2), callbacks=callbacks, **fit)
        assert history.history["learning_rate"][-2:] == [0.5, 0.25]
    assert set(vars(callbacks)) == before


def test_other_models_may_be_fitted_within():
    inner = probes.slope_model(keras.optimizers.SGD(0.5))

    class Nested(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            inner.fit(
                probes.ones(2), probes.ones(2), batch_size=1, verbose=0, callbacks=[StepDecay(0.5, 1, unit="step")]
            )

    outer = probes.slope_model(keras.optimizers.SGD(0.5))
    outer.fit(
        probes.ones(2), probes.ones(2), batch_size=1, epochs=2, verbose=0, callbacks=[Nested(), StepDecay(0.5, 1)]
    )
    assert float(outer.get_weights()[0][0, 0]) == -(1.0 + 0.5)
    assert float(inner.get_weights()[0][0, 0]) == -1.5


def test_no_optimizer_and_no_tensorflow_are_errors(monkeypatch):
    model = probes.slope_model(keras.optimizers.SGD(0.5))
    with monkeypatch.context() as patch:
        patch.setattr(keras.backend, "backend", lambda: "jax")
        with pytest.raises(RuntimeError, match="Received: backend='jax'"):
            model.fit(probes.ones(2), probes.ones(2), verbose=0, callbacks=[TracedCallback()])
    model.optimizer = None
    for callback in (StepDecay(0.5, 1), PolyakAveraging()):
        with pytest.raises(ValueError, match="Received: optimizer=None"):
            model.fit(probes.ones(2), probes.ones(2), verbose=0, callbacks=[callback])


def test_a_program_that_ends_in_an_error_says_nothing_more():
    program = """
import keras, numpy as np
from kregkit.callbacks import PolyakAveraging, StepDecay
class Fail(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        raise SystemExit("stop here")
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(np.ones((2, 1)), np.ones((2, 1)), verbose=0, callbacks=[StepDecay(0.5, 1), PolyakAveraging(), Fail()])
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith("stop here")
    assert "Traceback" not in ended.stderr
