"""One model as a pure function of weights and inputs, and what holds weights for it."""

import dataclasses
import inspect
import json

import keras
import tensorflow as tf

from kregkit._core.tasks import loss_tasks


class Forward:
    """A model in inference mode as `forward(values, inputs)`, which reads and changes nothing of the model.

    It is traced once, however many members with this architecture a graph calls it for.

    Args:
        model: A built Keras model.
    """

    def __init__(self, model):
        self.model = model
        self.variables = list(model.variables)
        self.arguments = {"training": False} if "training" in inspect.signature(model.call).parameters else {}
        self._traced = tf.function(self._call, autograph=False, reduce_retracing=True)

    def values(self):
        """Returns the present weights and states as tensors that no later training changes."""
        # TensorFlow shares a variable's memory with the tensors read from it until the variable is next written.
        return [tf.convert_to_tensor(variable.value) for variable in self.variables]

    def _call(self, values, inputs):
        with keras.StatelessScope(state_mapping=list(zip(self.variables, values))):
            outputs = self.model(inputs, **self.arguments)
        # A function's results are new tensors, so masks travel beside them.
        return outputs, keras.tree.map_structure(lambda y: getattr(y, "_keras_mask", None), outputs)

    def __call__(self, values, inputs):
        outputs, masks = (self._call if self.model.run_eagerly else self._traced)(values, inputs)
        for output, mask in zip(keras.tree.flatten(outputs), keras.tree.flatten(masks)):
            if mask is not None:
                output._keras_mask = mask
        return outputs


def as_tensors(inputs):
    """Returns a structure of arrays as tensors; NumPy's float64 becomes Keras's float, as in `predict`."""

    def convert(array):
        tensor = tf.convert_to_tensor(array)
        return tf.cast(tensor, keras.config.floatx()) if tensor.dtype == tf.float64 else tensor

    return keras.tree.map_structure(convert, inputs)


@dataclasses.dataclass(eq=False)
class State:
    """The weights of one member: its architecture, shared with others, and its own arrays."""

    forward: Forward
    values: list

    def __call__(self, inputs):
        return self.forward(self.values, inputs)

    def rebuild(self, name):
        """Returns a new Keras model with this member's weights, called `name`.

        Raises:
            ValueError: The model has no config to rebuild it from.
        """
        model = self.forward.model
        try:
            config = keras.saving.serialize_keras_object(model)
            config.pop("compile_config", None)
            copy = keras.saving.deserialize_keras_object(config)
            if not copy.built:
                raise ValueError("it isn't built after it was rebuilt")
        except Exception as error:
            raise ValueError(
                f"Model {model.name!r} can't be rebuilt from its config, so it can't be part of a saved model: {error}"
            ) from error
        for variable, value in zip(copy.variables, self.values, strict=True):
            variable.assign(value)
        # Models that are used side by side in another one need different names.
        copy.name = name
        return copy


def states(models):
    """Returns one `State` per model; models of the same architecture share one `Forward`."""
    forwards = {}
    found = []
    for model in models:
        own = Forward(model)
        shared = forwards.setdefault((signature(model), loss_tasks(model)), own)
        found.append(State(shared, own.values()))
    return found


def signature(model):
    """Returns a key that is equal for two models only if they compute the same function of their weights.

    Compared are the configs, less the layers' names and the seeds. A custom layer's or function's config may leave
    something out, and a lookup table isn't in it, so a model with one of them equals only itself.
    """
    layers = model._flatten_layers()
    if any(isinstance(layer, keras.layers.Lambda) or hasattr(layer, "save_assets") for layer in layers):
        return id(model)
    names = {}
    for layer in layers:
        names.setdefault(layer.name, f"#{len(names)}")
    try:
        serialized = keras.saving.serialize_keras_object(model)
        config = _anonymous(serialized["config"], names)
        text = json.dumps([serialized["class_name"], serialized["module"], config], sort_keys=True)
        _check_known(serialized["module"])
    except (KeyError, NotImplementedError, TypeError, ValueError):
        return id(model)
    shapes = tuple((tuple(variable.shape), variable.dtype) for variable in model.variables)
    return text, shapes, tuple(type(layer) for layer in layers)


def _check_known(module):
    if module is not None and module.partition(".")[0] not in ("keras", "kregkit"):
        raise ValueError("a config that may leave something out")


def _anonymous(value, names):
    if isinstance(value, dict):
        if "module" in value and "class_name" in value:
            _check_known(value["module"])
        return {key: None if key == "seed" else _anonymous(item, names) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_anonymous(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value
