"""Trainings that one process and several run alike: functions of a strategy, a directory and the worker's number.

Each returns a dictionary of arrays. The global batch is the same under any strategy.
"""

import contextlib
import os
import signal

import keras
import numpy as np
import tensorflow as tf

from kregkit import callbacks, data, layers

BATCH = 16


def regression(num=64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num, 6)).astype("float32")
    return x, x.sum(1, keepdims=True) ** 2


def build(strategy, synchronized=None, optimizer=None):
    """Returns a compiled model; `synchronized` says whether it has a BatchNormalization, and which."""
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        kernel = keras.initializers.GlorotUniform(seed=1)
        layers = [keras.Input((6,)), keras.layers.Dense(8, activation="tanh", kernel_initializer=kernel)]
        if synchronized is not None:
            layers.append(keras.layers.BatchNormalization(momentum=0.5, synchronized=synchronized))
        model = keras.Sequential([*layers, keras.layers.Dense(1, kernel_initializer=kernel)])
        model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", metrics=["mae"], jit_compile=False)
    return model


def weights(model):
    return np.concatenate([value.ravel() for value in model.get_weights()])


def plain(strategy, directory, index=0):
    """Arrays with validation."""
    x, y = regression()
    model = build(strategy)
    history = model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, validation_data=(x, y), verbose=0)
    return {
        "plain_loss": history.history["loss"],
        "plain_val_loss": history.history["val_loss"],
        "plain_weights": weights(model),
    }


def everything(strategy, directory, index=0):
    """`predict`; callbacks on a pipeline; BatchNormalization; noise."""
    results = {}
    x, y = regression()
    results["predict"] = build(strategy).predict(x, batch_size=BATCH, verbose=0)

    # Shuffled, and 5 is the last batch's part: the workers' parts of it are 3 and 2.
    x, y = regression(85)
    train = data.pipeline((x, y), BATCH, image=None, seed=3, shard=strategy)
    seen = []
    if strategy is not None:
        for batch in train:
            seen.append(strategy.experimental_local_results(batch[0])[0].numpy())
        train.epoch.assign(0)
        results["seen"], results["sizes"] = np.concatenate(seen), [len(part) for part in seen]
    train = data.pipeline((x, y), BATCH, image=None, seed=3, shard=strategy, drop_remainder=True)
    model, average = build(strategy), callbacks.PolyakAveraging(0.5)
    snapshots = callbacks.SnapshotEnsemble(directory / "snapshots", cycles=2)
    history = model.fit(train, epochs=4, verbose=0, callbacks=[snapshots, average, callbacks.UpdateRatio()])
    results["rates"], results["pipeline_loss"] = history.history["learning_rate"], history.history["loss"]
    results["epoch"], results["average"] = train.epoch.numpy(), weights(model)
    with average.raw():
        results["raw"] = weights(model)

    x, y = regression()
    for synchronized in (True, False):
        model = build(strategy, synchronized)
        history = model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
        results[f"normalized_loss_{synchronized}"] = history.history["loss"]
        results[f"normalized_weights_{synchronized}"] = weights(model)

    if strategy is not None:
        with strategy.scope():
            noise = layers.StochasticDepth(keras.layers.Dense(1), 0.5)
            noise.build((None, 1))
        results["seed"] = keras.ops.convert_to_numpy(noise.seed_generator.state)
        for name, per_replica in (("own_noise", True), ("common_noise", False)):
            results[name] = strategy.run(lambda own=per_replica: noise.uniform((8,), own)).numpy()
    return results


def killed(strategy, directory, index=0):
    """Worker 1 kills itself in the second of three cycles, in the first run."""
    x, y = regression(80)

    class Kill(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if index == 1 and not (directory / "killed").exists() and self.model.optimizer.iterations.numpy() == 14:
                (directory / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)

    model = build(strategy)
    snapshots = callbacks.SnapshotEnsemble(directory / "snapshots", cycles=3)
    history = model.fit(x, y, batch_size=BATCH, epochs=6, shuffle=False, verbose=0, callbacks=[snapshots, Kill()])
    return {"epochs": history.epoch, "loss": history.history["loss"], "weights": weights(model)}


def resumed(strategy, directory, index=0):
    """Two fits with `Resume`: worker 1 kills itself within an epoch of the first, the chief in the second, each once.

    Nothing is killed where a file `whole` lies in the directory.
    """
    results = {}
    x, y = regression(80)
    keras.utils.set_random_seed(10 + index)

    def kill(worker, step):
        class Kill(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                flag = directory / f"killed-{worker}"
                if index == worker and self.model.optimizer.iterations.numpy() == step and not flag.exists():
                    flag.touch()
                    os.kill(os.getpid(), signal.SIGKILL)

        return [] if (directory / "whole").exists() else [Kill()]

    class Shared(keras.callbacks.Callback):
        """Draws from NumPy, whose numbers are each worker's own."""

        def on_epoch_end(self, epoch, logs=None):
            logs["drawn"] = np.random.uniform()

    train = data.pipeline((x, y), BATCH, image=None, seed=3, shard=strategy)
    model = build(strategy, synchronized=False)
    average, snapshots = callbacks.PolyakAveraging(0.5), callbacks.SnapshotEnsemble(directory / "snapshots", cycles=2)
    resume = callbacks.Resume(directory / "pipeline", save_freq=3)
    history = model.fit(train, epochs=4, verbose=0, callbacks=[snapshots, resume, average, Shared(), *kill(1, 13)])
    results |= {f"pipeline_{name}": value for name, value in history.history.items()}
    results["pipeline_weights"] = weights(model)

    # No global seed: the workers agree on one for the order of the arrays.
    tf.random.set_seed(None)
    model = build(strategy)
    resume = callbacks.Resume(directory / "arrays", save_freq=2)
    cosine = callbacks.CosineDecay()
    history = model.fit(
        x, y, batch_size=BATCH, epochs=3, validation_data=(x, y), verbose=0, callbacks=[resume, cosine, *kill(0, 9)]
    )
    results |= {f"arrays_{name}": value for name, value in history.history.items()}
    results["arrays_weights"] = weights(model)
    return results


SCENARIOS = {"plain": plain, "everything": everything, "killed": killed, "resumed": resumed}
