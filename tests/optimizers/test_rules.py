"""Every update rule, Keras's own included, against float64 NumPy."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizers import references as ref

from kregkit.optimizers import SOAP, Adam, LayerwiseLearningRate, Momentum

pytestmark = pytest.mark.one_in(2)

# A power of two, which float32 holds exactly: Keras keeps learning rates in float32.
A = 2.0**-6
EPS = np.finfo("float64").eps
K = keras.optimizers

# name: (optimizer, reference for x)
RULES = {
    "SGD": (lambda: K.SGD(A), lambda x: ref.sgd(x, A)),
    "SGD-momentum": (lambda: K.SGD(A, momentum=0.9), lambda x: ref.keras_momentum(x, A, 0.9)),
    "SGD-nesterov": (
        lambda: K.SGD(A, momentum=0.9, nesterov=True),
        lambda x: ref.keras_momentum(x, A, 0.9, nesterov=True),
    ),
    "Adagrad": (lambda: K.Adagrad(A), lambda x: ref.adagrad(x, A)),
    "RMSprop": (lambda: K.RMSprop(A), lambda x: ref.rmsprop(x, A)),
    "RMSprop-momentum": (lambda: K.RMSprop(A, momentum=0.5), lambda x: ref.rmsprop(x, A, rate=0.5)),
    "RMSprop-centered": (lambda: K.RMSprop(A, centered=True), lambda x: ref.rmsprop(x, A, centered=True)),
    "Adadelta": (lambda: K.Adadelta(1.0), lambda x: ref.adadelta(x, 1.0)),
    "Adam": (lambda: K.Adam(A), lambda x: ref.adam(x, A)),
    "Adam-amsgrad": (lambda: K.Adam(A, amsgrad=True), lambda x: ref.adam(x, A, amsgrad=True)),
    "AdamW": (lambda: K.AdamW(A, weight_decay=0.25), lambda x: ref.adam(x, A, decay=0.25)),
    "Adamax": (lambda: K.Adamax(A), lambda x: ref.adamax(x, A)),
    "Nadam": (lambda: K.Nadam(A), lambda x: ref.nadam(x, A)),
    "Ftrl": (
        lambda: K.Ftrl(A, l1_regularization_strength=0.1, l2_regularization_strength=0.1),
        lambda x: ref.ftrl(x, A, 0.1, 0.1),
    ),
    "Lion": (lambda: K.Lion(A), lambda x: ref.lion(x, A)),
    "Lamb": (lambda: K.Lamb(A), lambda x: ref.lamb(x, A)),
    "Adafactor": (lambda: K.Adafactor(A), lambda x: ref.adafactor(x, A)),
    "Muon": (
        lambda: K.Muon(A, weight_decay=None, adam_weight_decay=None),
        lambda x: ref.muon(x, A) if x.ndim == 2 else ref.adam(x, A),
    ),
    "ScheduleFreeAdamW": (lambda: K.ScheduleFreeAdamW(A), lambda x: ref.schedule_free_adamw(x, A, keras=True)),
    "kregkit.Momentum": (lambda: Momentum(A), lambda x: ref.momentum(x, A, 0.9)),
    "kregkit.Momentum-nesterov": (
        lambda: Momentum(A, momentum=0.75, nesterov=True),
        lambda x: ref.momentum(x, A, 0.75, nesterov=True),
    ),
    "kregkit.Adam": (lambda: Adam(A), lambda x: ref.adam(x, A)),
    "kregkit.Adam-uncorrected": (lambda: Adam(A, bias_correction=False), lambda x: ref.adam(x, A, correct=False)),
    "kregkit.Adam-uncorrected-amsgrad": (
        lambda: Adam(A, bias_correction=False, amsgrad=True, beta_2=0.5),
        lambda x: ref.adam(x, A, b2=0.5, correct=False, amsgrad=True),
    ),
    "kregkit.SOAP": (
        lambda: SOAP(A, beta_2=0.7, precondition_frequency=3),  # Turns at steps 6, 9, ...
        lambda x: ref.soap(x, A, b2=0.7, rounding=EPS) if x.ndim == 2 else ref.adam(x, A, 0.95, 0.7, 1e-8, hat=False),
    ),
}
KINDS = ("random", "sparse", "zero", "huge", "tiny")


# The tolerance of the float64 tests: Keras casts hyperparameters through float32, where 1 - 0.999 is off by 1e-5.


def train(make, xs, gradients, dtype):
    variables = [keras.Variable(x, dtype=dtype) for x in xs]
    optimizer = make()
    optimizer.build(variables)
    for step in zip(*gradients):
        optimizer.apply([keras.ops.convert_to_tensor(g, dtype) for g in step], variables)
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def test_every_rule_of_keras_is_here():
    rules = {
        name
        for name, thing in vars(K).items()
        if isinstance(thing, type) and issubclass(thing, K.Optimizer) and name not in ("Optimizer",)
    }
    assert rules - {name.partition("-")[0] for name in RULES} <= {"LossScaleOptimizer", "MultiOptimizer"}


# Keras's Muon multiplies the float32 learning rate with the update: float64 variables raise.
@pytest.mark.parametrize("name", sorted(set(RULES) - {"Muon"}))
def test_twenty_steps_against_numpy(name):
    make, reference = RULES[name]
    rng = np.random.default_rng(1)
    problems = {(kind, shape): rng.normal(size=shape) for kind in KINDS for shape in ((5, 4), (6,))}
    runs = {problem: ref.run(reference(x), x, *ref.gradients(*problem)) for problem, x in problems.items()}
    ends = train(make, list(problems.values()), [met for _, met in runs.values()], "float64")
    for problem, end, (path, _) in zip(problems, ends, runs.values()):
        moved = np.abs(path - path[0]).max()
        assert moved > 0
        np.testing.assert_allclose(end, path[-1], rtol=0, atol=1e-5 * moved, err_msg=str(problem))


@pytest.mark.parametrize("axis", [0, 1])
def test_soap_reorders_velocities_with_the_axes(axis):
    """Which axis has most of the gradient changes after the first turn: the order of the basis's columns too."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(5, 4))
    scales = np.moveaxis(np.geomspace(1, 30, x.shape[axis])[:, None], 0, axis)
    pushes = np.concatenate([rng.normal(size=(6, 5, 4)) * scales, rng.normal(size=(9, 5, 4)) / scales])
    path, met = ref.run(ref.soap(x, A, b2=0.7, rounding=EPS), x, pushes, 0.0)
    (end,) = train(RULES["kregkit.SOAP"][0], [x], [met], "float64")
    np.testing.assert_allclose(end, path[-1], rtol=0, atol=1e-5 * np.abs(path - path[0]).max())


