"""Which process of a training on several machines this one is, and which of them writes shared files.

Under `tf.distribute.MultiWorkerMirroredStrategy` the same program runs once per worker. All workers train the same
weights, so that one of them, the chief, writes what they would all write. Every other strategy has one process, which
is its own chief.
"""

import dataclasses

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Worker:
    """One process of a training.

    Attributes:
        index: Integer, the number of this worker; 0 is the chief.
        count: Integer, how many workers train together.
    """

    index: int = 0
    count: int = 1

    @property
    def is_chief(self):
        """Whether this worker writes what all workers share."""
        return self.index == 0


def worker_of(strategy):
    """Returns the `Worker` that this process is under a `tf.distribute.Strategy`; None stands for no strategy.

    The chief comes before the workers of `TF_CONFIG`. Without a chief there, worker 0 is the chief.

    >>> worker_of(None)
    Worker(index=0, count=1)
    """
    resolver = getattr(strategy, "cluster_resolver", None)
    cluster = {} if resolver is None else resolver.cluster_spec().as_dict()
    sizes = [len(cluster.get(kind, ())) for kind in ("chief", "worker")]
    if sum(sizes) < 2 or resolver.task_type not in ("chief", "worker"):
        return Worker()
    return Worker(resolver.task_id + (sizes[0] if resolver.task_type == "worker" else 0), sum(sizes))


def worker(model):
    """Returns the `Worker` that this process is in the training of `model`."""
    # Only on TensorFlow does a model have a strategy.
    return worker_of(getattr(model, "distribute_strategy", None))


def is_chief(model):
    """Returns whether this process writes the files of the training of `model`: true where there is only one."""
    return worker(model).is_chief


def gather_from_workers(model, value):
    """Returns the list of the numbers that all workers call this function with, in the workers' order.

    Every worker has to call it at the same point of the program, outside of the train step: it waits for the others.

    Args:
        model: The model whose strategy connects the workers.
        value: Number.
    """
    here = worker(model)
    if here.count == 1:
        return [float(value)]
    strategy = model.distribute_strategy
    row = np.zeros(here.count)
    row[here.index] = value
    # The sum runs over replicas, of which each worker has the same number.
    row /= strategy.num_replicas_in_sync // here.count
    rows = strategy.experimental_distribute_values_from_function(lambda context: keras.ops.convert_to_tensor(row))
    return [float(one) for one in keras.ops.convert_to_numpy(strategy.reduce("SUM", rows, axis=None))]
