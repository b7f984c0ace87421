"""Planted faults are found by name, a healthy model passes, and nothing is left behind."""

import functools
import json
import random

import faults
import keras
import numpy as np
import pytest
import tensorflow as tf
from bits import same_bits
from keras import layers

from kregkit._core import keras_internals
from kregkit._core.weights import copy_values
from kregkit.diagnostics import _double, _probe
from kregkit.diagnostics.preflight_checks import CHECKS
from kregkit.diagnostics.preflight_checks import preflight as preflight_with_defaults

pytestmark = pytest.mark.trains

# A slow machine must not cut a check short.
preflight = functools.partial(preflight_with_defaults, seconds=None, verbose=0)


def keras_memory():
    """Returns what Keras remembers between calls: its own generator and the names it gives next."""
    return keras_internals.global_state()


def everything(model):
    """Returns the bits of all that training reads or changes."""
    variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    states = [np.asarray(np.random.get_state()[1]), np.array(random.getstate()[1])]
    return copy_values(variables) + states


@functools.cache
def report_of(name):
    """One preflight of the healthy model or of a planted fault."""
    return preflight(faults.healthy(), faults.data()) if name == "healthy" else preflight(*faults.PLANTED[name]())


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", faults.PLANTED)
def test_planted_fault_is_found_by_name(name):
    assert name in report_of(name).faults
    problems = [problem for finding in report_of(name).findings for problem in finding.problems if problem.name == name]
    assert all(problem.figure and problem.expected and problem.remedy for problem in problems)


def test_healthy_model_passes_every_check():
    report = report_of("healthy")
    assert [finding.check for finding in report.findings] == list(CHECKS)
    assert {finding.check: finding.status for finding in report.findings} == dict.fromkeys(CHECKS, "pass")


@pytest.mark.slow
def test_count():
    """Eight of eight faults, each in no report where it was not planted; every check passed."""
    reports = {name: report_of(name) for name in ("healthy", *faults.PLANTED)}
    found = sum(name in reports[name].faults for name in faults.PLANTED)
    assert (found, len(faults.PLANTED)) == (8, 8)
    elsewhere = [
        (name, other) for name in faults.PLANTED for other in reports if other != name and name in reports[other].faults
    ]
    assert elsewhere == []
    assert sum(finding.status == "pass" for finding in reports["healthy"].findings) == len(CHECKS)


@pytest.mark.slow
def test_faults_name_their_place():
    def places(name):
        return {p.where for finding in report_of(name).findings for p in finding.problems if p.name == name}

    assert places("detached branch") == {"detached"}
    assert {place.split("/")[-2] for place in places("wrong gradient")} == {"before"}
    assert "top" in next(iter(places("logits into a from_logits=False loss")))


def test_report_is_a_plain_dictionary_and_a_table():
    report = report_of("dead ReLUs")
    plain = report.to_dict()
    assert json.loads(json.dumps(plain, default=float))["status"] == "fail"
    text = str(report)
    assert "FAIL dead ReLUs: " in text and "He initialisation" in text
    assert all(check in text for check in CHECKS)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("fitted", [False, True])
def test_nothing_changes(fitted):
    model, (x, y) = faults.healthy(), faults.data()
    if fitted:
        model.fit(x[:96], y[:96], epochs=1, verbose=0)
    before, names = everything(model), set(vars(model))
    losses = dict(vars(keras_internals.compiled_loss(model)))
    built, function = model.optimizer.built, model.train_function
    policies = [layer.dtype_policy.name for layer in model.layers]
    preflight(model, (x, y))
    assert same_bits(before, everything(model))
    assert vars(keras_internals.compiled_loss(model)) == losses
    assert set(vars(model)) - names <= {"train_function", "test_function", "predict_function"}
    assert (model.optimizer.built, model.train_function) == (built, function)
    assert [layer.dtype_policy.name for layer in model.layers] == policies and keras.config.floatx() == "float32"
    assert not any("call" in vars(layer) for layer in model.layers)


def test_training_goes_on_bit_for_bit_as_without():
    def train(checked):
        model, (x, y) = faults.healthy(), faults.data()
        dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(500, seed=3).cache().batch(32).take(6)
        keras.utils.set_random_seed(7)
        if checked:
            preflight(model, dataset, checks=["input_statistics", "learning_rate", "gradient_check", "update_ratio"])
        history = model.fit(dataset, epochs=2, verbose=0)
        return history.history["loss"], everything(model)[:-2]

    (loss, weights), (other_loss, other_weights) = train(False), train(True)
    assert loss == other_loss
    assert same_bits(weights, other_weights)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("error", "checks"),
    [(KeyboardInterrupt, ("overfit_small_batch", "learning_rate", "update_ratio")), (SystemExit, ("update_ratio",))],
)
def test_nothing_changes_when_interrupted(monkeypatch, error, checks):
    model, data = faults.healthy(), faults.data()
    before = everything(model)
    original = _probe.Probe.trainer

    def interrupted(self, *args, **kwargs):
        step, calls = original(self, *args, **kwargs), iter(range(5))

        def run(*batch):
            if next(calls, None) is None:
                assert not same_bits(before[:-2], everything(model)[:-2])
                raise error
            return step(*batch)

        return run

    monkeypatch.setattr(_probe.Probe, "trainer", interrupted)
    for check in checks:
        with pytest.raises(error):
            preflight(model, data, checks=[check])
        assert same_bits(before, everything(model))


