"""Probabilities that mean what they say: the last step after any average."""

import warnings

import keras

from kregkit._core import rules
from kregkit._core.backends import require_tensorflow
from kregkit._core.checks import check_choice, check_data
from kregkit._core.training_data import shares_arrays
from kregkit.inference._calibrators import METHODS, applied, fitted
from kregkit.inference._labelled import labelled_predictions
from kregkit.inference._predictor import PredictionModel, Predictor
from kregkit.inference.ensemble import Ensemble
from kregkit.inference.marginal import Marginal

# With fewer examples the fitted numbers are mostly the sample's own.
_FEW = 100


@rules.checked()
def calibrate(
    predictor: keras.Model | Ensemble | Marginal,
    validation: object,
    method: str = "temperature",
    batch_size: int | None = None,
) -> "Calibrated":
    """Makes probabilities mean what they say, by a map that is fitted on held-out predictions.

    A network's confidence is often above its accuracy, and averages over noise or members can be less confident than
    they are right. With `z` the predicted logits and `p` the probabilities,

        "temperature"  z' = z / T, the one T > 0 with the least log loss (Guo et al. 2017)
        "vector"       z' = a z + b, with a scale and a shift per class (for a binary output: Platt 1999)
        "isotonic"     p' = f(p), per class the rising function with the least squared error, then normalised
                       (Zadrozny and Elkan 2002)

    `"temperature"` never changes which class is the most probable. `"isotonic"` needs the most data, a thousand
    examples at least, and can give probabilities of exactly 0 and 1. Calibration comes last: calibrate the average,
    not what is averaged. Each output that is a classification has a map of its own, others stay as they are. The
    pixels or steps of one output share theirs; the labels of an output `(batch, labels)` of independent
    probabilities share the temperature and have their own scale, shift and rising function.

    Args:
        predictor: A built Keras model, an `Ensemble`, or a `Marginal` without `spread`. It isn't changed, nor does its
            later change matter.
        validation: `(x, y)` or `(x, y, sample_weight)` of arrays, or a data set of such batches, which the model was
            not trained on: on these it is more confident than on others.
        method: `"temperature"` (the default), `"vector"` or `"isotonic"`.
        batch_size: Integer, for arrays. Defaults to 32.

    Returns:
        A `Calibrated`, with `predict`, `evaluate`, `report`, a call and `to_model()` as the predictor has them.

    Raises:
        ValueError: An argument is none of these, no output is a classification, or `validation` holds arrays that are
            known to have been trained on: those of a `fit` with any of kregkit's callbacks that work in the train
            step, or those that an average was made with.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    >>> model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> model.set_weights([np.array([[0.0, 4.0], [0.0, 0.0]], "float32"), np.zeros(2, "float32")])
    >>> x, y = np.repeat([[1.0, 0.0]], 200, axis=0), np.arange(200) % 4 > 0
    >>> calibrated = calibrate(model, (x, y))  # 98% sure, and right in 75%
    >>> print(np.round(calibrated.calibrators[0].parameters["temperature"], 2))
    3.64
    >>> float(keras.ops.softmax(calibrated(x[:1]))[0, 1].numpy().round(3))
    0.75

    Reference: [Guo et al., 2017](https://arxiv.org/abs/1706.04599)
    """
    require_tensorflow("calibrate")
    check_choice("method", method, METHODS)
    check_data("validation", validation)
    if isinstance(predictor, keras.Model):
        predictor = Ensemble([predictor])
    if not isinstance(predictor, (Ensemble, Marginal)):
        raise ValueError(
            f"`predictor` must be a Keras model, an Ensemble or a Marginal. Received: predictor={predictor!r}"
        )
    if isinstance(predictor, Marginal) and predictor.spread:
        raise ValueError(
            "Calibrated predictions have no spread, which is that of the draws: calibrate a Marginal that was made "
            "with spread=False. Received: spread=True"
        )
    x = validation[0] if isinstance(validation, (tuple, list)) else validation
    if shares_arrays(predictor.training_data, x):
        raise ValueError(
            "`validation` must hold examples that were not trained on, and its arrays are those of the training: on "
            "them a model is surer, and right more often, than on others. Hold some examples out of `fit`. "
            f"Received: validation with arrays of shape {[tuple(a.shape) for a in keras.tree.flatten(x)]}"
        )
    labelled = labelled_predictions(predictor._keras_model, validation, batch_size, predictor._models[0])
    tasks, flat = predictor._tasks(labelled.prediction), keras.tree.flatten(labelled.prediction)
    chosen = [target is not None and task.kind != "values" for target, task in zip(labelled.targets, tasks)]
    if not any(chosen):
        raise ValueError(
            "Only probabilities can be calibrated, and no output is a classification with targets; say what the "
            f"outputs are by `outputs=` of Ensemble or marginalize. Received: {[task.kind for task in tasks]}"
        )
    num = len(flat[0])
    if num < _FEW:
        warnings.warn(
            f"Calibration was fitted on {num} examples; with fewer than {_FEW} it follows their chance more than the "
            "model's confidence. Hold out more.",
            stacklevel=3,
        )
    return Calibrated(
        predictor,
        [
            fitted(method, target, pred, task, weight) if use else None
            for use, target, pred, task, weight in zip(chosen, labelled.targets, flat, tasks, labelled.weights)
        ],
    )


class Calibrated(Predictor):
    """A predictor whose last step makes its probabilities mean what they say; `calibrate` makes it.

    `predict`, `evaluate`, `report`, `compile` and a call are as in Keras, and `to_model()` gives a model that can be
    saved. Logits stay logits, and probabilities probabilities.

    Args:
        predictor: An `Ensemble` or a `Marginal`.
        calibrators: List, per output: a Keras layer that maps the prediction to the calibrated one, with `method` and
            `parameters`; `None` for an output that stays as it is.

    Attributes:
        predictor, calibrators: As given; of a Keras model, the `Ensemble` of this one model.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="softmax")])
    >>> data = np.random.default_rng(0).normal(size=(120, 2)), np.arange(120) % 3
    >>> calibrated = calibrate(model, data, "vector")
    >>> calibrated.predict(data[0], verbose=0).shape, calibrated.to_model().name
    ((120, 3), 'calibrated')
    """

    def __init__(self, predictor: Ensemble | Marginal, calibrators: list) -> None:
        self.predictor, self.calibrators = predictor, calibrators
        self._models, self._outputs = predictor._models, predictor._outputs
        super().__init__(self._models)
        self._compile_arguments, self._measured_by = predictor._compile_arguments, predictor._measured_by
        self.training_data = predictor.training_data

    def __repr__(self):
        methods = sorted({calibrator.method for calibrator in self.calibrators if calibrator is not None})
        return f"<Calibrated by {', '.join(methods)}: {self.predictor!r}>"

    def _make_prediction_model(self):
        supports_jit = self.predictor._keras_model.supports_jit
        return PredictionModel(self._models, self._predict_batch, supports_jit=supports_jit)

    def _predict_batch(self, inputs, first_example):
        return applied(self.calibrators, self.predictor._predict_batch(inputs, first_example))

    def _examples_at_a_time(self):
        return self.predictor._examples_at_a_time()

    def to_model(self) -> keras.Model:
        """Returns a Keras model that does the same and can be saved as a `.keras` file, which kregkit opens.

        Raises:
            ValueError: The model has no config to rebuild it from.
        """
        return self.predictor._saveable("calibrated", self.calibrators)
