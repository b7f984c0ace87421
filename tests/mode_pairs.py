"""Every public component in every mode of execution and in every pair of modes: what works, what raises, and why.

`benchmarks/modes.py` runs the whole table and writes it to `docs/modes.md`; `test_modes.py` runs a sample of it.

An epoch has seven batches, so neither executions of two steps nor updates of three micro-batches divide it. Each cell
is compared with a fit in graph mode that sees the same examples in its updates:

- Eager steps, XLA, `steps_per_execution`, replicas and bfloat16 change no update: the plain fit.
- Under loss scaling the first step of each epoch overflows and is left out: a fit without these batches.
- With accumulation, three batches make an update: a fit with batches three times as large.

Rates count batches, in kregkit's callbacks and in Keras's schedules: also those left out, and each micro-batch.

A layer that draws random numbers is compared by the expectation of its outputs. Where a fit without kregkit fails too,
`control` finds that limit of Keras.
"""

import dataclasses
import functools
import itertools
import re
import tempfile
from unittest import mock

import contracts
import keras
import numpy as np
import tensorflow as tf

from kregkit import data, distribution

MODES = (
    "graph",
    "eager",
    "jit",
    "steps_per_execution",
    "mixed_float16",
    "mixed_bfloat16",
    "accumulation",
    "mirrored",
)
ROUNDING = {"mixed_float16": 3e-2, "mixed_bfloat16": 2e-1}
BATCH_SIZE = 4
STEPS = 7
EPOCHS = 2
ACCUMULATION = 3
# Half precision holds numbers up to 65,504: under this scale gradients of targets that are moved so far overflow.
SCALE = 2.0**8
FAR = 1e6
# Of a stochastic layer's loss, whose mean over these many epochs is compared.
DRAWN_EPOCHS = 8
STANDARD_ERRORS = 6

# Of callbacks whose numbers are others than the rates, which count batches: see `Subject.clock`.
CLOCKS = {
    "TracedCallback": "update",
    "Resume": "update",
    "PolyakAveraging": "update",
    "GradualUnfreeze": "epoch",
    "NoiseSchedule": "batch",
}
# Before the kind of rows that go without `distribution.enable_loss_scaling`.
UNMENDED = "without the mend:"
SCRATCH = tempfile.TemporaryDirectory()

# No such fit exists.
IMPOSSIBLE = {
    frozenset({"eager", "jit"}): "a step runs in Python or in XLA",
    frozenset({"mixed_float16", "mixed_bfloat16"}): "a model has one policy",
}


@dataclasses.dataclass
class Cell:
    """How a component fared in one mode or pair of modes.

    `verdict` is one of `"works"`; `"finite"`, where there is no fit to compare with; `"refused"` by kregkit before the
    first step; `"keras"`, where a fit without kregkit fails too; `"none"`, where no such pair exists; and the faults
    `"differs"`, `"not finite"` and `"raises"`.
    """

    verdict: str
    note: str = ""


def cells(modes=MODES):
    """Returns the single modes and all pairs of them, as tuples. Graph mode makes no pair: it is the absence of one."""
    rest = [mode for mode in modes if mode != "graph"]
    return [("graph",), *((mode,) for mode in rest), *itertools.combinations(rest, 2)]


def rows():
    """Returns `(kind, case, cells)` of every public layer, optimizer, schedule, callback and pipeline.

    The first row of a class goes through all cells, further rows of it through the single modes that they name.
    """
    kinds = {
        "layer": keras.layers.Layer,
        "optimizer": keras.optimizers.Optimizer,
        "schedule": keras.optimizers.schedules.LearningRateSchedule,
        "callback": keras.callbacks.Callback,
    }
    found, seen = [], set()
    for kind, base in kinds.items():
        for case in contracts.cases(base):
            if issubclass(case.component, keras.Model):
                continue
            own = [(mode.replace("gradient_", ""),) for mode in case.modes]
            found.append((kind, case, own if case.component in seen else cells()))
            seen.add(case.component)
    plain = contracts.Case(keras.Model, None)
    warmup = next(case for kind, case, _ in found if (kind, str(case)) == ("callback", "Warmup"))
    return [
        ("plain", plain, cells()),
        *found,
        *(("pipeline", case, cells()) for case in pipelines()),
        (f"{UNMENDED} plain", plain, [("mixed_float16", "mirrored")]),
        (f"{UNMENDED} callback", warmup, [("mixed_float16", "mirrored")]),
    ]


