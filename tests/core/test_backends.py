import importlib.util
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from kregkit import callbacks, data, diagnostics, inference, transfer

X, Y = np.zeros((8, 4), "float32"), np.zeros(8, "int64")


def model():
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(2, name="top")])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


NEED_TENSORFLOW = {
    "Ensemble": lambda: inference.Ensemble([model()]),
    "Ensemble.from_directory": lambda: inference.Ensemble.from_directory("nowhere"),
    "marginalize": lambda: inference.marginalize(model()),
    "recompute_batch_normalization": lambda: inference.recompute_batch_normalization(model(), X),
    "preflight": lambda: diagnostics.preflight(model(), (X, Y)),
    "gradient_check": lambda: diagnostics.gradient_check(model(), (X, Y)),
    "initial_loss": lambda: diagnostics.initial_loss(model(), (X, Y)),
    "input_statistics": lambda: diagnostics.input_statistics(model(), (X, Y)),
    "label_signal": lambda: diagnostics.label_signal(model(), (X, Y)),
    "overfit_small_batch": lambda: diagnostics.overfit_small_batch(model(), (X, Y)),
    "signal_flow": lambda: diagnostics.signal_flow(model(), (X, Y)),
    "update_ratio": lambda: diagnostics.update_ratio(model(), (X, Y)),
    "compare_learning_rates": lambda: diagnostics.compare_learning_rates(model(), (X, Y)),
    "fine_tune": lambda: transfer.fine_tune(model(), (X, Y)),
    "Resume": lambda: model().fit(X, Y, verbose=0, callbacks=[callbacks.Resume("nowhere")]),
    "AugmentLayer": lambda: data.AugmentLayer([data.RandomFlip()]),
}


@pytest.mark.parametrize("name", NEED_TENSORFLOW)
def test_what_needs_tensorflow_says_so_at_once(name, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match=r"needs Keras on TensorFlow.*KERAS_BACKEND.*Received: backend='jax'"):
        NEED_TENSORFLOW[name]()


SCRIPT = """
import keras, numpy
from kregkit import inference, transfer

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="body"), keras.layers.Dense(2, name="top")])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
try:
    inference.Ensemble([model])
except RuntimeError as error:
    assert str(error).endswith(f"Received: backend={keras.backend.backend()!r}"), error
else:
    raise AssertionError
transfer.freeze(model, "body")
body, top = ([numpy.array(v) for v in layer.get_weights()] for layer in model.layers)
model.fit(numpy.ones((8, 4), "float32"), numpy.zeros(8, "int64"), verbose=0)
assert all((old == new).all() for old, new in zip(body, model.layers[0].get_weights()))
assert not all((old == new).all() for old, new in zip(top, model.layers[1].get_weights()))
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_on_other_backends(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    root = str(pathlib.Path(__file__).parents[2])
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    subprocess.run([sys.executable, "-c", SCRIPT], env=environment, check=True)
