"""A model as a pure function of weights and inputs, and the key that models of the same architecture share."""

import contextlib
import itertools

import keras
import tensorflow as tf

from kregkit._core import keras_internals
from kregkit._core.architecture import architecture_text
from kregkit._core.keras_internals import flatten_layers
from kregkit._core.output_kinds import loss_tasks
from kregkit.inference.noise.own_numbers import (
    DrawsInInferenceError,
    assigns_variables,
    no_numbers,
    own_numbers,
    traced_operations,
)
from kregkit.inference.noise.random_numbers import key_of_state


class Architecture:
    """A model in inference mode as a function of weights and inputs, which reads and changes nothing of the model.

    It is traced once, however many members with this architecture a graph calls it for.

    Args:
        model: A built Keras model.

    Raises:
        ValueError: The model predicts by more than its `call`.
    """

    def __init__(self, model):
        check_predicts_by_call(model)
        self.model = model
        self.variables = list(model.variables)
        self.arguments = {"training": False} if keras_internals.takes_training(model) else {}
        layers = flatten_layers(model)
        normalizations = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
        self._statistics = {
            id(variable) for layer in normalizations for variable in (layer.moving_mean, layer.moving_variance)
        }
        generators = [generator for layer in layers for generator in keras_internals.seed_generators(layer)]
        self._uncounted = {id(generator.state) for generator in generators}
        self._uncounted |= {id(variable) for layer in layers for variable in layer.metrics_variables}
        self._draws = False
        self._traced = self.traced(self._run)
        self._traced_with_numbers = self.traced(self._run_with_numbers)

    def is_statistic(self, index):
        """Returns whether `variables[index]` is a BatchNormalization's moving statistic."""
        return id(self.variables[index]) in self._statistics

    def __call__(self, values, inputs, stream=0, first_example=None):
        """Returns the outputs.

        Args:
            values: List of tensors, the weights and states.
            inputs: One batch of inputs.
            stream: Integer. Where the model draws random numbers in inference, each stream has others.
            first_example: Callable that gives the number of the batch's first example; each batch has other random
                numbers. Defaults to one that gives 0.

        Raises:
            ValueError: The model remembers something from batch to batch.
        """
        if not self._draws:
            try:
                return attach_masks(*self._traced(values, inputs))
            except DrawsInInferenceError:
                self._draws = True
        start = tf.constant(0, "int64") if first_example is None else first_example()
        return attach_masks(*self._traced_with_numbers(values, inputs, tf.constant(stream, "int64"), start))

    def _run(self, values, inputs):
        with own_numbers(self.model, no_numbers), self.scope(values):
            outputs = with_masks(self.model(inputs, **self.arguments))
        self.check_operations()
        return outputs

    def _run_with_numbers(self, values, inputs, stream, start):
        uses = itertools.count()

        def next_key(index, state):
            return key_of_state(state, start, stream, next(uses))

        with own_numbers(self.model, next_key), self.scope(values):
            outputs = with_masks(self.model(inputs, **self.arguments))
        self.check_operations()
        return outputs

    @contextlib.contextmanager
    def scope(self, values):
        """A context manager in which the model's variables have other values and can't be changed.

        It yields a list, to which the moving statistics are added afterwards that a BatchNormalization changed,
        because it is in training mode although the model isn't.

        Raises:
            ValueError: On leaving, if the model changed anything else that its next batch would read.
        """
        changed = []
        with keras.StatelessScope(state_mapping=list(zip(self.variables, values))) as scope:
            before = dict(scope.state_mapping)
            yield changed
        written = {key for key, value in scope.state_mapping.items() if value is not before.get(key)}
        changed += written & self._statistics
        states = written - self._statistics - self._uncounted
        if states:
            self._refuse_state(", ".join(self._names(states)))

    def _names(self, ids):
        """Returns where the variables with these ids are."""
        names = {id(variable): variable.path for variable in self.variables}
        for layer in flatten_layers(self.model):
            # Those that no layer lists, such as the states of a recurrent layer.
            for name, value in vars(layer).items():
                leaves = value if isinstance(value, (list, tuple)) else [value]
                names.update((id(leaf), f"{layer.name}.{name}") for leaf in leaves)
        return sorted({names.get(each, "a variable outside of its layers") for each in ids})

    def check_operations(self):
        """Checks the operations that the model has added to the graph that is being traced, and returns their types.

        Raises:
            ValueError: They change TensorFlow's own variables.
        """
        operations = traced_operations(self.model)
        if assigns_variables(operations):
            self._refuse_state("a tf.Variable")
        return operations

    def _refuse_state(self, holder):
        raise ValueError(
            f"Model {self.model.name!r} keeps state from one batch to the next, in {holder}. Ensembles and "
            "marginalised models predict each batch from the weights alone, so their predictions would not be the "
            "model's. Make the layer stateless (stateful=False), or predict with the model itself. "
            f"Received: model={self.model.name!r}"
        )

    def traced(self, function):
        """Returns a function as a `tf.function`; models that run eagerly get it as it is, also in a later call."""
        traced = tf.function(function, autograph=False, reduce_retracing=True)
        return lambda *arguments: (function if self.model.run_eagerly else traced)(*arguments)


