"""Which worker a process is."""

import keras
import pytest
import tensorflow as tf

from kregkit._core.workers import Worker, gather_from_workers, is_chief, worker, worker_of


class Resolver:
    def __init__(self, cluster, task_type, task_id):
        self.cluster, self.task_type, self.task_id = cluster, task_type, task_id

    def cluster_spec(self):
        return tf.train.ClusterSpec(self.cluster)


class Strategy:
    def __init__(self, *arguments):
        self.cluster_resolver = Resolver(*arguments)


@pytest.mark.parametrize(
    ("cluster", "task_type", "task_id", "expected"),
    [
        ({}, None, None, Worker(0, 1)),
        ({"worker": ["a:1"]}, "worker", 0, Worker(0, 1)),
        ({"worker": ["a:1", "b:1"]}, "worker", 0, Worker(0, 2)),
        ({"worker": ["a:1", "b:1"]}, "worker", 1, Worker(1, 2)),
        ({"chief": ["c:1"], "worker": ["a:1", "b:1"]}, "chief", 0, Worker(0, 3)),
        ({"chief": ["c:1"], "worker": ["a:1", "b:1"]}, "worker", 1, Worker(2, 3)),
        # An evaluator takes no part in the training.
        ({"worker": ["a:1", "b:1"]}, "evaluator", 0, Worker(0, 1)),
    ],
)
def test_place_in_the_cluster(cluster, task_type, task_id, expected):
    found = worker_of(Strategy(cluster, task_type, task_id))
    assert found == expected and found.is_chief == (expected.index == 0)


def test_one_process_is_its_own_chief():
    for strategy in (None, tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0"])):
        assert worker_of(strategy) == Worker(0, 1)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    assert is_chief(model) and worker(model) == Worker()
    assert gather_from_workers(model, 3) == [3.0]
