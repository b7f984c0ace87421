"""Predicting together: `predict`, `evaluate` and a call, all of them Keras's own, each one pass over the data."""

import contextlib
import functools
import os
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kregkit._core.batches import is_arrays
from kregkit._core.checks import check_choice
from kregkit._core.keras_internals import compile_arguments, flatten_layers
from kregkit._core.output_kinds import loss_tasks, output_tasks
from kregkit._core.written import Words
from kregkit.inference._architecture import as_tensors, own_method, with_masks
from kregkit.inference._averaging import common_task
from kregkit.inference._labelled import labelled_predictions
from kregkit.inference._scores import intervals, output_names, scores
from kregkit.inference.report import Report

_MEASURING = ("test_step", "compute_loss", "compute_metrics")


class Predictor(Words):
    """Predicts through one private Keras model, made at first use.

    A subclass calls `__init__` with the user's models, whose loss and metrics `evaluate` takes over, and defines
    `_predict_batch`, `to_model`, `_models`, the models that predict, and `_outputs`, what their outputs are.

    Attributes:
        training_data: List of `SeenArray`, the arrays that are known to have been trained on.
    """

    _models: Sequence[Any]
    _outputs = "auto"
    training_data: Sequence[Any] = ()

    def __init__(self, models):
        self._compile_arguments = _measures(models)
        # The model, and its method, that measures otherwise than by what it was compiled with.
        self._measured_by = next(
            ((model.name, own_method(model, _MEASURING)) for model in models if own_method(model, _MEASURING)), None
        )
        self._prediction_model = None
        self._traced_call = None

    def to_model(self):
        """Returns a Keras model that does the same and can be saved."""
        raise NotImplementedError

    def _predict_batch(self, inputs, first_example):
        """Returns predictions for one batch of tensors.

        Args:
            inputs: The batch.
            first_example: Callable that gives the number of the batch's first example in the data, a scalar tensor.
        """
        raise NotImplementedError

    def _make_prediction_model(self):
        return PredictionModel(self._models, self._predict_batch)

    def _examples_at_a_time(self):
        """Returns how many examples of arrays are predicted together by default; `None` for Keras's own default."""
        return None

    def _tasks(self, structure):
        """Returns the `Task` of each flat output of a prediction."""
        per_model = [output_tasks(model, structure, self._outputs) for model in self._models]
        return [common_task(list(tasks)) for tasks in zip(*per_model)]

    @property
    def _keras_model(self):
        if self._prediction_model is None:
            self._prediction_model = self._make_prediction_model()
            self._compile_prediction_model()
        return self._prediction_model

    def _compile_prediction_model(self):
        model = self._prediction_model
        if self._compile_arguments is not None:
            model.compile(optimizer=None, run_eagerly=model.run_eagerly, **self._fresh_compile_arguments())

    def _fresh_compile_arguments(self):
        """Returns compile arguments with new metrics, so that counting with them leaves the user's alone."""

        def renew(metric):
            return type(metric).from_config(metric.get_config()) if isinstance(metric, keras.metrics.Metric) else metric

        return {
            name: keras.tree.map_structure(renew, value) if "metrics" in name and value is not None else value
            for name, value in self._compile_arguments.items()
        }

    def compile(self, loss=None, metrics=None, loss_weights=None, weighted_metrics=None):
        """Sets what `evaluate` measures, where it shouldn't be what the models were compiled with.

        Args:
            loss, metrics, loss_weights, weighted_metrics: As in `keras.Model.compile`.
        """
        self._compile_arguments = {
            "loss": loss,
            "metrics": metrics,
            "loss_weights": loss_weights,
            "weighted_metrics": weighted_metrics,
        }
        self._measured_by = None
        if self._prediction_model is not None:
            self._compile_prediction_model()

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Returns predictions as NumPy arrays, in structure and meaning like the models' own.

        Args:
            x, batch_size, verbose, steps, callbacks: As in `keras.Model.predict`: arrays, a `tf.data.Dataset`, a
                `keras.utils.PyDataset` or a generator.

        Ctrl-C raises `KeyboardInterrupt`, as in Keras: predictions of a part of the examples could be taken for all.
        Nothing of the pass stays.
        """
        if batch_size is None and is_arrays(x):
            batch_size = self._examples_at_a_time()
        return self._keras_model.predict(x, batch_size=batch_size, verbose=verbose, steps=steps, callbacks=callbacks)

    def evaluate(self, x=None, y=None, **arguments):
        """Returns the loss and metrics that the models were compiled with, or that `compile` set.

        The loss is that of the predictions alone: penalties on the members' weights are not in it.

        Args:
            x, y, **arguments: As in `keras.Model.evaluate`, such as `batch_size`, `sample_weight`, `return_dict`.

        Raises:
            ValueError: Neither the models nor this object are compiled, or a model has a `test_step`, `compute_loss`
                or `compute_metrics` of its own and this object isn't compiled.
        """
        if self._measured_by is not None:
            model, method = self._measured_by
            raise ValueError(
                f"Model {model!r} measures by a `{method}` of its own, which takes one model's predictions. Say what "
                f"to measure the mean by: `compile(loss, metrics)` on this object. Received: model={model!r}"
            )
        if self._compile_arguments is None:
            raise ValueError("`evaluate` needs a loss or metrics: none of the models is compiled. Call `compile` first")
        if is_arrays(x) and self._examples_at_a_time() is not None:
            arguments.setdefault("batch_size", self._examples_at_a_time())
        return self._keras_model.evaluate(x, y, **arguments)

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: object = None,
        **options: object,
    ) -> None:
        """Writes `to_model()` for inference elsewhere: as a SavedModel or a TFLite file, with its weights as constants.

        The endpoint `serve` takes what the model takes. The examples of each batch are counted anew, as in a call.

        Args:
            filepath: String or path: a folder, or a file that ends in `.tflite`.
            format: `"tf_saved_model"` (the default), or `"litert"`, TFLite, which lacks random numbers.
            verbose: Boolean, whether to say where the artifact is. Defaults to `None`, which means `True`.
            input_signature: Structure of `tf.TensorSpec`, `keras.InputSpec` or `keras.KerasTensor`, like the inputs.
                Defaults to those of the (first) model.
            **options: Attributes of `tf.lite.TFLiteConverter`, for `"litert"`, as in `keras.Model.export`.

        Raises:
            ValueError: The format is none of these, the inputs aren't known, or TFLite lacks an operation.
        """
        check_choice("format", format, ("tf_saved_model", "litert"))
        self.to_model().export(filepath, format=format, verbose=verbose, input_signature=input_signature, **options)

    def report(self, validation: object, batch_size: int | None = None) -> Report:
        """Returns a `Report` of the predictions on validation data: measures, each with a 95% bootstrap interval.

        For classification: log loss, error, expected calibration error over bins of equal width and over bins of
        equally many decisions, and Brier score. For values: mean squared and mean absolute error. Of several outputs,
        one whose examples all have weight 0, or are masked, is named in the report and not measured.

        Args:
            validation: `(x, y)` or `(x, y, sample_weight)` of arrays, or a data set of such batches.
            batch_size: Integer, for arrays. Defaults to 32.
        """
        labelled = labelled_predictions(self._keras_model, validation, batch_size, self._models[0], partly=True)
        found, ranges = self._measures(labelled, labelled.prediction)
        return Report([], found, ranges, None, self._unweighed(labelled, labelled.prediction))

    def _unweighed(self, labelled, prediction):
        """Returns the names of outputs that weren't measured because nothing in them has a weight."""
        names = output_names(self._models[0], prediction)
        return [names[index] for index in labelled.unweighed]

    def _measures(self, labelled, prediction, tasks=None, with_intervals=True):
        """Returns two dictionaries by name of measure: floats, and intervals."""
        tasks = self._tasks(prediction) if tasks is None else tasks
        names, flat = output_names(self._models[0], prediction), keras.tree.flatten(prediction)
        found, ranges = {}, {}
        for name, target, weight, pred, task in zip(names, labelled.targets, labelled.weights, flat, tasks):
            if target is not None:
                found |= _prefixed(name, scores(target, pred, task, weight))
                ranges |= _prefixed(name, intervals(target, pred, task, weight)) if with_intervals else {}
        return found, ranges

    def __call__(self, inputs):
        """Returns predictions for one batch of arrays or tensors, as tensors, by one compiled function."""
        if self._traced_call is None:
            self._traced_call = tf.function(self._keras_model, autograph=False, reduce_retracing=True)
        return (self._keras_model if self._keras_model.run_eagerly else self._traced_call)(as_tensors(inputs))


