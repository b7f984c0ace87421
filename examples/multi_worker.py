"""One training on several workers: started here as processes of this machine, or on several machines.

    python examples/multi_worker.py [--workers 2] [--epochs 6] [--smoke]

Without `TF_CONFIG` in its environment, the script starts the workers itself, each as a process of its own with its
`TF_CONFIG`, and compares what they found. With it, the script is one of the workers: that is how it runs on several
machines, and the last lines say what to type there.
"""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

BATCH_SIZE = 64  # of all workers together
EPOCHS = 6
SEED = 0


def train(directory, epochs, smoke):
    """What every worker runs: plain `model.fit`, under a strategy."""
    import keras
    import tensorflow as tf

    from kregkit import data, distribution
    from kregkit.callbacks import CosineDecay, PolyakAveraging, SnapshotEnsemble

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    # Before anything else runs: it connects the workers.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    distribution.enable_multi_worker()
    keras.utils.set_random_seed(SEED)

    examples = data.digits("train", as_arrays=True)
    test = data.digits("test", as_arrays=True)
    if smoke:
        examples, test = (tuple(part[:360] for part in each) for each in (examples, test))
    operations = [] if smoke else [data.RandomCrop(1), data.ColorJitter(0.2, 0.2)]
    # Each worker reads and augments its own part; together they train on the batches that one process would have.
    batches = data.pipeline(examples, BATCH_SIZE, operations, seed=SEED, shard=strategy)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(64, use_bias=False),
                keras.layers.BatchNormalization(synchronized=True),
                keras.layers.ReLU(),
                keras.layers.Dense(10),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    validation = (test[0] / 255.0, test[1])
    # The chief writes the snapshots; all workers see the directory, and go on from it when they are started again.
    cycles = [SnapshotEnsemble(directory / "snapshots", cycles=2), PolyakAveraging(0.9)]
    decay = [CosineDecay()]
    history = model.fit(
        batches,
        epochs=epochs,
        validation_data=validation,
        shuffle=False,
        verbose=0,
        callbacks=decay if smoke else cycles,
    )
    worker = strategy.cluster_resolver.task_id
    result = {"loss": history.history["loss"][-1], "accuracy": history.history["val_accuracy"][-1]}
    result["weights"] = float(sum(abs(value).sum() for value in model.get_weights()))
    (directory / f"worker-{worker}.json").write_text(json.dumps(result))
    if distribution.is_chief(strategy):
        print(f"chief of {strategy.num_replicas_in_sync} replicas: {history.history['loss']}", flush=True)


def free_ports(num):
    sockets = [socket.socket() for _ in range(num)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start(num, directory, arguments):
    """Starts the workers on this machine and waits for them."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(num)]
    processes = []
    for index in range(num):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        command = [sys.executable, __file__, "--directory", str(directory), *arguments]
        # Accelerators are left to the other workers: on one machine, `MirroredStrategy` uses them all.
        own = {"TF_CONFIG": json.dumps(config), "CUDA_VISIBLE_DEVICES": "-1"}
        processes.append(subprocess.Popen(command, env={**os.environ, **own}))
    try:
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(codes):
        raise SystemExit(f"A worker has failed. Received: exit codes={codes}")


def how_to(num):
    machines = [f"machine{index}:12345" for index in range(num)]
    lines = ["", "On several machines, the same script with a directory that all of them see:"]
    for index in range(num):
        config = json.dumps({"cluster": {"worker": machines}, "task": {"type": "worker", "index": index}})
        lines.append(f"  machine{index}$ TF_CONFIG='{config}' python {sys.argv[0]} --directory /shared/run")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--directory", type=pathlib.Path, help="where the run is written; it must be shared")
    parser.add_argument("--smoke", action="store_true", help="one epoch on a part of the data")
    arguments = parser.parse_args()
    epochs = 1 if arguments.smoke else arguments.epochs
    if "TF_CONFIG" in os.environ:
        train(arguments.directory or pathlib.Path("run"), epochs, arguments.smoke)
        return
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.directory or pathlib.Path(temporary)
        start(arguments.workers, directory, ["--epochs", str(epochs), *(["--smoke"] if arguments.smoke else [])])
        results = [json.loads((directory / f"worker-{index}.json").read_text()) for index in range(arguments.workers)]
    for index, result in enumerate(results):
        print(f"worker {index}: loss {result['loss']:.4f}, validation accuracy {result['accuracy']:.4f}")
    print("all workers have the same weights:", len({result["weights"] for result in results}) == 1)
    print(how_to(arguments.workers))


if __name__ == "__main__":
    main()