@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_an_interrupt_ends_it_with_the_checks_that_have_ended(monkeypatch, verbose, capsys):
    def interrupted(model, probe):
        model.layers[-1].trainable_variables[0].assign_add(keras.ops.ones_like(model.layers[-1].trainable_variables[0]))
        raise KeyboardInterrupt

    model, names = faults.healthy(), ["input_statistics", "loss_sign", "layer_settings", "optimizer_settings"]
    before = everything(model)
    whole = preflight(model, faults.data(), checks=names[:2])
    monkeypatch.setitem(CHECKS, "layer_settings", interrupted)
    report = preflight(model, faults.data(), checks=names, verbose=verbose)
    assert same_bits(before, everything(model))
    assert report.findings[:2] == whole.findings and report.status == "pass"
    assert report.notes == {
        "layer_settings": "interrupted within it",
        "optimizer_settings": "not begun: layer_settings was interrupted",
    }
    assert str(report).count("NOTE") == 2 and report["optimizer_settings"].figure == "not run"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (3 if verbose else 0) and all("interrupted" in line for line in lines[2:])
    with pytest.raises(KeyboardInterrupt):
        preflight(model, faults.data(), checks=names[2:])


def test_nothing_changes_when_interrupted_in_float64(monkeypatch):
    model, data = faults.healthy(), faults.data()
    before = everything(model)

    def interrupted(self):
        assert keras.config.floatx() == "float64" and model.layers[1].compute_dtype == "float64"
        # Else TensorFlow says of every operation that oneDNN has no float64.
        assert tf.config.optimizer.get_experimental_options()["disable_meta_optimizer"]
        raise KeyboardInterrupt

    monkeypatch.setattr(_double.DoubleLoss, "value", interrupted)
    with pytest.raises(KeyboardInterrupt):
        preflight(model, data, checks=["gradient_check"])
    assert same_bits(before, everything(model))
    assert keras.config.floatx() == "float32"
    assert not tf.config.optimizer.get_experimental_options()["disable_meta_optimizer"]
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert not any("call" in vars(layer) for layer in model.layers)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("used", [False, True])
def test_seeds_and_names_that_keras_gives_are_the_same(used):
    class Noise(keras.layers.Layer):
        """Draws from Keras's own generator."""

        def call(self, inputs, training=False):
            return inputs + keras.random.normal(keras.ops.shape(inputs)) if training else inputs

    def after(checked):
        keras.utils.clear_session()
        keras.utils.set_random_seed(3)
        tf.random.set_seed(3)
        if used:
            keras.random.normal((2,))
        model = keras.Sequential([keras.Input((7,)), Noise(), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.01), "mse")
        if checked:
            report = preflight(model, tabular(), checks=["learning_rate", "update_ratio"] if used else ["update_ratio"])
            assert not any("could not run" in fault for fault in report.faults)
        assert (keras_memory().get("global_seed_generator") is not None) == used
        drawn = [keras.random.normal(()), tf.random.normal(()), np.random.rand(), random.random()]
        shuffled = [int(one) for one in tf.data.Dataset.range(9).shuffle(9)]
        return [float(one) for one in drawn], shuffled, keras.layers.Dense(1).name, keras.optimizers.SGD().name

    assert after(True) == after(False)


def test_preprocessing_in_a_dataset_keeps_its_seeds():
    layer, counter = keras.layers.RandomTranslation(0.1, 0.1, seed=3), tf.Variable(0)
    x, y = faults.data()

    def augment(images, labels):
        counter.assign_add(1)
        return layer(images, training=True), labels

    dataset = tf.data.Dataset.from_tensor_slices((x[:64], y[:64])).batch(32).map(augment)
    before = copy_values(layer.variables)
    preflight(faults.healthy(), dataset, checks=["input_statistics"])
    assert same_bits(before, copy_values(layer.variables)) and int(counter) == 0


