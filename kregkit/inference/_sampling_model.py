"""The Keras models behind `marginalize`."""

import contextlib

import keras
import tensorflow as tf

from kregkit.inference._forward import Forward, State
from kregkit.inference._predictor import Predictor
from kregkit.inference._sampler import Plan, Sampler
from kregkit.inference._views import InputViews


class Counting:
    """Numbers the examples of a pass over data, so that each meets its own noise, the same in every pass.

    Args:
        sampler: A `Sampler`, or any callable `(inputs, start)`.
    """

    def __init__(self, sampler):
        self.sampler = sampler
        self._next = tf.Variable(0, dtype="int64", trainable=False)
        self._passing = False

    @contextlib.contextmanager
    def one_pass(self):
        """Starts at the first example, for one `predict` or `evaluate`."""
        self._next.assign(0)
        self._passing = True
        try:
            yield
        finally:
            self._passing = False

    def __call__(self, inputs):
        # A call by itself is a pass of one batch.
        if not self._passing:
            return self.sampler(inputs, tf.constant(0, "int64"))
        start = self._next.read_value()
        rows = tf.shape(keras.tree.flatten(inputs)[0], out_type="int64")[0]
        with tf.control_dependencies([start]):
            counted = self._next.assign_add(rows)
        with tf.control_dependencies([counted]):
            start = tf.identity(start)
        return self.sampler(inputs, start)


class _OnePass:
    """Makes every `predict` and `evaluate` a pass of its own."""

    def predict(self, *arguments, **options):
        with self._counting.one_pass():
            return super().predict(*arguments, **options)

    def evaluate(self, *arguments, **options):
        with self._counting.one_pass():
            return super().evaluate(*arguments, **options)


class SamplingPredictor(_OnePass, Predictor):
    """A `Predictor` that samples."""

    def __init__(self, models, sampler):
        counting = Counting(sampler)
        super().__init__(models, counting)
        # XLA on a CPU takes many times as long for random numbers.
        self.supports_jit = False

    @property
    def _counting(self):
        return self._held.run


@keras.saving.register_keras_serializable(package="kregkit")
class MarginalModel(_OnePass, keras.Model):
    """A saveable model that averages over draws and views; what `to_model()` of a marginalised model returns.

    Args:
        models: List of Keras models, the members.
        weights: Their shares.
        places: Per model, the numbers of its noisy layers.
        views: `InputViews` or `None`.
        plan: Dictionary, the other arguments of `marginalize`.
    """

    def __init__(self, models, weights, places, views, plan, **kwargs):
        super().__init__(**{"autocast": False, **kwargs})
        self.models, self.weights_of_models, self.places, self.views = list(models), weights, places, views
        self.plan = plan
        self.supports_jit = False
        self.supports_masking = True
        self._counter = None
        names = getattr(self.models[0], "output_names", None)
        if names:
            self.output_names = names

    @property
    def _counting(self):
        if self._counter is None:
            states = [_Live(Forward(model)) for model in self.models]
            sampler = Sampler(states, self.weights_of_models, self.places, self.views, Plan(**self.plan))
            self._counter = Counting(sampler)
        return self._counter

    def build(self, input_shape=None):
        self.built = True

    def call(self, inputs):
        return self._counting(inputs)

    def get_config(self):
        return {
            **super().get_config(),
            "models": [keras.saving.serialize_keras_object(model) for model in self.models],
            "weights": list(self.weights_of_models),
            "places": [list(own) for own in self.places],
            "views": None if self.views is None else self.views.get_config(),
            "plan": dict(self.plan),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["models"] = [keras.saving.deserialize_keras_object(model) for model in config["models"]]
        config["views"] = None if config["views"] is None else InputViews.from_config(config["views"])
        return cls(**config)


class _Live(State):
    """A `State` that reads the model's own variables."""

    def __init__(self, forward):
        super().__init__(forward, None)

    @property
    def values(self):
        return self.forward.values()

    @values.setter
    def values(self, value):
        pass
