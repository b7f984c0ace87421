"""The checks that every public component passes: one table of components, one of execution modes.

A room's rows stand in `tests/<room>/cases.py` as `CASES`, a list of `Case`; `tests/test_contracts.py` crosses them
with the checks, and fails for a public component that has no row.
"""

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil

import keras
import numpy as np
import tensorflow as tf

import kregkit

TESTS = pathlib.Path(__file__).parent


# What a mode changes, as arguments of `compile`; mixed precision, accumulation and distribution are in `train`.
MODES = {
    "graph": {},
    "eager": {"run_eagerly": True},
    "jit": {"jit_compile": True},
    "steps_per_execution": {"steps_per_execution": 3},
    "mixed_float16": {},
    "mixed_bfloat16": {},
    "gradient_accumulation": {},
    "mirrored": {},
}
# For a second row of a class whose code doesn't ask how steps are run: what compiles it and what rounds it.
COMPILED = ("graph", "jit", "mixed_float16")


@dataclasses.dataclass(eq=False)  # by identity, so that a row can be a key
class Case:
    """One component in one setting.

    Args:
        component: The public class that the row covers.
        make: Callable without arguments that returns a new instance. Callbacks receive a fresh directory.
        bad: List of `(arguments, text)`: constructing with `arguments` raises a `ValueError` whose message
            contains `text` and ends with `Received: ...`.
        input_shape: For layers, the shape of one input example, or a list of them for several inputs.
        same: Whether the numbers agree across modes. False for what draws random numbers in the train step:
            there, the trained numbers must be finite and the loss must be no larger than a loose bound.
        observe: For callbacks, `observe(callback, model, history)` returns what to compare across modes, as a list
            of arrays. Defaults to the per-epoch learning rates.
        refused: Dictionary from a mode that can't work to a text that the error before the first step contains.
        tolerance: Dictionary from a mode to the relative tolerance in it, over the default.
        model: For callbacks, a function that returns the model to train. Defaults to `dense_model`.
        modes: The modes that the row goes through. Defaults to all; each class needs every mode in one of its rows.
        name: String, the row's name in test reports, where one class has several rows.
    """

    component: type
    make: object
    bad: list = dataclasses.field(default_factory=list)
    input_shape: object = (8,)
    same: bool = True
    observe: object = None
    refused: dict = dataclasses.field(default_factory=dict)
    tolerance: dict = dataclasses.field(default_factory=dict)
    model: object = None
    modes: tuple = tuple(MODES)
    name: str = ""

    def __str__(self):
        return self.component.__name__ + (f"-{self.name}" if self.name else "")


# Relative to the graph mode's numbers. Half precision rounds activations; the rest reorders float32 sums.
TOLERANCE = {"mixed_float16": 2e-2, "mixed_bfloat16": 1.5e-1}


def public_components(base):
    """Returns every public class under `kregkit` that derives from `base`, found by walking the rooms' `__all__`."""
    found = set()
    for room in pkgutil.iter_modules(kregkit.__path__):
        if room.name.startswith("_"):
            continue
        module = importlib.import_module(f"kregkit.{room.name}")
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing) and issubclass(thing, base):
                found.add(thing)
    return found


@functools.cache
def all_cases():
    """Returns the rows of every room."""
    rows = []
    for path in sorted(TESTS.glob("*/cases.py")):
        spec = importlib.util.spec_from_file_location(f"cases_{path.parent.name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        rows += module.CASES
    return rows


def cases(base):
    """Returns all rows of the table whose component derives from `base`."""
    return [row for row in all_cases() if issubclass(row.component, base)]


def strategy():
    """Returns a two-replica strategy; ReductionToOneDevice, since several strategies share this process."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())


def regression_data(input_shape=(8,), num=24, seed=0):
    """Returns inputs (one array, or a list for several shapes) and targets `(num, 1)`, float32."""
    rng = np.random.default_rng(seed)
    shapes = input_shape if isinstance(input_shape, list) else [input_shape]
    xs = [rng.normal(size=(num, *shape)).astype("float32") for shape in shapes]
    y = sum(x.reshape(num, -1)[:, :4].sum(1, keepdims=True) for x in xs).astype("float32")
    return (xs if isinstance(input_shape, list) else xs[0]), y


def dense_model(input_shape=(8,), seed=0):
    """Returns the small model of the optimizers' and callbacks' rows."""
    initializer = keras.initializers.GlorotUniform(seed=seed)
    inputs = keras.Input(input_shape)
    x = keras.layers.Dense(6, activation="tanh", kernel_initializer=initializer)(inputs)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Dense(1, kernel_initializer=initializer, dtype="float32")(x))


def layer_model(case, seed=0):
    """Returns a model with the row's layer before a linear head."""
    shapes = case.input_shape if isinstance(case.input_shape, list) else [case.input_shape]
    inputs = [keras.Input(shape) for shape in shapes]
    x = case.make()(inputs if len(inputs) > 1 else inputs[0])
    x = keras.layers.Flatten()(x)
    initializer = keras.initializers.GlorotUniform(seed=seed)
    outputs = keras.layers.Dense(1, kernel_initializer=initializer, dtype="float32")(x)
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs)


def train(mode, make_model, make_optimizer, callbacks=(), input_shape=(8,), epochs=2, batch_size=4):
    """Trains through plain `fit` in one mode, on six batches an epoch, unshuffled.

    Accumulation takes micro-batches of half the size, two to an update, so that its updates see the same examples.
    """
    if mode.startswith("mixed_"):
        keras.config.set_dtype_policy(mode)
    keras.utils.set_random_seed(0)
    x, y = regression_data(input_shape)
    arguments = dict(MODES[mode])

    def compiled():
        model = make_model()
        optimizer = make_optimizer()
        if mode == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1024.0)
        model.compile(optimizer, "mse", **{"jit_compile": False, **arguments})
        return model

    if mode == "mirrored":
        with strategy().scope():
            model = compiled()
    else:
        model = compiled()
    if mode == "gradient_accumulation":
        model.optimizer.gradient_accumulation_steps = 2
        batch_size //= 2
    history = model.fit(x, y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model, history


def assert_same(actual, expected, case, mode):
    """Asserts that two lists of arrays agree within the mode's tolerance, relative to each array's largest entry."""
    assert len(actual) == len(expected)
    relative = case.tolerance.get(mode, TOLERANCE.get(mode, 2e-4))
    for one, other in zip(actual, expected):
        one, other = np.asarray(one, "float64"), np.asarray(other, "float64")
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=relative * max(np.abs(other).max(initial=0.0), 1e-3))