def test_check_that_raises_is_reported_and_leaves_nothing(monkeypatch):
    def broken(model, data):
        model.layers[1].kernel.assign(model.layers[1].kernel * 2)
        raise RuntimeError("broken on purpose")

    monkeypatch.setitem(CHECKS, "signal_flow", broken)
    model = faults.healthy()
    before = everything(model)
    report = preflight(model, faults.data(), checks=["signal_flow", "initial_loss"])
    assert report.faults == ["signal_flow could not run"] and "broken on purpose" in str(report)
    assert report["initial_loss"].status == "pass"
    assert same_bits(before, everything(model))


@pytest.mark.parametrize("kind", ["seeded", "unseeded", "generator", "cached", "mapped"])
def test_dataset_yields_what_it_would_have(kind):
    x, y = faults.data()
    x, y = x[:96], y[:96]

    def make():
        tf.random.set_seed(5)
        dataset = tf.data.Dataset.from_tensor_slices((x, y))
        if kind == "generator":
            signature = (tf.TensorSpec((8, 8, 1)), tf.TensorSpec((), tf.int64))
            dataset = tf.data.Dataset.from_generator(lambda: zip(x, y), output_signature=signature)
        if kind == "mapped":
            dataset = dataset.map(lambda a, b: (a + tf.random.normal(()), b))
        dataset = dataset.shuffle(96, seed=None if kind == "unseeded" else 3)
        return (dataset.cache() if kind == "cached" else dataset).batch(32)

    def epochs(dataset):
        return [labels.numpy().tolist() for _ in range(2) for _, labels in dataset]

    expected, dataset = epochs(make()), make()
    preflight(faults.healthy(), dataset, checks=["input_statistics"])
    assert epochs(dataset) == expected


class Subclassed(keras.Model):
    """A model that Keras has no graph of."""

    def __init__(self):
        super().__init__()
        self.body, self.top = keras.layers.Dense(16, "relu"), keras.layers.Dense(1)
        self.noise = keras.layers.Dropout(0.1)

    def call(self, inputs, training=False):
        return self.top(self.noise(self.body(inputs), training=training))


def several_inputs_and_outputs():
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((3,), name="b")}
    hidden = keras.layers.Dense(24, "relu")(keras.layers.Concatenate()(list(inputs.values())))
    outputs = {
        "value": keras.layers.Dense(1, name="value")(hidden),
        "yes": keras.layers.Dense(1, "sigmoid", name="yes")(hidden),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.Adam(0.01), {"value": "mse", "yes": "binary_crossentropy"}, metrics={"yes": ["accuracy"]}
    )
    return model


def tabular(num=256):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num, 7)).astype("float32")
    return x, np.tanh(x[:, :1] + x[:, 4:5]).astype("float32")


def flat_network(outputs, activation, loss, normalize):
    keras.utils.set_random_seed(0)
    hidden = []
    for _ in range(2):
        hidden.append(keras.layers.Dense(48, kernel_initializer="he_normal"))
        hidden += [keras.layers.BatchNormalization()] if normalize else []
        hidden.append(keras.layers.ReLU())
    top = keras.layers.Dense(outputs, activation)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), *hidden, top])
    model.compile(keras.optimizers.Adam(2e-3), loss)
    return model


SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


# A convolutional model with normalisation is the healthy one of the faults' report.
@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("kind", "normalize"),
    [
        ("classes", True),
        ("convolutional", False),
        ("binary", True),
        ("binary logits", False),
        ("regression", False),
        ("regression", True),
    ],
)
def test_no_false_alarms(kind, normalize):
    x, y = faults.data()
    yes = (y >= 5).astype("float32")[:, None]
    if kind == "convolutional":
        model = faults.healthy(normalize=normalize, head="probabilities")
    elif kind == "classes":
        model = flat_network(10, None, SPARSE, normalize)
    elif kind == "regression":
        model, y = flat_network(1, None, "mse", normalize), ((y - 4.5) / 2.9).astype("float32")[:, None]
    elif kind == "binary":
        model, y = flat_network(1, "sigmoid", "binary_crossentropy", normalize), yes
    else:
        model, y = flat_network(1, None, keras.losses.BinaryCrossentropy(from_logits=True), normalize), yes
    report = preflight(model, (x, y))
    assert {finding.check: finding.status for finding in report.findings} == dict.fromkeys(CHECKS, "pass"), str(report)


