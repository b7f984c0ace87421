"""`kregkit.inference._draw_passes`: how many rows a pass has, and that all draws count once."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from kregkit.inference import Ensemble, marginalize
from kregkit.inference._draw_passes import Sampler, Settings, default_rows
from kregkit.inference.noise import select_noise

SETTINGS = Settings(
    draws=16, tolerance=0.01, max_draws=1024, reduce="probabilities", outputs="values", spread=True, seed=0,
    shared=False, batch_size=None,
)  # fmt: skip


class Recorder(layers.Layer):
    """Notes how many rows each call has."""

    def __init__(self, rows, **kwargs):
        super().__init__(**kwargs)
        self.rows = vars(self)["rows"] = rows

    def call(self, inputs):
        self.rows.append(inputs.shape[0])
        return inputs


def sampled(rows_per_call, examples=4, views=None, **settings):
    """Averages a Dropout of ones; returns the mean and the spread."""
    model = keras.Sequential([keras.Input((3,)), layers.Dropout(0.5), Recorder(rows_per_call)])
    members = Ensemble([model]).members
    settings = dataclasses.replace(SETTINGS, **settings)
    sampler = Sampler(members, [1.0], select_noise([model], "all"), views, settings)
    rows_per_call.clear()
    return sampler(np.ones((examples, 3), "float32"), np.int64(0))


@pytest.mark.parametrize(
    ("batch_size", "draws", "expected"), [(1, 16, 4), (4, 16, 4), (8, 16, 8), (40, 16, 32), (64, 16, 64), (13, 7, 12)]
)
def test_rows_of_a_pass(batch_size, draws, expected):
    """At most the batch size, in equal passes: 16 draws of 4 examples in rows of 40 are two passes of 8 draws."""
    rows = []
    mean, spread = sampled(rows, batch_size=batch_size, draws=draws)
    assert set(rows) == {expected}
    # Each draw counts once: the mean of 0s and 2s is a multiple of 2 / draws, and their variance follows from it.
    counts = np.asarray(mean) * draws / 2
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
    np.testing.assert_allclose(spread["std"], np.sqrt(np.asarray(mean) * (2 - np.asarray(mean))), atol=1e-3)


def test_default_rows_are_bounded():
    assert [default_rows(size) for size in (1, 2**12, 2**15, 2**30)] == [4096, 512, 64, 32]


def test_automatic_draws_end_together_or_one_by_one():
    rows = []
    _, spread = sampled(rows, draws="auto", tolerance=1e-6, max_draws=24)
    assert np.asarray(spread["draws"]).tolist() == [24] * 4
    assert set(rows) == {32}
    _, spread = sampled(rows, draws="auto", tolerance=10.0)
    assert np.asarray(spread["draws"]).tolist() == [8] * 4


def test_what_auto_stopped_at_is_said(capsys):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.5), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.ones((2, 1))])
    marginal = marginalize(model, draws="auto", tolerance=0.05, max_draws=32, outputs="values", spread=True)
    # Without input there is no spread, with a large one there is too much.
    x = np.repeat([[0.0, 0.0], [9.0, 9.0]], [3, 1], axis=0)
    _, spread = marginal.predict(x, verbose=2)
    assert spread["draws"].tolist() == [8, 8, 8, 32]
    said = "14.0 draws per example on average, 8 to 32; 1 of 4 examples took as many as are allowed"
    assert f"{said}: tolerance=0.05, max_draws=32" in capsys.readouterr().out
    marginal.predict(x, verbose=0)
    assert capsys.readouterr().out == ""