def check_predicts_by_call(model):
    """Raises `ValueError` for a model whose `predict` gives something else than its `call`."""
    name = own_method(model, ("predict_step", "make_predict_function", "predict"))
    if name is not None:
        # Models of KerasHub are functional, and their `predict` prepares the data first.
        functional = bool(getattr(model, "inputs", None)) and bool(getattr(model, "outputs", None))
        remedy = "Where the data are what `call` takes, give `keras.Model(model.inputs, model.outputs)`. " * functional
        raise ValueError(
            f"Model {model.name!r} has a `{name}` of its own, and ensembles and marginalised models predict by "
            f"`call`, which may give something else. {remedy}Move what `{name}` does into `call`, or into a model "
            f"around this one. Received: model={model.name!r}"
        )


def own_method(model, names):
    """Returns the first of these names of methods that the model, or its class, has in place of Keras's, or None."""
    for name in names:
        owner = next((base for base in type(model).__mro__ if name in vars(base)), type(model))
        if name in vars(model) or owner.__module__.partition(".")[0] not in ("keras", "kregkit"):
            return name
    return None


def current_values(model):
    """Returns a model's present weights and states as tensors that no later training changes."""
    # TensorFlow shares a variable's memory with the tensors read from it until the variable is next written.
    return [tf.convert_to_tensor(variable.value) for variable in model.variables]


def with_masks(outputs):
    """Returns `(outputs, masks)`: the results of a `tf.function` are new tensors, which don't carry their masks."""
    return outputs, keras.tree.map_structure(keras_internals.get_mask, outputs)


def attach_masks(outputs, masks):
    """Returns `outputs` with the masks that `with_masks` took from them."""
    for output, mask in zip(keras.tree.flatten(outputs), keras.tree.flatten(masks)):
        keras_internals.set_mask(output, mask)
    return outputs


def as_tensors(inputs):
    """Returns a structure of arrays as tensors; NumPy's float64 becomes Keras's float, as in `predict`.

    Sparse and ragged tensors stay such.
    """

    def convert(array):
        tensor = array if isinstance(array, (tf.SparseTensor, tf.RaggedTensor)) else tf.convert_to_tensor(array)
        return tf.cast(tensor, keras.config.floatx()) if tensor.dtype == tf.float64 else tensor

    return keras.tree.map_structure(convert, inputs)


def shared_architectures(models):
    """Returns one `Architecture` per model, the same one for models that compute the same of their weights."""
    for model in models:
        check_predicts_by_call(model)
    architectures = {}
    keys = [(architecture_key(model), loss_tasks(model)) for model in models]
    for key, model in zip(keys, models):
        if key not in architectures:
            architectures[key] = Architecture(model)
    return [architectures[key] for key in keys]


def architecture_key(model):
    """Returns a key that is equal for two models only if they compute the same function of their weights.

    Compared are the configs, without the layers' names and the seeds. A custom layer's or function's config may leave
    something out, and a lookup table isn't in it, so a model with one of them equals only itself.
    """
    layers = flatten_layers(model)
    if any(isinstance(layer, keras.layers.Lambda) or hasattr(layer, "save_assets") for layer in layers):
        return id(model)
    modules = set()
    text = architecture_text(model, modules)
    if text is None or any(module.partition(".")[0] not in ("keras", "kregkit") for module in modules - {None}):
        return id(model)
    shapes = tuple((tuple(variable.shape), variable.dtype) for variable in model.variables)
    return text, shapes, tuple(type(layer) for layer in layers)
