"""A training step of kregkit's layers and optimizers beside their peers, on whatever backend Keras runs.

    KERAS_BACKEND=jax python benchmarks/backends.py                # one Markdown table, within four minutes on a GPU
    KERAS_BACKEND=torch python benchmarks/backends.py optimizers   # some of depth, connect, pooling, maxout, optimizers
    KERAS_BACKEND=jax python benchmarks/backends.py --smoke        # small shapes, for seeing that it runs
    ... --policy mixed_bfloat16 --seconds 200                      # another dtype policy; the time for everything

A step is forward, backward and update: one compiled function on JAX and TensorFlow, eager on torch. Within a group the
rows take turns, several steps each, in a new random order each round. Times are medians over rounds, ratios medians
over rounds of one time over the first row's of the same round. Peers from optax and torch run on the same Keras model;
those that aren't installed are left out. TensorFlow is imported only where it is the backend.
"""

import argparse
import os
import random
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from kregkit.layers import DropConnect, FractionalMaxPooling2D, Maxout, StochasticDepth
from kregkit.optimizers import SOAP, Adam, LayerwiseLearningRate, Momentum

BACKEND = keras.backend.backend()
CLASSES = 10
layers = keras.layers


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", help=f"some of {', '.join(GROUPS)}; all by default")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--policy", default="float32")
    parser.add_argument("--seconds", type=float, default=200.0)
    given = parser.parse_args()
    unknown = set(given.groups) - set(GROUPS)
    if unknown:
        parser.error(f"no such groups: {', '.join(sorted(unknown))}")
    return given


# The steps, one function per backend: each returns a callable that dispatches one step, and one that waits for it.


def jax_step(model, optimizer, x, y):
    import jax

    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    keras_rule = isinstance(optimizer, keras.optimizers.Optimizer)

    def loss(trainable, others, x, y):
        outputs, others = model.stateless_call(trainable, others, x, training=True)
        return loss_of(y, outputs), others

    def step(trainable, others, slots, x, y):
        (value, others), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, others, x, y)
        if keras_rule:
            trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
        else:
            updates, slots = optimizer.update(gradients, slots, trainable)
            trainable = [variable + update for variable, update in zip(trainable, updates)]
        return value, trainable, others, slots

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))
    # Donated, so copies: the model keeps its own.
    trainable = [jax.numpy.array(variable.value) for variable in model.trainable_variables]
    others = [jax.numpy.array(variable.value) for variable in model.non_trainable_variables]
    if keras_rule:
        optimizer.build(model.trainable_variables)
        slots = [jax.numpy.array(variable.value) for variable in optimizer.variables]
    else:
        slots = optimizer.init(trainable)
    state = [None, trainable, others, slots]
    x, y = jax.numpy.asarray(x), jax.numpy.asarray(y)

    def run():
        state[:] = compiled(*state[1:], x, y)

    return run, lambda: jax.block_until_ready(state)


def torch_step(model, optimizer, x, y):
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, y = torch.as_tensor(x, device=device), torch.as_tensor(y, device=device)
    variables = model.trainable_variables
    parameters = [variable.value for variable in variables]
    if isinstance(optimizer, keras.optimizers.Optimizer):
        optimizer.build(variables)
    else:
        optimizer = optimizer(parameters)

    def run():
        loss = loss_of(y, model(x, training=True))
        gradients = torch.autograd.grad(loss, parameters)
        if isinstance(optimizer, keras.optimizers.Optimizer):
            with torch.no_grad():
                optimizer.apply(gradients, variables)
            return
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = gradient
        optimizer.step()

    return run, torch.cuda.synchronize if device == "cuda" else lambda: None


def tensorflow_step(model, optimizer, x, y):
    import tensorflow as tf

    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer.build(model.trainable_variables)
    x, y = tf.constant(x), tf.constant(y)

    @tf.function(autograph=False)
    def run():
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    return run, tf.test.experimental.sync_devices


STEP = {"jax": jax_step, "torch": torch_step, "tensorflow": tensorflow_step}


