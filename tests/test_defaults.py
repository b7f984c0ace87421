"""Every public name once with its default arguments, `verbose` included: only what must be given is given.

`CALLS` holds one entry per public name. A name without one fails, and so does an entry without a name.
"""

import contextlib
import importlib
import pkgutil
import types
from unittest import mock

import keras
import numpy as np
import pytest
from keras import layers as keras_layers

import kregkit
from kregkit import (
    callbacks,
    data,
    diagnostics,
    distribution,
    inference,
    layers,
    optimizers,
    plots,
    schedules,
    search,
    transfer,
)
from kregkit._core import keras_internals as internals

pytestmark = pytest.mark.trains

ROOMS = [room.name for room in pkgutil.iter_modules(kregkit.__path__) if room.ispkg and not room.name.startswith("_")]
NAMES = [(room, name) for room in ROOMS for name in importlib.import_module(f"kregkit.{room}").__all__]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 4)).astype("float32")
Y = (X[:, :1] > 0).astype("float32")
LABELS_OF_X = Y[:, 0].astype("int64")
IMAGES = RNG.integers(0, 256, (8, 8, 8, 3)).astype("uint8")
LABELS = (np.arange(8) % 2).astype("int64")


def small(optimizer="sgd"):
    """Returns a compiled model of two named layers for `X` and `Y`."""
    body = [keras_layers.Dense(4, "relu", name="body"), keras_layers.Dropout(0.2)]
    model = keras.Sequential([keras.Input((4,)), *body, keras_layers.Dense(1, "sigmoid", name="head")])
    model.compile(optimizer, "binary_crossentropy")
    return model


def fit(*used, epochs=2):
    """Returns the history of a fit with its default `verbose`."""
    return small().fit(X, Y, epochs=epochs, batch_size=16, validation_data=(X, Y), callbacks=list(used))


def smooth():
    return keras.Sequential([keras.Input((4,)), keras_layers.Dense(1, "sigmoid")])


def build(parameters):
    model = keras.Sequential([keras_layers.Dense(1)])
    model.compile(keras.optimizers.SGD(parameters.get("rate", 0.1)), "mse")
    return model


def quick(parameters, epochs, callbacks):
    return {"val_loss": [abs(parameters["rate"] - 0.1)]}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """What several entries use, made once."""
    path = tmp_path_factory.mktemp("defaults")
    for index, image in enumerate(IMAGES):
        file = path / "images" / str(LABELS[index]) / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(file, image, scale=False)
    (path / "vectors.txt").write_text("cat 1.0 2.0\ndog 3.0 4.0\n")
    rates = [callbacks.CosineDecay(), callbacks.ExponentialDecay(0.9), callbacks.InverseTimeDecay(0.1)]
    rates += [callbacks.StepDecay(every=1), callbacks.Triangular(2), callbacks.Warmup(1), callbacks.PlateauDecay()]
    others = [callbacks.PolyakAveraging(), callbacks.UpdateRatio(), callbacks.TracedCallback()]
    together = rates + others
    fit(*together)
    snapshots = callbacks.SnapshotEnsemble(str(path / "snapshots"))
    history = fit(snapshots, epochs=5)
    return types.SimpleNamespace(
        path=path,
        model=small(),
        history=history,
        used={type(callback).__name__: callback for callback in [*together, snapshots]},
        results={},
        space=search.Space(rate=search.log_uniform(1e-3, 1.0)),
    )


def used(name):
    """Returns the call for a callback that the shared fits have used."""
    return lambda shared: shared.used[name]


def passes(make):
    """Returns the call that runs an operation in a pipeline of images."""
    return lambda shared: next(iter(data.pipeline((IMAGES, LABELS), 4, [make()])))


def calls_layer(make, shape):
    """Returns the call that runs a layer on a batch, in inference and in training."""

    def call(shared):
        layer, x = make(), np.ones((2, *shape), "float32")
        return layer(x), layer(x, training=True)

    return call


def trains(make):
    """Returns the call that trains a model for an epoch by an optimizer."""
    return lambda shared: small(make()).fit(X, Y)


def undone(enable):
    """Returns the call of what mends Keras for the process, with Keras as it was afterwards."""

    def call(shared):
        places = [internals.symbolic_build_of_fit(), internals.reduction_of_replicas()]
        places.append((keras.optimizers.LossScaleOptimizer, "check_finite", None))
        with contextlib.ExitStack() as stack:
            for owner, name, _ in places:
                stack.enter_context(mock.patch.object(owner, name, getattr(owner, name)))
            return enable()

    return call


