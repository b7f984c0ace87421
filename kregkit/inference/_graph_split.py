"""A model as a pure function of weights, inputs and draws, in which what no noise reaches is computed once."""

import collections
import math

import keras
import tensorflow as tf

from kregkit._core import keras_internals
from kregkit._core.keras_internals import flatten_layers
from kregkit._core.replacing import replaced_all
from kregkit.inference._architecture import attach_masks, with_masks
from kregkit.inference._views import repeated
from kregkit.inference.noise import drawing, drawn_layers, expecting
from kregkit.inference.noise.keras_layers import commutes, is_elementwise, perturbed, without_noise
from kregkit.inference.noise.own_numbers import DrawsInInferenceError, draws_by_tensorflow, no_numbers, own_numbers
from kregkit.inference.noise.random_numbers import Draws


class NoisyModel:
    """A model in inference mode except for its noise, as `noisy(values, common, samples, start, batch)`.

    `common` is what all draws have in common, which `once` computes: in a functional model everything that no noise
    reaches, elsewhere the inputs. Each function is traced once per shape and number of draws.

    Args:
        architecture: An `Architecture`.
        layer_indices: The noisy layers, as `select_noise` gives them.
        settings: `Settings`.
    """

    def __init__(self, architecture, layer_indices, settings):
        self.architecture, self.layer_indices, self.settings = architecture, layer_indices, settings
        self.analytic = settings.draws == "analytic"
        # Whether any pass that has been traced draws noise, or the model draws numbers by itself.
        self.draws = False
        self._functions = {}
        self._split = None
        drawn = drawn_layers(architecture.model, layer_indices)
        if drawn and not self.analytic and can_be_split(architecture.model):
            split = GraphSplit(architecture.model, drawn)
            self._split = split if split.by_examples else None

    def largest_tensor(self, views):
        """Returns how many numbers an example has in the largest tensor that is computed for each draw."""
        whole = views or self._split is None
        return largest_tensor([self.architecture.model]) if whole else self._split.largest

    def once(self, values, inputs):
        """Returns what all draws for a batch of inputs have in common: tensors and their masks."""
        if self._split is not None:
            try:
                return self._traced("once", self._once)(values, inputs)
            except DrawsInInferenceError:
                # Numbers that the first part draws by itself must differ from draw to draw.
                self._split = None
        return inputs

    def __call__(self, values, common, samples, start, batch):
        """Returns outputs and masks for all draws of a batch, folded, from what `once` returned.

        Args:
            values: The weights.
            common: What `once` returned.
            samples: Integer tensor `(k,)`, the draws' numbers.
            start: Integer scalar tensor, the first example's number in the data set.
            batch: Integer or scalar tensor, how many examples.
        """
        return self._traced(samples.shape[0], self._draw)(values, common, samples, start, batch)

    def of_views(self, values, inputs, samples, start, batch):
        """Returns outputs and masks for inputs that already hold one version per draw."""
        return self._traced(-samples.shape[0], self._draw_whole)(values, inputs, samples, start, batch)

    def _traced(self, name, function):
        # One function per number of draws, which must stay static when the batch's size doesn't.
        if name not in self._functions:
            self._functions[name] = self.architecture.traced(function)
        return self._functions[name]

    def _once(self, values, inputs):
        with own_numbers(self.architecture.model, no_numbers), self.architecture.scope(values):
            outputs = with_masks(self._split.before(inputs))
        if draws_by_tensorflow(self.architecture.check_operations()):
            no_numbers(None, None)
        return outputs

    def _draw(self, values, common, samples, start, batch):
        if self._split is None:
            inputs = keras.tree.map_structure(lambda x: repeated(x, samples.shape[0]), common)
            return self._draw_whole(values, inputs, samples, start, batch)
        draws = Draws(self.settings.seed, samples, batch, start, self.settings.shared)
        noise = drawing(self.architecture.model, self.layer_indices, draws, self._split.moved)
        return self._run(values, draws, noise, lambda: self._split.after(attach_masks(*common), draws))

    def _draw_whole(self, values, inputs, samples, start, batch):
        model = self.architecture.model
        draws = Draws(self.settings.seed, samples, batch, start, self.settings.shared)
        noise = expecting(model, self.layer_indices) if self.analytic else drawing(model, self.layer_indices, draws)
        return self._run(values, draws, noise, lambda: model(inputs, **self.architecture.arguments))

    def _run(self, values, draws, noise, call):
        model = self.architecture.model
        with own_numbers(model, draws.own_key), noise, self.architecture.scope(values) as statistics:
            outputs = with_masks(call())
        by_tensorflow = draws_by_tensorflow(self.architecture.check_operations())
        if by_tensorflow:
            draws.require_one_draw("TensorFlow's own random numbers, which may be a whole batch's")
        if statistics:
            draws.require_one_draw("statistics of a batch, which has to be one draw's")
        if self.analytic and (draws.drew or by_tensorflow):
            raise ValueError(
                f"There is no analytic form for the random numbers that model {model.name!r} draws by itself, in a "
                "layer of its own or by noise that is always on and not in `noise`: average draws. "
                "Received: draws='analytic'"
            )
        self.draws = self.draws or draws.drew or by_tensorflow
        return outputs


