import numpy as np
import pytest

from kregkit import plots

RECORD = {"loss": [2.0, 1.0, 0.5, 0.25], "val_loss": [2.5, 1.5], "accuracy": [0.5, 0.75, 0.9, 1.0]}


def test_loss_of_training_and_validation():
    axes = plots.loss_curves(RECORD)
    training, validation = axes.get_lines()
    assert training.get_xydata().tolist() == [[1, 2.0], [2, 1.0], [3, 0.5], [4, 0.25]]
    # Validated every second epoch.
    assert validation.get_xydata().tolist() == [[2, 2.5], [4, 1.5]]
    assert (training.get_linestyle(), validation.get_linestyle()) == ("--", "-")
    assert training.get_color() == validation.get_color()
    assert axes.get_yscale() == "log"
    # The fifth epoch has none.
    axes = plots.loss_curves({"loss": [2.0, 1.0, 0.5, 0.25, 0.2], "val_loss": [2.5, 1.5]})
    assert axes.get_lines()[1].get_xdata().tolist() == [2, 4]


def test_a_logarithmic_loss_has_plain_numbers():
    axes = plots.loss_curves({"loss": [2.4, 0.3]})
    axes.figure.canvas.draw()
    shown = {text.get_text() for text in axes.get_yticklabels()}
    assert {"0.5", "1", "2"} <= shown and not any("10^" in one for one in shown)
    assert len(axes.yaxis.get_minorticklocs()) == 0


def test_several_runs_share_axes_and_name_their_solid_lines():
    axes = plots.loss_curves(RECORD, label="one")
    plots.loss_curves({"loss": [1.0]}, axes, label="two")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two"]


def test_error_is_one_minus_accuracy_in_percent():
    np.testing.assert_allclose(plots.error_curves(RECORD, log=False).get_lines()[0].get_ydata(), [50, 25, 10, 0])
    logged = plots.error_curves(RECORD).get_lines()[0].get_ydata()
    assert np.isnan(logged[-1]) and np.isfinite(logged[:-1]).all()


def test_bars_carry_their_values_and_intervals():
    axes = plots.errors({"a": 2.0, "b": 1.0}, intervals={"b": (0.5, 1.5)}, baseline="a")
    assert [bar.get_width() for bar in axes.patches] == [2.0, 1.0]
    assert [text.get_text() for text in axes.texts] == ["2.00", "1.00"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.yaxis_inverted()


@pytest.mark.parametrize("draw", [plots.loss_curves, plots.error_curves])
def test_missing_quantity_is_named(draw):
    with pytest.raises(ValueError, match=r"holds no 'hits'.* Received: history="):
        draw(RECORD, name="hits")
    with pytest.raises(ValueError, match="Received: history=None"):
        draw(None)
