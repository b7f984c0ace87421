"""Input and label statistics on data with one thing wrong."""

import keras
import numpy as np
import pytest
from keras import layers
from small_models import RNG, X, dense

from kregkit import diagnostics as room


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda x: x, None),
        (lambda x: np.where(np.arange(128)[:, None] == 3, np.nan, x), "NaN in inputs"),
        (lambda x: x + 2, "inputs not centred"),
        (lambda x: 100 * x, "unscaled inputs"),
        (lambda x: 1e-4 * x, "unscaled inputs"),
        (lambda x: x * (np.arange(5) < 2), "constant features"),
        (lambda x: x * np.where(np.arange(5) == 0, 5000, 1e-3), "unscaled inputs"),
    ],
)
def test_input_statistics(change, fault):
    finding = room.input_statistics(dense(1), (change(X).astype("float32"), X[:, :1]))
    assert finding.faults == ([] if fault is None else [fault])


def without_255():
    return keras.losses.SparseCategoricalCrossentropy(ignore_class=255)


@pytest.mark.parametrize(
    ("loss", "outputs", "activation", "y", "fault"),
    [
        ("sparse_categorical_crossentropy", 3, "softmax", np.arange(128) % 3, None),
        ("sparse_categorical_crossentropy", 3, "softmax", np.arange(128) % 4, "labels out of range"),
        ("sparse_categorical_crossentropy", 3, "softmax", np.arange(128) % 3 - 1, "labels out of range"),
        ("categorical_crossentropy", 3, "softmax", np.eye(3)[np.arange(128) % 3], None),
        ("categorical_crossentropy", 3, "softmax", np.ones((128, 3)), "labels out of range"),
        ("binary_crossentropy", 1, "sigmoid", np.arange(128)[:, None] % 2, None),
        ("binary_crossentropy", 1, "sigmoid", np.arange(128)[:, None] % 2 + 1, "labels out of range"),
        ("mse", 1, None, 1000 + X[:, :1], "unscaled targets"),
        ("mse", 1, None, np.full((128, 1), np.nan), "NaN in labels"),
        # Keras adds or drops one last axis; what it would broadcast is a fault.
        ("mse", 1, None, X[:, 0], None),
        ("mse", 1, None, X[:, :1, None], None),
        ("mse", 3, None, X[:, :3, None], None),
        ("mse", 1, None, X[:, :1, None, None], "labels of the wrong shape"),
        ("mse", 1, None, X[:, :3], "labels of the wrong shape"),
        ("mse", 3, None, X[:, :1], "labels of the wrong shape"),
        ("mse", 3, None, X[:, 0], "labels of the wrong shape"),
        ("mape", 1, None, np.abs(X[:, :1]) + 0.1, None),
        ("mape", 1, None, np.round(np.abs(X[:, :1])), "labels out of range"),
        (without_255(), 3, "softmax", np.where(np.arange(128) % 4 == 3, 255, np.arange(128) % 4), None),
        (
            without_255(),
            3,
            "softmax",
            np.where(np.arange(128) % 5 == 4, 255, np.arange(128) % 5),
            "labels out of range",
        ),
    ],
)
def test_labels(loss, outputs, activation, y, fault):
    finding = room.input_statistics(dense(outputs, activation, loss), (X, y))
    assert finding.faults == ([] if fault is None else [fault])


def test_preprocessing_inside_of_the_model_counts():
    model = keras.Sequential([keras.Input((5,)), layers.Rescaling(0.01), layers.Dense(1)])
    model.compile("sgd", "mse")
    assert room.input_statistics(model, (100 * X, X[:, :1])).status == "pass"


def test_preprocessing_of_several_inputs_counts_for_each():
    inputs = [keras.Input((5,), name="a"), keras.Input((3,), name="b")]
    scaled = [layers.Rescaling(0.01)(inputs[0]), inputs[1]]
    model = keras.Model(inputs, layers.Dense(1)(layers.Concatenate()(scaled)))
    model.compile("sgd", "mse")
    assert room.input_statistics(model, ([100 * X, X[:, :3]], X[:, :1])).status == "pass"
    finding = room.input_statistics(model, ([100 * X, 100 * X[:, :3]], X[:, :1]))
    assert [problem.where for problem in finding.problems] == ["input 1"]


