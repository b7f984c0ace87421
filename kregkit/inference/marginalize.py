"""Predictions averaged over everything that is random, or that could have been another."""

import dataclasses

import keras

from kregkit._core.checks import check_choice, check_integer, check_number
from kregkit.inference._batches import is_arrays
from kregkit.inference._cut import largest_tensor
from kregkit.inference._forward import states
from kregkit.inference._noise import check_expectations, select_noise
from kregkit.inference._noisy_forward import default_rows
from kregkit.inference._predicting import Predicting
from kregkit.inference._predictor import Predictor
from kregkit.inference._reduction import REDUCTIONS
from kregkit.inference._sampler import Plan, Sampler
from kregkit.inference._sampling_model import MarginalModel, SamplingPredictor
from kregkit.inference._views import InputViews
from kregkit.inference.ensemble import Ensemble


def marginalize(
    model,
    draws=16,
    views=None,
    noise="all",
    reduce="probabilities",
    spread=False,
    seed=0,
    batch_size=None,
    outputs="auto",
    shared=False,
    tolerance=0.01,
    max_draws=1024,
    layout="auto",
):
    """Averages a model's noise out at test time: `y = E_z[f(x, z)]`, the mean over draws of `z`.

    `z` is everything that made training random: dropout of all kinds, inside recurrent and attention layers too;
    versions of the input; members of an ensemble; and all of these at once. Each draw is a pass with the chosen layers
    as in training and everything else, BatchNormalization included, as in inference. Draws and views share batches,
    and only running means are kept, so that memory doesn't grow with their number.

    The noise of a draw for an example depends on `seed`, the draw and the example's place in the data only: the answer
    is the same, to rounding, at any batch size. The model is not changed, and its later training changes nothing here.

    Args:
        model: A built Keras model of any kind, or an `Ensemble`.
        draws: Integer, how many draws to average, for each view and member; or `"auto"`: as many for each example as
            bring the standard error of every number of its prediction (probabilities, where it has them) below
            `tolerance`, looking after every 8; or `"analytic"`: one pass with the noise's expectation in its place,
            which is inference for dropout and Gaussian noise, `p` times the branch for `StochasticDepth`, and the
            paper's Gaussian for `DropConnect`. It is exact where everything behind the noise is linear. Defaults to 16.
        views: `kregkit.data` views, such as `TenCrop(24)`, averaged over as well; `kregkit.data.Augment`, of which each
            draw uses another random version; any callable from a batch of images `(batch, height, width, channels)` to
            `(views, batch, ...)` or to a list of batches; or `None`. For several inputs, the one of images is viewed,
            or the one that a dictionary `{name: views}` names.
        noise: `"all"`; a list of layers of the model or of layer types, where what is not noisy itself, such as an
            `LSTM` or a nested model, stands for all noise inside it; or `None`. In an Ensemble, types are looked for in
            all members, and a layer counts for all members that share an architecture with its own, the first of
            them. Defaults to `"all"`.
        reduce: `"probabilities"`, `"logits"` or `"geometric"`, as in `Ensemble`.
        spread: Boolean, whether to also return how the draws differ. Defaults to `False`.
        seed: Integer, defaults to 0.
        batch_size: Integer, at most how many rows (draws and views times examples) share a pass; more only where
            `predict` is given larger batches of examples. Defaults to between 32 and 4096, by the model's activations.
        outputs: What the model's outputs are: `"auto"`, `"probabilities"`, `"logits"`, `"values"`, as in `Ensemble`.
        shared: Boolean, whether all examples meet the same noise, as if one network were drawn for the whole data set.
            Defaults to `False`: each example has its own.
        tolerance: Float > 0, for `draws="auto"`. Defaults to 0.01.
        max_draws: Integer, where `draws="auto"` ends in any case. Defaults to 1024.
        layout: What an output says of an image, for `views`, which map each view's prediction back to the image before
            the mean: `"image"`, one prediction for the image, which has no place in it; `"pixels"`, one per pixel or
            per cell of a grid over the image, `(batch, rows, columns, ...)` or with both in one axis; `"xy"` or
            `"xyxy"`, `"yxyx"`, `"xywh"`, `"center_xywh"`, points or boxes whose coordinates are on the last axis, in
            pixels from the upper left corner, or as fractions of the image's sides with `"rel_"` before it; a list or
            dictionary of these for several outputs. `"auto"` tells `"pixels"` by rank and size, takes an output of
            one axis for `"image"`, and asks where it can't tell. Means are taken over the views that show a place.
            Defaults to `"auto"`.

    Returns:
        A predictor with `predict`, `evaluate`, `compile` and a call, as in Keras, and `to_model()` for a saveable
        model. Predictions mean what the model's do: logits come back as logits, of the mean probability. With `spread`
        they are `(prediction, spread)`, where `spread` is a dictionary, per output where there are several, of
        `"std"` (standard deviation of the draws' probabilities or values) and, for classification, `"entropy"` of the
        prediction and `"mutual_information"` of prediction and noise, in nats; and, for `draws="auto"`, `"draws"`.
        Without noise and views, an Ensemble or a model predicts as it is, bit for bit.

    Raises:
        ValueError: An argument is none of these, or there is nothing to average.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    >>> model.layers[1].kernel.assign([[1.0], [1.0]])  # doctest: +SKIP
    >>> marginal = marginalize(model, draws=4, outputs="values", spread=True)
    >>> mean, spread = marginal.predict(np.ones((3, 2)), verbose=0)
    >>> mean.shape, sorted(spread)
    ((3, 1), ['std'])

    Reference: [Gal and Ghahramani, 2016](https://arxiv.org/abs/1506.02142)
    """
    if not isinstance(model, (keras.Model, Ensemble)):
        raise ValueError(f"`model` must be a Keras model or an Ensemble. Received: model={model!r}")
    if isinstance(model, keras.Model) and not model.built:
        raise ValueError(f"The model must be built: call it on a batch first. Received: model={model.name!r}")
    if draws not in ("auto", "analytic"):
        check_integer("draws", draws, 1)
    if draws == "analytic" and (spread or (views is not None and InputViews(views, 0).endless)):
        raise ValueError(
            "An analytic mean has no draws, hence no `spread` and no `Augment`. Received: draws='analytic'"
        )
    if batch_size is not None:
        check_integer("batch_size", batch_size, 1)
    for one in [outputs] if isinstance(outputs, str) else keras.tree.flatten(outputs):
        check_choice("outputs", one, ("auto", "probabilities", "logits", "values"))
    plan = Plan(
        draws=draws,
        tolerance=check_number("tolerance", tolerance, 0, low_open=True),
        max_draws=check_integer("max_draws", max_draws, 8),
        reduce=check_choice("reduce", reduce, REDUCTIONS),
        outputs=outputs,
        spread=bool(spread),
        seed=check_integer("seed", seed, 0),
        shared=bool(shared),
        batch_size=batch_size,
    )
    return _Marginal(model, noise, None if views is None else InputViews(views, plan.seed, layout), plan)


