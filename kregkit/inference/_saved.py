"""What a `.keras` file of a marginalised model holds, how members are rebuilt for files, and the export of both."""

import pathlib
import re
import tempfile
import types

import keras
import tensorflow as tf

from kregkit._core.checks import check_choice
from kregkit._core.replacing import replaced_all
from kregkit.inference._architecture import Architecture, current_values
from kregkit.inference._calibrators import applied
from kregkit.inference._draw_passes import Sampler, Settings
from kregkit.inference._predictor import PassModel
from kregkit.inference._views import InputViews


def rebuilt(model, values, name):
    """Returns a new Keras model like `model`, called `name`, with other weights.

    Raises:
        ValueError: The model has no config to rebuild it from.
    """
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
    for variable, value in zip(copy.variables, values, strict=True):
        variable.assign(value)
    # Models that are used side by side in another one need different names.
    copy.name = name
    return copy


@keras.saving.register_keras_serializable(package="kregkit")
class MarginalModel(PassModel):
    """A saveable model that averages over draws and views; what `to_model()` of a marginalised model returns.

    Args:
        models: List of Keras models, the members.
        weights: The members' weights in the mean; they sum to 1.
        layer_indices: Per model, the indices of its noisy layers.
        views: `InputViews` or `None`.
        settings: Dictionary, the fields of `Settings`.
        inputs: Structure of `keras.KerasTensor`, the inputs met so far, with `None` for axes whose sizes differed.
        calibrators: List of one `Calibrator` or `None` per flat output, or `None`.
        drawn: Per model, a list of one list per draw of its weights: the indices of the drawn ones in
            `model.variables`. `None` where no weights are drawn. `weights` then has one entry per draw.
    """

    def __init__(
        self, models, weights, layer_indices, views, settings, inputs=None, calibrators=None, drawn=None, **kwargs
    ):
        super().__init__(**kwargs)
        self.models, self.weights_of_models = list(models), weights
        self.layer_indices, self.views, self.settings = layer_indices, views, settings
        # XLA on a CPU takes many times as long for random numbers.
        self.supports_jit = False
        self._members, indices_of_members = [], []
        for model, indices, draws in zip(self.models, layer_indices, drawn or [[[]]] * len(self.models)):
            architecture = Architecture(model)
            for drawn_indices in draws:
                variables = {index: self._drawn_weight(architecture.variables[index]) for index in drawn_indices}
                self._members.append(_LiveMember(architecture, variables))
                indices_of_members.append(indices)
        self._sampler = Sampler(self._members, weights, indices_of_members, views, Settings(**settings))
        # Keras would change a dictionary or a list that is an attribute of a model.
        self._met = types.SimpleNamespace(inputs=inputs)
        self._last = types.SimpleNamespace(calibrators=calibrators, drawn=drawn)
        names = getattr(self.models[0], "output_names", None)
        if names:
            self.output_names = names
        # There is nothing to build: its members are built.
        self.built = True

    def _drawn_weight(self, variable):
        dtype = keras.backend.standardize_dtype(variable.dtype)
        return self.add_weight(shape=variable.shape, dtype=dtype, trainable=False, initializer="zeros")

    def assign_drawn(self, drawn):
        """Sets the drawn weights; `drawn` is a list of one dictionary from indices to values per member."""
        for member, values in zip(self._members, drawn, strict=True):
            for index, variable in member.drawn.items():
                variable.assign(values[index])

    def predict_batch(self, inputs, first_example):
        specs = keras.tree.map_structure(_spec, inputs)
        met = self._met.inputs
        self._met.inputs = specs if met is None else keras.tree.map_structure(_common_spec, met, specs)
        return applied(self._last.calibrators, self._sampler(inputs, first_example()))

    def export(self, filepath, format="tf_saved_model", verbose=None, input_signature=None, **options):
        """Writes this model for inference elsewhere: as a SavedModel or a TFLite file, with its weights as constants.

        The examples of each batch are counted anew, as in a call. The endpoint `serve` takes what the model takes.

        Args:
            filepath: String or path: a folder, or a file that ends in `.tflite`.
            format: `"tf_saved_model"` (the default), or `"litert"`, TFLite, which lacks random numbers.
            verbose: Boolean, whether to say where the artifact is. Defaults to `None`, which means `True`.
            input_signature: Structure of `tf.TensorSpec`, `keras.InputSpec` or `keras.KerasTensor`, like the inputs.
                Defaults to the inputs that the model has met, else to those of its first member.
            **options: Attributes of `tf.lite.TFLiteConverter`, for `"litert"`, as in `keras.Model.export`.

        Raises:
            ValueError: The format is none of these, the inputs aren't known, or TFLite lacks an operation.
        """
        check_choice("format", format, ("tf_saved_model", "litert"))
        specs = self._export_inputs(input_signature)
        snapshots = [(member, "snapshot", member.values) for member in self._members]
        with replaced_all(snapshots):
            _export(self._sampler_of_batch, specs, filepath, format, verbose, options)

    def _sampler_of_batch(self, inputs):
        return applied(self._last.calibrators, self._sampler(inputs, tf.constant(0, "int64")))

    def _export_inputs(self, given):
        """Returns a structure of `tf.TensorSpec`, with any number of examples."""
        if given is None:
            given = symbolic_inputs(self.models) if self._met.inputs is None else self._met.inputs
        elif isinstance(given, (list, tuple)) and len(given) == 1:
            # As Keras takes it: a list of the arguments.
            (given,) = given
        specs = [
            # Of several inputs the endpoint's arguments have the names.
            tf.TensorSpec((None, *spec.shape[1:]), spec.dtype, name=path[-1] if path and path[-1] in names else None)
            for path, spec in keras.tree.flatten_with_path(given)
            for names in [given if isinstance(given, dict) else ()]
        ]
        return keras.tree.pack_sequence_as(given, specs)

    def get_config(self):
        return {
            **super().get_config(),
            "models": [keras.saving.serialize_keras_object(model) for model in self.models],
            "weights": list(self.weights_of_models),
            "layer_indices": [list(indices) for indices in self.layer_indices],
            "views": None if self.views is None else self.views.get_config(),
            "settings": dict(self.settings),
            "inputs": None if self._met.inputs is None else keras.saving.serialize_keras_object(self._met.inputs),
            "drawn": self._last.drawn,
            "calibrators": _each(keras.saving.serialize_keras_object, self._last.calibrators),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["models"] = [keras.saving.deserialize_keras_object(model) for model in config["models"]]
        if config.get("inputs") is not None:
            config["inputs"] = keras.saving.deserialize_keras_object(config["inputs"])
        config["calibrators"] = _each(keras.saving.deserialize_keras_object, config.get("calibrators"))
        config["views"] = None if config["views"] is None else InputViews.from_config(config["views"])
        return cls(**config)


def _each(function, entries):
    return None if entries is None else [None if entry is None else function(entry) for entry in entries]


class _LiveMember:
    """A member with its model's present weights, or with those of the time when `snapshot` was taken."""

    def __init__(self, architecture, drawn):
        # Draws of one member's weights share it.
        self.architecture, self.drawn, self.base = architecture, drawn, architecture
        self.snapshot = None

    @property
    def values(self):
        if self.snapshot is not None:
            return self.snapshot
        present = current_values(self.architecture.model)
        return [tf.convert_to_tensor(self.drawn[i].value) if i in self.drawn else v for i, v in enumerate(present)]


def symbolic_inputs(models):
    """Returns new Inputs like those of the first model that has any.

    Raises:
        ValueError: None has.
    """
    for model in models:
        if getattr(model, "inputs", None):
            # A Sequential model's `input` is defined only once it was called.
            inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
            return keras.tree.map_structure(
                lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name), inputs
            )
    raise ValueError(
        "The inputs aren't known: this needs a functional or Sequential model among the members, or, to export, "
        "`input_signature` or a batch that was predicted. "
        f"Received: models={[type(model).__name__ for model in models]}"
    )


