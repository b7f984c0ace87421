"""Averaging predictions over noise layers, test-time views and ensemble members."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from kregkit._core import rules
from kregkit._core.backends import require_tensorflow
from kregkit._core.checks import check_choice, check_data, check_integer, check_number
from kregkit._core.output_kinds import check_outputs
from kregkit._core.types import Data, Loss
from kregkit._core.written import call_of
from kregkit.inference._averaging import MERGES
from kregkit.inference._draw_passes import Sampler, Settings, default_rows
from kregkit.inference._enough_draws import DrawCounter
from kregkit.inference._graph_split import largest_tensor
from kregkit.inference._predictor import PredictionModel, Predictor
from kregkit.inference._saved import MarginalModel, rebuilt
from kregkit.inference._views import InputViews
from kregkit.inference._weight_draws import WeightDraws, split_noise
from kregkit.inference.ensemble import Ensemble
from kregkit.inference.noise import check_expectations, drawn_layers, select_noise
from kregkit.inference.posterior import WeightPosterior
from kregkit.inference.report import Report


@rules.checked(
    noise=rules.any_of(rules.choice("all", None), rules.entries(empty=True)),
    layout=rules.any_of(rules.word(), rules.mapping(rule=rules.word()), rules.entries()),
    shared=rules.boolean,
    spread=rules.boolean,
    data_batch_size=rules.whole(1, none=True),
)
def marginalize(
    model: keras.Model,
    draws: int | str = 16,
    views: Any = None,
    noise: Any = "all",
    reduce: str = "probabilities",
    spread: bool = False,
    seed: int | None = 0,
    batch_size: int | None = None,
    outputs: str = "auto",
    shared: bool = False,
    tolerance: float = 0.01,
    max_draws: int = 1024,
    layout: str = "auto",
    weights: WeightPosterior | Sequence[WeightPosterior | None] | None = None,
    data: object = None,
    data_batch_size: int | None = None,
) -> Marginal:
    """Averages a model's noise out at test time: `y = E_z[f(x, z)]`, the mean over draws of `z`.

    `z` is everything that made training random: dropout of all kinds, also inside recurrent and attention layers;
    BatchNormalization's mini-batches; versions of the input; the weights themselves, of which `weights` is a
    distribution; members of an ensemble; and all of these at once. Each draw is a pass with the chosen layers
    as in training and everything else, BatchNormalization included, as in inference. Draws and views share batches,
    and only running means are kept, so memory doesn't grow with their number.

    An example's noise depends only on `seed`, the draw and the example's number in the data: the answer is the same, to
    rounding, at any batch size. The model is not changed, and its later training doesn't change the result.

    Args:
        model: A built Keras model of any kind, or an `Ensemble`.
        draws: Integer, how many draws to average, for each view and member. Or `"auto"`: each example gets as many
            as bring the standard error of every number of its prediction (probabilities, where it has them) below
            `tolerance`; the error is looked at after every 8 draws, and unless `verbose=0`, `predict` and `evaluate`
            say how many draws that were. Or `"analytic"`: one pass with the noise's
            expectation in its place, which is inference for dropout and Gaussian noise, `p` times the branch for
            `StochasticDepth`, and the paper's Gaussian for `DropConnect`. It is exact where everything behind the
            noise is linear. Defaults to 16.
        views: `kregkit.data` views, such as `TenCrop(24)`, averaged over as well; `kregkit.data.Augment`, of which each
            draw uses another random version; any callable from a batch of images `(batch, height, width, channels)` to
            `(views, batch, ...)` or to a list of batches; a list of `kregkit.data` views, for their product, such as
            `[D4(), Scales()]`; or `None`. Of several inputs, the views are taken of the one
            input that is images, or of the input that a dictionary `{name: views}` names.
        noise: Which layers are drawn: `"all"`; `None`; or a list of layers of the model or of layer types. A layer
            that is not noisy itself, such as an `LSTM` or a nested model, stands for all noise inside it. In an
            Ensemble, types are looked for in all members, and naming a layer of the first member also selects the
            same layer in every member with that architecture. `keras.layers.BatchNormalization`, or one of the model's,
            in the list draws its statistics, from `data`; `"all"` doesn't. Defaults to `"all"`.
        reduce: `"probabilities"`, `"logits"` or `"geometric"`, the mean of probabilities or of logits, or the geometric
            mean, as in `Ensemble`. Or `"maximum"`, of views and members: the largest probability of each class over
            them, normalised, so that what one view shows clearly isn't averaged away; noise and weights can't be drawn
            then, as there would be no limit in the number of draws.
        spread: Boolean, whether to also return how the draws differ. Defaults to `False`.
        seed: Integer, defaults to 0.
        batch_size: Integer, at most how many rows (draws and views times examples) share a pass; there are more only
            where `predict` is given larger batches of examples. Defaults to 32 to 4096, by the model's activations.
        outputs: What the model's outputs are: `"auto"`, `"probabilities"`, `"logits"`, `"values"`, as in `Ensemble`.
        shared: Boolean, whether all examples meet the same noise, as if one network were drawn for the whole data set.
            Defaults to `False`: each example has its own.
        tolerance: Float > 0, for `draws="auto"`. Defaults to 0.01.
        max_draws: Integer, where `draws="auto"` ends in any case. Defaults to 1024.
        layout: What an output says of an image, for `views`, which map each view's prediction back to the image before
            the mean: `"image"`, one prediction for the whole image; `"pixels"`, one per pixel or
            per cell of a grid over the image, `(batch, rows, columns, ...)` or with both in one axis; `"xy"` or
            `"xyxy"`, `"yxyx"`, `"xywh"`, `"center_xywh"`, points or boxes whose coordinates are on the last axis, in
            pixels from the upper left corner, or as fractions of the image's sides with `"rel_"` before it; a list or
            dictionary of these for several outputs. `"auto"` recognises `"pixels"` by rank and size, takes an
            output of one axis for `"image"`, and raises an error where the shape fits both. The mean at a position is
            taken over the views that show it.
            Defaults to `"auto"`.
        weights: A `WeightPosterior`, such as `laplace` and `PolyakAveraging` give: each draw has weights of its own,
            drawn when this is called, and noise and views are drawn once for each. Of an Ensemble, a list of one
            posterior or `None` per member. They need memory for `draws` copies of what is drawn. Defaults to `None`.
        data: Training inputs, as `x` or `(x, ...)` of arrays, a `tf.data.Dataset` or a `keras.utils.PyDataset`. With
            `keras.layers.BatchNormalization` in `noise` each draw has the statistics of one mini-batch of these, the
            same for all normalisations, which meets the other noise as well (Teye et al. 2018). Otherwise, with
            `weights`, the statistics of each draw are measured on all of them, as `recompute_batch_normalization` does.
        data_batch_size: Integer, how many examples of arrays make a mini-batch: as many as in training. Defaults to
            32, as in `fit`.

    Returns:
        A `Marginal`.

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

    References: [Gal and Ghahramani, 2016](https://arxiv.org/abs/1506.02142),
    [Teye et al., 2018](https://arxiv.org/abs/1802.06455)
    """
    require_tensorflow("marginalize")
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
    check_outputs(outputs)
    settings = Settings(
        draws=draws,
        tolerance=check_number("tolerance", tolerance, 0, low_open=True),
        max_draws=check_integer("max_draws", max_draws, 8),
        reduce=check_choice("reduce", reduce, MERGES),
        outputs=outputs,
        spread=bool(spread),
        seed=check_integer("seed", seed, 0),
        shared=bool(shared),
        batch_size=batch_size,
    )
    views = None if views is None else InputViews(views, settings.seed, layout)
    ensemble = model if isinstance(model, Ensemble) else Ensemble([model])
    normalizations, others = split_noise([member.architecture.model for member in ensemble.members], noise)
    if reduce == "maximum":
        endless = views is not None and views.endless
        if noise is not None or weights is not None or spread or endless:
            raise ValueError(
                "The maximum is of views and members, `marginalize(model, views=..., noise=None, reduce='maximum')`: "
                "of random draws it grows with their number. Received: reduce='maximum' with noise, weights, spread "
                "or an Augment"
            )
    if weights is None and not any(normalizations):
        if data is not None:
            raise ValueError(
                "`data` is what BatchNormalization's statistics are taken from: name keras.layers.BatchNormalization "
                f"in `noise`, or give `weights`. Received: noise={noise!r}, weights=None"
            )
        return Marginal(model, noise, views, settings)
    drawn = _drawn_weights(ensemble, weights, normalizations, others, data, data_batch_size, settings)
    return Marginal(ensemble.with_drawn_weights(drawn), others, views, dataclasses.replace(settings, draws=1))


def _drawn_weights(ensemble, weights, normalizations, noise, data, batch_size, settings):
    """Returns the `WeightDraws` of an ensemble's members."""
    models = [member.architecture.model for member in ensemble.members]
    if settings.draws in ("auto", "analytic"):
        raise ValueError(
            f"Weights and BatchNormalization's statistics are drawn beforehand: `draws` must be their number. "
            f"Received: draws={settings.draws!r}"
        )
    if any(normalizations) and data is None:
        raise ValueError(
            "BatchNormalization's noise is that of mini-batches, so it needs training inputs: `data=x_train`, with "
            "`data_batch_size` as in training. Received: data=None"
        )
    if data is not None:
        check_data("data", data)
    if weights is None:
        posteriors = [None] * len(models)
    else:
        posteriors = list(weights) if isinstance(weights, (list, tuple)) else [weights]
    if len(posteriors) != len(models) or not all(
        isinstance(each, (WeightPosterior, type(None))) for each in posteriors
    ):
        raise ValueError(
            f"`weights` must be a WeightPosterior, or a list of one or None per member, {len(models)} here. "
            f"Received: weights={weights!r}"
        )
    for model, posterior in zip(models, posteriors):
        if posterior is not None:
            posterior.check_fits(model)
    layer_indices = select_noise(models, noise)
    return WeightDraws(settings.draws, posteriors, normalizations, data, batch_size, settings.seed, layer_indices)


class Marginal(Predictor):
    """Predictions of a model or an `Ensemble`, averaged over draws of its noise and over views; see `marginalize`.

    `predict`, `evaluate`, `compile` and a call are as in Keras, and `to_model()` gives a model that can be saved.
    Predictions mean what the model's do: logits come back as logits, of the mean probability. Without noise and views,
    a model or an Ensemble predicts as it is, bit for bit.

    With `spread`, predictions are `(prediction, spread)`. `spread` is a dictionary, or one per output where there are
    several: `"std"`, the standard deviation of the draws' probabilities or values; for classification, `"entropy"` of
    the prediction and `"mutual_information"` of prediction and noise, in nats; and for `draws="auto"`, `"draws"`.

    `marginalize` makes it.

    Args:
        model: A built Keras model or an `Ensemble`.
        noise: As in `marginalize`.
        views: `InputViews` or `None`.
        settings: `Settings`, the other arguments of `marginalize`.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    >>> marginal = marginalize(model, draws=4, outputs="values")
    >>> marginal.predict(np.ones((3, 2)), verbose=0).shape, marginal.to_model().name
    ((3, 1), 'marginal')
    """

    def __init__(self, model: keras.Model, noise: Any, views: Any, settings: Any) -> None:
        self._ensemble = model if isinstance(model, Ensemble) else Ensemble([model])
        if isinstance(model, Ensemble) and settings.outputs == "auto":
            settings = dataclasses.replace(settings, outputs=model.outputs)
        self._settings, self._views, self._outputs = settings, views, settings.outputs
        self.training_data = self._ensemble.training_data
        self._members, self._weights = self._ensemble.members, self._ensemble.weights
        self._models = [member.architecture.model for member in self._members]
        super().__init__(self._models)
        self._noise = noise if noise is None or isinstance(noise, str) else list(noise)
        self._layer_indices = select_noise(self._models, self._noise)
        self._is_plain = views is None and not any(self._layer_indices)
        if self._is_plain and noise is not None and not isinstance(model, Ensemble):
            raise ValueError(
                f"Model {model.name!r} has no noise that could be averaged out, and there are no views. "
                f"Received: noise={noise!r}, views=None"
            )
        if settings.draws == "analytic":
            for each, layer_indices in zip(self._models, self._layer_indices):
                check_expectations(each, layer_indices)
        # Whether layers with code of their own draw anything shows when the first prediction is traced. Models that run
        # eagerly aren't traced, and not checked.
        drawn = any(drawn_layers(*pair) for pair in zip(self._models, self._layer_indices))
        unsure = not drawn and views is None and noise is not None and settings.draws != "analytic"
        must_draw = unsure and len(self._members) == 1 and not self._models[0].run_eagerly
        self._sampler = Sampler(self._members, self._weights, self._layer_indices, views, settings, must_draw)
        if settings.draws == "auto":
            self._sampler.counter = DrawCounter()
        # Losses and metrics are measured on the prediction alone.
        without_spread = dataclasses.replace(settings, spread=False)
        self._mean = Marginal(model, noise, views, without_spread) if settings.spread else None

    def __repr__(self):
        bases = list({id(base): base for base in (getattr(each, "base", each) for each in self._members)}.values())
        if bases[0] is not self._members[0]:
            name = repr(self._models[0].name) if len(bases) == 1 else f"{len(bases)} members"
            return f"<Marginal of {name}: {len(self._members) // len(bases)} draws of weights, noise={self._noise!r}>"
        model = self._ensemble if len(self._ensemble) > 1 else self._models[0]
        views = None if self._views is None else self._views.views
        settings = {one.name: getattr(self._settings, one.name) for one in dataclasses.fields(self._settings)}
        return call_of(marginalize, {**settings, "model": model, "noise": self._noise, "views": views})

    @property
    def spread(self) -> bool:
        """Boolean, whether predictions come with their spread."""
        return self._settings.spread

    def _make_prediction_model(self):
        same_mean = len(self._members) == 1 or self._ensemble.reduce == self._settings.reduce
        if self._is_plain and same_mean and not self._settings.spread:
            return self._ensemble._make_prediction_model()
        # XLA on a CPU takes many times as long for random numbers.
        return PredictionModel(self._models, self._predict_batch, supports_jit=False)

    def _predict_batch(self, inputs, first_example):
        return self._sampler(inputs, first_example())

    def compile(
        self, loss: Loss = None, metrics: Any = None, loss_weights: Any = None, weighted_metrics: Any = None
    ) -> None:
        super().compile(loss, metrics, loss_weights, weighted_metrics)
        if self._mean is not None:
            self._mean.compile(loss, metrics, loss_weights, weighted_metrics)

    compile.__doc__ = Predictor.compile.__doc__

    def predict(
        self,
        x: Data,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
    ) -> Any:
        with self._counted(verbose):
            return super().predict(x, batch_size, verbose, steps, callbacks)

    predict.__doc__ = Predictor.predict.__doc__

    def evaluate(self, x: Data = None, y: Data = None, **arguments: Any) -> Any:
        if self._mean is not None:
            return self._mean.evaluate(x, y, **arguments)
        with self._counted(arguments.get("verbose", "auto")):
            return super().evaluate(x, y, **arguments)

    evaluate.__doc__ = Predictor.evaluate.__doc__

    def report(self, validation: object, batch_size: int | None = None) -> Report:
        if self._mean is not None:
            return self._mean.report(validation, batch_size)
        return super().report(validation, batch_size)

    report.__doc__ = Predictor.report.__doc__

    @contextlib.contextmanager
    def _counted(self, verbose):
        """Counts the draws of a pass over data with `draws="auto"`, and says afterwards how many there were."""
        counter = self._sampler.counter
        if counter is None or self._is_plain:
            yield
            return
        counter.reset()
        yield
        if verbose and counter.text():
            print(f"{counter.text()}: tolerance={self._settings.tolerance:g}, max_draws={self._settings.max_draws}")

    def _examples_at_a_time(self):
        if self._is_plain:
            # Keras's default, too: products of other sizes are rounded otherwise.
            return self._settings.batch_size
        rows = self._settings.batch_size or min(default_rows(largest_tensor([model])) for model in self._models)
        # Some draws of many examples, rather than all of few: Keras's work per batch is done less often.
        return min(rows, max(32, rows // 8))

    def to_model(self) -> keras.Model:
        """Returns a Keras model that does the same and can be saved as a `.keras` file, which kregkit opens.

        It has copies of the weights. It is compiled with the model's loss and metrics, if there are any and there is
        no `spread`. Inside another model it can't tell where a pass over the data begins, and counts the examples of
        each batch anew.

        Raises:
            ValueError: The model has no config to rebuild it from.
        """
        return self._saveable("marginal")

    def _saveable(self, name, calibrators=None):
        # Draws of one member's weights share a copy of its model.
        bases, of_bases = [], []
        for member, indices in zip(self._members, self._layer_indices):
            base = getattr(member, "base", member)
            if not bases or base is not bases[-1]:
                bases.append(base)
                of_bases.append(([], indices))
            of_bases[-1][0].append(getattr(member, "drawn", {}))
        copies = [
            rebuilt(base.architecture.model, base.values, f"member_{index}") for index, base in enumerate(bases, 1)
        ]
        for copy, base in zip(copies, bases):
            if base.architecture.model.loss is not None:
                # It tells what the outputs mean.
                copy.compile(optimizer="sgd", loss=base.architecture.model.loss)
        drawn = [[sorted(values) for values in draws] for draws, _ in of_bases]
        model = MarginalModel(
            *(copies, self._weights, [indices for _, indices in of_bases], self._views),
            dataclasses.asdict(self._settings),
            calibrators=calibrators,
            drawn=drawn if any(indices for draws in drawn for indices in draws) else None,
            name=name,
        )
        model.assign_drawn([values for draws, _ in of_bases for values in draws])
        if self._compile_arguments is not None and not self._settings.spread:
            model.compile(optimizer="sgd", **self._fresh_compile_arguments())
        return model