@pytest.mark.parametrize("kind", ["subclassed", "several", "eager", "mixed_float16", "regularized"])
def test_other_models_pass_and_stay(kind):
    x, y = tabular()
    data = (x, y)
    if kind == "several":
        model = several_inputs_and_outputs()
        data = ({"a": x[:, :4], "b": x[:, 4:]}, {"value": y, "yes": (y > 0).astype("float32")})
    elif kind == "subclassed":
        model = Subclassed()
        model(x[:2])
        model.compile(keras.optimizers.Adam(0.01), "mse")
    else:
        if kind == "mixed_float16":
            keras.config.set_dtype_policy("mixed_float16")
        penalty = keras.regularizers.L2(1e-3) if kind == "regularized" else None
        layers = [keras.layers.Dense(24, "relu", kernel_regularizer=penalty), keras.layers.Dense(1, dtype="float32")]
        model = keras.Sequential([keras.Input((7,)), *layers])
        model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=kind == "eager")
    before = everything(model)
    names = [name for name in CHECKS if kind != "eager" or name not in ("overfit_small_batch", "learning_rate")]
    report = preflight(model, data, checks=names)
    assert same_bits(before, everything(model))
    assert report.faults == []
    if kind == "regularized":
        details = report["initial_loss"].details
        weights = model.layers[0].get_weights()[0].astype("float64")
        assert details["penalty"] == pytest.approx(1e-3 * np.sum(weights**2), rel=1e-4)
        assert details["with_penalty"] > details["loss"]


def test_iterator_is_refused():
    model, (x, y) = faults.healthy(), faults.data()
    with pytest.raises(ValueError, match=r"can't be put back. Received: data=generator"):
        preflight(model, (batch for batch in [(x, y)]))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"checks": "most"}, "Received: checks='most'"),
        ({"checks": ["speed"]}, r"Received: checks=\['speed'\]"),
        ({"batch_size": 1}, "Received: batch_size=1"),
        ({"seconds": 0}, "Received: seconds=0"),
        ({"verbose": 3}, "Received: verbose=3"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(ValueError, match=text):
        preflight(faults.healthy(), faults.data(), **arguments)


def test_uncompiled_model_is_refused():
    with pytest.raises(ValueError, match="compiled"):
        preflight(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), tabular())


class Lazy(keras.Model):
    """Has no shape before its first batch."""

    def __init__(self):
        super().__init__()
        self.body, self.noise, self.top = layers.Dense(8, "tanh"), layers.Dropout(0.2), layers.Dense(1)

    def call(self, inputs, training=False):
        return self.top(self.noise(self.body(inputs), training=training))


@pytest.mark.parametrize("make", [Lazy, lambda: keras.Sequential([layers.Dense(8, "tanh"), layers.Dense(1)])])
def test_model_that_fit_would_build_trains_afterwards_as_without(make):
    x, y = tabular(64)

    def train(checked):
        keras.utils.set_random_seed(2)
        model = make()
        model.compile(keras.optimizers.Adam(0.01), "mse")
        if checked:
            report = preflight(model, (x, y), checks=["initial_loss", "signal_flow", "update_ratio"])
            assert not any("could not run" in fault for fault in report.faults), str(report)
        return model.fit(x, y, epochs=2, verbose=0).history["loss"]

    assert train(True) == train(False)


def test_time_that_is_up_is_kept_and_said(capsys):
    model, data = faults.healthy(), faults.data()
    report = preflight_with_defaults(model, data, seconds=1e-6)
    assert {finding.figure for finding in report.findings} == {"not run"}
    # That time was up says nothing about the model.
    assert report.faults == [] and report.status == "pass"
    assert list(report.notes) == list(CHECKS) and report.to_dict()["notes"] == report.notes
    assert "not begun" in str(report) and "seconds=None" in str(report)
    # Nor was more than the first batch read.
    assert "all checks see 32 examples" in report.notes["input_statistics"]
    assert sum(line.startswith("cut ") for line in str(report).splitlines()) == len(CHECKS)
    lines = capsys.readouterr().out.splitlines()
    assert (
        len(lines) == len(CHECKS) and lines[0].startswith("preflight 1/") and "input_statistics: cut short" in lines[0]
    )


@pytest.mark.parametrize(
    ("check", "text"),
    [
        ("overfit_small_batch", "1 of 300 steps"),
        ("update_ratio", "1 of 10 steps"),
        ("learning_rate", "a sweep of 0 instead of 100 steps"),
        ("gradient_check", "not begun"),
    ],
)
def test_check_whose_time_ends_says_how_far_it_came(monkeypatch, check, text):
    monkeypatch.setattr(_probe.Probe, "time_left", lambda self: -1.0)
    report = preflight_with_defaults(faults.healthy(rate=1e-9), faults.data(), checks=[check], verbose=0)
    assert report.findings[0].note.startswith("cut short") and text in report.findings[0].note
    assert report.notes == {check: report.findings[0].note}
    # What wasn't seen isn't judged.
    assert not {"can't overfit", "learning rate too low", "no learning rate helps"} & set(report.faults)


def test_what_keras_says_is_told_without_the_call_around_it():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    report = preflight(model, (np.zeros((8, 5), "float32"), np.zeros((8, 1))), ["input_statistics"])
    figure = report["input_statistics"].problems[0].figure
    assert "incompatible" in figure and ", 5)" in figure
    assert "_empty" not in figure and "\x1b" not in figure
