"""The label signal against refitting without each example."""

import keras
import numpy as np
import pytest
from keras import layers
from small_models import RNG, X, dense

from kregkit import diagnostics as room


def test_leave_one_out_against_refitting():
    from kregkit.diagnostics.label_information import _leave_one_out

    x, y = X[:20].astype("float64"), X[:20, :1] - X[:20, :1].mean()
    distances = ((x[:, None] - x) ** 2).sum(-1)
    kernel = np.exp(-distances / np.median(distances))
    kernel = kernel - kernel.mean()
    score = 0
    for index in range(20):
        rest = np.delete(np.arange(20), index)
        solution = np.linalg.solve(kernel[np.ix_(rest, rest)] + 0.1 * np.eye(19), y[rest])
        score += (kernel[index, rest] @ solution * y[index]).item() / 20
    assert _leave_one_out(x, y, 20)[0] == pytest.approx(score, rel=1e-9)


def signal(x, y, outputs=1, loss="mse"):
    model = keras.Sequential([keras.Input(x.shape[1:]), layers.Flatten(), layers.Dense(outputs)])
    model.compile("sgd", loss)
    return room.label_signal(model, (x, y))


def test_permuted_labels_look_like_noise():
    from kregkit.diagnostics.label_information import _leave_one_out

    y = X[:, :1] - X[:, :1].mean()
    real, mean, std = _leave_one_out(X, y, 200)
    rng = np.random.default_rng(1)
    z = np.array([(_leave_one_out(X, y[rng.permutation(128)], 20)[0] - mean) / std for _ in range(100)])
    assert abs(z.mean()) < 0.6 and 0.6 < z.std() < 1.5 and z.max() < 4
    assert (real - mean) / std > 8


@pytest.mark.parametrize("kind", ["images", "tokens", "label map", "classes"])
def test_signal_in_other_kinds_of_data(kind):
    rng = np.random.default_rng(0)
    y, outputs, loss = rng.integers(0, 3, 300), 3, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if kind == "images":
        # More columns than are used.
        x = rng.normal(size=(300, 80, 80, 1)).astype("float32") + 0.3 * y[:, None, None, None]
    elif kind == "tokens":
        x = rng.integers(0, 2000, (300, 12))
        x[:, 5] = 1000 + y
    elif kind == "label map":
        x = rng.normal(size=(300, 10, 10, 1)).astype("float32")
        y, outputs, loss = np.repeat(np.repeat(x > 0, 2, 1), 2, 2).reshape(300, -1).astype("float32"), 400, "mse"
    else:
        x = np.eye(3)[y] + 0.1 * rng.normal(size=(300, 3))
    found, shuffled = signal(x, y, outputs, loss), signal(x, rng.permutation(y), outputs, loss)
    assert found.status == "pass", str(found)
    assert shuffled.faults == ["shuffled labels"] and shuffled.status == "warn"


def test_few_examples_only_warn():
    y = np.arange(40) % 20
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert signal(RNG.normal(size=(40, 5)).astype("float32"), y, 20, loss).status == "warn"


def test_the_four_examples_of_xor_are_too_few_to_judge():
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1, "sigmoid")])
    model.compile("adam", "binary_crossentropy")
    assert room.label_signal(model, (x, np.array([0, 1, 1, 0]))).status == "pass"


def test_bad_argument():
    with pytest.raises(ValueError, match="Received: num_permutations=3"):
        room.label_signal(dense(1), (X, X[:, :1]), num_permutations=3)


@pytest.mark.parametrize("paired", [True, False])
def test_labels_of_tokens(paired):
    model = keras.Sequential([keras.Input((6,), dtype="int32"), layers.Embedding(90, 4), layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tokens = np.random.default_rng(0).integers(0, 90, (300, 6))
    # Which tokens are of the second kind doesn't follow from their numbers' size.
    labels = (tokens * 37 % 90 < 30).astype("int32")
    y = labels if paired else np.random.default_rng(1).permutation(labels)
    assert room.label_signal(model, (tokens, y)).faults == ([] if paired else ["shuffled labels"])


def test_constant_labels_are_not_called_shuffled():
    finding = room.label_signal(dense(1), (X, np.ones((128, 1))))
    assert finding.status == "pass" and finding.figure == "constant labels"
