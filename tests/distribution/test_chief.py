"""Which worker writes."""

import tensorflow as tf

from kregkit.distribution import is_chief


def test_one_process_is_its_own_chief():
    assert (
        is_chief(None)
        and is_chief(tf.distribute.get_strategy())
        and is_chief(tf.distribute.MirroredStrategy(["CPU:0"]))
    )


def test_the_second_worker_is_not(monkeypatch):
    class Resolver:
        task_type, task_id = "worker", 1

        def cluster_spec(self):
            return tf.train.ClusterSpec({"worker": ["a:1", "b:1"]})

    class Strategy:
        cluster_resolver = Resolver()

    assert not is_chief(Strategy())
    Resolver.task_id = 0
    assert is_chief(Strategy())
