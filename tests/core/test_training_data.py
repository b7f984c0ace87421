import gc

import keras
import numpy as np

from kregkit._core.training_data import remember_training_data, seen_arrays, shares_arrays, training_arrays


def test_arrays_are_recognised_by_memory_and_by_content():
    x = np.random.default_rng(0).normal(size=(50, 3))
    seen = seen_arrays({"a": x[:30], "b": None})
    assert shares_arrays(seen, [x[20:40]]) and shares_arrays(seen, x) and shares_arrays(seen, x[:30].copy())
    assert shares_arrays(seen_arrays(keras.ops.convert_to_tensor(x)), x)
    assert not shares_arrays(seen, x[30:]) and not shares_arrays(seen, x[30:].copy())
    # Every other row of one array holds none of the others.
    assert not shares_arrays(seen_arrays(x[::2]), x[1::2])
    copy = x[:30].copy()
    del x
    gc.collect()
    assert shares_arrays(seen, copy) and not shares_arrays(seen, copy + 1)


def test_nothing_is_kept_alive_and_batches_are_not_recognised():
    model, x = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]), np.ones((4, 3))
    assert training_arrays(model) == []
    remember_training_data(model, x)
    remember_training_data(model, iter([x]))
    assert len(training_arrays(model)) == 1 and shares_arrays(training_arrays(model), x)
    assert seen_arrays(np.float64(1.0)) == [] and seen_arrays(None) == []


def test_fits_in_a_loop_take_no_more_memory():
    model, x = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]), np.ones((4, 3))
    for _ in range(3):
        remember_training_data(model, (x, x[:, :1]))
    assert len(training_arrays(model)) == 2