def device_name():
    if BACKEND == "jax":
        import jax

        return f"{jax.devices()[0].device_kind}, JAX {jax.__version__}"
    if BACKEND == "torch":
        import torch

        return f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'}, torch {torch.__version__}"
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    name = tf.config.experimental.get_device_details(devices[0]).get("device_name", "GPU") if devices else "CPU"
    return f"{name}, TensorFlow {tf.__version__}"


# The groups: each gives the shape of an input and rows of (name, a model's layers, optimizer); the first is the base.


def sgd():
    return keras.optimizers.SGD(0.01, momentum=0.9)


def depth(smoke):
    """Residual blocks of two convolutions; each survives with probability 1/2."""
    channels, blocks = (4, 1) if smoke else (64, 6)

    def branch():
        return keras.Sequential([
            layers.Conv2D(channels, 3, padding="same", use_bias=False), layers.BatchNormalization(), layers.ReLU(),
            layers.Conv2D(channels, 3, padding="same", use_bias=False), layers.BatchNormalization(),
        ])  # fmt: skip

    class Residual(layers.Layer):
        def __init__(self):
            super().__init__()
            self.branch = branch()

        def build(self, shape):
            self.branch.build(shape)

        def call(self, inputs, training=None):
            return inputs + self.branch(inputs, training=training)

    def network(block):
        return lambda: [
            layers.Conv2D(channels, 3, padding="same"), *[block() for _ in range(blocks)],
            layers.GlobalAveragePooling2D(), layers.Dense(CLASSES),
        ]  # fmt: skip

    rows = [("residual blocks (Keras)", network(Residual), sgd)]
    for mode in ("batch", "sample", "subset"):
        rows.append((f"StochasticDepth(mode={mode!r})", network(lambda m=mode: StochasticDepth(branch(), 0.5, m)), sgd))
    return (8, 8, 3) if smoke else (32, 32, 3), rows


def connect(smoke):
    """Three dense layers."""
    units = 16 if smoke else 1024

    def dense():
        return layers.Dense(units, activation="relu")

    def network(make):
        return lambda: [part for _ in range(3) for part in make()] + [layers.Dense(CLASSES)]

    rows = [
        ("Dense and Dropout (Keras)", network(lambda: [dense(), layers.Dropout(0.5)]), sgd),
        ("Dense (Keras)", network(lambda: [dense()]), sgd),
    ]
    for mask in ("batch", "example", "exact"):
        make = network(lambda m=mask: [DropConnect(dense(), 0.5, m)])
        rows.append((f"DropConnect(mask={mask!r})", make, sgd))
    return (units,), rows


def pooling(smoke):
    """Convolutions with a pooling after each."""
    channels = 4 if smoke else 64

    def network(pool):
        return lambda: [
            *[part for _ in range(2) for part in (layers.Conv2D(channels, 3, padding="same"), pool())],
            layers.GlobalAveragePooling2D(), layers.Dense(CLASSES),
        ]  # fmt: skip

    rows = [("MaxPooling2D (Keras)", network(lambda: layers.MaxPooling2D(2)), sgd)]
    for regions in ("random", "pseudorandom"):
        for share in ("batch", "example"):
            make = network(lambda r=regions, s=share: FractionalMaxPooling2D(1.41, r, share=s))
            rows.append((f"FractionalMaxPooling2D({regions!r}, share={share!r})", make, sgd))
    return (9, 9, 3) if smoke else (32, 32, 3), rows


def maxout(smoke):
    """Two layers with the same number of products."""
    units = 8 if smoke else 512

    def network(make):
        return lambda: [make(), make(), layers.Dense(CLASSES)]

    return (units,), [
        ("Dense of 4 times the units (Keras)", network(lambda: layers.Dense(4 * units, activation="relu")), sgd),
        ("Maxout(units, 4 pieces)", network(lambda: Maxout(units, 4)), sgd),
    ]


