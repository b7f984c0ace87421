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


def test_functions_and_derivatives():
    line = np.linspace(-1, 1, 5)
    curves = {name: {"x": line, "y": line**2, "derivative": 2 * line} for name in "abcd"}
    axes = plots.activation_functions(curves)
    assert [one.get_title() for one in axes] == list("abcd")
    np.testing.assert_array_equal(axes[0].lines[2].get_ydata(), line**2)
    np.testing.assert_array_equal(axes[0].lines[3].get_ydata(), 2 * line)


def test_learning_rates_show_each_rate_and_cut_off_divergence():
    curves = {"good": {"rate": 0.1, "losses": [2.0, 1.0]}, "too high": {"rate": 10.0, "losses": [2.0, 1e9]}}
    axes = plots.learning_rates(curves)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["good (1.0e-01)", "too high (1.0e+01)"]
    assert axes.get_ylim()[1] < 10


def test_centering_draws_both_clouds_and_losses():
    points = np.array([[0.0, 1.0], [1.0, -1.0]])
    case = {"points": points, "labels": np.array([0, 1]), "weights": np.array([1.0, 0.0]), "bias": 0.5}
    found = {
        "angles": np.array([-0.1, 0.0, 0.1]),
        "centred": {**case, "losses": np.array([0.2, 0.1, 0.2])},
        "uncentred": {**case, "losses": np.array([3.0, 0.1, 3.0])},
    }
    axes = plots.centering(found)
    np.testing.assert_array_equal(axes[2].lines[0].get_ydata(), [3.0, 0.1, 3.0])
    np.testing.assert_allclose(axes[2].lines[1].get_xdata(), np.degrees([-0.1, 0, 0.1]))
    # The separating line: x = -bias / weight.
    assert any(np.allclose(line.get_xdata(), -0.5) for line in axes[1].lines)


def test_what_lies_beside_a_high_spike_can_be_seen():
    one = run()
    one["layers"] = [{"histogram": [1.0, 0.01, 0.02], "edges": [0.0, 1.0, 2.0, 3.0], "std": 1.0}]
    heights = plots.activation_histograms([one]).axes[0].patches[0].get_data().values
    np.testing.assert_allclose(heights, [0.9, 0.9 / 6, 0.9 / 3])
