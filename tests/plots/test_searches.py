import numpy as np
import pytest

from kregkit import plots

TRIALS = [
    {"parameters": {"rate": 0.1, "decay": 1e-4}, "value": 0.9, "metrics": {"val_accuracy": 0.4}},
    {"parameters": {"rate": 0.01, "decay": 1e-3}, "value": 0.2, "metrics": {"val_accuracy": 0.8}},
    {"parameters": {"rate": 1.0, "decay": 1e-2}, "value": None, "metrics": {}},
    {"parameters": {"rule": "a"}, "value": 0.1, "metrics": {}},
]
ROUNDS = [
    {"rate": {"low": 1e-4, "high": 1.0, "log": True}, "rule": {"options": ["a"]}, "drop": {"low": 0.0, "high": 0.5}},
    {"rate": {"low": 1e-3, "high": 1e-2, "log": True}, "drop": {"low": 0.0, "high": 0.75}},
]


def test_scatter_places_colours_and_rings():
    axes = plots.search_scatter(TRIALS, "rate", "decay", color="val_accuracy", direction="max")
    ended, good, best = axes.collections
    np.testing.assert_allclose(ended.get_offsets(), [[1.0, 1e-2]])
    np.testing.assert_allclose(good.get_offsets(), [[0.1, 1e-4], [0.01, 1e-3]])
    np.testing.assert_allclose(good.get_array(), [0.4, 0.8])
    np.testing.assert_allclose(best.get_offsets(), [[0.01, 1e-3]])
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    # With losses, smaller is better.
    axes = plots.search_scatter(TRIALS, "rate", "decay", log_y=False)
    np.testing.assert_allclose(axes.collections[2].get_offsets(), [[0.01, 1e-3]])
    assert axes.get_yscale() == "linear"
    with pytest.raises(ValueError, match="Received: x='rate', y='momentum'"):
        plots.search_scatter(TRIALS, "rate", "momentum")


def test_scatter_of_integers_has_plain_integers():
    trials = [{"parameters": {"units": units, "layers": units // 16}, "value": 0.1} for units in (16, 48, 128)]
    axes = plots.search_scatter(trials, "units", "layers", log_y=False)
    axes.figure.canvas.draw()
    assert {"20", "50", "100"} <= {text.get_text() for text in axes.get_xticklabels()}
    assert all(tick == round(tick) for tick in axes.get_yticks())


def test_importance_is_ranked():
    axes = plots.search_importance({"a": 0.1, "b_c": 0.7, "d": 0.2})
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b c", "d", "a"]
    assert [patch.get_width() for patch in axes.patches] == [0.7, 0.2, 0.1]


def test_ranges_stand_on_the_first_rounds_scale():
    axes = plots.search_ranges(ROUNDS, best={"rate": 1e-2, "rule": "a"})
    # Decades -4 ... 0, then -3 ... -2; then 0 ... 0.5 and, widened, 0 ... 0.75.
    found = [(patch.get_x(), patch.get_width()) for patch in axes.patches]
    np.testing.assert_allclose(found, [(0, 1), (0.25, 0.25), (0, 1), (0, 1.5)])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rate", "drop"]
    np.testing.assert_allclose(axes.get_lines()[0].get_xdata(), [0.5, 0.5])
    assert [text.get_text() for text in axes.texts[:4]] == ["0.0001", "1", "0.001", "0.01"]
    units = plots.search_ranges([{"units": {"low": 16, "high": 65536, "log": True}}])
    assert [text.get_text() for text in units.texts] == ["16", "65536"]
    with pytest.raises(ValueError, match="Received: "):
        plots.search_ranges([{"rule": {"options": ["a"]}}])


def test_results_on_one_figure():
    axes = plots.search_results(TRIALS, ROUNDS, {"rate": 0.9, "drop": 0.1}, x="rate", y="decay", title="all")
    assert len(axes) == 3 and axes[0].figure.get_suptitle() == "all"
    assert (axes[0].get_xscale(), axes[0].get_yscale()) == ("log", "linear")
    assert len(plots.search_results(TRIALS, ROUNDS, {}, x="rate", y="decay")) == 2
    # Without names, the logarithmic ranges come first.
    with pytest.raises(ValueError, match="'rate', y='drop'"):
        plots.search_results(TRIALS, ROUNDS, {})


def test_best_so_far_begins_where_every_run_has_a_value():
    runs = [[np.nan, 4.0, 2.0, 2.0], [3.0, 3.0, 3.0, 1.0]]
    axes = plots.best_so_far({"one": runs, "single": [[5.0, 4.0, 4.0, 4.0]]}, marks={"goal": 1.5})
    one, single, goal = axes.get_lines()
    assert one.get_xdata().tolist() == [2, 3, 4] and one.get_ydata().tolist() == [3.5, 2.5, 1.5]
    assert single.get_xdata().tolist() == [1, 2, 3, 4] and goal.get_label() == "goal"
    # 1.96 standard errors: of [2, 3], 1.96 / 2.
    edges = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert edges.max() == pytest.approx(3.5 + 0.98) and edges.min() == pytest.approx(1.5 - 0.98)
