"""Update rules and full-batch solvers beside their peers.

    python benchmarks/optimizers.py [steps] [time] [minimize] [--tune] [--smoke]

- `steps`: steps and seconds to a target loss, each rule at the rate and decays that one and the same search finds for
  it. The search (`--tune`, or a first run) takes minutes and keeps its findings in `output/optimizers_tuned.json`.
- `time`: a training step's time, beside Keras's nearest rule.
- `minimize`: full-batch training to one loss, beside `scipy.optimize.minimize` on an eager GradientTape, and Adam.
"""

import json
import os
import pathlib
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
import threadpoolctl
from _interleave import interleaved_fits
from scipy import optimize
from sklearn.datasets import load_digits

from kregkit.optimizers import SOAP, Adam, LayerwiseLearningRate, Momentum, minimize

SMOKE = "--smoke" in sys.argv
PARTS = [name for name in ("steps", "time", "minimize") if name in sys.argv] or ["steps", "time", "minimize"]
TUNED = pathlib.Path(__file__).parent / "output" / "optimizers_tuned.json"
TUNING_SEEDS = (0,) if SMOKE else (0, 1, 2)
SEEDS = (10,) if SMOKE else (10, 11, 12, 13, 14)

K = keras.optimizers


class EarlySOAP(SOAP):
    """Turned at its first refresh, however far `beta_2` looks back: what waiting for the averages is worth."""

    first_refresh = 10


RULES = {
    "SGD": (lambda rate: K.SGD(rate), ()),
    "SGD momentum": (lambda rate, b1: K.SGD(rate, momentum=b1), ("b1",)),
    "Momentum": (lambda rate, b1: Momentum(rate, b1), ("b1",)),
    "Momentum Nesterov": (lambda rate, b1: Momentum(rate, b1, nesterov=True), ("b1",)),
    "RMSprop": (lambda rate, b2: K.RMSprop(rate, rho=b2), ("b2",)),
    "AdamW": (lambda rate, b1, b2: K.AdamW(rate, weight_decay=0.0, beta_1=b1, beta_2=b2), ("b1", "b2")),
    "Adam uncorrected": (lambda rate, b1, b2: Adam(rate, b1, b2, bias_correction=False), ("b1", "b2")),
    "Muon": (lambda rate, b1: K.Muon(rate, momentum=b1, weight_decay=None, adam_weight_decay=None), ("b1",)),
    "SOAP": (lambda rate, b1, b2: SOAP(rate, b1, b2), ("b1", "b2")),
    "SOAP, turned at 10": (lambda rate, b1, b2: EarlySOAP(rate, b1, b2), ("b1", "b2")),
}
LADDERS = {
    "rate": [float(rate) for rate in 10.0 ** np.arange(-5, 2.51, 0.25)],
    "b1": [0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998],
    "b2": [0.3, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999],
}
FIRST = {"rate": 10.0**-1.5, "b1": 0.9, "b2": 0.99}


class LeastSquares:
    """`|A (W - W*) B|^2` with A and B of condition 100; full batch, down to a ten-thousandth of the start."""

    target, every, limit, side = 1e-4, 1, 50 if SMOKE else 4000, 8 if SMOKE else 32

    rules = tuple(rule for rule in RULES if rule != "SOAP, turned at 10")

    def __init__(self, rotated):
        self.rotated = rotated

    def start(self, seed):
        rng = np.random.default_rng(seed)
        scales = np.geomspace(1, 0.01, self.side)

        def matrix():
            if not self.rotated:
                return np.diag(rng.permutation(scales))
            turns = [np.linalg.qr(rng.normal(size=(self.side, self.side)))[0] for _ in range(2)]
            return turns[0] * scales @ turns[1]

        self.a, self.b, self.goal = (
            tf.Variable(value, dtype=tf.float32) for value in (matrix(), matrix(), rng.normal(size=(self.side,) * 2))
        )
        self.variables = [keras.Variable(np.zeros((self.side,) * 2), dtype="float32")]
        self.scale = tf.reduce_sum(tf.square(self.a @ self.goal @ self.b))

    def loss(self, step=None):
        return tf.reduce_sum(tf.square(self.a @ (self.variables[0] - self.goal) @ self.b)) / self.scale


