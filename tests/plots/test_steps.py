"""Arrows and models stand where they were put."""

import numpy as np
import pytest

from kregkit.plots import step_arrows, taylor_steps

pytest.importorskip("matplotlib")


def test_arrows_go_from_origin_to_their_end():
    panels = {
        "one": {"velocity": ((0, 0), (2, 0)), "gradient": ((2, 0), (0, 1)), "step": ((0, 0), (2, 1))},
        "two": {"step": ((0, 0), (1, 1))},
    }
    axes = step_arrows(panels, lambda x, y: x**2 + y**2)
    arrows = {(tuple(text.xyann), tuple(text.xy)) for text in axes[0].texts if hasattr(text, "xyann")}
    assert arrows == {((0, 0), (2, 0)), ((2, 0), (2, 1)), ((0, 0), (2, 1))}
    assert {text.get_text() for text in axes[0].texts} == {"", "velocity", "gradient", "step"}
    assert [axis.get_title() for axis in axes] == ["one", "two"]
    for axis in axes:
        assert axis.get_aspect() == 1


def test_arrows_refuse_unknown_names_and_too_few_axes():
    with pytest.raises(ValueError, match=r"Received: names=\['force'\]"):
        step_arrows({"one": {"force": ((0, 0), (1, 1))}})
    with pytest.raises(ValueError, match="Received: axes=0"):
        step_arrows({"one": {"step": ((0, 0), (1, 1))}}, axes=np.empty(0, object))


def test_taylor_steps_arrive_where_the_formulas_say():
    axes = taylor_steps(lambda x: x**4, point=1.0, slope=4.0, curvature=12.0, learning_rate=0.1, limits=(-1, 2))
    for axis, step, promised in zip(axes, (-0.4, -1 / 3), (1 - 1.6, 1 - 16 / 24)):
        points = {line.get_label(): line.get_xydata()[0] for line in axis.get_lines() if len(line.get_xydata()) == 1}
        np.testing.assert_allclose(points["where the step arrives"], [1 + step, (1 + step) ** 4])
        np.testing.assert_allclose(points["what the model promises"], [1 + step, promised])
    # The parabola touches the curve.
    model = next(line for line in axes[1].get_lines() if line.get_label() == "its model at the point")
    x, y = model.get_xydata().T
    near = np.abs(x - 1) < 0.05
    np.testing.assert_allclose(y[near], x[near] ** 4, atol=1e-3)


@pytest.mark.parametrize("name", ["curvature", "learning_rate"])
def test_taylor_refuses_what_has_no_step(name):
    arguments = {"point": 1.0, "slope": 4.0, "curvature": 12.0, "learning_rate": 0.1, "limits": (-1, 2), name: 0.0}
    with pytest.raises(ValueError, match=f"Received: {name}=0.0"):
        taylor_steps(lambda x: x**4, **arguments)
