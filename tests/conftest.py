"""What every test file starts from: few threads, two logical devices, fixed seeds, no network."""

import os
import sys

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
