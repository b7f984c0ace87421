"""What one process of a test's cluster runs: `python _worker.py SCENARIO DIRECTORY`."""

import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf
from scenarios import SCENARIOS

from kregkit import distribution

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)

scenario, directory = SCENARIOS[sys.argv[1]], pathlib.Path(sys.argv[2])
# Workers that begin with other seeds must agree on all that they share.
strategy = tf.distribute.MultiWorkerMirroredStrategy()
index = strategy.cluster_resolver.task_id
keras.utils.set_random_seed(100 + index)
distribution.enable_multi_worker()
np.savez(directory / f"result-{index}.npz", **scenario(strategy, directory, index))
