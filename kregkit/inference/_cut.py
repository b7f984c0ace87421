"""Which part of a model no noise reaches."""

import collections
import math

import keras
import tensorflow as tf

from kregkit.inference._keras_noise import commutes, is_elementwise, perturbed
from kregkit.inference._noise import flat_layers
from kregkit.inference._views import repeated


class Cut:
    """A functional model in two parts: what no noise reaches, the same for all draws of an example, and the rest.

    What the first part hands on are tensors of the graph. Where a noisy layer of Keras is the first on its way, it
    itself is between the parts: its noise is added to the copies of the tensor that the draws need.

    Args:
        model: A Keras model for which `can_be_cut`.
        places: Its noisy layers, as `select_noise` gives them.

    Attributes:
        moved: Dictionary from places to poolings behind which whole channels can as well be dropped: of a smaller
            tensor, and where nothing else is noisy before, by the second part.
        by_examples: Whether the first axis of all that is handed on can be the examples'.
        largest: How many numbers an example has in the largest tensor of the second part.
    """

    def __init__(self, model, places):
        graph = _graph(model)
        nodes = [node for node in _nodes(graph) if not node.is_input]
        uses = collections.Counter(id(node.operation) for node in nodes)
        every = flat_layers(model)
        sources = {id(every[place]): place for place in places}
        inner = {id(part) for layer in graph.layers for part in layer._flatten_layers(include_self=False)}
        once = {one for one, count in uses.items() if count == 1 and one not in inner}
        self._standardize = graph._standardize_inputs
        self.moved = {
            sources[id(node.operation)]: behind
            for node in nodes
            if id(node.operation) in once & set(sources)
            for behind in _only_follower(graph, nodes, node)
            if id(behind) in once and commutes(node.operation, behind)
        }
        behind = {id(layer): place for place, layer in self.moved.items()}
        # Per tensor that is handed on: the place of the noise that is added to it, or none.
        handed, noisy, second = {}, set(), []
        tensors = {id(tensor): tensor for tensor in graph.inputs}
        for node in nodes:
            layer = node.operation
            tensors.update((id(tensor), tensor) for tensor in node.outputs)
            reached = any(id(tensor) in noisy for tensor in node.input_tensors)
            source = id(layer) in behind or (_contains(layer, sources) and sources.get(id(layer)) not in self.moved)
            place = behind.get(id(layer), sources.get(id(layer)))
            if source and not reached and id(layer) in once and place is not None and is_elementwise(every[place]):
                handed[id(node.outputs[0])] = place
            elif source or reached:
                handed.update((id(one), None) for one in node.input_tensors if id(one) not in noisy)
                second.append(layer)
            else:
                continue
            noisy.update(id(tensor) for tensor in node.outputs)
        handed.update((id(one), None) for one in graph.outputs if id(one) not in noisy)
        between = [tensors[one] for one in handed]
        self.by_examples = all(one.shape[:1] == first.shape[:1] for one in between for first in graph.inputs[:1])
        self.largest = largest_tensor(second, between)
        self._noise = [(None if place is None else every[place], place) for place in handed.values()]
        self._before = _Part(keras.Function(graph.inputs, between), model, model.autocast)
        self._after = _Part(keras.Function(between, graph.output), model)

    def before(self, inputs):
        """Returns what no noise reaches, for the examples: a list of tensors."""
        return self._before(self._standardize(inputs), training=False)

    def after(self, between, draws):
        """Returns the model's outputs from what `before` returned, for all draws; see `drawing`."""
        copies = []
        for tensor, (layer, place) in zip(between, self._noise):
            mask = getattr(tensor, "_keras_mask", None)
            if layer is None:
                copy = tf.identity(repeated(tensor, draws.num_draws))
            else:
                copy = perturbed(layer, draws, place, repeated(tensor, draws.num_draws))
            if mask is not None:
                copy._keras_mask = repeated(mask, draws.num_draws)
            copies.append(copy)
        outputs = self._after(copies, training=False)
        return outputs[0] if isinstance(outputs, (list, tuple)) and len(outputs) == 1 else outputs


class _Part(keras.layers.Layer):
    """Calls a part of a model as the model would."""

    def __init__(self, function, model, autocast=False):
        super().__init__(name="part", dtype=model.dtype_policy, autocast=autocast)
        self._function = function
        self.supports_masking = True
        self.built = True

    def call(self, inputs, training=None):
        return self._function(inputs)

    def compute_mask(self, inputs, previous_mask):
        # The layers inside have set those of the outputs.
        return None


def largest_tensor(operations, tensors=()):
    """Returns how many numbers an example has in the largest tensor that goes into or out of some operations."""
    inner = [part for one in operations for part in (one._flatten_layers() if _is_layer(one) else [one])]
    nodes = [node for one in inner for node in one._inbound_nodes]
    shapes = [tensor.shape for node in nodes for tensor in (*node.input_tensors, *node.output_tensors)]
    shapes += [tensor.shape for tensor in tensors]
    # Nothing is known of the activations of a subclassed model but that there are some.
    return max((math.prod(size or 1 for size in shape[1:]) for shape in shapes), default=2**13)


def can_be_cut(model):
    """Returns whether the model does what its graph says, and no more."""
    if isinstance(model, keras.Sequential):
        return type(model).call is keras.Sequential.call and "call" not in vars(model) and bool(model._functional)
    graph = hasattr(model, "_nodes_by_depth")
    owner = next((one for one in type(model).__mro__ if "call" in vars(one)), type(model))
    return graph and "call" not in vars(model) and owner.__module__.startswith("keras.")


def _graph(model):
    return model._functional if isinstance(model, keras.Sequential) else model


def _nodes(graph):
    """Returns the graph's nodes, those before others first."""
    return [node for depth in sorted(graph._nodes_by_depth, reverse=True) for node in graph._nodes_by_depth[depth]]


def _only_follower(graph, nodes, node):
    """Yields the one operation that takes the results of `node`, if it is the only one."""
    results = {id(tensor) for tensor in node.outputs}
    followers = [other for other in nodes if any(id(tensor) in results for tensor in other.input_tensors)]
    if len(followers) == 1 and not any(id(tensor) in results for tensor in graph.outputs):
        yield followers[0].operation


def _contains(operation, sources):
    return _is_layer(operation) and any(id(part) in sources for part in operation._flatten_layers())


def _is_layer(operation):
    return isinstance(operation, keras.layers.Layer)