class FurtherLeastSquares(LeastSquares):
    """Down to a hundred-millionth: where the smallest gradients count, and a rule turned early has long been turned."""

    target = 1e-8
    rules = ("AdamW", "SOAP", "SOAP, turned at 10")


class Digits:
    """A small CNN on the digits in batches of 64, down to a loss of 0.05 over all examples."""

    target, every, limit, batch = 0.05, 10, 20 if SMOKE else 400, 64
    rules = LeastSquares.rules

    def __init__(self):
        self.x, self.y = digits()

    def start(self, seed):
        self.model = cnn(seed)
        self.variables = self.model.trainable_variables
        self.seed = seed
        self.batches = len(self.x) // self.batch

    def loss(self, step=None):
        x, y = self.x, self.y
        if step is not None:
            epoch, place = step // self.batches, step % self.batches
            order = tf.random.experimental.stateless_shuffle(tf.range(len(x)), tf.stack([self.seed, epoch]))
            chosen = order[place * self.batch : (place + 1) * self.batch]
            x, y = tf.gather(x, chosen), tf.gather(y, chosen)
        return tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, self.model(x), from_logits=True))


PROBLEMS = {
    "least squares, aligned": lambda: LeastSquares(rotated=False),
    "least squares, aligned, further": lambda: FurtherLeastSquares(rotated=False),
    "least squares, rotated": lambda: LeastSquares(rotated=True),
    "digits CNN": Digits,
}


def digits():
    x, y = load_digits(return_X_y=True)
    return tf.constant(x.reshape(-1, 8, 8, 1) / 16, tf.float32), tf.constant(y, tf.int32)


def cnn(seed=0, activation="relu"):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(16, 3, activation=activation),
        keras.layers.Conv2D(32, 3, strides=2, activation=activation),
        keras.layers.Flatten(),
        keras.layers.Dense(32, activation=activation),
        keras.layers.Dense(10),
    ])  # fmt: skip


class Run:
    """One rule with one choice of decays on one problem and seed; traced once for all rates."""

    def __init__(self, problem, rule, decays, seed):
        self.problem = PROBLEMS[problem]()
        self.problem.start(seed)
        self.optimizer = RULES[rule][0](rate=0.1, **decays)
        self.optimizer.build(self.problem.variables)
        self.state = [*self.problem.variables, *self.optimizer.variables]
        self.fresh = [keras.ops.convert_to_tensor(variable).numpy().copy() for variable in self.state]

    @tf.function
    def descend(self, limit):
        problem = self.problem
        step, loss = tf.constant(0), problem.loss()
        start = loss
        # A NaN fails the comparisons too.
        while step < limit and loss > problem.target and loss < 100 * start:
            with tf.GradientTape() as tape:
                batch_loss = problem.loss(step)
            gradients = tape.gradient(batch_loss, [variable.value for variable in problem.variables])
            self.optimizer.apply(gradients, problem.variables)
            step += 1
            if step % problem.every == 0:
                loss = problem.loss()
        return step, loss

    def __call__(self, rate, limit):
        """Returns the steps to the target, infinite if they are more than `limit`, the seconds and the last loss."""
        for variable, value in zip(self.state, self.fresh):
            variable.assign(value)
        self.optimizer.learning_rate = rate
        began = time.perf_counter()
        step, loss = self.descend(tf.constant(limit))
        seconds = time.perf_counter() - began
        return (int(step) if float(loss) <= self.problem.target else np.inf), seconds, float(loss)


