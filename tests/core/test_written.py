"""What objects print as makes the same object again, and words of other libraries are answered by ours."""

import functools
import inspect

import contracts
import keras
import numpy as np
import pytest

import kregkit
from kregkit import callbacks, data, diagnostics, inference, layers, optimizers, schedules, search, transfer
from kregkit._core.word_tables import ARGUMENTS, NAMES
from kregkit._core.written import Words, Written, as_typed

WRITTEN = [case for case in contracts.all_cases() if issubclass(case.component, Written)]
VIEWS = [
    data.Flips(vertical=True),
    data.TenCrop((4, 6)),
    data.FiveCrop(4),
    data.MultiScale([8, 16], crops=data.TenCrop(4)),
    data.RandomRotation((-5.0, 15.0)),
    data.MixUp(0.3, num_classes=10),
    data.ViewProduct([data.Flips(), data.D4()]),
]


def again(thing):
    """Evaluates what an object prints as."""
    room = type(thing).__module__.split(".")[1]
    names = {**vars(getattr(kregkit, room)), "keras": keras, "schedules": schedules, "optimizers": optimizers}
    return eval(repr(thing), {**names, **vars(transfer)} if room == "callbacks" else names)


def nameless(config):
    """Returns a config without the names that Keras counts up."""
    if not isinstance(config, dict):
        return config
    return {key: nameless(value) for key, value in config.items() if key != "name"}


def make(case, tmp_path):
    return case.make(str(tmp_path / "run")) if inspect.signature(case.make).parameters else case.make()


@pytest.mark.parametrize("case", WRITTEN, ids=str)
def test_what_is_printed_makes_the_same_again(case, tmp_path):
    thing = make(case, tmp_path)
    if not type(thing).__module__.startswith("kregkit."):
        return  # A row's own subclass, whose name isn't public.
    other = again(thing)
    assert type(other) is type(thing) and repr(other) == repr(thing)
    if hasattr(thing, "get_config"):
        assert nameless(other.get_config()) == nameless(thing.get_config())


@pytest.mark.parametrize("thing", VIEWS, ids=repr)
def test_views_and_operations_too(thing):
    other = again(thing)
    assert type(other) is type(thing) and repr(other.get_config()) == repr(thing.get_config())


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (callbacks.Warmup(2, unit="step"), "Warmup(2.0, unit='step')"),
        (callbacks.CosineDecay(), "CosineDecay()"),
        (callbacks.PolyakAveraging([0.9, "uniform"]), "PolyakAveraging(decay=[0.9, 'uniform'])"),
        (callbacks.SnapshotEnsemble("a", cycles=3), "SnapshotEnsemble('a', cycles=3)"),
        (optimizers.Adam(3e-4, bias_correction=False), "Adam(learning_rate=0.0003, bias_correction=False)"),
        (optimizers.Momentum(0.1, clipnorm=1.0), "Momentum(learning_rate=0.1, clipnorm=1.0)"),
        (
            callbacks.LearningRate(schedules.Warmup(keras.optimizers.schedules.CosineDecay(0.1, 9), 5)),
            "LearningRate(schedules.Warmup(keras.optimizers.schedules.CosineDecay(0.1, 9), 5.0))",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_by_hand(thing, text):
    assert repr(thing) == text


def test_a_class_of_ones_own_that_keeps_no_argument_prints_its_name():
    class Own(callbacks.TracedCallback):
        def __init__(self, secret):
            super().__init__()

    assert repr(Own(3)) == "<Own>" and repr(callbacks.TracedCallback()) == "TracedCallback()"
    assert as_typed(keras.optimizers.SGD(0.5)) == "keras.optimizers.SGD(learning_rate=0.5)"


def test_arrays_are_no_pages():
    assert len(repr(callbacks.PolyakAveraging(decay=list(np.linspace(0, 0.9, 200))))) < 5000


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: callbacks.Warmup(epochs=3), "`length`, in epochs. Received: epochs=3"),
        (lambda: callbacks.PlateauDecay(min_lr=1e-5), "`minimum_factor`"),
        (lambda: callbacks.CosineDecay(alpha=0.1), "`final_factor`"),
        (lambda: callbacks.ExponentialDecay(0.1, min_lr=1e-5), "`floor`"),
        (lambda: layers.StochasticDepth(keras.layers.Dense(2), rate=0.2), "`survival_probability`"),
        (lambda: layers.FractionalMaxPooling2D(ratio=1.5), "`pool_ratio`"),
        (lambda: optimizers.Momentum(lr=0.1), "`learning_rate`"),
        (lambda: data.RandomFlip(p=0.5), "`probability`"),
    ],
)
def test_an_argument_of_another_library_is_answered_by_ours(make, text):
    with pytest.raises(TypeError, match="has no argument") as error:
        make()
    assert text in str(error.value) and "Received: " in str(error.value)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: inference.marginalize(model(), n_samples=8),
            "`marginalize` has no argument `n_samples`: here it is `draws`",
        ),
        (lambda: inference.Ensemble([model()], weights=[1]), "`select` finds"),
        (lambda: inference.calibrate(model(), None, mode="temperature"), "`method`"),
        (lambda: data.pipeline(np.zeros((4, 8, 8, 1)), 2, num_workers=2), "`num_parallel_calls`"),
        (lambda: search.search(None, None, n_trials=3), "`trials`"),
        (lambda: diagnostics.learning_rate_range(model(), None, start_lr=1e-7), "`low`"),
        (lambda: transfer.backbone("MobileNetV2", pretrained=True), "`weights`"),
        (lambda: optimizers.LayerwiseLearningRate.by_depth(optimizers.Adam(), model(), layer_decay=0.7), "`decay`"),
        (lambda: data.CenterCrop(8, p=0.5), "it acts on every image"),
    ],
)
def test_arguments_of_functions_and_predictors_too(make, text):
    with pytest.raises(TypeError, match="has no argument") as error:
        make()
    assert text in str(error.value)


