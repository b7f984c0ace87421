"""Activations through depth against a forward pass in NumPy, and the lecture's verdicts."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

from kregkit._core.seeds import derived_seed
from kregkit.diagnostics import compare_activations


@pytest.fixture(scope="module")
def lecture():
    return compare_activations([300] * 10)


def test_statistics_against_numpy():
    found = compare_activations([30] * 4, initializers=["Xavier"], activations=["tanh"], batch_normalization=[False])
    x = np.random.default_rng(0).normal(size=(256, 30))
    for index, row in enumerate(found["Xavier", "tanh", False]["layers"]):
        kernel = keras.ops.convert_to_numpy(keras.initializers.GlorotNormal(seed=derived_seed(0, index, 0))((30, 30)))
        x = np.tanh(x @ kernel.astype("float64"))
        assert row["std"] == pytest.approx(x.std(), rel=1e-4)
        assert row["mean"] == pytest.approx(x.mean(), abs=1e-5)
        assert row["variety"] == pytest.approx(np.sqrt(np.mean((x - x.mean(0)) ** 2)), rel=1e-4)
        counts, edges = np.histogram(x, 40, (-1, 1))
        np.testing.assert_allclose(row["edges"], edges)
        np.testing.assert_allclose(row["histogram"], counts / counts.max(), atol=2.5 / counts.max())


def test_two_of_the_lectures_verdicts():
    settings = {"initializers": ["0.01 normal", "He"], "activations": ["ReLU"], "batch_normalization": [False]}
    found = compare_activations([300] * 10, **settings)
    assert [run["verdict"] for run in found.runs] == ["vanishing", "healthy"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "verdict"),
    [
        (("0.01 normal", "tanh", False), "vanishing"),
        (("0.01 normal", "ReLU", False), "vanishing"),
        (("0.01 normal", "sigmoid", False), "no variety"),
        (("Xavier", "sigmoid", False), "no variety"),
        (("Xavier", "sigmoid", True), "healthy"),
        (("Xavier", "tanh", False), "healthy"),
        (("Xavier", "ReLU", False), "vanishing"),
        (("He", "ReLU", False), "healthy"),
        (("He", "leaky ReLU", False), "healthy"),
        (("He", "ELU", False), "healthy"),
        (("0.01 normal", "tanh", True), "healthy"),
        (("0.01 normal", "ReLU", True), "healthy"),
        (("0.01 normal", "maxout", True), "healthy"),
    ],
)
def test_lecture_verdicts(lecture, setting, verdict):
    assert lecture[setting]["verdict"] == verdict


@pytest.mark.slow
def test_every_combination_is_there_and_prints(lecture):
    assert len(lecture.runs) == 3 * 6 * 2
    assert len(str(lecture).splitlines()) == 36 and "0.01 normal" in str(lecture)
    assert lecture.to_dict() == {"runs": lecture.runs}
    assert {len(run["layers"]) for run in lecture.runs} == {10}
    with pytest.raises(KeyError):
        lecture["He", "swish", True]


def test_halving_by_relu_under_xavier(lecture):
    # Each ReLU halves the second moment that Xavier keeps: 2 ** (-1 / 2) in size a layer.
    rows = lecture["Xavier", "ReLU", False]["layers"]
    assert rows[-1]["std"] / rows[0]["std"] == pytest.approx(2 ** (-9 / 2), rel=0.4)


def test_quartering_by_sigmoid_under_xavier(lecture):
    # Xavier keeps differences between examples, and a sigmoid's slope is at most a quarter.
    spread = [row["variety"] for row in lecture["Xavier", "sigmoid", False]["layers"]]
    assert 0.2 < (spread[5] / spread[2]) ** (1 / 3) < 0.25


def test_large_weights_saturate():
    model = keras.Sequential([keras.Input((20,)), *[layers.Dense(20) for _ in range(5)], layers.Dense(1)])
    found = compare_activations(model, 40 * np.ones((64, 20)), initializers=["Xavier"], activations=["sigmoid", "tanh"])
    assert found["Xavier", "tanh", False]["verdict"] == "saturated"
    assert found["Xavier", "tanh", False]["layers"][0]["saturated"] > 0.5


def test_weights_of_deviation_one_saturate_tanh():
    found = compare_activations([100] * 4, initializers=["1 normal"], activations=["tanh"], batch_normalization=[False])
    run = found["1 normal", "tanh", False]
    assert run["verdict"] == "saturated"
    # Of a unit whose input is N(0, 100), tanh is within 0.99 and 1 in size with probability 0.79.
    assert run["layers"][0]["saturated"] > 0.7


def test_own_convolutional_model_is_left_alone():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.BatchNormalization()(layers.Conv2D(6, 3, activation="relu")(inputs))
    x = layers.Flatten()(layers.Conv2D(6, 3, activation="relu", name="second")(x))
    model = keras.Model(inputs, layers.Dense(10)(x))
    before = model.get_weights()
    found = compare_activations(model, np.random.default_rng(0).normal(size=(32, 8, 8, 1)))
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights()))
    run = found["He", "maxout", True]
    assert run["layers"][1]["layer"] == "second" and len(run["layers"]) == 2
    # Normalised to unit variance before the larger of two is taken: mean 1 / sqrt(pi), variance 1 - 1 / pi.
    assert run["layers"][1]["mean"] == pytest.approx(np.pi**-0.5, abs=0.1)
    assert run["layers"][1]["std"] == pytest.approx((1 - 1 / np.pi) ** 0.5, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"initializers": "He"}, "Received: initializers='He'"),
        ({"activations": ["swish"]}, r"Received: activations=\['swish'\]"),
        ({"model": [8]}, "Received: layers=2"),
        ({"model": [8, 0]}, "Received: model=0"),
        ({"model": 3}, "Received: model=3"),
        ({"seed": -1}, "Received: seed=-1"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(ValueError, match=text):
        compare_activations(**arguments)


def test_default_network_runs_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare_activations([8] * 3, initializers=["He"], activations=["tanh"])


def test_range_of_a_histogram_holds_nearly_all_outputs():
    found = compare_activations([50] * 4, initializers=["He"], activations=["leaky ReLU"], batch_normalization=[False])
    x = np.random.default_rng(0).normal(size=(256, 50))
    kernel = keras.ops.convert_to_numpy(keras.initializers.HeNormal(seed=derived_seed(0, 0, 0))((50, 50)))
    x = x @ kernel
    x = np.where(x > 0, x, 0.01 * x)
    edges = found["He", "leaky ReLU", False]["layers"][0]["edges"]
    np.testing.assert_allclose([edges[0], edges[-1]], np.quantile(x, [0.0005, 0.9995]), rtol=1e-3)
