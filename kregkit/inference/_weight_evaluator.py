"""The validation loss of one architecture under many weights, by functions that are traced once."""

import warnings

import keras
import numpy as np
import tensorflow as tf

from kregkit._core._repeatable import why_passes_differ
from kregkit._core.architecture import architecture_text
from kregkit._core.batches import read_batches
from kregkit._core.normalization import batch_normalizations
from kregkit._core.output_kinds import output_tasks
from kregkit.inference._architecture import Architecture, current_values
from kregkit.inference._labelled import labelled_predictions
from kregkit.inference._predictor import PredictionModel
from kregkit.inference._scores import scores
from kregkit.inference.batch_normalization import BatchStatistics


class WeightEvaluator:
    """Holds one copy of a model's weights, and measures any others in it.

    Args:
        model: A built Keras model.
        validation: `(x, y)` or `(x, y, sample_weight)` of arrays, or a data set of such batches, read each time.
        normalization_data: What BatchNormalization's statistics are measured on for each weights; `None` leaves those
            that the weights come with.
        batch_size: Integer or `None`, for arrays.
    """

    def __init__(self, model, validation, normalization_data, batch_size):
        for name, data in (("validation", validation), ("data", normalization_data)):
            reason = why_passes_differ(data)
            # Statistics may be those of examples that were augmented anew, and of another order.
            if reason is not None and (name == "validation" or hasattr(data, "__next__")):
                raise ValueError(
                    f"All weights are measured on the same examples, but the {name} {reason}. Pass arrays, or a data "
                    f"set that is the same each time, such as `dataset.cache()`. Received: {type(data).__name__}"
                )
        self.model, self.validation, self.batch_size = model, validation, batch_size
        self.normalization_data = normalization_data
        architecture = Architecture(model)
        self._values = [tf.Variable(value) for value in current_values(model)]
        places = {id(variable): place for place, variable in enumerate(architecture.variables)}
        self._weights = [self._values[places[id(weight)]] for weight in model.weights]
        self._place_of = places
        layers = batch_normalizations(model)
        self._statistics = BatchStatistics(architecture, layers) if layers and normalization_data is not None else None
        self.lacks_statistics = bool(layers) and normalization_data is None
        self._predictor = PredictionModel(
            [model], lambda inputs, first_example: architecture(self._values, inputs, 0, first_example)
        )

    def __call__(self, weights):
        """Returns `(loss, error)`: log loss or mean squared error, and the fraction of wrong classes or `None`.

        Args:
            weights: Iterable of one array or tensor per weight of the model.
        """
        self.assign(weights)
        labelled = labelled_predictions(self._predictor, self.validation, self.batch_size, self.model)
        tasks, flat = output_tasks(self.model, labelled.prediction), keras.tree.flatten(labelled.prediction)
        found = [
            scores(target, pred, task, weight)
            for target, pred, task, weight in zip(labelled.targets, flat, tasks, labelled.weights)
            if target is not None
        ]
        # Of several outputs the sum, as `Ensemble.select` takes it.
        loss = float(sum(next(iter(each.values())) for each in found))
        return loss, found[0].get("error") if len(found) == 1 else None

    def assign(self, weights):
        """Holds these weights, with the statistics that belong to them."""
        for variable, weight in zip(self._weights, weights, strict=True):
            variable.assign(weight)
        if self._statistics is not None:
            batches = (x for x, _, _ in read_batches(self.normalization_data, self.batch_size))
            for variable, value in self._statistics.measured(self._values, batches) or []:
                held = self._values[self._place_of[id(variable)]]
                held.assign(tf.cast(value, held.dtype))

    def weights(self):
        """Returns the weights that it holds, with their statistics, as arrays."""
        return [variable.numpy() for variable in self._weights]


def between(one, other, position):
    """Yields the weights at a position on the straight line from `one`, 0, to `other`, 1; integers are those of one."""
    for a, b in zip(one, other, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if not keras.backend.is_float_dtype(a.dtype.name):
            yield a
        else:
            # In float64: at 0 and 1 these are the ends, bit for bit.
            yield ((1.0 - position) * a.astype("float64") + position * b.astype("float64")).astype(a.dtype)


def check_same_architecture(models):
    """Raises `ValueError` unless all models compute the same of their weights, as far as their configs tell."""
    described = {
        (architecture_text(model), tuple((tuple(w.shape), w.dtype) for w in model.weights)) for model in models
    }
    if len(described) > 1:
        raise ValueError(
            "Only weights of one architecture have a mean or a line between them. Received: models with "
            f"{sorted(model.count_params() for model in models)} weights, {len(described)} architectures"
        )


def warn_of_statistics(evaluator, argument):
    """Warns where BatchNormalization would use statistics that belong to other weights; `argument` mends it."""
    if evaluator.lacks_statistics:
        warnings.warn(
            "Between two models BatchNormalization's own statistics fit neither, and the loss there can be far too "
            f"high: pass training inputs as `{argument}`.",
            stacklevel=3,
        )