def model():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])


def test_other_words_are_refused_as_python_does():
    with pytest.raises(TypeError, match="unexpected keyword argument 'sound'"):
        inference.marginalize(model(), sound=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'sound'"):
        callbacks.Warmup(2, sound=3)


def test_the_table_of_arguments_names_classes_and_arguments_that_exist():
    kinds = {base for kind in contracts.public_components(Words) for base in kind.__mro__}
    kinds = {f"{'.'.join(kind.__module__.split('.')[1:2])}.{kind.__name__}": kind for kind in kinds}
    for name, words in ARGUMENTS.items():
        room, *path = name.split(".")
        thing = kinds[name].__init__ if name in kinds else functools.reduce(getattr, path, getattr(kregkit, room))
        accepted = inspect.signature(thing).parameters
        # What Keras's optimizers take is in `**kwargs`.
        accepted = (
            {*accepted, *inspect.signature(keras.optimizers.Adam.__init__).parameters} if "optim" in name else accepted
        )
        for word, answer in words.items():
            assert word not in accepted, f"{name} has an argument {word}"
            ours = answer.split("`")[1] if answer.startswith("`") else ""
            elsewhere = not ours.isidentifier() or ours == "fit" or name == "callbacks.RateCallback"
            assert ours in accepted or elsewhere, (name, word, answer)


@pytest.mark.parametrize("word", sorted(NAMES))
def test_names_of_other_libraries_lead_to_names_that_exist(word):
    room, name = NAMES[word].split(".")
    assert name in getattr(kregkit, room).__all__
    with pytest.raises(ImportError, match=f"kregkit.{NAMES[word]}`"):
        getattr(kregkit.search if room != "search" else kregkit.layers, word)


def test_importing_such_a_name_says_ours():
    with pytest.raises(ImportError, match=r"here it is `kregkit\.callbacks\.PolyakAveraging`"):
        from kregkit.callbacks import EMA  # noqa: F401
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        callbacks.nonsense  # noqa: B018
    assert not hasattr(callbacks, "nonsense")


def test_predictors_print_as_their_call():
    one, other = (
        keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.5), keras.layers.Dense(3)], name=name)
        for name in ("one", "other")
    )
    names = {"one": one, "other": other, **vars(kregkit.inference), **vars(data)}
    ensemble = kregkit.inference.Ensemble([one, other])
    assert repr(ensemble) == "Ensemble([one, other])"
    for predictor, text in (
        (kregkit.inference.marginalize(one), "marginalize(one)"),
        (kregkit.inference.marginalize(one, draws=4, spread=True), "marginalize(one, draws=4, spread=True)"),
        (kregkit.inference.marginalize(ensemble, noise=None), "marginalize(Ensemble([one, other]), noise=None)"),
    ):
        assert repr(predictor) == text and repr(eval(text, names)) == text


@pytest.mark.parametrize(
    ("room", "name", "place"),
    [
        (kregkit, "EMA", "kregkit.callbacks.PolyakAveraging"),
        (kregkit, "marginalize", "kregkit.inference.marginalize"),
        (callbacks, "marginalize", "kregkit.inference.marginalize"),
        (data, "Mixup", "kregkit.data.MixUp"),
        (callbacks, "EarlyStopping", "keras.callbacks.EarlyStopping"),
        (optimizers, "AdamW", "keras.optimizers.AdamW"),
        (schedules, "CosineDecay", "kregkit.callbacks.CosineDecay` or `keras.optimizers.schedules.CosineDecay"),
    ],
)
def test_names_of_other_rooms_and_of_keras_lead_there(room, name, place):
    # `hasattr` works for names of Keras and of other rooms, as programs ask several modules for those.
    known = room is kregkit or name == "Mixup"
    with pytest.raises(ImportError if known else AttributeError) as error:
        getattr(room, name)
    assert str(error.value) == f"{room.__name__} has no `{name}`: here it is `{place}`."


def test_unknown_names_and_modules_are_what_python_takes_them_for():
    assert getattr(layers, "Dense", None) is None and not hasattr(callbacks, "EarlyStopping")
    assert not hasattr(kregkit, "sound") and not hasattr(callbacks, "_private") and not hasattr(layers, "__wrapped__")
    # A module of the room is no name of another library.
    from kregkit.layers import drop_path

    assert inspect.ismodule(drop_path)