@pytest.mark.parametrize("name", [name for name in RULES if not name.startswith(("kregkit.SOAP", "RMSprop-c"))])
def test_float32_stays_near_float64(name):
    make, reference = RULES[name]
    x = np.random.default_rng(1).normal(size=(5, 4)).astype("float32").astype("float64")
    path, met = ref.run(reference(x), x, *ref.gradients("random", x.shape))
    (end,) = train(make, [x], [met], "float32")
    np.testing.assert_allclose(end, path[-1], rtol=0, atol=1e-4 * np.abs(path - path[0]).max())


PLAIN = {
    **{name: make for name, (make, _) in RULES.items() if name.startswith("kregkit.")},
    "kregkit.LayerwiseLearningRate": lambda: LayerwiseLearningRate(
        SOAP(A, beta_2=0.7, precondition_frequency=1, weight_decay=0.1, use_ema=True), {"table": 0.5, "scale": 0}
    ),
}


def four_steps(optimizer, variables):
    table, bias, scale = [v.value if isinstance(v, keras.Variable) else v for v in variables]

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            # The table's gradient is sparse.
            loss = tf.reduce_sum(tf.sin(tf.gather(table, [1, 1, 4]) * scale + bias))
        optimizer.apply_gradients(zip(tape.gradient(loss, [table, bias, scale]), variables))

    for _ in range(4):
        step()
    return [variable.numpy() for variable in (table, bias, scale)]


@pytest.mark.parametrize("name", PLAIN)
def test_plain_tensorflow_variables_train_like_keras_variables(name):
    rng = np.random.default_rng(0)
    starts = {"table": rng.normal(size=(5, 3)), "bias": rng.normal(size=3), "scale": np.array(2.0)}
    starts = {key: value.astype("float32") for key, value in starts.items()}
    ends = [
        four_steps(PLAIN[name](), [kind(value, name=key) for key, value in starts.items()])
        for kind in (keras.Variable, tf.Variable)
    ]
    for one, other, start in zip(*ends, starts.values()):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
        frozen = name == "kregkit.LayerwiseLearningRate" and start.ndim == 0
        assert np.any(one != start) != frozen


def test_schedule_free_adamw_of_keras_is_not_the_papers():
    """Shown so that the day Keras mends it, this test says to change the reference."""
    x = np.ones((3, 2))
    paper, met = ref.run(ref.schedule_free_adamw(x, A), x, *ref.gradients("random", x.shape))
    (end,) = train(RULES["ScheduleFreeAdamW"][0], [x], [met], "float64")
    assert np.abs(end - paper[-1]).max() > 1e-3 * np.abs(paper - x).max()


@pytest.mark.parametrize("kind", [Momentum, Adam, SOAP])
def test_keras_base_arguments_are_named_and_reach_keras(kind):
    base = inspect.signature(keras.optimizers.SGD).parameters
    names = set(base) - {"learning_rate", "momentum", "nesterov", "kwargs"}
    parameters = inspect.signature(kind).parameters
    assert names <= set(parameters) and "kwargs" not in parameters
    given = {
        "weight_decay": 0.01, "clipnorm": 2.0, "use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 3,
        "loss_scale_factor": 4.0, "gradient_accumulation_steps": 5, "name": "own",
    }  # fmt: skip
    for arguments in (given, {"clipvalue": 0.5}, {"global_clipnorm": 3.0}):
        config = kind(**arguments).get_config()
        assert {name: config[name] for name in arguments} == arguments
    assert set(given) | {"clipvalue", "global_clipnorm"} == names
    assert {name: kind().get_config()[name] for name in names - {"name"}} == {
        name: base[name].default for name in names - {"name"}
    }
