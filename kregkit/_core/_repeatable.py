"""Whether data gives the same batches each time it is read. TensorFlow only."""

import keras
import numpy as np
import tensorflow as tf

from kregkit._core import keras_internals
from kregkit._core.batches import is_arrays

_SHUFFLES = ("ShuffleDataset", "ShuffleAndRepeatDataset")
# Operations of TensorFlow whose results change from call to call; stateless ones don't begin like this.
_CHANGING: tuple[str, ...] = (
    "Random",
    "TruncatedNormal",
    "StatefulUniform",
    "StatefulStandardNormal",
    "StatefulTruncatedNormal",
)
_PYTHON = ("PyFunc", "PyFuncStateless", "EagerPyFunc", "GeneratorDataset")
_CHANGING += ("Multinomial", "SampleDistortedBoundingBox", "AssignVariable", "AssignAddVariable", "AnonymousRandom")


def why_passes_differ(data, steps=None):
    """Returns why two passes over data may see different examples, or None if they see the same.

    Args:
        data: Whatever `fit` takes, such as its `validation_data`.
        steps: The `validation_steps` of `fit`, or None.
    """
    if data is None or is_arrays(data):
        return None
    if isinstance(data, keras.utils.PyDataset):
        in_part = steps is not None and (data.num_batches is None or steps < data.num_batches)
        reorders = type(data).on_epoch_end is not keras.utils.PyDataset.on_epoch_end
        if in_part and reorders:
            return "is a PyDataset that reorders itself, and `validation_steps` reads it in part"
        return "is a PyDataset whose first batch is another one each time" if _differ(data[0], data[0]) else None
    if isinstance(data, tf.data.Dataset):
        return _why_dataset_differs(data, steps)
    return "is an iterator, which can't be read again" if hasattr(data, "__next__") else None


def _why_dataset_differs(data, steps):
    cardinality = int(data.cardinality())
    in_part = steps is not None and not 0 <= cardinality <= steps
    try:
        graph = tf.compat.v1.GraphDef.FromString(keras_internals.serialized_graph(data).numpy())
    except tf.errors.OpError:
        return "holds state that changes as it is read, and `validation_steps` reads it in part" if in_part else None
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    shuffles = [node for node in nodes if node.op.startswith(_SHUFFLES) and _reshuffles(node)]
    if in_part and shuffles:
        return "is shuffled anew at each pass, and `validation_steps` reads it in part"
    if in_part and any(node.op == "GeneratorDataset" for node in nodes):
        return "comes from a generator, and `validation_steps` reads it in part"
    # What shuffles draws numbers as well, but changes only the order.
    seeds = {name.partition(":")[0] for node in nodes if node.op.startswith(_SHUFFLES) for name in node.input}
    if any(node.op.startswith(_CHANGING) and node.name not in seeds for node in nodes):
        return "draws random numbers anew at each pass"
    # What Python does to the examples can only be tried.
    if not shuffles and any(node.op in _PYTHON for node in nodes):
        first, again = next(iter(data), None), next(iter(data), None)
        return "is made by Python code that gives another first batch each time" if _differ(first, again) else None
    return None


def _differ(first, again):
    """Returns whether two batches are of one structure, and hold other values."""
    first, again = (
        [np.asarray(part) for part in tf.nest.flatten(batch, expand_composites=True)] for batch in (first, again)
    )
    return len(first) != len(again) or any(
        one.shape != other.shape or (one != other)[(one == one) | (other == other)].any()
        for one, other in zip(first, again)
    )


def _reshuffles(node):
    return node.attr["reshuffle_each_iteration"].b or "reshuffle_each_iteration" not in node.attr
