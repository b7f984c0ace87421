"""Batches made by other machines: through `tf.data`'s own service, in the order that they have without it.

The service hands the numbers of an epoch's batches to its workers, each number once, and their batches come as they
are ready. As a batch follows from its number, putting them in order again is all there is to do.
"""

import socket
import urllib.parse

import tensorflow as tf

from kregkit._core import keras_internals
from kregkit._core.background import answers_in_time
from kregkit.data._epochs import plain

_SECONDS = 10.0


def check_service(service):
    """Checks the address of a dispatcher, `grpc://host:port`, and whether one is there."""
    parts = urllib.parse.urlsplit(service) if isinstance(service, str) else None
    try:
        good = parts is not None and parts.scheme == "grpc" and parts.hostname and parts.port
    except ValueError:
        good = False
    if not good:
        raise ValueError(
            "`service` must be the address of a tf.data service's dispatcher, 'grpc://host:port'. "
            f"Received: service={service!r}"
        )

    def connect():
        socket.create_connection((parts.hostname, parts.port), _SECONDS).close()
        return True

    if not answers_in_time(connect, _SECONDS):
        raise ConnectionError(
            f"No dispatcher answers at this address within {_SECONDS:g} seconds: start one with "
            f"`tf.data.experimental.service.DispatchServer`. Received: service={service!r}"
        )


def check_elsewhere(dataset):
    """Raises an error for a dataset that can't be computed by another process."""
    graph = tf.compat.v1.GraphDef.FromString(keras_internals.serialized_graph(dataset).numpy())
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    if any("PyFunc" in node.op for node in nodes):
        raise ValueError(
            "`service` needs examples that TensorFlow reads by itself, such as arrays and folders of images: Python "
            "code of this process, as in sequences and operations of your own, isn't there for the service's workers. "
            "Received: a source or operation that calls Python"
        )


def from_service(service, make, counter, start, num_batches):
    """Returns one epoch's batches, computed by the workers of a service.

    Args:
        service: String, the dispatcher's address.
        make: Callable `(epoch, first)` of two integers that returns the dataset of pairs `(number, batch)` of an
            epoch from batch `first` on.
        counter: Variable, the epoch, read when a pass begins.
        start: Variable, the batch at which the pass starts, or None.
        num_batches: Integer.
    """
    example = make(0, 0)
    check_elsewhere(example)
    spec = example.element_spec

    def register(epoch, first):
        # A pass is a dataset of its own: the service can't see this process's variables.
        dataset = make(int(epoch), int(first))
        return tf.data.experimental.service.register_dataset(service, dataset).numpy()

    def one_pass(_):
        first = tf.constant(0, tf.int64) if start is None else start.read_value()
        name = tf.ensure_shape(tf.numpy_function(register, [counter.read_value(), first], tf.string), ())
        policy = tf.data.experimental.service.ShardingPolicy.DYNAMIC
        dataset = tf.data.experimental.service.from_dataset_id(policy, service, name, element_spec=spec)
        return _in_order(dataset, first, num_batches)

    return tf.data.Dataset.from_tensors(0).flat_map(plain(one_pass))


def _in_order(dataset, first, end):
    """Returns the batches of pairs `(number, batch)` from number `first` up to `end`, one after another.

    Those that come too early wait in a map; nothing is copied.
    """
    spec = dataset.element_spec[1]
    parts = tf.nest.flatten(spec)
    types, shapes = [part.dtype for part in parts], [part.shape for part in parts]
    ops = tf.raw_ops

    def waiting(number, batch):
        return number, ops.OptionalFromValue(components=tf.nest.flatten(batch))

    def put(state, element):
        batches, following = state
        number, batch = element
        batches = ops.TensorMapInsert(input_handle=batches, key=number, value=batch)
        after = tf.while_loop(
            lambda key: ops.TensorMapHasKey(input_handle=batches, key=key), lambda key: (key + 1,), (following,)
        )[0]
        left = tf.while_loop(
            lambda key, rest: key < after,
            lambda key, rest: (key + 1, ops.TensorMapErase(input_handle=rest, key=key, value_dtype=tf.variant)),
            (following, batches),
        )[1]
        # The end has come, and something before it hasn't.
        lost = tf.debugging.Assert(
            tf.logical_or(number < end, after == end + 1),
            ["The tf.data service has lost batches, as when one of its workers ends. The next one is batch", following],
        )
        with tf.control_dependencies([lost]):
            return (left, after), (batches, following, tf.minimum(after, end))

    def ready(batches, following, after):
        def take(key):
            batch = ops.TensorMapLookup(input_handle=batches, key=key, value_dtype=tf.variant)
            values = ops.OptionalGetValue(optional=batch, output_types=types, output_shapes=shapes)
            return tf.nest.pack_sequence_as(spec, values)

        return tf.data.Dataset.range(following, after).map(plain(take))

    # A last number, so that what is missing is noticed.
    last = tf.data.Dataset.from_tensors(tf.constant(end, tf.int64))
    last = last.map(plain(lambda number: (number, ops.OptionalNone())))
    dataset = dataset.map(plain(waiting)).concatenate(last)
    dataset = dataset.scan((ops.EmptyTensorMap(), first), plain(put))
    return dataset.flat_map(plain(ready))
