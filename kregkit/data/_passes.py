"""Passes that start at once: later ones read on from the iterator that the first one made.

A new iterator has TensorFlow optimize the pipeline's graph and prepare all its functions again, which takes a tenth of
a second and more. One iterator over `dataset.repeat()` does that once. Nothing else changes: within `repeat` a pass
begins when its first batch is asked for, reads the epoch then, and prepares no batch of the next one.
"""

import re
import threading
import weakref

import tensorflow as tf

from kregkit._core import keras_internals
from kregkit.data._epochs import integer_variable, plain
from kregkit.data._graph_checks import require

# Operations that draw from a state of their own.
_RANDOM = (
    "RandomUniform",
    "RandomStandardNormal",
    "RandomGamma",
    "RandomPoisson",
    "RandomShuffle",
    "RandomCrop",
    "RandomDataset",
    "TruncatedNormal",
    "ParameterizedTruncatedNormal",
    "Multinomial",
    "SampleDistortedBoundingBox",
)


def starts_at_once(dataset, num_batches, start):
    """Has `iter(dataset)` read on from an earlier pass where that one has ended.

    What is derived from the dataset (`take`, `repeat`, `zip`, a strategy's distributed dataset) reads it as before.

    Args:
        dataset: Dataset of one pass.
        num_batches: Integer, the batches of a whole pass.
        start: Variable, the batch at which the next pass starts, or `None`.
    """
    plain_dataset, kind = dataset, type(dataset)
    # Python looks `__iter__` up in the class.
    kind = type(kind.__name__, (_StartsAtOnce, kind), {})
    dataset = kind.__new__(kind)
    vars(dataset).update(vars(plain_dataset))
    dataset._num_batches, dataset._start, dataset._series, dataset._reading = num_batches, start, [], threading.Lock()
    return dataset


def draws_numbers(dataset):
    """Returns whether a dataset draws random numbers of its own, or can't be looked into.

    With a seed, they begin anew with each iterator, and go on within `repeat`.
    """
    if not isinstance(dataset, tf.data.Dataset) or re.search("Variant|Random", type(dataset).__name__):
        return True
    graphs = keras_internals.dataset_graphs(dataset)
    nodes = [node for graph in graphs for node in graph.node]
    nodes += [node for graph in graphs for function in graph.library.function for node in function.node_def]
    return any(node.op.startswith(_RANDOM) for node in nodes) or any(
        map(draws_numbers, keras_internals.dataset_inputs(dataset))
    )


class _StartsAtOnce:
    """Mixed into the class of a dataset."""

    def __iter__(self):
        # Where a pass starts in the middle, `repeat` would have another length.
        if not tf.executing_eagerly() or (self._start is not None and self._start.numpy()):
            return super().__iter__()
        with self._reading:
            free = next((series for series in self._series if series.is_free()), None)
            if free is None:
                free = _Series(self.repeat(), self._num_batches)
                # Two, since `fit` makes an iterator at the end of each epoch that it holds, and doesn't read, until it
                # has made the next epoch's.
                self._series = [*[series for series in self._series if not series.is_lost()][-1:], free]
            return free.one_pass()


class _Series:
    """Passes one after another from one iterator.

    A pass that is read at the same time as another one, or that follows one that was left early, belongs to another
    series: each pass is the only reader of its iterator until its last batch.

    Args:
        dataset: Dataset of pass after pass.
        num_batches: Integer, the batches of a pass.
    """

    def __init__(self, dataset, num_batches):
        self._num_batches, self._num_passes, self._reader = num_batches, 0, None
        self._asked, self._taken = asked, taken = [integer_variable(0, name) for name in ("asked", "taken")]
        # A pass begins when its first batch is asked for, and no earlier.
        ahead = tf.data.Options()
        ahead.experimental_optimization.inject_prefetch = False
        iterator = iter(dataset.with_options(ahead))

        def read(number):
            # After an error nobody knows where the next pass begins.
            message = "This pass has failed before. Make a new iterator"
            done = taken.read_value()
            require((done % num_batches == number) & (asked.read_value() == done), lambda: tf.constant(message))
            with tf.control_dependencies([asked.assign(done + 1)]):
                batch = iterator.get_next()
            with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
                taken.assign_add(1)
            return batch

        # Nothing may take batches ahead: the epoch is counted when the last one is taken.
        options = tf.data.Options()
        options.experimental_optimization.apply_default_optimizations = False
        options.experimental_optimization.inject_prefetch = False
        options.autotune.enabled = False
        self._pass = tf.data.Dataset.range(num_batches).map(plain(read)).with_options(options)

    def is_free(self):
        """Returns whether another pass can begin: the last one was read to its end, or nobody will begin it."""
        num_left = self._num_left()
        return num_left == 0 or (num_left == self._num_batches and self._reader() is None)

    def is_lost(self):
        """Returns whether no pass can begin any more: the last one failed, or was left early."""
        return not self.is_free() and self._reader() is None

    def one_pass(self):
        """Returns an iterator over the next pass."""
        if self._num_left() == 0:
            self._num_passes += 1
        iterator = iter(self._pass)
        self._reader = weakref.ref(iterator)
        return iterator

    def _num_left(self):
        """Returns how many batches of the last pass weren't taken, `None` after an error."""
        asked, taken = int(self._asked), int(self._taken)
        return self._num_passes * self._num_batches - taken if asked == taken else None
