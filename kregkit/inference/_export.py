"""Functions of tensors as SavedModels and TFLite files."""

import pathlib
import re
import tempfile

import keras
import tensorflow as tf


def export(function, inputs, path, format, verbose, options):
    """Writes `function` as the endpoint `serve` of a SavedModel, or as a `.tflite` file.

    Args:
        function: Callable from one structure of tensors to another, without variables of its own: what it reads is
            written as constants, so that the endpoint needs nothing beside it.
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
        for key, one in values.items():
            if not hasattr(target, key):
                raise ValueError(f"`export` must be given options of tf.lite.TFLiteConverter. Received: {key}={one!r}")
            setattr(target, key, one)
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