class GraphSplit:
    """A functional model in two parts: what no noise reaches, the same for all draws of an example, and the rest.

    What the first part hands on are tensors of the graph. Where a noisy layer of Keras is the first on its way, it
    itself is between the parts: its noise is added to the copies of the tensor that the draws need.

    Args:
        model: A Keras model for which `can_be_split`.
        layer_indices: Its noisy layers, as `select_noise` gives them.

    Attributes:
        moved: Dictionary from layer indices to poolings behind which whole channels can as well be dropped: of a
            smaller tensor, and where nothing else is noisy before, by the second part.
        by_examples: Whether the first axis of all that is handed on can be the examples'.
        largest: How many numbers an example has in the largest tensor of the second part.
    """

    def __init__(self, model, layer_indices):
        graph = keras_internals.functional_of(model)
        nodes = [node for node in keras_internals.nodes_in_order(graph) if not node.is_input]
        uses = collections.Counter(id(node.operation) for node in nodes)
        every = flatten_layers(model)
        index_of = {id(every[index]): index for index in layer_indices}
        inner = {id(part) for layer in graph.layers for part in flatten_layers(layer, include_self=False)}
        used_once = {operation for operation, count in uses.items() if count == 1 and operation not in inner}
        self._standardize = keras_internals.standardize_inputs(graph)
        self.moved = {
            index_of[id(node.operation)]: behind
            for node in nodes
            if id(node.operation) in used_once & set(index_of)
            for behind in _only_follower(graph, nodes, node)
            if id(behind) in used_once and commutes(node.operation, behind)
        }
        behind = {id(layer): index for index, layer in self.moved.items()}
        # Per tensor that is handed on: the index of the layer whose noise is added to it, or none.
        handed, noisy, second = {}, set(), []
        tensors = {id(tensor): tensor for tensor in graph.inputs}
        for node in nodes:
            layer = node.operation
            tensors.update((id(tensor), tensor) for tensor in node.outputs)
            reached = any(id(tensor) in noisy for tensor in node.input_tensors)
            is_source = id(layer) in behind or (
                _contains(layer, index_of) and index_of.get(id(layer)) not in self.moved
            )
            index = behind.get(id(layer), index_of.get(id(layer)))
            alone = id(layer) in used_once and index is not None and is_elementwise(every[index])
            if is_source and not reached and alone:
                handed[id(node.outputs[0])] = index
            elif is_source or reached:
                handed.update((id(tensor), None) for tensor in node.input_tensors if id(tensor) not in noisy)
                second.append(layer)
            else:
                continue
            noisy.update(id(tensor) for tensor in node.outputs)
        handed.update((id(tensor), None) for tensor in graph.outputs if id(tensor) not in noisy)
        between = [tensors[each] for each in handed]
        self.by_examples = all(tensor.shape[:1] == first.shape[:1] for tensor in between for first in graph.inputs[:1])
        self.largest = largest_tensor(second, between)
        self._noise = [(None if index is None else every[index], index) for index in handed.values()]
        self._before = _Part(keras.Function(graph.inputs, between), model, model.autocast)
        self._after = _Part(keras.Function(between, graph.output), model)

    def before(self, inputs):
        """Returns what no noise reaches, for the examples: a list of tensors."""
        # Noise that is always on would be drawn here once, and be in all draws.
        quiet = [(layer, "call", without_noise) for layer, _ in self._noise if layer is not None]
        with replaced_all(quiet):
            return self._before(self._standardize(inputs), training=False)

    def after(self, between, draws):
        """Returns the model's outputs from what `before` returned, for all draws; see `drawing`."""
        copies = []
        for tensor, (layer, index) in zip(between, self._noise):
            mask = keras_internals.get_mask(tensor)
            copy = repeated(tensor, draws.num_draws)
            copy = tf.identity(copy) if layer is None else perturbed(layer, draws, index, copy)
            keras_internals.set_mask(copy, None if mask is None else repeated(mask, draws.num_draws))
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
    inner = [part for each in operations for part in (flatten_layers(each) if _is_layer(each) else [each])]
    nodes = [node for operation in inner for node in keras_internals.inbound_nodes(operation)]
    shapes = [tensor.shape for node in nodes for tensor in (*node.input_tensors, *node.output_tensors)]
    shapes += [tensor.shape for tensor in tensors]
    # Nothing is known of the activations of a subclassed model except that there are some.
    return max((math.prod(size or 1 for size in shape[1:]) for shape in shapes), default=2**13)


def can_be_split(model):
    """Returns whether the model does what its graph says, and no more."""
    if isinstance(model, keras.Sequential):
        own = type(model).call is not keras.Sequential.call or "call" in vars(model)
        return not own and keras_internals.functional_of(model) is not None
    owner = next((base for base in type(model).__mro__ if "call" in vars(base)), type(model))
    graph = keras_internals.functional_of(model) is not None
    return graph and "call" not in vars(model) and owner.__module__.startswith("keras.")


def _only_follower(graph, nodes, node):
    """Yields the one operation that takes the results of `node`, if it is the only one."""
    results = {id(tensor) for tensor in node.outputs}
    followers = [other for other in nodes if any(id(tensor) in results for tensor in other.input_tensors)]
    if len(followers) == 1 and not any(id(tensor) in results for tensor in graph.outputs):
        yield followers[0].operation


def _contains(operation, index_of):
    return _is_layer(operation) and any(id(part) in index_of for part in flatten_layers(operation))


def _is_layer(operation):
    return isinstance(operation, keras.layers.Layer)