def overflowing(x, y):
    """Returns the data with targets in the first batch whose gradients overflow half precision.

    They stand in the batch's second half, which is the second replica's part: Keras asks the first one only.
    """
    second_half = (np.arange(BATCH_SIZE) >= BATCH_SIZE // 2).astype("float32")
    if y is not None:
        far = y.copy()
        far[:BATCH_SIZE] += FAR * second_half[:, None]
        return x, far

    def move(index, batch):
        images, labels = batch
        moves = keras.ops.reshape(second_half, (-1,) + (1,) * (len(labels.shape) - 1))
        return images, labels + FAR * moves * keras.ops.cast(index == 0, "float32")

    return x.enumerate().map(move), y


def pipelines():
    """Returns the rows of `kregkit.data.pipeline`."""
    images = np.random.default_rng(0).integers(0, 255, (BATCH_SIZE * STEPS, 6, 6, 1)).astype("uint8")
    labels = (np.arange(len(images)) % 2).astype("float32")
    augmented = [data.RandomFlip(), data.RandomCrop(1), data.ColorJitter(0.2, 0.2, 0)]
    mixed = [data.RandomRotation(10), data.MixUp(0.4, num_classes=2)]
    return [
        contracts.Case(
            data.pipeline,
            lambda labels=labels, operations=operations: data.pipeline(
                (images, labels), BATCH_SIZE, operations, seed=1
            ),
            name=name,
        )
        for name, labels, operations in (
            ("augmented", labels, augmented),
            ("mixed", labels.astype("int64"), mixed),
        )
    ]


def plain_model():
    """The optimizers' and callbacks' model: no BatchNormalization, which replicas and micro-batches compute apart."""
    glorot = keras.initializers.GlorotUniform(seed=0)
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(6, activation="tanh", kernel_initializer=glorot),
            keras.layers.Dense(1, kernel_initializer=glorot),
        ]
    )


def rate_model():
    """The smallest one, for callbacks of which only the rates are looked at."""
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, kernel_initializer="zeros")])


def image_model(outputs):
    glorot = keras.initializers.GlorotUniform(seed=0)
    return keras.Sequential(
        [keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(outputs, kernel_initializer=glorot)]
    )


def fit(modes, make_model, make_optimizer, x, y=None, callbacks=(), epochs=EPOCHS, loss="mse", steps=None):
    """Trains through plain `fit` in all of `modes` at once; returns the model and its history."""
    keras.config.set_dtype_policy(next((mode for mode in modes if mode.startswith("mixed_")), "float32"))
    keras.utils.set_random_seed(0)

    def compiled():
        model, optimizer = make_model(), make_optimizer()
        if "mixed_float16" in modes:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=SCALE)
        model.compile(
            optimizer,
            loss,
            run_eagerly="eager" in modes,
            jit_compile="jit" in modes,
            steps_per_execution=2 if "steps_per_execution" in modes else 1,
        )
        return model

    try:
        if "mirrored" in modes:
            distribution.enable_loss_scaling()
            with contracts.strategy().scope():
                model = compiled()
        else:
            model = compiled()
        if "accumulation" in modes:
            # Loss scaling hands the gradients on to an optimizer that gathers them.
            optimizer = model.optimizer
            getattr(optimizer, "inner_optimizer", optimizer).gradient_accumulation_steps = ACCUMULATION
        arrays = {"steps_per_epoch": steps} if y is None else {"batch_size": BATCH_SIZE, "shuffle": False}
        history = model.fit(x, y, epochs=epochs, verbose=0, callbacks=list(callbacks), **arrays)
    finally:
        keras.config.set_dtype_policy("float32")
    return model, history


