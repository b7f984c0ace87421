import keras
import numpy as np
import pytest

from kregkit import plots


def test_history_is_drawn_at_the_epochs_ends():
    history = keras.callbacks.History()
    history.history = {"learning_rate": [0.1, 0.05, 0.025]}
    axes = plots.learning_rate_curve(history)
    (line,) = axes.get_lines()
    assert line.get_xydata().tolist() == [[1, 0.1], [2, 0.05], [3, 0.025]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "learning rate")


def test_schedule_is_called_at_every_step():
    axes = plots.learning_rate_curve(lambda step: 2.0 * step, steps=4, steps_per_epoch=2)
    assert axes.get_lines()[0].get_xydata().tolist() == [[0, 0], [0.5, 2], [1, 4], [1.5, 6]]
    assert axes.get_xlabel() == "epoch"


def test_one_value_per_step_is_drawn_against_epochs():
    axes = plots.learning_rate_curve(np.array([3.0, 2.0, 1.0, 0.0], "float32"), steps_per_epoch=2)
    assert axes.get_lines()[0].get_xydata().tolist() == [[0, 3], [0.5, 2], [1, 1], [1.5, 0]]
    assert axes.get_xlabel() == "epoch"


def test_axes_show_every_line_that_was_drawn_on_them():
    axes = plots.learning_rate_curve([0.1, 0.1], label="low")
    assert plots.learning_rate_curve([0.4, 0.2], axes, label="high") is axes
    low, high = axes.get_ylim()
    assert low == 0 and high > 0.4
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["low", "high"]


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"pass `steps`.* Received: steps=None"):
        plots.learning_rate_curve(lambda step: 1.0)
    with pytest.raises(ValueError, match=r"no learning rates.* Received: history=\['loss'\]"):
        plots.learning_rate_curve({"loss": [1.0]})
    assert np.isfinite(plots.learning_rate_curve([0.0, 0.0]).get_ylim()).all()


SWEEP = {"rates": [1e-3, 1e-2, 1e-1], "losses": [2.0, 1.0, 9.0], "smoothed": [2.0, 1.5, 4.0]}


def test_lines_are_the_sweep():
    axes = plots.learning_rate_sweep({**SWEEP, "suggestion": 1e-3, "divergence": 0.1, "current": None})
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), SWEEP["losses"])
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), SWEEP["smoothed"])
    np.testing.assert_array_equal(axes.lines[1].get_xdata(), SWEEP["rates"])
    assert axes.get_xscale() == "log"
    marked = {line.get_label(): line.get_xdata()[0] for line in axes.lines[2:]}
    assert marked == {"suggestion 0.001": 1e-3, "divergence 0.1": 0.1}


def test_divergence_does_not_squeeze_the_rest():
    axes = plots.learning_rate_sweep({**SWEEP, "losses": [2.0, 1.0, 1e9], "smoothed": [2.0, 1.5, np.inf]})
    assert axes.get_ylim()[1] < 10


def test_learning_rates_show_each_rate_and_cut_off_divergence():
    curves = {"good": {"rate": 0.1, "losses": [2.0, 1.0]}, "too high": {"rate": 10.0, "losses": [2.0, 1e9]}}
    axes = plots.learning_rates(curves)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["good (0.1)", "too high (10)"]
    assert axes.get_ylim()[1] < 10