def checks(name):
    """Returns the call of a check of a compiled model."""
    return lambda shared: getattr(diagnostics, name)(shared.model, (X, Y))


def sweep(shared):
    return diagnostics.learning_rate_range(shared.model, (X, Y))


def report(shared):
    return diagnostics.preflight(shared.model, (X, Y))


def recompute(shared):
    body = [keras_layers.Dense(3), keras_layers.BatchNormalization(), keras_layers.Dense(1)]
    return inference.recompute_batch_normalization(keras.Sequential([keras.Input((4,)), *body]), X)


def views(make):
    """Returns the call that averages an image classifier over views."""

    def call(shared):
        body = [keras_layers.GlobalAveragePooling2D(), keras_layers.Dense(2, "softmax")]
        images = keras.Sequential([keras.Input((None, None, 3)), *body])
        return inference.marginalize(images, views=make()).predict(IMAGES.astype("float32"))

    return call


def marginal(shared):
    found = inference.marginalize(shared.model)
    return found.predict(X)


def averaged_weights(shared):
    posterior = inference.laplace(shared.model, (X, Y))
    return inference.marginalize(shared.model, weights=posterior, draws=2).predict(X)


def along(shared):
    line = inference.loss_along(shared.model, small(), (X, Y))
    return str(line), line.plot()


def calibrated(shared):
    many = np.tile(X, (4, 1)), np.tile(Y, (4, 1))
    return inference.calibrate(small(), many).predict(X)


def searched(shared):
    return search.search(quick, shared.space, 3)


def validated(shared):
    return search.cross_validate(build, (X, Y))


def curved(shared):
    return optimizers.curvature(smooth(), X, Y, "mse")


def ensemble(shared):
    return inference.Ensemble([small(), small()])


def fine_tune(shared):
    return transfer.fine_tune(transfer.replace_head(small(), 2), (X, LABELS_OF_X))


def probe(shared):
    return transfer.linear_probe(small(), (X, LABELS_OF_X))


def similarity(shared):
    return transfer.measure_similarity(small(), (X, LABELS_OF_X))


LAYER = {"histogram": [0.5, 1.0], "edges": [-1.0, 0.0, 1.0], "std": 0.4}
RUN = {"initializer": "He", "activation": "tanh", "batch_normalization": False, "verdict": "healthy", "layers": [LAYER]}
CHECK = {"status": "pass", "figure": "2.3", "expected": "about 2.3", "problems": [], "details": {}}
TRIALS = [{"parameters": {"rate": 10.0**-i, "decay": 1e-4}, "value": float(i)} for i in range(1, 4)]
RANGES = {name: {"low": 1e-5, "high": 1.0, "log": True} for name in ("rate", "decay")}
BOWL = {
    "function": lambda x, y: x**2 + y**2,
    "paths": {"SGD": np.array([[2.0, 1.0], [1.0, 0.2]])},
    "limits": ((-3, 3), (-2, 2)),
}
CURVES = {"loss": [2.0, 1.0, 0.5], "val_loss": [2.1, 1.3, 0.9]}

