"""What the stochastic layers cost per training step, beside what people use.

    python benchmarks/layers.py                  # all tables, about ten minutes on two cores
    python benchmarks/layers.py depth pooling    # some of: depth, pooling, connect, maxout
    python benchmarks/layers.py --smoke          # small shapes, seconds, for seeing that it runs

Within a table, kregkit and its peers take turns, one step each, in one process; times are medians over rounds, ratios
medians over rounds of one time over another's of the same round (stochastic depth: of means, since its steps differ).
A step is forward, backward and, for whole networks, the optimizer's update. Nothing else should run on the machine.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from _interleave import median_ratio, print_table

from kregkit.layers import (
    DropConnect,
    FractionalMaxPooling2D,
    Maxout,
    MaxoutConv2D,
    StochasticDepth,
    linear_survival,
)

SMOKE = "--smoke" in sys.argv


def timed(steps, rounds, warmup=3):
    """Returns each step's seconds, after all have been traced; the steps take turns."""
    for step in steps.values():
        for _ in range(warmup):
            step()
    seconds = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            result = step()
            tf.nest.map_structure(lambda tensor: tensor.numpy(), result)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def report(title, seconds, base, mean=False):
    print(f"\n{title}\n")
    average = statistics.fmean if mean else statistics.median
    rows = []
    for name, one in seconds.items():
        ratio = average(one) / average(seconds[base]) if mean else median_ratio(one, seconds[base])
        rows.append([name, f"{1e3 * average(one):.2f}", f"{ratio:.3f}"])
    print_table(["", "mean ms" if mean else "median ms", f"over {base!r}"], rows)


def normal(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape).astype("float32"))


def network_step(model, x, y, jit):
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(jit_compile=jit)
    def step():
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return step


class ResidualDropout(keras.layers.Layer):
    """Stochastic depth as people write it: Keras's Dropout with one coin per example."""

    def __init__(self, branch, survival_probability):
        super().__init__()
        self.branch = branch
        self.dropout = keras.layers.Dropout(1 - survival_probability, noise_shape=(None, 1, 1, 1))

    def call(self, inputs, training=None):
        return inputs + self.dropout(self.branch(inputs, training=training), training=training)


class Residual(keras.layers.Layer):
    """The full step: every branch is computed."""

    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def call(self, inputs, training=None):
        return inputs + self.branch(inputs, training=training)


