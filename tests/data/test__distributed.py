"""The parts of a strategy's replicas and workers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kregkit import data

pytestmark = pytest.mark.one_in(2)

X = np.arange(43, dtype="float32")[:, None]


@pytest.fixture(scope="module")
def strategy():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())


def steps(strategy, dataset):
    return [[part.numpy().ravel() for part in strategy.experimental_local_results(batch)] for batch in dataset]


def together(parts):
    return [np.concatenate(step).tolist() for step in parts]


@pytest.mark.parametrize("drop_remainder", [False, True])
@pytest.mark.parametrize("kind", ["arrays", "stream"])
def test_replicas_share_the_batches_of_one_device(strategy, kind, drop_remainder):
    source = X if kind == "arrays" else tf.data.Dataset.from_tensor_slices(X)
    options = {"image": None, "seed": 1, "drop_remainder": drop_remainder}
    train = data.pipeline(source, 8, shard=strategy, **options)
    one = data.pipeline(source, 8, **options)
    assert isinstance(train, tf.distribute.DistributedDataset)
    assert len(train) == len(one)
    for _ in range(2):
        expected = [batch.numpy().ravel().tolist() for batch in one]
        parts = steps(strategy, train)
        assert together(parts) == expected
        assert [len(part) for part in parts[0]] == [4, 4]
    # From a step on, in an epoch.
    later = data.pipeline(source, 8, shard=strategy, batch=2, epoch=1, **options)
    assert together(steps(strategy, later)) == expected[2:]


def test_fit_counts_steps_and_epochs(strategy):
    with strategy.scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(1e-4), "mse")
        train = data.pipeline((X, X), 4, image=None, shard=strategy)
    model.fit(train, epochs=3, verbose=0, shuffle=False)
    assert train.epoch.numpy() == 3
    assert keras.ops.convert_to_numpy(model.optimizer.iterations) == 33


def test_all_workers_have_as_many_full_batches():
    lengths = [len(data.pipeline(X, 7, image=None, drop_remainder=True, shard=(index, 2))) for index in range(2)]
    assert lengths == [3, 3]
    lengths = [len(data.pipeline(X, 11, image=None, drop_remainder=True, shard=(index, 2))) for index in range(2)]
    assert lengths == [1, 1]  # the first worker's 22 examples would make two
    sequence = [(x, 0) for x in X]
    lengths = [len(list(data.pipeline(_Sequence(sequence), 11, image=None, drop_remainder=True, shard=(0, 2))))]
    assert lengths == [1]


def test_refuses_what_cannot_be_shared(strategy):
    with pytest.raises(ValueError, match=r"divisible by the strategy's 2 replicas.*Received: batch_size=5"):
        data.pipeline(X, 5, image=None, shard=strategy)
    with pytest.raises(ValueError, match=r"at least 5 batches.*Received: batch_size=20 for 43 examples"):
        data.pipeline(X, 20, image=None, shard=strategy)
    with pytest.raises(ValueError, match=r"`shard` must be .*Received: shard='mirrored'"):
        data.pipeline(X, 4, image=None, shard="mirrored")


class _Sequence:
    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]
