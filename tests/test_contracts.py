"""Every public component, in every execution mode, with exact configs and clear errors."""

import contextlib
import inspect

import contracts
import keras
import numpy as np
import pytest

SCHEDULE = keras.optimizers.schedules.LearningRateSchedule
SERIALIZABLE = (keras.layers.Layer, keras.optimizers.Optimizer, SCHEDULE)
EVERYTHING = (*SERIALIZABLE, keras.callbacks.Callback)

LAYERS = [case for case in contracts.cases(keras.layers.Layer) if not issubclass(case.component, keras.Model)]
OPTIMIZERS = contracts.cases(keras.optimizers.Optimizer)
SCHEDULES = contracts.cases(SCHEDULE)
CALLBACKS = contracts.cases(keras.callbacks.Callback)


def per_mode(rows):
    return [pytest.param(case, mode, id=f"{case}-{mode}") for case in rows for mode in contracts.MODES]


def make(case, directory):
    return case.make(directory) if issubclass(case.component, keras.callbacks.Callback) else case.make()


def test_every_public_component_has_a_row():
    covered = {case.component for base in EVERYTHING for case in contracts.cases(base)}
    missing = {thing.__name__ for base in EVERYTHING for thing in contracts.public_components(base) - covered}
    assert not missing, f"add rows to tests/<room>/cases.py for {sorted(missing)}"


@pytest.mark.parametrize("case", [*LAYERS, *OPTIMIZERS, *SCHEDULES], ids=str)
def test_config_names_every_parameter_and_rebuilds(case):
    instance = case.make()
    config = instance.get_config()
    parameters = inspect.signature(case.component.__init__).parameters
    names = {
        name
        for name, parameter in parameters.items()
        if name != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    assert names <= set(config), f"get_config lacks {sorted(names - set(config))}"
    registered = keras.saving.get_registered_name(case.component)
    assert registered == f"kregkit>{case.component.__name__}"
    serialized = keras.saving.serialize_keras_object(instance)
    again = keras.saving.deserialize_keras_object(serialized)
    assert type(again) is case.component
    assert keras.saving.serialize_keras_object(again) == serialized


@pytest.mark.parametrize(
    ("case", "arguments", "text"),
    [
        pytest.param(case, arguments, text, id=f"{case}-{index}")
        for base in EVERYTHING
        for case in contracts.cases(base)
        for index, (arguments, text) in enumerate(case.bad)
    ],
)
def test_bad_argument_is_refused_at_construction(case, arguments, text, tmp_path):
    with pytest.raises(ValueError, match=r"Received: .*=") as error:
        if issubclass(case.component, keras.callbacks.Callback):
            arguments = {k: tmp_path if v == "DIRECTORY" else v for k, v in arguments.items()}
        case.component(**arguments)
    assert text in str(error.value)


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_layer_model_survives_file_and_clone(case, tmp_path):
    model = contracts.layer_model(case)
    x, _ = contracts.regression_data(case.input_shape, num=4)
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone.predict(x, verbose=0), expected)


@pytest.mark.parametrize(("case", "mode"), per_mode(LAYERS))
def test_layer_in_mode(case, mode):
    def run(mode):
        model, history = contracts.train(
            mode,
            lambda: contracts.layer_model(case),
            lambda: keras.optimizers.SGD(0.001),
            input_shape=case.input_shape,
        )
        return [history.history["loss"], *model.get_weights()]

    if mode in case.refused:
        with pytest.raises(ValueError, match=case.refused[mode]):
            run(mode)
        return
    numbers = run(mode)
    assert all(np.isfinite(number).all() for number in numbers)
    keras.config.set_dtype_policy("float32")
    if case.same and mode not in ("graph", "gradient_accumulation", "mirrored"):
        contracts.assert_same(numbers, run("graph"), case, mode)