def residual_network(wrap, num_blocks, channels, size):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(inputs)
    for probability in linear_survival(num_blocks):
        branch = keras.Sequential(
            [
                keras.Input((size, size, channels)),
                layers.Conv2D(channels, 3, padding="same", use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Conv2D(channels, 3, padding="same", use_bias=False),
                layers.BatchNormalization(),
            ]
        )
        x = layers.ReLU()(wrap(branch, probability)(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def depth():
    num_blocks, batch, size = (2, 8, 8) if SMOKE else (12, 64, 16)
    for channels in (8,) if SMOKE else (32, 64):
        x = normal(batch, size, size, 3)
        y = tf.constant(np.random.default_rng(1).integers(0, 10, batch))
        wraps = {
            "full": lambda branch, probability: Residual(branch),
            "kregkit batch": lambda branch, probability: StochasticDepth(branch, probability, "batch", seed=0),
            "kregkit subset": lambda branch, probability: StochasticDepth(branch, probability, "subset", seed=0),
            "kregkit sample (masked)": lambda branch, probability: StochasticDepth(branch, probability, "sample"),
            "Keras Dropout": ResidualDropout,
        }
        kept = statistics.fmean(linear_survival(num_blocks))
        for jit in (False, True):
            steps = {
                name: network_step(residual_network(wrap, num_blocks, channels, size), x, y, jit)
                for name, wrap in wraps.items()
            }
            rounds = 2 if SMOKE else (8 if jit else 60 if channels == 32 else 30)
            title = (
                f"Stochastic depth, {'XLA' if jit else 'graph'}: {num_blocks} blocks, {channels} channels, "
                f"batch {batch}, p_L 0.5; theoretical kept fraction {kept:.3f}"
            )
            seconds = timed(steps, rounds)
            report(title, seconds, "full", mean=True)


def pooling_step(pool, x, jit, backward):
    @tf.function(jit_compile=jit)
    def step(x):
        if not backward:
            return tf.reduce_sum(pool(x))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = pool(x)
            loss = tf.reduce_sum(y * y)
        return tape.gradient(loss, x)[0, 0, 0]

    return lambda: step(x)


def pooling():
    shape = (4, 16, 16, 8) if SMOKE else (32, 64, 64, 64)
    rounds = 3 if SMOKE else 25
    x = normal(*shape)
    ratio = 2**0.5

    def keras_layer(**arguments):
        layer = FractionalMaxPooling2D(ratio, data_format="channels_last", seed=0, **arguments)
        return lambda x: layer(x, training=True)

    def max_pool(x):
        return tf.nn.max_pool2d(x, 2, 2, "VALID")

    for overlapping in (True, False):

        def peer(x, overlapping=overlapping):
            return tf.nn.fractional_max_pool(
                x, (1, ratio, ratio, 1), pseudo_random=True, overlapping=overlapping, seed=1
            )[0]

        shared, example = keras_layer(overlapping=overlapping), keras_layer(overlapping=overlapping, share="example")
        for backward in (True, False):
            steps = {"tf.nn.fractional_max_pool, graph": pooling_step(peer, x, False, backward)}
            for jit in (False, True):
                mode = "XLA" if jit else "graph"
                steps[f"kregkit, {mode}"] = pooling_step(shared, x, jit, backward)
                steps[f"kregkit per example, {mode}"] = pooling_step(example, x, jit, backward)
                steps[f"max_pool2d, {mode}"] = pooling_step(max_pool, x, jit, backward)
            kind = "overlapping" if overlapping else "disjoint"
            passes = "forward and backward" if backward else "forward"
            seconds = timed(steps, rounds)
            report(f"Fractional max pooling, {kind}, {passes}, {shape}", seconds, "tf.nn.fractional_max_pool, graph")
            for mode in ("graph", "XLA"):
                per_example = median_ratio(seconds[f"kregkit per example, {mode}"], seconds[f"kregkit, {mode}"])
                over_max = median_ratio(seconds[f"kregkit, {mode}"], seconds[f"max_pool2d, {mode}"])
                print(f"{mode}: per example over shared {per_example:.3f}, over max_pool2d {over_max:.3f}")
    print("\nPeak memory of forward and backward, over the process before\n")
    rows = []
    for name in MEMORY:
        text = subprocess.check_output([sys.executable, __file__, "--memory", name, *["--smoke"] * SMOKE], text=True)
        rows.append([name, text.strip()])
    print_table(["overlapping", "MiB"], rows)


MEMORY = ("tf.nn.fractional_max_pool, graph", "kregkit, graph", "kregkit, XLA", "max_pool2d, graph")


def memory(name):
    """Prints how far one step raises the peak of the process's memory, in MiB; run in a process of its own."""
    x = normal(*((4, 16, 16, 8) if SMOKE else (32, 64, 64, 64)))
    ratio = 2**0.5
    layer = FractionalMaxPooling2D(ratio, data_format="channels_last", seed=0)
    pools = {
        "tf.nn": lambda x: tf.nn.fractional_max_pool(x, (1, ratio, ratio, 1), overlapping=True)[0],
        "kregkit": lambda x: layer(x, training=True),
        "max_pool2d": lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID"),
    }
    pool = next(pool for start, pool in pools.items() if name.startswith(start))
    jit = name.endswith("XLA")
    # What tracing and compiling take isn't the operation's.
    pooling_step(pool, x[:, :8, :8], jit, True)()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pooling_step(pool, x, jit, True)()
    print(f"{(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:.0f}")


def layer_step(layer, x, jit=False):
    if not layer.built:
        layer.build(x.shape)
    variables = [variable.value for variable in layer.trainable_variables]

    @tf.function(jit_compile=jit)
    def step():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(y * y)
        gradients = tape.gradient(loss, [x, *variables])
        return [tf.reduce_sum(gradient[0]) for gradient in gradients]

    return step


class NaiveDropConnect(keras.layers.Dense):
    """A mask per example, as one writes it first."""

    def call(self, inputs, training=None):
        shape = (tf.shape(inputs)[0], *self.kernel.shape)
        mask = tf.cast(tf.random.uniform(shape) < 0.5, inputs.dtype)
        return tf.einsum("bi,bio->bo", inputs, 2 * mask * self.kernel) + self.bias


def connect():
    batch, width = (8, 32) if SMOKE else (128, 1024)
    x = normal(batch, width)
    dense = keras.layers.Dense
    for jit in (False, True):
        steps = {
            "Dense": layer_step(dense(width), x, jit),
            "kregkit example": layer_step(DropConnect(dense(width), mask="example"), x, jit),
            "kregkit batch": layer_step(DropConnect(dense(width), mask="batch"), x, jit),
        }
        seconds = timed(steps, 3 if SMOKE else 60)
        if not jit:
            # Apart: gigabytes of masks leave no one's caches alone.
            slow = {
                "kregkit exact": layer_step(DropConnect(dense(width), mask="exact"), x),
                "naive, a mask per example": layer_step(NaiveDropConnect(width), x),
            }
            for name, one in timed(slow, 3, warmup=1).items():
                seconds[name] = [statistics.median(one)] * len(seconds["Dense"])
        title = f"DropConnect, {'XLA' if jit else 'graph'}: batch {batch}, {width} x {width}, forward and backward"
        report(title, seconds, "Dense")


class GroupedMaxout(keras.layers.Layer):
    """As TF Addons had it and people write it: pieces next to each other, reshaped, reduced."""

    def __init__(self, units, pieces):
        super().__init__()
        self.product = keras.layers.Dense(units * pieces)
        self.units, self.pieces = units, pieces

    def build(self, input_shape):
        self.product.build(input_shape)

    def call(self, inputs, training=None):
        return keras.ops.max(keras.ops.reshape(self.product(inputs), (-1, self.units, self.pieces)), axis=-1)


def time_distributed_maxout(width, units, pieces):
    return keras.Sequential(
        [
            keras.Input((width,)),
            keras.layers.RepeatVector(pieces),
            keras.layers.TimeDistributed(keras.layers.Dense(units)),
            keras.layers.Lambda(lambda x: keras.ops.max(x, axis=1)),
        ]
    )


class SeparateMaxout(keras.layers.Layer):
    """One Dense layer per piece, and `keras.layers.Maximum`."""

    def __init__(self, units, pieces):
        super().__init__()
        self.parts = [keras.layers.Dense(units) for _ in range(pieces)]

    def build(self, input_shape):
        for part in self.parts:
            part.build(input_shape)

    def call(self, inputs, training=None):
        return keras.layers.maximum([part(inputs) for part in self.parts])


class GroupedMaxoutConv2D(GroupedMaxout):
    def __init__(self, filters, pieces):
        super().__init__(filters, pieces)
        self.product = keras.layers.Conv2D(filters * pieces, 3, padding="same")

    def call(self, inputs, training=None):
        y = self.product(inputs)
        return keras.ops.max(keras.ops.reshape(y, (-1, *y.shape[1:-1], self.units, self.pieces)), axis=-1)


def maxout():
    batch, width = (8, 16) if SMOKE else (128, 512)
    x = normal(batch, width)
    for pieces in (2, 4):
        for jit in (False, True):
            steps = {
                "kregkit Maxout": layer_step(Maxout(width, pieces), x, jit),
                "Dense, reshape, max": layer_step(GroupedMaxout(width, pieces), x, jit),
                "TimeDistributed (one Dense for all pieces)": layer_step(
                    time_distributed_maxout(width, width, pieces), x, jit
                ),
                "a Dense per piece, Maximum": layer_step(SeparateMaxout(width, pieces), x, jit),
            }
            title = f"Maxout, {'XLA' if jit else 'graph'}: batch {batch}, {width} to {width}, {pieces} pieces"
            report(title, timed(steps, 3 if SMOKE else 60), "kregkit Maxout")
    images = normal(*((2, 8, 8, 4) if SMOKE else (32, 32, 32, 32)))
    filters = images.shape[-1]
    steps = {
        "kregkit MaxoutConv2D": layer_step(MaxoutConv2D(filters, 3, padding="same"), images),
        "Conv2D, reshape, max": layer_step(GroupedMaxoutConv2D(filters, 2), images),
    }
    report(f"Maxout, graph: {tuple(images.shape)}, 2 pieces", timed(steps, 3 if SMOKE else 30), "kregkit MaxoutConv2D")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", help="depth, pooling, connect, maxout; all by default")
    parser.add_argument("--smoke", action="store_true", help="small shapes and few rounds")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        memory(arguments.memory)
        return
    for table in arguments.tables or ("depth", "pooling", "connect", "maxout"):
        {"depth": depth, "pooling": pooling, "connect": connect, "maxout": maxout}[table]()


if __name__ == "__main__":
    main()
