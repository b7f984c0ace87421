"""Every public component, in every execution mode, with exact configs and clear errors."""

import contextlib
import copy
import functools
import inspect
import pathlib
import tempfile

import contracts
import keras
import numpy as np
import pytest

pytestmark = pytest.mark.trains

SCHEDULE = keras.optimizers.schedules.LearningRateSchedule
SERIALIZABLE = (keras.layers.Layer, keras.optimizers.Optimizer, SCHEDULE)
EVERYTHING = (*SERIALIZABLE, keras.callbacks.Callback)

LAYERS = [case for case in contracts.cases(keras.layers.Layer) if not issubclass(case.component, keras.Model)]
OPTIMIZERS = contracts.cases(keras.optimizers.Optimizer)
SCHEDULES = contracts.cases(SCHEDULE)
CALLBACKS = contracts.cases(keras.callbacks.Callback)


def per_mode(rows):
    return [pytest.param(case, mode, id=f"{case}-{mode}") for case in rows for mode in case.modes]


@functools.cache
def reference(run, case):
    """Returns what `run(case, mode, directory)` gives in graph mode, with which the other modes are compared."""
    keras.config.set_dtype_policy("float32")
    with tempfile.TemporaryDirectory() as directory:
        return run(case, "graph", pathlib.Path(directory))


def numbers_in_mode(run, case, mode, directory):
    """Returns what `run` gives in the mode, or None where the row says that the mode is refused, and it is."""
    if mode in case.refused:
        with pytest.raises(ValueError, match=case.refused[mode]):
            run(case, mode, directory)
        return None
    numbers = reference(run, case) if mode == "graph" else run(case, mode, directory)
    assert all(np.isfinite(number).all() for number in numbers)
    return numbers


def make(case, directory):
    return case.make(directory) if issubclass(case.component, keras.callbacks.Callback) else case.make()


def test_every_public_component_has_a_row():
    covered = {case.component for base in EVERYTHING for case in contracts.cases(base)}
    missing = {thing.__name__ for base in EVERYTHING for thing in contracts.public_components(base) - covered}
    assert not missing, f"add rows to tests/<room>/cases.py for {sorted(missing)}"


def test_every_component_goes_through_every_mode():
    """In one of its rows, or in one of another component that does the same things in a step."""
    modes = {}
    for case in [*LAYERS, *OPTIMIZERS, *CALLBACKS]:
        steps = ("call", "update_step", "apply", "before_step", "after_step", "on_train_begin")
        code = tuple(getattr(case.component, name, None) for name in steps)
        modes.setdefault(code, ([], set()))[0].append(str(case))
        modes[code][1].update(case.modes)
    for rows, found in modes.values():
        assert found == set(contracts.MODES), rows


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


@pytest.mark.one_in(2)
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


def layer_numbers(case, mode, directory):
    model, history = contracts.train(
        mode, lambda: contracts.layer_model(case), lambda: keras.optimizers.SGD(0.001), input_shape=case.input_shape
    )
    return [history.history["loss"], *model.get_weights()]


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("case", "mode"), per_mode(LAYERS))
def test_layer_in_mode(case, mode, tmp_path):
    numbers = numbers_in_mode(layer_numbers, case, mode, tmp_path)
    if case.same and mode not in (*case.refused, "gradient_accumulation", "mirrored"):
        contracts.assert_same(numbers, reference(layer_numbers, case), case, mode)


def optimizer_numbers(case, mode, directory):
    def model():
        # No BatchNormalization: its statistics differ by design under accumulation and on replicas.
        initializer = keras.initializers.GlorotUniform(seed=0)
        return keras.Sequential([
            keras.Input((8,)),
            keras.layers.Dense(6, activation="tanh", kernel_initializer=initializer),
            keras.layers.Dense(1, kernel_initializer=initializer, dtype="float32"),
        ])  # fmt: skip

    trained, _ = contracts.train(mode, model, case.make)
    return trained.get_weights()


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("case", "mode"), per_mode(OPTIMIZERS))
def test_optimizer_in_mode(case, mode, tmp_path):
    numbers = numbers_in_mode(optimizer_numbers, case, mode, tmp_path)
    if mode not in case.refused:
        contracts.assert_same(numbers, reference(optimizer_numbers, case), case, mode)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("case", OPTIMIZERS, ids=str)
def test_optimizer_resumes_from_file_bit_for_bit(case, tmp_path):
    x, y = contracts.regression_data()

    def fit(model):
        model.fit(x, y, batch_size=4, epochs=1, shuffle=False, verbose=0)

    straight = contracts.dense_model()
    straight.compile(case.make(), "mse", jit_compile=False)
    fit(straight)
    straight.save(tmp_path / "half.keras")
    fit(straight)
    resumed = keras.models.load_model(tmp_path / "half.keras")
    fit(resumed)
    for one, other in zip(straight.get_weights(), resumed.get_weights()):
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


def callback_numbers(case, mode, directory):
    callback = case.make(directory)
    model, history = contracts.train(
        mode, case.model or contracts.dense_model, lambda: keras.optimizers.SGD(0.01, momentum=0.5), [callback]
    )
    if case.observe is not None:
        return case.observe(callback, model, history)
    return [history.history["learning_rate"]]


# The rows have no validation data.
@pytest.mark.filterwarnings("ignore:PolyakAveraging chooses among .* by 'val_loss', which was never in the logs")
@pytest.mark.one_in(4)
@pytest.mark.parametrize(("case", "mode"), per_mode(CALLBACKS))
def test_callback_in_mode(case, mode, tmp_path):
    numbers = numbers_in_mode(callback_numbers, case, mode, tmp_path)
    # Micro-batches are the clock and replicas normalise apart: what must hold there is in the callbacks' own tests.
    if mode not in (*case.refused, "gradient_accumulation", "mirrored"):
        contracts.assert_same(numbers, reference(callback_numbers, case), case, mode)


@functools.cache
def plain_model(build):
    """Returns a model that never meets a callback."""
    model = build()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


@pytest.mark.parametrize("case", CALLBACKS, ids=str)
def test_copies_of_callbacks_have_all_attributes(case, tmp_path):
    """What belongs to one fit isn't copied, but a copy's own fit finds its value from before any fit."""
    callback = case.make(tmp_path)
    # As `pickle` does it, which can't import the classes of a row.
    again = copy.deepcopy(callback)
    assert not [name for name in vars(callback) if not hasattr(again, name)]


@pytest.mark.one_in(2)
@pytest.mark.filterwarnings("ignore:PolyakAveraging chooses among .* by 'val_loss', which was never in the logs")
@pytest.mark.parametrize("case", CALLBACKS, ids=str)
def test_nothing_stays_behind_after_fit(case, tmp_path):
    """Contract 8: however a fit ends, the next one without the callback is plain."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    x, y = contracts.regression_data()
    build = case.model or contracts.dense_model
    model, plain = build(), plain_model(build)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    before = set(vars(model)) | {"history", "_eval_epoch_iterator"}
    for index, others in enumerate(([Stop()], [])):
        callbacks = [case.make(tmp_path / str(index)), *others]
        with contextlib.suppress(KeyboardInterrupt):
            model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=callbacks)
        assert set(vars(model)) <= before
        assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
        plain.set_weights(model.get_weights())
        history = model.fit(x, y, batch_size=4, epochs=1, verbose=0, shuffle=False)
        assert "learning_rate" not in history.history
        plain.fit(x, y, batch_size=4, epochs=1, verbose=0, shuffle=False)
        for one, other in zip(model.get_weights(), plain.get_weights()):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