def test_statistics_are_those_of_the_data():
    details = room.input_statistics(dense(1), (X, X[:, :1])).details["input"]
    assert details["mean"] == pytest.approx(X.mean(dtype="float64"), rel=1e-6)
    assert details["std"] == pytest.approx(X.std(dtype="float64"), rel=1e-6)
    assert (details["low"], details["high"], details["constant_features"]) == (X.min(), X.max(), 0)


def test_tokens():
    model = keras.Sequential(
        [keras.Input((6,), dtype="int32"), layers.Embedding(50, 4), layers.Flatten(), layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    tokens = RNG.integers(0, 50, (128, 6))
    assert room.input_statistics(model, (tokens, X[:, :1])).status == "pass"
    assert room.input_statistics(model, (tokens + 1, X[:, :1])).faults == ["tokens out of range"]


def several(structure):
    """A model with a value and a class as outputs, in a list or a dictionary, and labels for it."""
    inputs = keras.Input((5,))
    value, kind = layers.Dense(1, name="value")(inputs), layers.Dense(3, name="kind")(inputs)
    outputs = {"value": value, "kind": kind} if structure is dict else [value, kind]
    model = keras.Model(inputs, outputs)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", {"value": "mse", "kind": crossentropy})
    return model, {"value": X[:, :1], "kind": np.arange(128) % 3}


@pytest.mark.parametrize("structure", [dict, list])
def test_labels_by_name_go_to_their_outputs(structure):
    # The names' order is not the alphabet's.
    model, y = several(structure)
    for check in (room.input_statistics, room.initial_loss):
        assert check(model, (X, y)).status == "pass"
    finding = room.input_statistics(model, (X, {**y, "kind": y["kind"] + 5}))
    assert finding.faults == ["labels out of range"] and finding.problems[0].where == "label 'kind'"
    finding = room.label_signal(model, (X, {**y, "value": y["value"][::-1]}))
    assert {problem.where for problem in finding.problems} == {"label 'value'", "label 'kind'"}


@pytest.mark.parametrize(
    ("classes", "y", "faults"),
    [
        (4, 1 + np.arange(128) % 3, ["no label is 0"]),
        (4, np.arange(128) % 3, []),  # the last class may be rare
        (4, 1 + np.arange(128) % 2, []),  # so may several be
        (3, np.full(128, 2), ["constant labels"]),
    ],
)
def test_suspicious_classes(classes, y, faults):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    finding = room.input_statistics(dense(classes, loss=loss), (X, y))
    assert finding.faults == faults and finding.status == ("warn" if faults else "pass")


def test_weights_that_are_no_numbers():
    weights = np.where(np.arange(128) == 100, np.nan, 1.0)
    assert room.input_statistics(dense(1), (X, X[:, :1], weights)).faults == ["NaN in sample weights"]


@pytest.mark.parametrize("data", [(X.tolist(), X[:, :1]), (X, X[:, 0].tolist()), (X, 3)])
def test_what_is_no_array_is_refused(data):
    with pytest.raises(ValueError, match=r"numpy.asarray.*Received: (float|int) "):
        room.input_statistics(dense(1), data)


def test_bfloat16_inputs_are_numbers():
    keras.utils.set_random_seed(0)
    policy = "mixed_bfloat16"
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4, dtype=policy), layers.Dense(1, dtype="float32")])
    model.compile("sgd", "mse")
    finding = room.input_statistics(model, (100 * X, X[:, :1]))
    assert finding.faults == ["unscaled inputs"] and "mean" in finding.figure
    assert room.label_signal(model, (X, X[:, :2].sum(1))).status == "pass"


@pytest.mark.parametrize(("mean", "std", "faults"), [(41, 12, []), (50, 29, []), (200, 60, ["unscaled targets"])])
def test_ages_and_percentages_are_learnt_as_they_are(mean, std, faults):
    y = mean + std * X[:, :1]
    assert room.input_statistics(dense(1, loss="mae"), (X, y)).faults == faults
