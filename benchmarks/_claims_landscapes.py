"""Update rules on small landscapes whose curvature is known: narrow valleys, turned or not, noise, a saddle."""

import dataclasses
import functools
import math

import keras
import numpy as np
import tensorflow as tf

from kregkit import optimizers

SIDE, CONDITION, TUNING_SEEDS = 6, 1000.0, (9001, 9002)
RATES = np.geomspace(1e-4, 3.0, 14)
RULES = {
    "SGD": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: optimizers.Momentum(0.1, momentum=0.9),
    "Nesterov": lambda: optimizers.Momentum(0.1, momentum=0.9, nesterov=True),
    "Adam": lambda: optimizers.Adam(0.1),
    "Adam, short memory": lambda: optimizers.Adam(0.1, beta_2=0.95),
    "SOAP": lambda: optimizers.SOAP(0.1, beta_1=0.9, beta_2=0.95, precondition_frequency=1),
    "SOAP, short memory": lambda: optimizers.SOAP(0.1, beta_1=0.5, beta_2=0.9, precondition_frequency=1),
}


@dataclasses.dataclass(frozen=True)
class Landscape:
    """`|A (W - W*) B|^2 / 2` of a 6 x 6 matrix, with a condition number of 1,000.

    Args:
        rotated: Boolean, whether A and B are turned at random, or diagonal.
        noise: Float, the standard deviation of what is added to each entry of the gradient.
        steps: Integer.
    """

    rotated: bool = False
    noise: float = 0.0
    steps: int = 150


def _matrices(landscape, seed):
    rng = np.random.default_rng(seed)
    matrices = []
    for _ in range(2):
        # Each side has the square root of the condition number, and the loss squares it.
        scales = np.geomspace(CONDITION**-0.25, 1, SIDE)[rng.permutation(SIDE)]
        turn = np.linalg.qr(rng.normal(size=(SIDE, SIDE)))[0] if landscape.rotated else np.eye(SIDE)
        matrices.append((turn @ np.diag(scales) @ turn.T).astype("float32"))
    return (*matrices, rng.normal(size=(SIDE, SIDE)).astype("float32"))


@functools.cache
def _runner(rule, noise, steps):
    weights = keras.Variable(np.zeros((SIDE, SIDE), "float32"))
    optimizer = RULES[rule]()
    optimizer.build([weights])
    fresh = [keras.ops.convert_to_numpy(variable) for variable in optimizer.variables]

    @tf.function
    def descend(left, right, goal, seed):
        losses = tf.TensorArray(tf.float32, steps + 1)
        for step in tf.range(steps + 1):
            inner = tf.linalg.matmul(left, weights.value - goal) @ right
            losses = losses.write(step, tf.reduce_sum(inner**2) / 2)
            gradient = tf.linalg.matmul(left, inner, transpose_a=True) @ tf.transpose(right)
            gradient += noise * tf.random.stateless_normal(gradient.shape, tf.stack([seed, step]))
            optimizer.apply([gradient], [weights])
        return losses.stack()

    def run(landscape, rate, seed):
        for variable, value in zip(optimizer.variables, fresh):
            variable.assign(value)
        weights.assign(np.zeros((SIDE, SIDE)))
        optimizer.learning_rate = rate
        return descend(*_matrices(landscape, seed), tf.constant(seed)).numpy().astype("float64")

    return run


def losses(rule, landscape, rate, seed):
    """Returns the loss before each step, as a part of the first."""
    found = _runner(rule, landscape.noise, landscape.steps)(landscape, rate, seed)
    return found / found[0]


def score(rule, landscape, rate, seed):
    """Returns the mean of log10(loss / first loss) over the last ten steps, 3 where it diverges."""
    end = losses(rule, landscape, rate, seed)[-10:]
    return float(np.mean(np.log10(np.clip(end, 1e-12, 1e3)))) if np.isfinite(end).all() else 3.0


def tuned_score(rules, landscape, seed, record):
    """Returns the score at the rule and rate that are best on the landscapes of other seeds."""
    key = f"{' or '.join(rules)} on {landscape}"
    if key not in record:
        scores = {
            (rule, float(rate)): float(np.mean([score(rule, landscape, rate, other) for other in TUNING_SEEDS]))
            for rule in rules
            for rate in RATES
        }
        rule, rate = min(scores, key=scores.get)
        record[key] = {"rule": rule, "rate": rate, "score": scores[rule, rate]}
    return score(record[key]["rule"], landscape, record[key]["rate"], seed)


def steps_to_leave_saddle(velocity, seed, rate=0.02, size=20, negative=3):
    """Returns log10 of the steps that it takes from beside a saddle until the loss has fallen by 1."""
    rng = np.random.default_rng(seed)
    curvatures = np.concatenate([-rng.uniform(0.5, 1.5, negative), rng.uniform(0.5, 5.0, size - negative)])
    x = np.concatenate([1e-4 * rng.normal(size=negative), rng.normal(size=size - negative)])
    speed = np.zeros(size)
    for step in range(1, 20_000):
        speed = velocity * speed + curvatures * x
        x = x - rate * speed
        if curvatures[:negative] @ x[:negative] ** 2 / 2 < -1:
            return math.log10(step)
    return math.log10(20_000)
