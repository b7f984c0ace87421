"""Pictures of activations show the numbers that they were given."""

import matplotlib
import numpy as np

from kregkit import plots

matplotlib.use("Agg")


def run(initializer="He", activation="tanh", normalized=False, verdict="healthy", edges=(-1.0, 0.0, 1.0)):
    layer = {"histogram": [0.5, 1.0], "edges": list(edges), "std": 0.4}
    return {
        "initializer": initializer, "activation": activation, "batch_normalization": normalized, "verdict": verdict,
        "layers": [layer, layer],
    }  # fmt: skip


def test_one_panel_per_setting_with_its_verdict():
    runs = [run(), run("Xavier", verdict="vanishing"), run(activation="ReLU"), run("Xavier", "ReLU", verdict="healthy")]
    figure = plots.activation_histograms(runs)
    assert len(figure.axes) == 4
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [
        ["healthy"], ["healthy"], ["vanishing"], ["healthy"],
    ]  # fmt: skip
    assert [axes.get_title() for axes in figure.axes[:2]] == ["tanh", "ReLU"]
    assert figure.axes[2].get_ylabel() == "Xavier"


def test_wide_histograms_without_variety_are_explained():
    axes = plots.activation_histograms([run(activation="sigmoid", verdict="no variety")]).axes[0]
    assert axes.texts[0].get_text() == "the same for every example"


def test_heights_are_the_histogram():
    axes = plots.activation_histograms([run()]).axes[0]
    first, second = axes.patches[:2]
    np.testing.assert_allclose(first.get_data().values, [0.45, 0.9])
    np.testing.assert_allclose(second.get_data().values, [-1 + 0.45, -1 + 0.9])
    np.testing.assert_allclose(first.get_data().edges, [-1, 0, 1])


def test_layer_that_died_out_is_a_spike():
    one = run()
    one["layers"] = [one["layers"][0], {"histogram": [1.0, 0.2], "edges": [-1e-9, 0.0, 1e-9], "std": 0.0}]
    axes = plots.activation_histograms([one]).axes[0]
    edges = axes.patches[1].get_data().edges
    assert len(edges) == 2 and 1e-3 < edges[1] - edges[0] < 0.1


def test_what_lies_beside_a_high_spike_can_be_seen():
    one = run()
    one["layers"] = [{"histogram": [1.0, 0.01, 0.02], "edges": [0.0, 1.0, 2.0, 3.0], "std": 1.0}]
    heights = plots.activation_histograms([one]).axes[0].patches[0].get_data().values
    np.testing.assert_allclose(heights, [0.9, 0.9 / 6, 0.9 / 3])