def tune(problem, rule):
    """Returns the setting that no neighbour on any ladder beats, by hill climbing from `FIRST`."""
    names = ("rate", *RULES[rule][1])
    runs, scores = {}, {}
    limit, target = PROBLEMS[problem]().limit, PROBLEMS[problem]().target

    def steps(run, rate):
        arrived, _, loss = run(rate, limit)
        # Who doesn't arrive is worse than all who do, by how far off the loss is.
        return arrived if np.isfinite(arrived) else 1e6 * (1 + np.log10(np.nan_to_num(loss, nan=1e30) / target))

    def score(setting):
        if setting not in scores:
            values = dict(zip(names, (LADDERS[name][place] for name, place in zip(names, setting))))
            rate = values.pop("rate")
            decays = tuple(values.items())
            if decays not in runs:
                runs[decays] = [Run(problem, rule, values, seed) for seed in TUNING_SEEDS]
            scores[setting] = statistics.median(steps(run, rate) for run in runs[decays])
        return scores[setting]

    best = tuple(int(np.argmin(np.abs(np.array(LADDERS[name]) - FIRST[name]))) for name in names)
    # The first rate may be hopeless: look for one that arrives at all.
    best = min(((place, *best[1:]) for place in range(0, len(LADDERS["rate"]), 4)), key=score)
    while True:
        around = [best]
        for index, name in enumerate(names):
            for move in (-2, -1, 1, 2) if name == "rate" else (-1, 1):
                place = best[index] + move
                if 0 <= place < len(LADDERS[name]):
                    around.append((*best[:index], place, *best[index + 1 :]))
        better = min(around, key=score)
        if score(better) >= score(best) or SMOKE:
            break
        best = better
        limit = int(min(limit, 3 * score(best)))
    found = {name: LADDERS[name][place] for name, place in zip(names, best)}
    # Decays of 0 are an end that means something: no momentum.
    found["edge"] = [
        name for name, place in zip(names, best)
        if place == len(LADDERS[name]) - 1 or (place == 0 and LADDERS[name][0] > 0)
    ]  # fmt: skip
    return found


def rules_of(problem):
    """Returns the rules to run on a problem; in smoke mode all of them on the first one only."""
    rules = PROBLEMS[problem]().rules
    return ("AdamW", "SOAP") if SMOKE and problem != next(iter(PROBLEMS)) else rules


def steps_part():
    tuned = json.loads(TUNED.read_text()) if TUNED.exists() and "--tune" not in sys.argv and not SMOKE else {}
    for problem in PROBLEMS:
        for rule in rules_of(problem):
            key = f"{problem}: {rule}"
            if key not in tuned:
                if SMOKE and rule != "SGD":
                    tuned[key] = {**{name: FIRST[name] for name in ("rate", *RULES[rule][1])}, "edge": []}
                else:
                    tuned[key] = tune(problem, rule)
                    print(key, tuned[key], flush=True)
                if not SMOKE:
                    TUNED.parent.mkdir(exist_ok=True)
                    TUNED.write_text(json.dumps(tuned, indent=1))
    for problem in PROBLEMS:
        rows, rules = {}, rules_of(problem)
        runs = {
            rule: [
                Run(problem, rule, {name: tuned[f"{problem}: {rule}"][name] for name in RULES[rule][1]}, seed)
                for seed in SEEDS
            ]
            for rule in rules
        }
        for index in range(len(SEEDS)):
            for rule in rules:
                run = runs[rule][index]
                run(tuned[f"{problem}: {rule}"]["rate"], 1)  # Traces.
                rows.setdefault(rule, []).append(run(tuned[f"{problem}: {rule}"]["rate"], run.problem.limit))
        reference = statistics.median(steps for steps, _, _ in rows["AdamW"])
        print(f"\n{problem}: to {PROBLEMS[problem]().target:g}, median [least, most] of {len(SEEDS)} seeds")
        print(f"{'rule':20}{'steps':>18}{'of AdamW':>10}{'seconds':>9}  setting")
        for rule, results in rows.items():
            steps, seconds, _ = zip(*results)
            setting = tuned[f"{problem}: {rule}"]
            shown = ", ".join(f"{name} {value:.3g}" for name, value in setting.items() if name != "edge")
            edge = f"  (edge: {setting['edge']})" if setting["edge"] else ""
            print(
                f"{rule:20}{f'{statistics.median(steps):g} [{min(steps):g}, {max(steps):g}]':>18}"
                f"{statistics.median(steps) / reference:10.2f}{statistics.median(seconds):9.2f}  {shown}{edge}"
            )