CALLS = {
    "callbacks": {
        **{name: used(name) for name in ("CosineDecay", "ExponentialDecay", "InverseTimeDecay", "PlateauDecay")},
        **{name: used(name) for name in ("PolyakAveraging", "SnapshotEnsemble", "StepDecay", "TracedCallback")},
        **{name: used(name) for name in ("Triangular", "UpdateRatio", "Warmup")},
        "LearningRate": lambda shared: fit(callbacks.LearningRate(schedules.Warmup(0.1, 2)), epochs=1),
        "NoiseSchedule": lambda shared: fit(callbacks.NoiseSchedule("dropout.*", schedules.Warmup(0.1, 2)), epochs=1),
        "OneCycle": lambda shared: fit(callbacks.OneCycle(), epochs=1),
        "RateCallback": lambda shared: callbacks.RateCallback(),
        "Cooldown": lambda shared: fit(callbacks.Cooldown(1)),
        "Resume": lambda shared: fit(callbacks.Resume(shared.path / "checkpoints")),
        "SharpnessAware": lambda shared: fit(callbacks.SharpnessAware(), epochs=1),
        "simulate": lambda shared: callbacks.simulate([callbacks.CosineDecay()], 2, 3, 0.1),
    },
    "data": {
        "Augment": lambda shared: data.Augment([data.RandomFlip()]),
        "AugmentLayer": calls_layer(lambda: data.AugmentLayer([data.RandomFlip()]), (8, 8, 3)),
        "AutoContrast": passes(data.AutoContrast),
        "Boxes": lambda shared: data.Boxes(),
        "ColorJitter": passes(data.ColorJitter),
        "D4": views(data.D4),
        "Scales": views(data.Scales),
        "ViewProduct": views(lambda: data.ViewProduct([data.D4(), data.Flips()])),
        "CutMix": passes(lambda: data.CutMix(num_classes=2)),
        "Cutout": passes(data.Cutout),
        "Equalize": passes(data.Equalize),
        "FiveCrop": views(lambda: data.FiveCrop(8)),
        "Flips": views(data.Flips),
        "LensDistortion": passes(data.LensDistortion),
        "MixUp": passes(lambda: data.MixUp(num_classes=2)),
        "MultiScale": views(lambda: data.MultiScale([8, 10])),
        "PCAColorNoise": passes(lambda: data.PCAColorNoise().fit((IMAGES / 255).astype("float32"))),
        "Points": lambda shared: data.Points(),
        "Posterize": passes(data.Posterize),
        "Preview": lambda shared: data.preview(data.pipeline((IMAGES, LABELS), 4)),
        "RandAugment": passes(data.RandAugment),
        "RandomCrop": passes(data.RandomCrop),
        "RandomErasing": passes(data.RandomErasing),
        "RandomFlip": passes(data.RandomFlip),
        "RandomResizedCrop": passes(lambda: data.RandomResizedCrop(8)),
        "CenterCrop": passes(lambda: data.CenterCrop(8)),
        "ResizeShortSide": passes(lambda: data.ResizeShortSide(8)),
        "RandomRotation": passes(data.RandomRotation),
        "RandomShear": passes(data.RandomShear),
        "RandomStretch": passes(data.RandomStretch),
        "RandomTranslation": passes(data.RandomTranslation),
        "RandomViews": views(lambda: data.RandomViews(data.Augment([data.RandomFlip()], value_range=(0, 255)), 2)),
        "Sharpness": passes(data.Sharpness),
        "Solarize": passes(data.Solarize),
        "Standardize": lambda shared: data.Standardize().fit(IMAGES),
        "TenCrop": views(lambda: data.TenCrop(8)),
        "TrivialAugment": passes(data.TrivialAugment),
        "Views": lambda shared: data.Views(),
        "digits": lambda shared: next(iter(data.digits())),
        "image_folder": lambda shared: next(iter(data.image_folder(str(shared.path / "images")))),
        "load": lambda shared: data.load("digits", "train"),
        "make_keys": lambda shared: data.make_keys(0, 0, [0, 1]),
        "pipeline": lambda shared: next(iter(data.pipeline((IMAGES, LABELS), 4))),
        "preview": lambda shared: data.preview(data.pipeline((IMAGES, LABELS), 4)),
        "restore": lambda shared: data.restore(np.ones((1, 8, 8, 2), "float32"), np.eye(3)),
    },
    "diagnostics": {
        "ActivationComparison": lambda shared: diagnostics.ActivationComparison([RUN]),
        "Finding": lambda shared: diagnostics.Finding("initial_loss", "2.3", "2.3"),
        "LearningRateRange": sweep,
        "PreflightReport": report,
        "Problem": lambda shared: diagnostics.Problem("dead ReLUs", "fail", "90%", "at most 50%", "lower the rate"),
        "compare_activations": lambda shared: diagnostics.compare_activations([8, 8]),
        "compare_learning_rates": lambda shared: diagnostics.compare_learning_rates(shared.model, (X, Y), steps=5),
        "diagnose_curves": lambda shared: diagnostics.diagnose_curves(shared.history),
        **{name: checks(name) for name in ("gradient_check", "initial_loss", "input_statistics", "label_distribution")},
        **{name: checks(name) for name in ("label_signal", "layer_settings", "learning_rate")},
        "learning_rate_range": sweep,
        **{name: checks(name) for name in ("loss_sign", "optimizer_settings", "overfit_small_batch", "signal_flow")},
        "update_ratio": checks("update_ratio"),
        "preflight": report,
    },
    "distribution": {
        "enable_loss_scaling": undone(distribution.enable_loss_scaling),
        "enable_multi_worker": undone(distribution.enable_multi_worker),
        "is_chief": lambda shared: distribution.is_chief(None),
        "synchronize_batch_normalization": lambda shared: distribution.synchronize_batch_normalization(shared.model),
    },
    "inference": {
        **dict.fromkeys(("Calibrated", "calibrate"), calibrated),
        "Ensemble": lambda shared: ensemble(shared).predict(X),
        "Marginal": marginal,
        "Member": lambda shared: ensemble(shared).members[0],
        "Report": lambda shared: ensemble(shared).report((X, Y)),
        **dict.fromkeys(("WeightPosterior", "laplace"), averaged_weights),
        "DifferentBasinsError": lambda shared: inference.DifferentBasinsError("apart", None),
        **dict.fromkeys(("LossAlong", "loss_along"), along),
        "soup": lambda shared: inference.soup([shared.model, shared.model], (X, Y)).predict(X),
        "marginalize": marginal,
        "recompute_batch_normalization": recompute,
    },
    "layers": {
        "DropBlock2D": calls_layer(lambda: layers.DropBlock2D(0.1), (8, 8, 2)),
        "DropConnect": calls_layer(lambda: layers.DropConnect(keras_layers.Dense(3)), (4,)),
        "DropPath": calls_layer(lambda: layers.DropPath(0.1), (4,)),
        "FractionalMaxPooling1D": calls_layer(lambda: layers.FractionalMaxPooling1D(1.5), (8, 2)),
        "FractionalMaxPooling2D": calls_layer(lambda: layers.FractionalMaxPooling2D(1.5), (8, 8, 2)),
        "FractionalMaxPooling3D": calls_layer(lambda: layers.FractionalMaxPooling3D(1.5), (6, 6, 6, 1)),
        "Maxout": calls_layer(lambda: layers.Maxout(3), (4,)),
        "MaxoutConv2D": calls_layer(lambda: layers.MaxoutConv2D(3, 3), (8, 8, 2)),
        "StochasticDepth": calls_layer(lambda: layers.StochasticDepth(keras_layers.Dense(4)), (4,)),
        "fractional_max_pool": lambda shared: layers.fractional_max_pool(np.ones((1, 6, 2), "float32"), [[0, 2, 4, 6]]),
        "linear_survival": lambda shared: layers.linear_survival(4),
    },
    "optimizers": {
        "SOAP": trains(optimizers.SOAP),
        "Adam": trains(optimizers.Adam),
        "LayerwiseLearningRate": trains(lambda: optimizers.LayerwiseLearningRate(keras.optimizers.SGD())),
        "Momentum": trains(optimizers.Momentum),
        "Curvature": curved,
        "curvature": curved,
        "minimize": lambda shared: optimizers.minimize(smooth(), X, Y, "mse"),
        "minimize_function": lambda shared: optimizers.minimize_function(lambda x: keras.ops.sum(x**2), np.ones(2)),
    },
    "plots": {
        "activation_histograms": lambda shared: plots.activation_histograms([RUN]),
        "best_so_far": lambda shared: plots.best_so_far({"random": [[3.0, 2.0], [4.0, 2.5]]}),
        "contact_sheet": lambda shared: plots.contact_sheet(IMAGES / 255),
        "ensemble_size": lambda shared: plots.ensemble_size(RNG.dirichlet([1, 1], (3, 9)), np.zeros(9, int)),
        "error_against_draws": lambda shared: plots.error_against_draws([1, 4], [[5.0, 4.0], [5.4, 4.1]]),
        "error_curves": lambda shared: plots.error_curves({"accuracy": [0.5, 0.75]}),
        "errors": lambda shared: plots.errors({"one": 3.1, "two": 2.4}),
        "findings": lambda shared: plots.findings({"status": "pass", "faults": [], "checks": {"initial_loss": CHECK}}),
        "learning_rate_curve": lambda shared: plots.learning_rate_curve([0.1, 0.05]),
        "learning_rate_sweep": lambda shared: plots.learning_rate_sweep(
            {"rates": [1e-3, 1e-2], "losses": [1.0, 0.5], "smoothed": [1.0, 0.7]}
        ),
        "learning_rates": lambda shared: plots.learning_rates({"good": {"rate": 0.1, "losses": [2.0, 1.0]}}),
        "loss_curves": lambda shared: plots.loss_curves(CURVES),
        "loss_line": lambda shared: plots.loss_line([0.0, 0.5, 1.0], [0.2, 1.5, 0.3]),
        "reliability": lambda shared: plots.reliability([0.2, 0.9], [0, 1]),
        "search_importance": lambda shared: plots.search_importance({"rate": 0.9, "decay": 0.1}),
        "search_ranges": lambda shared: plots.search_ranges([RANGES]),
        "search_results": lambda shared: plots.search_results(TRIALS, [RANGES], {"rate": 0.8, "decay": 0.2}),
        "search_scatter": lambda shared: plots.search_scatter(TRIALS, "rate", "decay"),
        "survival_probabilities": lambda shared: plots.survival_probabilities([0.9, 0.5]),
        "trajectories": lambda shared: plots.trajectories({"bowl": BOWL}),
        "transfer_curves": lambda shared: plots.transfer_curves({"from scratch": {1: [40.0, 50.0], 10: [10.0, 12.0]}}),
    },
    "schedules": {
        "Cooldown": lambda shared: schedules.Cooldown(0.1, 9, 3)(8),
        "CosineCycles": lambda shared: schedules.CosineCycles(0.1, 10)(3),
        "OneCycle": lambda shared: schedules.OneCycle(0.1, 10)(3),
        "StepDecay": lambda shared: schedules.StepDecay(0.1, 0.5, every=2)(3),
        "Triangular": lambda shared: schedules.Triangular(0.1, 0.01, 4)(3),
        "Warmup": lambda shared: schedules.Warmup(0.1, 4)(3),
    },
    "search": {
        "BuildAndFit": lambda shared: search.BuildAndFit(build, (X, Y), (X, Y))({}, 1, []),
        "Choice": lambda shared: search.Choice({"one": 1, "two": 2}),
        "CrossValidation": validated,
        "Range": lambda shared: search.Range(0.0, 1.0),
        "SearchResult": searched,
        "Space": lambda shared: search.Space(rate=search.uniform(0.0, 1.0)),
        "Trial": lambda shared: searched(shared).best,
        "build_and_fit": lambda shared: search.build_and_fit(build, (X, Y), (X, Y))({"rate": 0.1}, 1, []),
        "choice": lambda shared: search.choice(["sgd", "adam"]),
        "cross_validate": validated,
        "fold_indices": lambda shared: search.fold_indices([0, 0, 1, 1], 2),
        "grid": lambda shared: search.grid(quick, shared.space, 3),
        "integer": lambda shared: search.integer(1, 8),
        "log_uniform": lambda shared: search.log_uniform(1e-4, 1.0),
        "mean_interval": lambda shared: search.mean_interval([1.0, 2.0, 3.0]),
        "search": searched,
        "uniform": lambda shared: search.uniform(0.0, 1.0),
    },
    "transfer": {
        "FineTuned": fine_tune,
        "GradualUnfreeze": lambda shared: fit(transfer.GradualUnfreeze([(0, "head"), (1, "body")])),
        "LinearProbe": probe,
        "Plan": lambda shared: transfer.recommend(100, 5, "similar"),
        "Similarity": similarity,
        "backbone": lambda shared: transfer.backbone(),
        "digits_backbone": lambda shared: transfer.digits_backbone(),
        "embedding_from_vectors": lambda shared: transfer.embedding_from_vectors(["dog"], shared.path / "vectors.txt"),
        "features": lambda shared: transfer.features(small(), ["body"]),
        "fine_tune": fine_tune,
        "freeze": lambda shared: transfer.freeze(small()),
        "insert": lambda shared: transfer.insert(small(), "body", keras_layers.Dropout(0.5)),
        "linear_probe": probe,
        "measure_similarity": similarity,
        "recommend": lambda shared: transfer.recommend(100, 5, "similar"),
        "reinitialize": lambda shared: transfer.reinitialize(small(), 1),
        "replace_head": lambda shared: transfer.replace_head(small(), 3),
        "strip": lambda shared: transfer.strip(small()),
        "unfreeze": lambda shared: transfer.unfreeze(small()),
    },
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("room", "name"), NAMES, ids=[f"{room}.{name}" for room, name in NAMES])
def test_public_name_works_with_its_defaults(shared, room, name):
    assert name in CALLS[room], f"add a call of kregkit.{room}.{name} with its defaults to CALLS"
    call = CALLS[room][name]
    # A class and the function that returns it have the same call.
    if call not in shared.results:
        shared.results[call] = call(shared)
    result = shared.results[call]
    assert result is None or repr(result)
    if hasattr(result, "_repr_html_") and room != "plots":
        assert result._repr_html_()


def test_no_entry_is_without_a_name():
    assert {(room, name) for room, entries in CALLS.items() for name in entries} == set(NAMES)
