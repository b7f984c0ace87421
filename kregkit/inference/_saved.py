"""What a `.keras` file of a marginalised model holds, and how members are rebuilt for files."""

import keras

from kregkit.inference._architecture import Architecture, current_values
from kregkit.inference._predictor import PassModel
from kregkit.inference._sampler import Sampler, Settings
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
        places: Per model, the indices of its noisy layers.
        views: `InputViews` or `None`.
        plan: Dictionary, the other arguments of `marginalize`.
    """

    def __init__(self, models, weights, places, views, plan, **kwargs):
        super().__init__(**kwargs)
        self.models, self.weights_of_models, self.places, self.views = list(models), weights, places, views
        self.plan = plan
        # XLA on a CPU takes many times as long for random numbers.
        self.supports_jit = False
        self._sampler = None
        names = getattr(self.models[0], "output_names", None)
        if names:
            self.output_names = names
        # Its members are.
        self.built = True

    def predict_batch(self, inputs, first_example):
        if self._sampler is None:
            members = [_LiveMember(Architecture(model)) for model in self.models]
            settings = Settings(**self.plan)
            self._sampler = Sampler(members, self.weights_of_models, self.places, self.views, settings)
        return self._sampler(inputs, first_example())

    def get_config(self):
        return {
            **super().get_config(),
            "models": [keras.saving.serialize_keras_object(model) for model in self.models],
            "weights": list(self.weights_of_models),
            "places": [list(indices) for indices in self.places],
            "views": None if self.views is None else self.views.get_config(),
            "plan": dict(self.plan),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["models"] = [keras.saving.deserialize_keras_object(model) for model in config["models"]]
        config["views"] = None if config["views"] is None else InputViews.from_config(config["views"])
        return cls(**config)


class _LiveMember:
    """A member whose values are those that its model has at the time."""

    def __init__(self, architecture):
        self.architecture = architecture

    @property
    def values(self):
        return current_values(self.architecture.model)