PAIRS = {  # kregkit's rule: Keras's nearest
    "Momentum": (lambda: Momentum(0.001), "SGD momentum", lambda: K.SGD(0.001, momentum=0.9)),
    "Momentum Nesterov": (
        lambda: Momentum(0.001, nesterov=True), "SGD Nesterov", lambda: K.SGD(0.001, momentum=0.9, nesterov=True),
    ),
    "Adam uncorrected": (lambda: Adam(0.001, bias_correction=False), "Adam", lambda: K.Adam(0.001)),
    "LayerwiseLearningRate(AdamW), 1 factor": (
        lambda: LayerwiseLearningRate(K.AdamW(0.001), default=0.5), "AdamW", lambda: K.AdamW(0.001),
    ),
    "LayerwiseLearningRate(AdamW), by depth": (None, "AdamW", lambda: K.AdamW(0.001)),
    "SOAP": (lambda: SOAP(0.001, weight_decay=0.004), "AdamW", lambda: K.AdamW(0.001)),
    "SOAP, every 100": (
        lambda: SOAP(0.001, precondition_frequency=100, weight_decay=0.004), "AdamW", lambda: K.AdamW(0.001),
    ),
    "(Muon)": (lambda: K.Muon(0.001), "AdamW", lambda: K.AdamW(0.001)),
}  # fmt: skip


def time_part():
    width, depth, rounds, steps = (32, 2, 2, 5) if SMOKE else (256, 8, 40, 50)
    print(
        f"\nms per training step of {depth} x Dense({width}), batch 32: "
        f"median of {rounds} interleaved epochs (matrix rules: a fifth of them)"
    )
    print(f"{'kregkit':40}{'ms':>8}  {'Keras':14}{'ms':>8}{'ratio':>8}")
    x = np.random.default_rng(0).normal(size=(32 * steps, width)).astype("float32")
    for name, (make, peer, make_peer) in PAIRS.items():

        def fit(make, layerwise=False):
            layers = [keras.layers.Dense(width, activation="relu") for _ in range(depth)]
            model = keras.Sequential([keras.Input((width,)), *layers])
            optimizer = LayerwiseLearningRate.by_depth(K.AdamW(0.001), model, 0.8) if layerwise else make()
            model.compile(optimizer, "mse", jit_compile=False)
            data = tf.data.Dataset.from_tensor_slices((x, x)).batch(32).cache().prefetch(2)
            return lambda callback, epochs: model.fit(data, epochs=epochs, verbose=0, callbacks=[callback])

        # What is several times slower needs no 40 rounds to show it.
        few = rounds // 5 if name.startswith(("SOAP", "(Muon")) and not SMOKE else rounds
        seconds = interleaved_fits({"ours": fit(make, make is None), "peer": fit(make_peer)}, few)
        ours, theirs = (statistics.median(seconds[key]) * 1000 / steps for key in ("ours", "peer"))
        ratio = statistics.median(a / b for a, b in zip(seconds["ours"], seconds["peer"]))
        print(f"{name:40}{ours:8.2f}  {peer:14}{theirs:8.2f}{ratio:8.2f}", flush=True)


def penalised_cnn():
    model = cnn(activation="tanh")
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            layer.kernel.regularizer = keras.regularizers.L2(1e-4)
    return model


def cross_entropy(y, logits):
    return keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)


