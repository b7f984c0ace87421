"""Small runs with `Resume`, one per way in which a fit can be set up; and a process that starts them at once.

Run as a program it imports the libraries once and then forks for each run: a line `{"name", "directory",
"environment"}` on the standard input starts one, its number comes back, and its exit code when it has ended.
"""

import json
import os
import random
import subprocess
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from kregkit.callbacks import (
    CosineDecay,
    PlateauDecay,
    PolyakAveraging,
    Resume,
    SnapshotEnsemble,
    UpdateRatio,
    Warmup,
)
from kregkit.data import RandomCrop, RandomFlip, pipeline
from kregkit.transfer import GradualUnfreeze

BATCH = 8


class Slow(keras.callbacks.Callback):
    """Makes steps long enough to be killed between."""

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.02)


class Counter(keras.callbacks.Callback):
    """A user's own callback with a state, which it writes into the logs."""

    count = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.count += 100

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1

    def on_epoch_end(self, epoch, logs=None):
        logs["count"] = float(self.count)

    def get_state(self):
        return {"count": self.count}

    def set_state(self, state):
        self.count = state["count"]


class Batches(keras.utils.PyDataset):
    """Batches by their index, from two threads."""

    def __init__(self, x, y):
        super().__init__(workers=2)
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // BATCH

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return self.x[rows], self.y[rows]


def arrays(examples=60):
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(examples, 6)).astype("float32")
    return x, (x[:, 0] * x[:, 1] > 0).astype("int32")


def images(examples=48):
    x = np.random.default_rng(0).uniform(size=(examples, 8, 8, 1)).astype("float32")
    return x, (x.mean((1, 2, 3)) > 0.5).astype("int32")


def dense_model(dropout=0.2):
    layers = [keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization()]
    return keras.Sequential([*layers, keras.layers.Dropout(dropout), keras.layers.Dense(2, "softmax")])


def compiled(model, optimizer, **settings):
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **settings)
    return model


def keras_callbacks():
    """Keras's own callbacks, and arrays that are shuffled without a global seed of TensorFlow."""
    random.seed(1)
    np.random.seed(1)
    x, y = arrays()
    callbacks = [
        keras.callbacks.CSVLogger("log.csv"),
        Resume("checkpoints", save_freq=3),
        keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, factor=0.7),
        keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint("best.weights.h5", save_best_only=True, save_weights_only=True),
        Counter(),
    ]
    return compiled(dense_model(), "adam"), callbacks, {"x": x, "y": y, "validation_split": 0.2}


def cycles():
    """Cycles, layers that thaw, and a warm-up; `Resume` comes first."""
    keras.utils.set_random_seed(2)
    x, y = arrays()
    model = compiled(dense_model(), keras.optimizers.SGD(0.1, momentum=0.9))
    callbacks = [
        Resume("checkpoints", save_freq=5),
        SnapshotEnsemble("snapshots", 3),
        GradualUnfreeze([(0, 1), (3, 2)]),
        Warmup(1),
    ]
    return model, callbacks, {"x": x, "y": y, "validation_data": (x[:20], y[:20])}


def averages():
    """Several averages, of which validation tells the best; a plateau's decay; `Resume` comes last."""
    keras.utils.set_random_seed(3)
    x, y = arrays()
    callbacks = [
        PolyakAveraging([0.5, 0.9, "uniform"], start_step=3),
        keras.callbacks.ModelCheckpoint("best.weights.h5", save_best_only=True, save_weights_only=True),
        PlateauDecay("val_loss", factor=0.5, patience=6, unit="step"),
        UpdateRatio(every=3),
        Resume("checkpoints", save_freq=4),
    ]
    return compiled(dense_model(), "adam"), callbacks, {"x": x, "y": y, "validation_data": (x[:20], y[:20])}


def augmented():
    """A pipeline with augmentation, several steps per execution, warm-up times cosine."""
    keras.utils.set_random_seed(4)
    x, y = images()
    layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dropout(0.3)]
    model = keras.Sequential([*layers, keras.layers.Dense(2, "softmax")])
    data = pipeline((x, y), BATCH, [RandomCrop(1), RandomFlip()], seed=5)
    callbacks = [Warmup(1), Resume("checkpoints", save_freq=2), CosineDecay(), UpdateRatio(every=2)]
    return compiled(model, "adam", steps_per_execution=2), callbacks, {"x": data}


def mixed():
    """Half precision with a loss scale, accumulated gradients, XLA, and checkpoints at epochs' ends."""
    keras.utils.set_random_seed(5)
    keras.config.set_dtype_policy("mixed_float16")
    x, y = arrays()
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01, gradient_accumulation_steps=3), initial_scale=2.0**20, dynamic_growth_steps=5
    )
    callbacks = [Resume("checkpoints"), CosineDecay(), PolyakAveraging(0.9)]
    return compiled(dense_model(), optimizer, jit_compile=True), callbacks, {"x": x, "y": y}


def mirrored():
    """Two replicas, and a data set that is shuffled with a seed."""
    keras.utils.set_random_seed(6)
    x, y = arrays(64)
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(64, seed=3).batch(BATCH).prefetch(2)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = compiled(dense_model(), "adam")
    callbacks = [CosineDecay(), Resume("checkpoints", save_freq=3), PolyakAveraging(0.9)]
    return model, callbacks, {"x": data, "validation_data": data}


def sequence():
    """A PyDataset that Keras shuffles, read by two threads, Keras's average of weights, and a plain rate callback."""
    keras.utils.set_random_seed(7)
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=None)
    callbacks = [
        Counter(),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        Resume("checkpoints", save_freq=3, seconds=0.05),
    ]
    return compiled(dense_model(), optimizer), callbacks, {"x": Batches(*arrays(64)), "shuffle": True}


RUNS = {run.__name__: run for run in (keras_callbacks, cycles, averages, augmented, mixed, mirrored, sequence)}


def train(name, epochs=6, slow=True):
    """Runs one of them in the working directory; returns the model and its history."""
    model, callbacks, data = RUNS[name]()
    if "x" in data and isinstance(data["x"], np.ndarray):
        data["batch_size"] = BATCH
    history = model.fit(**data, epochs=epochs, verbose=0, callbacks=[*callbacks, *([Slow()] if slow else [])])
    return model, history


class Server:
    """The process that starts runs at once."""

    def __init__(self):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def starter(self, name):
        """Returns the function that `kregkit.resume_check.verify` starts a run by."""

        def start(directory, environment):
            return _Started(self, {"name": name, "directory": directory, "environment": environment})

        return start

    def send(self, request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def receive(self):
        return int(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait()


class _Started:
    def __init__(self, server, request):
        self._server, self._code = server, None
        server.send(request)
        self.pid = server.receive()

    def poll(self):
        if self._code is None:
            self._server.send({"poll": self.pid})
            code = self._server.receive()
            self._code = None if code == 1000 else code
        return self._code

    def wait(self):
        while self.poll() is None:
            time.sleep(0.002)
        return self._code


def serve():
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            done, status = os.waitpid(request["poll"], os.WNOHANG)
            print(os.waitstatus_to_exitcode(status) if done else 1000, flush=True)
            continue
        process = os.fork()
        if process == 0:
            code = 1
            try:
                os.environ.update(request["environment"])
                os.chdir(request["directory"])
                # What a run prints must not look like an answer.
                os.dup2(sys.stderr.fileno(), 1)
                train(request["name"])
                code = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(process, flush=True)


if __name__ == "__main__":
    serve()