@pytest.mark.parametrize(("case", "mode"), per_mode(OPTIMIZERS))
def test_optimizer_in_mode(case, mode):
    def model():
        # No BatchNormalization: its statistics differ by design under accumulation and on replicas.
        initializer = keras.initializers.GlorotUniform(seed=0)
        return keras.Sequential([
            keras.Input((8,)),
            keras.layers.Dense(6, activation="tanh", kernel_initializer=initializer),
            keras.layers.Dense(1, kernel_initializer=initializer, dtype="float32"),
        ])  # fmt: skip

    def run(mode):
        trained, _ = contracts.train(mode, model, case.make)
        return trained.get_weights()

    if mode in case.refused:
        with pytest.raises(ValueError, match=case.refused[mode]):
            run(mode)
        return
    if mode == "mirrored" and "gradient_accumulation" in case.name:
        pytest.skip("Keras refuses accumulation under MirroredStrategy")
    numbers = run(mode)
    keras.config.set_dtype_policy("float32")
    contracts.assert_same(numbers, run("graph"), case, mode)


@pytest.mark.parametrize("case", OPTIMIZERS, ids=str)
def test_optimizer_resumes_from_file_bit_for_bit(case, tmp_path):
    x, y = contracts.regression_data()

    def fit(model, epochs):
        model.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0)

    def built():
        keras.utils.set_random_seed(0)
        model = contracts.dense_model()
        model.compile(case.make(), "mse", jit_compile=False)
        return model

    straight = built()
    fit(straight, 2)
    first = built()
    fit(first, 1)
    first.save(tmp_path / "half.keras")
    second = keras.models.load_model(tmp_path / "half.keras")
    fit(second, 1)
    for one, other in zip(straight.get_weights(), second.get_weights()):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("case", SCHEDULES, ids=str)
def test_schedule_drives_an_optimizer_and_survives_a_file(case, tmp_path):
    model = contracts.dense_model()
    model.compile(keras.optimizers.SGD(case.make()), "mse")
    x, y = contracts.regression_data()
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert float(loaded.optimizer.learning_rate) == float(model.optimizer.learning_rate)
    assert float(loaded.optimizer.learning_rate) == pytest.approx(float(case.make()(12)), rel=1e-6)


@pytest.mark.parametrize(("case", "mode"), per_mode(CALLBACKS))
def test_callback_in_mode(case, mode, tmp_path):
    def run(mode):
        callback = case.make(tmp_path / mode)
        model, history = contracts.train(
            mode, case.model or contracts.dense_model, lambda: keras.optimizers.SGD(0.01, momentum=0.5), [callback]
        )
        if case.observe is not None:
            return case.observe(callback, model, history)
        return [history.history["learning_rate"]]

    if mode in case.refused:
        with pytest.raises(ValueError, match=case.refused[mode]):
            run(mode)
        return
    numbers = run(mode)
    assert all(np.isfinite(number).all() for number in numbers)
    keras.config.set_dtype_policy("float32")
    # Micro-batches are the clock and replicas normalise apart: what must hold there is in the callbacks' own tests.
    if mode not in ("graph", "gradient_accumulation", "mirrored"):
        contracts.assert_same(numbers, run("graph"), case, mode)


@pytest.mark.parametrize("case", CALLBACKS, ids=str)
def test_nothing_stays_behind_after_fit(case, tmp_path):
    """Contract 8: however a fit ends, the next one without the callback is plain."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    x, y = contracts.regression_data()
    for index, others in enumerate(([], [Stop()])):
        model = (case.model or contracts.dense_model)()
        model.compile(keras.optimizers.SGD(0.01), "mse")
        before = set(vars(model)) | {"history", "_eval_epoch_iterator"}
        callbacks = [case.make(tmp_path / str(index)), *others]
        with contextlib.suppress(KeyboardInterrupt):
            model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=callbacks)
        assert set(vars(model)) <= before
        assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
        weights = model.get_weights()
        history = model.fit(x, y, batch_size=4, epochs=1, verbose=0, shuffle=False)
        assert "learning_rate" not in history.history
        # The plain fit is the same as that of a model which never met the callback.
        fresh = (case.model or contracts.dense_model)()
        fresh.compile(keras.optimizers.SGD(0.01), "mse")
        fresh.set_weights(weights)
        fresh.fit(x, y, batch_size=4, epochs=1, verbose=0, shuffle=False)
        for one, other in zip(model.get_weights(), fresh.get_weights()):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