def _prefixed(name, values):
    return {f"{name} {key}".strip(): value for key, value in values.items()}


class PassModel(keras.Model):
    """A Keras model that numbers the examples of a pass over data; every `predict` and `evaluate` is a pass.

    Examples are numbered so that each meets its own noise, the same in every pass. A subclass defines
    `predict_batch(inputs, first_example)`; see `Predictor._predict_batch`.
    """

    # Whether it returns a list of several predictions for the same targets.
    several = False

    def __init__(self, **kwargs):
        # The members cast their inputs themselves, each by its own policy.
        super().__init__(**{"autocast": False, **kwargs})
        self.supports_masking = True
        self._next_example = tf.Variable(0, dtype="int64", trainable=False)
        self._in_pass = False
        self._predicts_with_masks = None

    def predict(self, *arguments, **options):
        with self.one_pass():
            return super().predict(*arguments, **options)

    def evaluate(self, *arguments, **options):
        with self.one_pass():
            return super().evaluate(*arguments, **options)

    @contextlib.contextmanager
    def one_pass(self):
        """Counts the batches that are predicted within the block as one pass."""
        self._next_example.assign(0)
        self._in_pass = True
        try:
            yield
        finally:
            self._in_pass = False

    def predict_with_masks(self, x):
        """Returns predictions for one batch as arrays, and a list of one mask or `None` per flat output."""

        def predict(inputs):
            return with_masks(self(inputs))

        if self._predicts_with_masks is None:
            self._predicts_with_masks = tf.function(predict, autograph=False, reduce_retracing=True)
        outputs, masks = (predict if self.run_eagerly else self._predicts_with_masks)(as_tensors(x))
        masks = [None if mask is None else keras.ops.convert_to_numpy(mask) for mask in tf.nest.flatten(masks)]
        return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs), masks

    def call(self, inputs):
        return self.predict_batch(inputs, functools.cache(lambda: self._count(inputs)))

    def _count(self, inputs):
        """Returns the number of the batch's first example, and counts the batch."""
        # A call by itself is a pass of one batch.
        if not self._in_pass:
            return tf.constant(0, "int64")
        start = self._next_example.read_value()
        rows = tf.shape(keras.tree.flatten(inputs)[0], out_type="int64")[0]
        with tf.control_dependencies([start]):
            counted = self._next_example.assign_add(rows)
        with tf.control_dependencies([counted]):
            return tf.identity(start)


