"""Many fits in a row leave nothing behind: no memory, no open files, no threads."""

import gc
import os
import resource
import threading

import keras
import numpy as np
import probes
import pytest

from kregkit.callbacks import CosineDecay, PolyakAveraging, UpdateRatio, Warmup


def open_files():
    return len(os.listdir("/proc/self/fd"))


def resident():
    """Returns the bytes of this process that lie in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def fit(model, count):
    x, y = probes.regression(16)
    for _ in range(count):
        callbacks = [Warmup(0.5), CosineDecay(), PolyakAveraging(0.9, monitor="loss"), UpdateRatio(every=3)]
        model.fit(x, y, batch_size=4, epochs=1, verbose=0, callbacks=callbacks)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's /proc")
@pytest.mark.parametrize("count", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_nothing_grows_from_fit_to_fit(count):
    model = probes.small_model()
    # The first fits trace, and fill caches and pools.
    fit(model, 3)
    gc.collect()
    files, threads, before = open_files(), threading.active_count(), resident()
    callbacks = sum(isinstance(one, keras.callbacks.Callback) for one in gc.get_objects())
    functions = sum(type(one).__name__ == "ConcreteFunction" for one in gc.get_objects())
    fit(model, count)
    gc.collect()
    assert open_files() <= files
    assert threading.active_count() <= threads
    # Neither the callbacks of past fits nor what was traced for them are kept.
    assert sum(isinstance(one, keras.callbacks.Callback) for one in gc.get_objects()) <= callbacks + 1
    assert sum(type(one).__name__ == "ConcreteFunction" for one in gc.get_objects()) <= functions
    assert np.isfinite(model.get_weights()[0]).all()
    if count >= 50:
        # A leak of a trace or of the weights would be several MB in fifty fits.
        assert resident() - before < 0.02 * before
