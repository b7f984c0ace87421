"""The layers on Keras's other backends, each in a process of its own; those that aren't installed are skipped."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = """
import sys
import keras
import numpy as np
from kregkit import layers

assert "tensorflow" not in sys.modules
backend = keras.backend.backend()


def branch():
    return keras.Sequential([keras.layers.Dense(6, activation="relu"), keras.layers.BatchNormalization()])


made = [
    *[(layers.StochasticDepth(branch(), 0.6, mode, seed=1), (6,)) for mode in ("batch", "sample", "subset")],
    *[
        (layers.DropConnect(keras.layers.Dense(5, activation="tanh"), 0.4, mask, "gaussian", seed=1), (6,))
        for mask in ("example", "batch", "exact")
    ],
    (layers.DropConnect(keras.layers.Conv2D(3, 2, activation="relu"), 0.5, "example", "gaussian", seed=1), (6, 7, 2)),
    *[
        (layers.FractionalMaxPooling2D(1.5, regions, share=share, seed=1), (6, 7, 2))
        for regions, share in (("random", "batch"), ("pseudorandom", "example"), ("pseudorandom", "channel"))
    ],
    (layers.FractionalMaxPooling1D(1.6, seed=1), (8, 2)),
    (layers.FractionalMaxPooling3D(1.6, seed=1), (5, 6, 8, 2)),
    (layers.StochasticDepth(branch(), 0.6, seed=1, layer_scale=0.1), (6,)),
    (keras.Sequential([keras.layers.Dense(6), layers.DropPath(0.3, seed=1)]), (6,)),
    (keras.Sequential([keras.layers.Conv2D(3, 2), layers.DropBlock2D(0.3, 2, seed=1)]), (6, 7, 2)),
    *[
        (layers.DropConnect(make(3), 0.4, mask, seed=1, input_kernel=mask == "example"), (4, 2))
        for make, mask in (
            (keras.layers.LSTM, "batch"), (keras.layers.GRU, "example"), (keras.layers.SimpleRNN, "exact")
        )
    ],
    (layers.Maxout(4, 3), (6,)),
    (layers.MaxoutConv2D(4, 3), (6, 7, 2)),
]
for layer, shape in made:
    x = np.random.default_rng(0).normal(size=(22, *shape)).astype("float32")
    expected = keras.ops.convert_to_numpy(layer(x))
    assert expected.shape == layer.compute_output_shape(x.shape)
    if hasattr(layer, "draw_call"):
        some = [keras.ops.convert_to_numpy(layer.draw_call(keras.ops.convert_to_tensor(x))) for _ in range(8)]
        assert any(not np.array_equal(some[0], other) for other in some), layer
    again = type(layer).from_config(layer.get_config())
    again.build(x.shape)
    again.set_weights(layer.get_weights())
    np.testing.assert_allclose(keras.ops.convert_to_numpy(again(x)), expected, rtol=1e-4, atol=1e-5)
    if backend == "numpy":
        continue
    model = keras.Sequential([keras.Input(shape), layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    y = x.reshape(22, -1)[:, :3].sum(axis=1, keepdims=True)
    before = [keras.ops.convert_to_numpy(weight).copy() for weight in model.trainable_weights]
    losses = model.fit(x, y, batch_size=4, epochs=6, verbose=0).history["loss"]
    assert np.isfinite(losses).all(), (layer, losses)
    for weight, old in zip(model.trainable_weights, before):
        assert (keras.ops.convert_to_numpy(weight) != old).any(), weight.path
print("all ran on", backend)
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_layers_train_without_tensorflow(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} isn't installed")
    root = str(pathlib.Path(__file__).parents[2])
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"all ran on {backend}" in done.stdout