class _Marginal(Predicting):
    """What `marginalize` returns."""

    def __init__(self, model, noise, views, plan):
        if isinstance(model, Ensemble):
            self._ensemble = model
            self._states = [member.state for member in model.members]
            self._weights = model.weights
            if plan.outputs == "auto":
                plan = dataclasses.replace(plan, outputs=model.outputs)
        else:
            self._ensemble, self._states, self._weights = None, states([model]), [1.0]
        self._models = [state.forward.model for state in self._states]
        super().__init__(self._models)
        if noise is not None and not isinstance(noise, str):
            noise = list(noise)
        self._places = select_noise(self._models, noise)
        self._views, self._plan = views, plan
        self._plain = views is None and not any(self._places)
        if self._plain and noise is not None and self._ensemble is None:
            raise ValueError(
                f"Model {self._models[0].name!r} has no noise that could be averaged out, and there are no views. "
                f"Received: noise={noise!r}, views=None"
            )
        if plan.draws == "analytic":
            for model, places in zip(self._models, self._places):
                check_expectations(model, places)
        self._evaluator = None

    def _sampler(self, plan):
        return Sampler(self._states, self._weights, self._places, self._views, plan)

    def _make_predictor(self):
        if self._plain and not self._plan.spread:
            if self._ensemble is not None and self._ensemble.reduce == self._plan.reduce:
                return self._ensemble._make_predictor()
            if self._ensemble is None:
                return Predictor(self._models, self._states[0])
        return SamplingPredictor(self._models, self._sampler(self._plan))

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        if batch_size is None and is_arrays(x):
            batch_size = self._examples_at_a_time()
        return super().predict(x, batch_size, verbose, steps, callbacks)

    def _examples_at_a_time(self):
        if self._plain:
            # Keras's default, too: products of other sizes are rounded otherwise.
            return self._plan.batch_size
        rows = self._plan.batch_size or min(default_rows(largest_tensor([model])) for model in self._models)
        # Some draws of many examples, rather than all of few: Keras's work per batch is done less often.
        return min(rows, max(32, rows // 8))

    predict.__doc__ = Predicting.predict.__doc__

    def evaluate(self, x=None, y=None, **arguments):
        if is_arrays(x):
            arguments.setdefault("batch_size", self._examples_at_a_time())
        if not self._plan.spread:
            return super().evaluate(x, y, **arguments)
        if self._evaluator is None:
            self._evaluator = _Marginal.__new__(_Marginal)
            vars(self._evaluator).update(vars(self))
            self._evaluator._plan = dataclasses.replace(self._plan, spread=False)
            self._evaluator._predictor_model = self._evaluator._traced_call = None
        self._evaluator._compile_arguments = self._compile_arguments
        return self._evaluator.evaluate(x, y, **arguments)

    evaluate.__doc__ = Predicting.evaluate.__doc__

    def to_model(self):
        """Returns a Keras model that does the same, which `.keras` files hold; kregkit opens them.

        It has copies of the weights, and is compiled with the model's loss and metrics if there are any, but for
        `spread`. Inside another model it can't tell where a pass over the data begins, and counts the examples of
        each batch anew.

        Raises:
            ValueError: The model has no config to rebuild it from.
        """
        rebuilt = [state.rebuild(f"member_{index + 1}") for index, state in enumerate(self._states)]
        for copy, model in zip(rebuilt, self._models):
            if model.loss is not None:
                # It tells what the outputs mean.
                copy.compile(optimizer="sgd", loss=model.loss)
        model = MarginalModel(
            rebuilt, self._weights, self._places, self._views, dataclasses.asdict(self._plan), name="marginal"
        )
        if self._compile_arguments is not None and not self._plan.spread:
            model.compile(optimizer="sgd", **self._fresh_compile_arguments())
        return model
