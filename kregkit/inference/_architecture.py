"""A model as a pure function of weights and inputs, and the key that models of the same architecture share."""

import keras
import tensorflow as tf

from kregkit._core import keras_internals
from kregkit._core.architecture import architecture_text
from kregkit._core.keras_internals import flatten_layers
from kregkit._core.tasks import loss_tasks


class Architecture:
    """A model in inference mode as `architecture(values, inputs)`, which reads and changes nothing of the model.

    It is traced once, however many members with this architecture a graph calls it for.

    Args:
        model: A built Keras model.
    """

    def __init__(self, model):
        self.model = model
        self.variables = list(model.variables)
        self.arguments = {"training": False} if keras_internals.takes_training(model) else {}
        self._traced = self.traced(self._run)

    def __call__(self, values, inputs):
        return attach_masks(*self._traced(values, inputs))

    def _run(self, values, inputs):
        with self.scope(values):
            return with_masks(self.model(inputs, **self.arguments))

    def scope(self, values):
        """Returns a context manager in which the model's variables have other values and can't be changed."""
        return keras.StatelessScope(state_mapping=list(zip(self.variables, values)))

    def traced(self, function):
        """Returns a function as a `tf.function`; models that run eagerly get it as it is, also in a later call."""
        traced = tf.function(function, autograph=False, reduce_retracing=True)
        return lambda *arguments: (function if self.model.run_eagerly else traced)(*arguments)


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
    """Returns a structure of arrays as tensors; NumPy's float64 becomes Keras's float, as in `predict`."""

    def convert(array):
        tensor = tf.convert_to_tensor(array)
        return tf.cast(tensor, keras.config.floatx()) if tensor.dtype == tf.float64 else tensor

    return keras.tree.map_structure(convert, inputs)


def shared_architectures(models):
    """Returns one `Architecture` per model, the same one for models that compute the same of their weights."""
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