def _spec(tensor):
    return keras.KerasTensor((None, *tensor.shape[1:]), keras.backend.standardize_dtype(tensor.dtype))


def _common_spec(one, other):
    if len(one.shape) != len(other.shape):
        return other
    return keras.KerasTensor([a if a == b else None for a, b in zip(one.shape, other.shape)], other.dtype)


def _export(function, inputs, path, format, verbose, options):
    """Writes `function` as the endpoint `serve` of a SavedModel, or as a `.tflite` file.

    Args:
        function: Callable from one structure of tensors to another, without variables of its own: values that it
            reads are written as constants, so that the file is complete.
        inputs: Structure of `tf.TensorSpec`.
        path: String or path.
        format: `"tf_saved_model"` or `"litert"`.
        verbose: Boolean, whether to say where the artifact is; `None` means `True`.
        options: Dictionary of attributes of `tf.lite.TFLiteConverter`, for `"litert"`.

    Raises:
        ValueError: The function has operations that TFLite lacks.
    """
    path = pathlib.Path(path)
    module = tf.Module()
    module.serve = tf.function(function, input_signature=[inputs], autograph=False)
    # A signature's results are a flat dictionary of tensors.
    signature = tf.function(lambda inputs: _named(function(inputs)), input_signature=[inputs], autograph=False)
    signatures = {"serving_default": signature}
    if format == "tf_saved_model":
        tf.saved_model.save(module, path, signatures=signatures)
    else:
        if path.suffix != ".tflite":
            raise ValueError(f"`filepath` must end in '.tflite'. Received: filepath={str(path)!r}")
        with tempfile.TemporaryDirectory() as folder:
            tf.saved_model.save(module, folder, signatures=signatures)
            content = _converted(folder, options)
        path.write_bytes(content)
    if verbose or verbose is None:
        print(f"Saved artifact at '{path}'.")


def _converted(folder, options):
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    for name, value in options.items():
        target, values = (converter.target_spec, value) if name == "target_spec" else (converter, {name: value})
        for key, option in values.items():
            if not hasattr(target, key):
                raise ValueError(
                    f"`export` must be given options of tf.lite.TFLiteConverter. Received: {key}={option!r}"
                )
            setattr(target, key, option)
    try:
        return converter.convert()
    except Exception as error:
        lacking = sorted(set(re.findall(r"tf\.[A-Z]\w+", str(error))))
        raise ValueError(
            "TFLite lacks operations of this model, such as the random numbers of noise. Export it as a SavedModel "
            "(format='tf_saved_model'), or, where the interpreter has TensorFlow's operations, with target_spec="
            "{'supported_ops': [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]}. "
            f"Received: format='litert', operations={lacking}"
        ) from error


def _named(outputs):
    """Returns a flat dictionary of the tensors of a structure, by names such as `output_0` and `output_1_std`."""
    if not keras.tree.is_nested(outputs):
        return {"output_0": outputs}
    names = {}
    for path, tensor in keras.tree.flatten_with_path(outputs):
        name = "_".join(str(key) for key in path)
        names[name if isinstance(path[0], str) else f"output_{name}"] = tensor
    return names
