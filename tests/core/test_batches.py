"""Everything that `fit` takes is read by one function."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kregkit._core.batches import concatenate, is_arrays, read_batches

X, Y, WEIGHT = np.arange(10.0).reshape(5, 2), np.arange(5), np.ones(5)


class Batches(keras.utils.PyDataset):
    num = 3

    @property
    def num_batches(self):
        return self.num

    def __getitem__(self, index):
        return X[2 * index : 2 * index + 2], Y[2 * index : 2 * index + 2]


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (tf.constant(X), tf.constant(Y)),
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(2),
        Batches(),
        ((X[i : i + 2], Y[i : i + 2]) for i in (0, 2, 4)),
        [(X[:2], Y[:2]), (X[2:4], Y[2:4]), (X[4:], Y[4:])].__iter__(),
    ],
    ids=["arrays", "tensors", "dataset", "PyDataset", "generator", "iterator"],
)
def test_all_forms_give_the_same_batches(data):
    batches = list(read_batches(data, batch_size=2))
    assert [len(x) for x, _, _ in batches] == [2, 2, 1]
    assert all(weight is None for _, _, weight in batches)
    np.testing.assert_array_equal(concatenate([x for x, _, _ in batches]), X)
    np.testing.assert_array_equal(concatenate([y for _, y, _ in batches]), Y)
    assert concatenate([weight for _, _, weight in batches]) is None


def test_structures_and_weights():
    batches = list(read_batches(({"a": X, "b": Y}, [Y, X], WEIGHT), batch_size=3))
    assert [len(x["b"]) for x, _, _ in batches] == [3, 2]
    assert [weight.sum() for _, _, weight in batches] == [3.0, 2.0]
    # A list is several inputs, not (x, y).
    assert [y for _, y, _ in read_batches([X, Y])] == [None]


def test_what_is_arrays():
    assert is_arrays(X) and is_arrays((X, Y)) and is_arrays({"a": X}) and is_arrays((X, None))
    assert not is_arrays(Batches()) and not is_arrays(tf.data.Dataset.range(3)) and not is_arrays(iter([X]))
    assert not is_arrays(None) and not is_arrays(())


def test_misfits():
    with pytest.raises(ValueError, match=r"one length. Received: lengths=\[4, 5\]"):
        list(read_batches((X, Y[:4])))
    endless = Batches()
    endless.num = None
    with pytest.raises(ValueError, match="must end"):
        list(read_batches(endless))
    with pytest.raises(ValueError, match="batch_size"):
        list(read_batches((X, Y), batch_size=0))