@dataclasses.dataclass
class Subject:
    """A row as something to fit: a model, an optimizer, data, and the numbers that a fit comes to."""

    make_model: object
    # Called with the number of batches per update.
    make_optimizer: object
    x: object
    y: object = None
    make_callback: object = None
    numbers: object = None
    # What the numbers hang on besides the updates: "update" (on nothing else), "epoch", "batch" (each one counts, also
    # those left out and micro-batches), or "own".
    clock: str = "update"

    def run(self, modes):
        """Returns the numbers of a fit in these modes."""
        callback = self.make_callback and self.make_callback()
        x, y = self.x() if callable(self.x) else self.x, self.y
        if "mixed_float16" in modes:
            x, y = overflowing(x, y)
        model, history = fit(modes, self.make_model, self.make_optimizer, x, y, [callback] if callback else [])
        if "mixed_float16" in modes:
            scale = float(np.asarray(keras.ops.convert_to_tensor(model.optimizer.dynamic_scale)))
            assert scale == SCALE / 2**EPOCHS, f"one step of each epoch must overflow, but the scale is {scale:g}"
        return self.arrays(callback, model, history)

    def arrays(self, callback, model, history):
        return [
            np.asarray(keras.ops.convert_to_numpy(one), "float64") for one in self.numbers(callback, model, history)
        ]

    def reference(self, left_out, together):
        """Returns the numbers of a fit in graph mode whose updates see the same examples, or `None` if there is none.

        Args:
            left_out: Boolean, whether the first step of each epoch isn't taken.
            together: Integer, how many batches make an update.
        """
        changed = left_out or together > 1
        if not changed or self.clock == "batch":
            return self.run(("graph",))
        if self.clock == "own" or (self.clock == "epoch" and together > 1):
            return None
        epochs = [batches[1:] if left_out else batches for batches in self.batches()]
        # Updates of several batches reach over the ends of epochs.
        parts = epochs if together == 1 else [[batch for batches in epochs for batch in batches]]
        batches = [batch for part in parts for batch in part[: len(part) // together * together]]
        x, y = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH_SIZE * together)
        callback = self.make_callback and self.make_callback()
        make_optimizer = functools.partial(self.make_optimizer, together)
        model, history = fit(
            ("graph",),
            self.make_model,
            make_optimizer,
            data,
            callbacks=[callback] if callback else [],
            epochs=len(parts),
            steps=len(batches) // together // len(parts),
        )
        return self.arrays(callback, model, history)

    def batches(self):
        """Returns a list of batches per epoch, in the order of training."""
        if self.y is None:
            pipeline = self.x()
            return [list(pipeline.as_numpy_iterator()) for _ in range(EPOCHS)]
        starts = range(0, len(self.x), BATCH_SIZE)
        return [[(self.x[i : i + BATCH_SIZE], self.y[i : i + BATCH_SIZE]) for i in starts]] * EPOCHS


class Spaced(keras.optimizers.schedules.LearningRateSchedule):
    """The rate of updates that take several batches each: Keras asks for it at the last batch of an update."""

    def __init__(self, schedule, together):
        super().__init__()
        self.schedule, self.together = schedule, together

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        return self.schedule(self.together * step + (self.together - 1))


def subject_of(kind, case):
    """Returns the `Subject` of a row."""
    x, y = contracts.regression_data(case.input_shape if kind == "layer" else (8,), BATCH_SIZE * STEPS)

    def weights(callback, model, history):
        return model.get_weights()

    def sgd(together=1):
        return keras.optimizers.SGD(1e-2, momentum=0.5)

    if kind == "plain":
        return Subject(plain_model, sgd, x, y, numbers=weights)
    if kind == "layer":
        return Subject(
            lambda: contracts.layer_model(case), lambda together=1: keras.optimizers.SGD(1e-3), x, y, numbers=weights
        )
    if kind == "optimizer":
        return Subject(plain_model, lambda together=1: case.make(), x, y, numbers=weights)
    if kind == "schedule":
        return Subject(
            plain_model, lambda together=1: keras.optimizers.SGD(Spaced(case.make(), together)), x, y, numbers=weights
        )
    if kind == "pipeline":
        outputs = [*case.make().element_spec[1].shape[1:], 1]
        make_model = functools.partial(image_model, outputs[0])
        return Subject(make_model, lambda together=1: keras.optimizers.SGD(1e-2), case.make, numbers=weights)

    def rates(callback, model, history):
        return [history.history["learning_rate"]]

    return Subject(
        case.model or (plain_model if case.observe else rate_model),
        sgd,
        x,
        y,
        lambda: case.make(tempfile.mkdtemp(dir=SCRATCH.name)),
        case.observe or rates,
        CLOCKS.get(case.component.__name__, "own") if case.observe else "batch",
    )


def outcome(kind, case, modes, memory=None):
    """Returns the `Cell` of a row in one mode or pair of modes.

    Args:
        kind: String, as `rows` gives it.
        case: `contracts.Case`.
        modes: Tuple of one or two of `MODES`.
        memory: Dictionary in which the fits to compare with are kept between the cells of a row.
    """
    memory = {} if memory is None else memory
    impossible = IMPOSSIBLE.get(frozenset(modes))
    if impossible:
        return Cell("none", impossible)
    if kind.startswith(UNMENDED):
        return unmended(kind.removeprefix(UNMENDED).strip(), case, modes)
    try:
        if case.same:
            return comparison(subject_of(kind, case), case, modes, memory)
        return expectation(case, modes, memory)
    except Exception as error:
        if isinstance(error, ValueError) and ("Received: " in str(error) or "kregkit" in str(error)):
            return Cell("refused", first_line(error))
        failure = control(modes)
        if failure:
            return Cell("keras", failure)
        return Cell("raises", f"{type(error).__name__}: {first_line(error)}")


def unmended(kind, case, modes):
    """Returns the `Cell` of a row as `outcome` does, where `distribution.enable_loss_scaling` wasn't called."""
    optimizer = keras.optimizers.LossScaleOptimizer
    check = getattr(optimizer.check_finite, "__wrapped__", optimizer.check_finite)
    with (
        mock.patch.object(optimizer, "check_finite", check),
        mock.patch.object(distribution, "enable_loss_scaling", lambda: False),
    ):
        if kind != "plain":
            return outcome(kind, case, modes)
        subject = subject_of(kind, case)
        x, y = overflowing(subject.x, subject.y)
        model, _ = fit(modes, subject.make_model, subject.make_optimizer, x, y)
    if all(np.isfinite(weight).all() for weight in model.get_weights()):
        return Cell("works")
    return Cell("keras", "the weights are NaN after a step whose gradients overflow on the second replica")


@functools.cache
def control(modes):
    """Returns the error in which a fit in these modes ends without kregkit, or `None`."""
    x, y = contracts.regression_data((8,), BATCH_SIZE * STEPS)
    try:
        fit(modes, plain_model, lambda: keras.optimizers.SGD(0.01), x, y)
    except Exception as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return None


def comparison(subject, case, modes, memory):
    """Compares a row's numbers with those of the fit that this mode or pair must agree with."""
    numbers = subject.run(modes)
    if not all(np.isfinite(number).all() for number in numbers):
        return Cell("not finite")
    left_out, together = "mixed_float16" in modes, ACCUMULATION if "accumulation" in modes else 1
    key = (left_out, together)
    if modes == ("graph",):
        memory[key] = numbers
    if key not in memory:
        memory[key] = subject.reference(*key)
    if memory[key] is None:
        return Cell("finite", "what a step and an update are to this callback is in its own tests")
    try:
        contracts_tolerance = [case.tolerance.get(mode, 0.0) for mode in modes]
        relative = max([ROUNDING.get(mode, 0.0) for mode in modes] + [2e-3, *contracts_tolerance])
        assert len(numbers) == len(memory[key]), "another number of arrays"
        for one, other in zip(numbers, memory[key], strict=True):
            scale = max(np.abs(other).max(initial=0.0), 1e-2)
            np.testing.assert_allclose(one, other, rtol=0, atol=relative * scale)
    except AssertionError as error:
        line = next((line for line in str(error).splitlines() if "Max absolute" in line), first_line(error))
        return Cell("differs", line.strip())
    return Cell("works")


def expectation(case, modes, memory):
    """Compares the mean of what a stochastic layer computes in training with its mean in graph mode.

    The model's weights stay as they are, and the loss is a fixed linear function of the layer's outputs: its mean over
    epochs estimates the same number in every mode, within `STANDARD_ERRORS`.
    """
    x, y = contracts.regression_data(case.input_shape, BATCH_SIZE * STEPS)

    def linear(y_true, y_pred):
        return keras.ops.mean(y_pred, axis=-1)

    def losses(modes):
        make_model = functools.partial(contracts.layer_model, case)
        _, history = fit(modes, make_model, lambda: keras.optimizers.SGD(0.0), x, y, epochs=DRAWN_EPOCHS, loss=linear)
        return np.asarray(history.history["loss"])

    if "losses" not in memory:
        memory["losses"] = losses(("graph",))
    one, other = memory["losses"] if modes == ("graph",) else losses(modes), memory["losses"]
    if not np.isfinite(one).all():
        return Cell("not finite")
    error = np.sqrt((one.var(ddof=1) + other.var(ddof=1)) / DRAWN_EPOCHS)
    rounding = max([ROUNDING.get(mode, 0.0) for mode in modes] + [1e-4]) * max(abs(other.mean()), 0.1)
    distance = abs(one.mean() - other.mean())
    if distance > STANDARD_ERRORS * error + rounding:
        return Cell("differs", f"its expectation by {distance:.2g}, {distance / max(error, 1e-12):.1f} standard errors")
    return Cell("works")


def first_line(error):
    """Returns the first line of a message that tells something."""
    lines = [re.sub(r"\x1b\[\d+m", "", line).strip() for line in str(error).splitlines()]
    empty = ("Exception encountered when", "Graph execution error", "Detected at node", "in user code", "File ")
    lines = [line for line in lines if line and not line.startswith(empty)]
    return (lines or [type(error).__name__])[0][:240]