class PredictionModel(PassModel):
    """Predicts by a function of the inputs, with weights that Keras doesn't see.

    Being a Keras model, it has Keras's `predict` and `evaluate`, for every kind of data, and reads the data once.

    Args:
        models: List of the Keras models that `predict_batch` calls.
        predict_batch: As `Predictor._predict_batch`.
        supports_jit: Boolean, whether XLA may compile it, if all models allow it.
        several: Boolean, whether it returns a list of several predictions for the same targets.
    """

    def __init__(self, models, predict_batch, supports_jit=True, several=False):
        super().__init__(name="predictor")
        models = list({id(model): model for model in models}.values())
        self.predict_batch, self.several = predict_batch, several
        self.supports_jit = supports_jit and all(
            layer.supports_jit for model in models for layer in flatten_layers(model)
        )
        # Metrics of several outputs are named after them.
        self.output_names = next((m.output_names for m in models if getattr(m, "output_names", None)), None)
        self.run_eagerly = any(model.run_eagerly for model in models)
        self.built = True


def _measures(models):
    """Returns the loss and metrics, as they were given, that the first compiled model has; `None` if there is none."""
    compiled = [model for model in models if model.compiled]
    # Where some members give logits and some probabilities, the result is probabilities.
    source = min(compiled, key=_num_logits, default=None)
    if source is None:
        return None
    given = compile_arguments(source)
    return {name: given.get(name) for name in ("loss", "metrics", "loss_weights", "weighted_metrics")}


def _num_logits(model):
    return sum(task is not None and task.kind == "logits" for task in loss_tasks(model))
