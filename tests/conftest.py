"""What every test file starts from: few threads, two logical devices, fixed seeds, no network."""

import collections
import gc
import os
import sys
import zlib

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import pytest
import tensorflow as tf

# Test files run in parallel processes, so each takes one core. More threads and another seed are other arithmetic,
# under which `.ci/run` runs the tests marked `trains` once more.
THREADS = int(os.environ.get("KREGKIT_TEST_THREADS", "1"))
SEED = int(os.environ.get("KREGKIT_TEST_SEED", "0"))
tf.config.threading.set_intra_op_parallelism_threads(THREADS)
tf.config.threading.set_inter_op_parallelism_threads(THREADS)
# MirroredStrategy on a machine without accelerators.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

# What the imports made stays: no collection needs to look at it again.
gc.freeze()

_iterate = tf.data.Dataset.__iter__


def _iterate_untuned(dataset):
    options = tf.data.Options()
    options.autotune.enabled = False
    return _iterate(dataset.with_options(options))


# Where a fit was interrupted, Python's collector destroys its iterator some time later, and waits for TensorFlow's
# tuning thread, which sleeps for up to a minute: it is woken before the flag that ends it is set. Without tuning there
# is no such thread.
tf.data.Dataset.__iter__ = _iterate_untuned


def settings_to_skip(node_ids, every):
    """Returns those of one test's settings that the short run leaves out: all but one in `every`.

    Where a test begins to count hangs on its name, so that tests that share a list of settings take others of them.
    """
    first = zlib.crc32(node_ids[0].split("[")[0].encode()) % min(every, len(node_ids))
    return [node for index, node in enumerate(node_ids) if (index - first) % every]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks as slow what `one_in(n)` leaves out. It sees the settings that were asked for, so a file run as a whole."""
    settings = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("one_in"):
            settings[item.nodeid.split("[")[0]].append(item)
    for tests in settings.values():
        every = tests[0].get_closest_marker("one_in").args[0]
        skipped = set(settings_to_skip([test.nodeid for test in tests], every))
        for test in tests:
            if test.nodeid in skipped:
                test.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _fixed_seed():
    keras.utils.set_random_seed(SEED)


@pytest.fixture(autouse=True)
def _policy_restored():
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(autouse=True)
def _figures_closed():
    yield
    # Only where something was drawn: importing pyplot takes a second.
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