class StopAt(keras.callbacks.Callback):
    def __init__(self, target):
        super().__init__()
        self.target = target
        self.created = self.started = time.perf_counter()

    def on_train_begin(self, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = logs["loss"] <= self.target


def eager_scipy(x, y, target, max_iterations):
    """What one writes without kregkit: an eager tape, and the weights as one vector."""
    model = penalised_cnn()
    weights = model.trainable_variables
    ends = np.cumsum([int(np.prod(weight.shape)) for weight in weights])[:-1]

    def value_and_gradient(vector):
        for weight, piece in zip(weights, np.split(vector, ends)):
            weight.assign(piece.reshape(weight.shape))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(cross_entropy(y, model(x, training=False))) + tf.add_n(model.losses)
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        return float(loss), np.concatenate([gradient.numpy().ravel() for gradient in gradients]).astype("float64")

    def stop(intermediate_result):
        if intermediate_result.fun <= target:
            raise StopIteration

    start = np.concatenate([weight.numpy().ravel() for weight in weights]).astype("float64")
    result = optimize.minimize(
        value_and_gradient, start, jac=True, method="L-BFGS-B", callback=stop, options={"maxiter": max_iterations}
    )
    return result.nit, result.fun


BEFORE_FIRST_ITERATION = []  # Seconds in which `minimize` traces its one graph and evaluates it twice.


def ours(x, y, target, max_iterations, **kwargs):
    stop = StopAt(target)
    model = penalised_cnn()
    stop.created = time.perf_counter()
    history = minimize(
        model,
        x,
        y,
        cross_entropy,
        max_iterations=max_iterations,
        callbacks=[stop],
        verbose=0,
        **kwargs,
    )
    if not kwargs:
        BEFORE_FIRST_ITERATION.append(stop.started - stop.created)
    return history.result.nit, history.result.fun


def full_batch_adam(x, y, target, max_iterations, rate):
    model = penalised_cnn()
    model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = tf.data.Dataset.from_tensors((x, y)).cache()
    history = model.fit(data, epochs=max_iterations, verbose=0, callbacks=[StopAt(target)])
    return len(history.epoch), history.history["loss"][-1]


def limited(function):
    def run(*arguments):
        with threadpoolctl.threadpool_limits(1, "blas"):
            return function(*arguments)

    return run


def minimize_part():
    x, y = digits()
    rounds = 1 if SMOKE else 5
    solvers = {
        "kregkit minimize, L-BFGS-B": ours,
        "  the same in chunks of 600": lambda *a: ours(*a, batch_size=600),
        "  Newton-CG": lambda *a: ours(*a, method="Newton-CG"),
        "SciPy on an eager tape": eager_scipy,
        "  with one BLAS thread": limited(eager_scipy),
    }
    # The penalised loss's floor is near 0.0163.
    for target, limit in ((0.05, 20),) if SMOKE else ((0.1, 1000), (0.025, 1000), (0.017, 1000)):
        seconds, found = {}, {}
        for _ in range(rounds):
            for name, solve in solvers.items():
                began = time.perf_counter()
                found[name] = solve(x, y, target, limit)
                seconds.setdefault(name, []).append(time.perf_counter() - began)
        # Adam at the rate that arrives soonest; a later rate may stop where an earlier one arrived.
        adam_limit = limit
        for rate in (0.01,) if SMOKE else (0.01, 0.003, 0.03):
            began = time.perf_counter()
            steps, loss = full_batch_adam(x, y, target, adam_limit, rate)
            if loss <= target or "full-batch Adam" not in found:
                found["full-batch Adam"] = steps, loss
                seconds["full-batch Adam"] = [time.perf_counter() - began]
                adam_limit = steps
        base = statistics.median(seconds["kregkit minimize, L-BFGS-B"])
        print(f"\ndigits CNN, penalised, full batch, to a loss of {target}: median of {rounds} (Adam: 1), end to end")
        print(f"{'solver':32}{'iterations':>11}{'loss':>9}{'seconds':>9}{'ratio':>7}")
        for name, values in seconds.items():
            middle = statistics.median(values)
            print(f"{name:32}{found[name][0]:11d}{found[name][1]:9.4f}{middle:9.2f}{middle / base:7.2f}")
        print(f"kregkit's tracing and checks before the first step: {statistics.median(BEFORE_FIRST_ITERATION):.2f} s")


for part in PARTS:
    {"steps": steps_part, "time": time_part, "minimize": minimize_part}[part]()