def optimizers(smoke):
    """Four dense layers."""
    units = 16 if smoke else 1024
    k = keras.optimizers

    def network():
        return [*[layers.Dense(units, activation="relu") for _ in range(4)], layers.Dense(CLASSES)]

    makers = {
        "SGD with momentum (Keras)": sgd,
        "Momentum": lambda: Momentum(0.01, 0.9),
        "AdamW (Keras)": lambda: k.AdamW(1e-3),
        "Adam": lambda: Adam(1e-3),
        "LayerwiseLearningRate(AdamW)": lambda: LayerwiseLearningRate(k.AdamW(1e-3), {".*bias": 2.0}),
        "SOAP": lambda: SOAP(1e-3),
    }
    if BACKEND == "jax":
        try:
            import optax
        except ImportError:
            pass
        else:
            makers["sgd with momentum (optax)"] = lambda: optax.sgd(0.01, 0.9)
            makers["adamw (optax)"] = lambda: optax.adamw(1e-3)
    if BACKEND == "torch":
        import torch

        makers["SGD with momentum (torch)"] = lambda: lambda p: torch.optim.SGD(p, 0.01, momentum=0.9)
        makers["AdamW (torch)"] = lambda: lambda p: torch.optim.AdamW(p, 1e-3)
    return (units,), [(name, network, make) for name, make in makers.items()]


GROUPS = {group.__name__: group for group in (depth, connect, pooling, maxout, optimizers)}


def measured(group, smoke, deadline):
    """Returns the seconds per step of each row, by name, until the deadline; at least two rounds."""
    shape, rows = GROUPS[group](smoke)
    generator = np.random.default_rng(0)
    batch = 8 if smoke else 128
    x = generator.normal(size=(batch, *shape)).astype("float32")
    y = generator.integers(0, CLASSES, batch).astype("int32")
    steps = {}
    for name, make, optimizer in rows:
        start = time.perf_counter()
        if start > deadline:
            print(f"{group}: no time for {name}", file=sys.stderr, flush=True)
            continue
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input(shape), *make()])
        run, wait = STEP[BACKEND](model, optimizer(), x, y)
        for _ in range(3):
            run()
        wait()
        steps[name] = run, wait
        print(f"{group}: {name} ready in {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    seconds = {name: [] for name in steps}
    order = random.Random(0)
    # About ten milliseconds' work between two waits, so that starting it isn't what is timed.
    repeats = 1
    while not smoke and repeats < 64:
        start = time.perf_counter()
        run, wait = next(iter(steps.values()))
        for _ in range(repeats):
            run()
        wait()
        if time.perf_counter() - start > 0.01:
            break
        repeats *= 2
    for rounds in range(2 if smoke else 200):
        if rounds >= 2 and time.perf_counter() > deadline:
            break
        for name, (run, wait) in order.sample(sorted(steps.items()), len(steps)):
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            wait()
            seconds[name].append((time.perf_counter() - start) / repeats)
    return seconds


def main():
    given = arguments()
    keras.config.set_dtype_policy(given.policy)
    groups = given.groups or list(GROUPS)
    begin = time.perf_counter()
    lines = []
    for index, group in enumerate(groups):
        deadline = begin + given.seconds * (index + 1) / len(groups)
        seconds = measured(group, given.smoke, deadline)
        base = next(iter(seconds.values()))
        for name, one in seconds.items():
            ratio = statistics.median(time / other for time, other in zip(one, base))
            milliseconds = 1e3 * statistics.median(one)
            lines.append(f"| {group} | {name} | {milliseconds:.3f} | {ratio:.2f} | {len(one)} |")
    if BACKEND != "tensorflow":
        assert "tensorflow" not in sys.modules, "TensorFlow was imported"
    batch = 8 if given.smoke else 128
    print(f"\n{device_name()}, Keras {keras.__version__} on {BACKEND}, {given.policy}, batch of {batch}\n")
    print("| group | | ms per step | to the group's first | rounds |\n| --- | --- | ---: | ---: | ---: |")
    print("\n".join(lines))
    print(f"\n{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
