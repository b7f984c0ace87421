"""What everything that predicts has: `predict`, `evaluate` and a call, all of them Keras's own."""

import keras
import tensorflow as tf

from kregkit._core.tasks import loss_tasks
from kregkit.inference._forward import as_tensors


class Predicting:
    """Predicts through one private Keras model, made at first use.

    A subclass calls `__init__` with the user's models, whose loss and metrics `evaluate` takes over, and defines
    `_make_predictor`.
    """

    def __init__(self, models):
        compiled = [model for model in models if model.compiled]
        # Where some members give logits and some probabilities, the result is probabilities.
        source = min(compiled, key=_num_logits, default=None)
        self._compile_arguments = None if source is None else _compile_arguments(source)
        self._predictor_model = None
        self._traced_call = None

    @property
    def _predictor(self):
        if self._predictor_model is None:
            self._predictor_model = self._make_predictor()
            self._compile_predictor()
        return self._predictor_model

    def _compile_predictor(self):
        model = self._predictor_model
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
        if self._predictor_model is not None:
            self._compile_predictor()

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Returns predictions as NumPy arrays, in structure and meaning like the models' own.

        Args:
            x, batch_size, verbose, steps, callbacks: As in `keras.Model.predict`: arrays, a `tf.data.Dataset`, a
                `keras.utils.PyDataset` or a generator.
        """
        return self._predictor.predict(x, batch_size=batch_size, verbose=verbose, steps=steps, callbacks=callbacks)

    def evaluate(self, x=None, y=None, **arguments):
        """Returns the loss and metrics that the models were compiled with, or that `compile` set.

        The loss is that of the predictions alone: penalties on the members' weights are not in it.

        Args:
            x, y, **arguments: As in `keras.Model.evaluate`, such as `batch_size`, `sample_weight`, `return_dict`.

        Raises:
            ValueError: Neither the models nor this object are compiled.
        """
        if self._compile_arguments is None:
            raise ValueError("`evaluate` needs a loss or metrics: none of the models is compiled. Call `compile` first")
        return self._predictor.evaluate(x, y, **arguments)

    def __call__(self, inputs):
        """Returns predictions for one batch of arrays or tensors, as tensors, by one compiled function."""
        if self._traced_call is None:
            self._traced_call = tf.function(self._predictor, autograph=False, reduce_retracing=True)
        return (self._predictor if self._predictor.run_eagerly else self._traced_call)(as_tensors(inputs))


def _num_logits(model):
    return sum(task is not None and task.kind == "logits" for task in loss_tasks(model))


def _compile_arguments(model):
    """Returns the loss and metrics that `model` was compiled with, as they were given."""
    given = model._compile_config.config
    return {name: given.get(name) for name in ("loss", "metrics", "loss_weights", "weighted_metrics")}
