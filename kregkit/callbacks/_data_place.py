"""Where in its data a fit is, and how another fit gets there.

The batches of a pass follow from what the pass begins with: the seed and number of a shuffle, a pipeline's epoch. So
a place is the number of the pass, what it began with, and the batches taken from it; those are read again and dropped.
"""

import zlib

import keras
import numpy as np
import tensorflow as tf

from kregkit._core import keras_internals

# Operations whose results a new process doesn't repeat, or that nobody can see into. Random ones are told apart by
# their seeds.
_FOREIGN = ("PyFunc", "EagerPyFunc", "PyFuncStateless", "GeneratorDataset")
_RANDOM = ("Random", "TruncatedNormal", "Multinomial", "SampleDistortedBoundingBox", "ParameterizedTruncatedNormal")
_VARIABLE = ("ReadVariableOp", "RngReadAndSkip", "Stateful", "AssignVariable", "AssignAddVariable")
_SHUFFLES = ("ShuffleDataset", "ShuffleAndRepeatDataset")
# So much of arrays is read for their checksum.
_CHECKED_BYTES = 2**24


def draw_seed():
    """Returns a seed from NumPy's global generator."""
    return int(np.random.randint(2**31))


class DataPlace:
    """The place of a fit in its training or validation data.

    Args:
        iterator: What `fit` reads the data from.
        strategy: The model's `tf.distribute.Strategy`.
        replay: Boolean, whether the order must be repeatable.
        name: String, what `fit` calls the data, for messages.
        draw_seed: Function that returns a seed for a shuffle, the same one on all workers.

    Raises:
        ValueError: The order can't be repeated, and `replay`.
    """

    def __init__(self, iterator, strategy, replay, name="x", draw_seed=draw_seed):
        self.epochs = keras_internals.EpochIterator(iterator, (tf.errors.OutOfRangeError,))
        self.name, self._draw_seed = name, draw_seed
        adapter = self.epochs.adapter
        self.kind = keras_internals.data_kind(adapter)
        self._pipelines, self._seed, self._order, self._sequence = [], None, None, None
        self._began = []
        if self.kind == "arrays":
            self._arrays, self._batch_size, shuffle = keras_internals.array_settings(adapter)
            reason = None
            # With a global seed TensorFlow's own order is the same in each process.
            if shuffle and keras_internals.global_tensorflow_seed() is None:
                self._seed = self._draw_seed()
                self._shuffle_arrays(adapter, strategy)
        elif self.kind == "dataset":
            self._pipelines = _pipelines_in(adapter.get_tf_dataset())
            reason = _why_unrepeatable(adapter.get_tf_dataset(), self._pipelines)
        elif self.kind == "sequence":
            reason = self._order_sequence(adapter)
        else:
            reason = "is a generator, or another iterator whose order nobody can tell"
        self.reason, self._replay = reason, replay
        if replay and reason is not None:
            raise ValueError(
                f"`{name}` {reason}, so that a run that was killed can't go on with the same batches. Pass arrays, a "
                "`kregkit.data.pipeline` or a data set with seeds, or `Resume(..., data='restart')`, which begins the "
                f"data anew and is not bit-identical. Received: {name}={type(adapter).__name__}"
            )
        self.epochs.before_pass = self._note

    # Orders of kregkit's own, where Keras's can't be repeated.

    def _shuffle_arrays(self, adapter, strategy):
        with tf.device("CPU:0"):
            self._order = tf.Variable([self._seed, 0], dtype=tf.int32, trainable=False, name="order")

        def shuffle(value):
            # Of `shuffle="batch"` each batch is a value of its own, told by its first index.
            seed = tf.random.experimental.stateless_fold_in(self._order.read_value(), tf.cast(value[0], tf.int32))
            return tf.random.experimental.stateless_shuffle(value, seed)

        dataset = keras_internals.shuffled_dataset(adapter, tf.random, shuffle)
        self.epochs.dataset = strategy.experimental_distribute_dataset(dataset)

    def _order_sequence(self, adapter):
        sequence = adapter.py_dataset
        kind, plain = type(sequence), keras.utils.PyDataset
        if sequence.num_batches is None:
            return "is a PyDataset without a length"
        keeps = hasattr(sequence, "get_state") and hasattr(sequence, "set_state")
        if not keeps and (
            kind.on_epoch_end is not plain.on_epoch_end or kind.on_epoch_begin is not plain.on_epoch_begin
        ):
            return (
                "is a PyDataset that changes at an epoch's begin or end (`on_epoch_end`) and has no `get_state` and "
                "`set_state` to tell how"
            )
        if keeps:
            self._sequence = sequence
        if adapter.shuffle:
            self._seed = self._draw_seed()
            self._order = _OrderedSequence(sequence, self._seed)
            # The workers that read ahead find the sequence in either place.
            adapter.py_dataset, adapter.shuffle = self._order, False
            if adapter.enqueuer is not None:
                adapter.enqueuer.py_dataset, adapter.enqueuer.shuffle = self._order, False
        return None

    # Places.

    def _note(self):
        self._began = self._counters()
        if isinstance(self._order, tf.Variable):
            self._order.assign([self._seed, self.epochs.passes + 1])

    def _counters(self):
        return [int(pipeline.epoch.numpy()) for pipeline in self._pipelines]

    def get_state(self):
        """Returns the place."""
        state = {
            "passes": self.epochs.passes,
            "taken": self.epochs.taken,
            "length": self.epochs.length,
            "seed": self._seed,
            "began": self._began,
            "counters": self._counters(),
        }
        if isinstance(self._order, _OrderedSequence):
            state["epoch"] = self._order.epoch
        if self._sequence is not None:
            state["sequence"] = self._sequence.get_state()
        return state

    def set_state(self, state, batch):
        """Has the next epoch begin at a place; without `replay` in a pass that begins anew.

        Args:
            state: What `get_state` returned.
            batch: Integer, the batches of the epoch that are done.
        """
        in_pass = state["passes"] > 0 and (batch > 0 or self.epochs.goes_on)
        passes = state["passes"] - 1 if in_pass else state["passes"]
        if self.kind == "dataset":
            # A shuffle with a seed takes its next order whenever an iterator is made.
            while self.epochs.passes < passes:
                self.epochs.make()
        self.epochs.passes = passes
        if state["length"] is not None:
            self.epochs.length = state["length"]
        if state["seed"] is not None:
            self._seed = state["seed"]
        if isinstance(self._order, _OrderedSequence):
            self._order.seed, self._order.epoch = self._seed, state["epoch"]
        if self._sequence is not None:
            self._sequence.set_state(state["sequence"])
        for pipeline, value in zip(self._pipelines, state["began"] if in_pass else state["counters"]):
            pipeline.epoch.assign(value)
        self._began = self._counters()
        if in_pass:
            self.epochs.begin_at(batch, state["taken"] if self._replay else 0)

    def identity(self):
        """Returns what tells this data from other data, as a dictionary of JSON values."""
        iterator = self.epochs.iterator
        identity = {
            "kind": self.kind,
            "steps_per_epoch": iterator.steps_per_epoch,
            "elements": _elements(self.epochs.dataset.element_spec),
        }
        if self.kind == "arrays":
            arrays = [one for one in keras.tree.flatten(self._arrays) if one is not None]
            identity["examples"] = int(arrays[0].shape[0])
            identity["batch_size"] = self._batch_size
            identity["checksums"] = [_checksum(one) for one in arrays]
        else:
            # After a first epoch Keras knows the length of data that doesn't tell it.
            length = self.epochs.adapter.num_batches
            identity["batches"] = None if length is None else int(length)
        return identity


class _OrderedSequence(keras.utils.PyDataset):
    """A PyDataset in an order that follows from a seed and the number of the epoch."""

    def __init__(self, sequence, seed):
        super().__init__(
            workers=sequence.workers,
            use_multiprocessing=sequence.use_multiprocessing,
            max_queue_size=sequence.max_queue_size,
        )
        self.sequence, self.seed, self.epoch = sequence, seed, 0
        self._permutation = (None, None)

    @property
    def num_batches(self):
        return self.sequence.num_batches

    def __getitem__(self, index):
        made_for, permutation = self._permutation
        if made_for != (self.seed, self.epoch):
            permutation = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_batches)
            self._permutation = ((self.seed, self.epoch), permutation)
        return self.sequence[int(permutation[index])]

    def on_epoch_begin(self):
        self.sequence.on_epoch_begin()

    def on_epoch_end(self):
        # Workers may begin the next epoch before `on_epoch_begin`.
        self.epoch += 1
        self.sequence.on_epoch_end()


def _elements(spec):
    return [
        [[None if size is None else int(size) for size in part.shape or ()], part.dtype.name]
        for part in tf.nest.flatten(spec)
        if isinstance(part, tf.TensorSpec)
    ]


def _checksum(array):
    """Returns a checksum of an array, of evenly spread rows where it is large; None for what is no plain array."""
    try:
        rows = len(array)
        size = getattr(array, "nbytes", 0)
        step = max(1, -(-size // _CHECKED_BYTES))
        part = np.ascontiguousarray(np.asarray(array[:rows:step]))
        return None if part.dtype.hasobject else zlib.crc32(part.reshape(-1).view(np.uint8))
    except (TypeError, ValueError, KeyError):
        return None


def _pipelines_in(dataset):
    """Returns the pipelines of kregkit in a dataset, each once: they tell their epoch by a variable `epoch`."""
    if isinstance(getattr(dataset, "epoch", None), tf.Variable):
        return [dataset]
    found = {}
    for inner in keras_internals.dataset_inputs(dataset) if isinstance(dataset, tf.data.Dataset) else ():
        for pipeline in _pipelines_in(inner):
            found[id(pipeline)] = pipeline
    return list(found.values())


def _why_unrepeatable(dataset, pipelines):
    """Returns why a new process would read other batches from a dataset, or None."""
    if any(dataset is pipeline for pipeline in pipelines):
        return None
    if not isinstance(dataset, tf.data.Dataset):
        return "is distributed already, and can't be looked into"
    if dataset.options().deterministic is False:
        return "is read in no fixed order (`options.deterministic=False`)"
    try:
        reasons = _changing(dataset)
        for pipeline in pipelines:
            for reason, count in _changing(pipeline).items():
                # Those that a pipeline needs itself, which knows its place.
                reasons[reason] = reasons.get(reason, 0) - count
    except (tf.errors.OpError, ValueError) as error:
        return f"can't be looked into ({type(error).__name__})"
    return next((reason for reason, count in reasons.items() if count > 0), None)


def _changing(dataset):
    """Returns how often a dataset's graph holds something that no new process repeats, by reason."""
    graph = tf.compat.v1.GraphDef.FromString(keras_internals.serialized_graph(dataset).numpy())
    functions = {function.signature.name: function.node_def for function in graph.library.function}
    constants = {node.name: node for node in graph.node if node.op == "Const"}
    parallel = _called_in_parallel([graph.node, *functions.values()], functions)
    reasons = {}
    for owner, nodes in [(None, graph.node), *functions.items()]:
        local = constants if owner is None else {node.name: node for node in nodes if node.op == "Const"}
        for node in nodes:
            reason = _why_node_changes(node, local, owner in parallel)
            if reason is not None:
                reasons[reason] = reasons.get(reason, 0) + 1
    return reasons


def _why_node_changes(node, constants, in_parallel):
    if node.op in _FOREIGN:
        return "comes from Python code (`from_generator`, `py_function`)"
    if node.op.startswith(_VARIABLE):
        return "reads a variable that isn't a pipeline's epoch"
    if node.op == "RandomDataset" or node.op.startswith(_SHUFFLES):
        return "is shuffled without a seed" if _seedless(node, constants) else None
    if node.op.startswith(_RANDOM):
        if not (node.attr["seed"].i or node.attr["seed2"].i):
            return "draws random numbers without a seed"
        return "draws random numbers in parallel calls" if in_parallel else None
    if node.attr["deterministic"].s == b"false":
        return "is read in no fixed order (`deterministic=False`)"
    return None


def _seedless(node, constants):
    """Returns whether both seeds of a shuffle are the constant 0."""
    values = []
    for name in node.input:
        constant = constants.get(name.partition(":")[0])
        # Buffer sizes and counts are never 0; handles and strings are no integers.
        if constant is not None and constant.attr["dtype"].type == tf.int64.as_datatype_enum:
            values.append(int(tf.make_ndarray(constant.attr["value"].tensor).reshape(-1)[0]))
    return values[-2:] == [0, 0] if not node.op.startswith("ShuffleAndRepeat") else values[1:3] == [0, 0]


def _called_in_parallel(graphs, functions):
    """Returns the names of functions that parallel stages call, directly or through others."""
    found, waiting = set(), []
    for nodes in graphs:
        waiting += [name for node in nodes if node.op.startswith("Parallel") for name in _called(node)]
    while waiting:
        name = waiting.pop()
        if name in functions and name not in found:
            found.add(name)
            waiting += [other for node in functions[name] for other in _called(node)]
    return found


def _called(node):
    return [value.func.name for value in node.attr.values() if value.func.name]
