"""One step of a rule, taken apart."""

import numpy as np

from kregkit._core.optional import import_optional

_INK = "0.25"
_ARROWS = {"velocity": "#2a9d8f", "gradient": "#d1495b", "step": "#2b4c9b"}


def step_arrows(panels, function=None, axes=None):
    """Draws the velocity, the gradient and the step they add up to, as arrows.

    Args:
        panels: Dictionary from a title to a dictionary from `"velocity"`, `"gradient"`, `"step"` to a pair
            `(origin, vector)` of arrays `(2,)`. The vectors are what is added to the weights: the decayed velocity, the
            gradient times minus the learning rate, their sum. A gradient that starts where the velocity ends was taken
            there.
        function: Callable `(x, y)`, vectorised, whose contours are drawn behind. Defaults to none.
        axes: Sequence of matplotlib Axes, one per panel. Defaults to a new figure's.

    Returns:
        The array of Axes.

    Raises:
        ValueError: An arrow's name is unknown, or there are fewer axes than panels.

    Example:

    >>> origin, velocity, gradient = np.zeros(2), np.array([2.0, 0.5]), np.array([0.0, 1.0])
    >>> arrows = {
    ...     "velocity": (origin, velocity), "gradient": (origin, gradient), "step": (origin, velocity + gradient),
    ... }
    >>> step_arrows({"Momentum": arrows}).shape
    (1,)
    """
    plt = import_optional("matplotlib.pyplot", "kregkit.plots")
    for arrows in panels.values():
        unknown = set(arrows) - set(_ARROWS)
        if unknown:
            raise ValueError(f"Arrows are named {', '.join(map(repr, _ARROWS))}. Received: names={sorted(unknown)}")
    if axes is None:
        _, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 4.4), squeeze=False, layout="constrained")
    axes = np.ravel(axes)
    if len(axes) < len(panels):
        raise ValueError(f"`axes` must have one entry per panel, {len(panels)}. Received: axes={len(axes)}")

    points = np.array([
        end
        for arrows in panels.values()
        for origin, vector in arrows.values()
        for end in (np.asarray(origin, float), np.add(origin, vector, dtype=float))
    ])  # fmt: skip
    middle, reach = (points.min(0) + points.max(0)) / 2, 0.75 * np.ptp(points, axis=0).max()
    for axis, (title, arrows) in zip(axes, panels.items()):
        _contours(axis, function, middle, reach)
        middles = {name: np.add(origin, np.divide(vector, 2), dtype=float) for name, (origin, vector) in arrows.items()}
        for name, (origin, vector) in arrows.items():
            others = [point for other, point in middles.items() if other != name]
            away = middles[name] - (np.mean(others, axis=0) if others else middles[name])
            _arrow(axis, np.asarray(origin, float), np.asarray(vector, float), _ARROWS[name], name, reach, away)
        start = arrows.get("step", next(iter(arrows.values())))[0]
        axis.plot(*start, "o", markerfacecolor="white", markeredgecolor=_INK, markersize=9, zorder=10)
        axis.set(
            xlim=middle[0] + np.array([-reach, reach]), ylim=middle[1] + np.array([-reach, reach]),
            xticks=[], yticks=[], aspect="equal",
        )  # fmt: skip
        axis.set_title(title, fontsize=13, fontweight="bold", color=_INK)
        for spine in axis.spines.values():
            spine.set_color("0.8")
    return axes


def _contours(axis, function, middle, reach):
    if function is not None:
        x, y = np.meshgrid(*(center + np.linspace(-1.05 * reach, 1.05 * reach, 161) for center in middle))
        height = np.asarray(function(x, y), float)
        axis.contourf(x, y, np.sqrt(height - height.min()), 18, cmap="PuBu", alpha=0.45)
        axis.contour(x, y, np.sqrt(height - height.min()), 18, colors="white", linewidths=0.8)


def _arrow(axis, origin, vector, color, name, reach, away):
    length = max(np.hypot(*vector), 1e-12)
    axis.annotate(
        "", origin + vector, origin,
        arrowprops={"arrowstyle": "-|>,head_length=0.7,head_width=0.35", "color": color, "linewidth": 2.8,
                    "shrinkA": 0, "shrinkB": 0},
        zorder=8,
    )  # fmt: skip
    # Beside the arrow's middle, on the side where the other arrows aren't.
    beside = 0.075 * reach * np.array([-vector[1], vector[0]]) / length
    beside = beside if beside @ away >= 0 else -beside
    angle = np.degrees(np.arctan2(vector[1], vector[0]))
    angle = angle - 180 * np.round(angle / 180) if abs(angle) > 90 else angle
    axis.text(
        *(origin + vector / 2 + beside), name, color=color, fontsize=12, fontweight="bold", rotation=angle,
        rotation_mode="anchor", ha="center", va="center", zorder=9,
    )  # fmt: skip


def taylor_steps(function, point, slope, curvature, learning_rate, limits, axes=None):
    """Draws the step that the tangent suggests and the one that the parabola does, in one dimension.

    ```
    first order:   f(x + d) = f(x) + slope * d                           d = -learning_rate * slope
    second order:  f(x + d) = f(x) + slope * d + curvature * d ** 2 / 2  d = -slope / curvature
    ```

    Args:
        function: Callable, vectorised.
        point: Float, where the step starts.
        slope: Float, the function's derivative there.
        curvature: Float > 0, its second derivative there.
        learning_rate: Float > 0, for the first-order step, which has no length of its own.
        limits: `(left, right)` of the picture.
        axes: Sequence of two matplotlib Axes. Defaults to a new figure's.

    Returns:
        The array of two Axes.

    Raises:
        ValueError: `curvature` or `learning_rate` is not positive.

    Example:

    >>> taylor_steps(lambda x: x**4, point=1.0, slope=4.0, curvature=12.0, learning_rate=0.1, limits=(-1, 2)).shape
    (2,)
    """
    plt = import_optional("matplotlib.pyplot", "kregkit.plots")
    for name, value in (("curvature", curvature), ("learning_rate", learning_rate)):
        if not value > 0:
            raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(10.4, 4.2), sharey=True, layout="constrained")
    axes = np.ravel(axes)
    x = np.linspace(*limits, 401)
    y = np.asarray(function(x), float)
    height = float(function(point))
    margin = 0.12 * np.ptp(y)
    models = [
        ("first order: tangent", _ARROWS["gradient"], height + slope * (x - point), -learning_rate * slope,
         height - learning_rate * slope**2, r"$-\eta\, f'$"),
        ("second order: parabola", _ARROWS["step"], height + slope * (x - point) + curvature * (x - point) ** 2 / 2,
         -slope / curvature, height - slope**2 / (2 * curvature), r"$-f'/f''$"),
    ]  # fmt: skip
    for axis, (title, color, model, step, promised, formula) in zip(axes, models):
        axis.plot(x, y, color="0.45", linewidth=2.6, label="loss")
        near = (np.abs(x - point) < 1.7 * abs(step)) & (model < y.max())
        axis.plot(x, np.where(near, model, np.nan), "--", color=color, linewidth=2.2, label="its model at the point")
        after = float(function(point + step))
        axis.plot([point + step] * 2, [promised, after], ":", color=color, linewidth=1.5)
        axis.plot(point, height, "o", markerfacecolor="white", markeredgecolor=_INK, markersize=9, zorder=6)
        axis.plot(point + step, promised, "o", color=color, markersize=6, zorder=6, label="what the model promises")
        axis.plot(point + step, after, "*", color="gold", markeredgecolor=_INK, markersize=15, zorder=6,
                  label="where the step arrives")  # fmt: skip
        base = y.min() - 1.6 * margin
        axis.annotate(
            "", (point + step, base), (point, base),
            arrowprops={"arrowstyle": "-|>,head_length=0.6,head_width=0.3", "color": color, "linewidth": 2.4,
                        "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
        axis.text(point + step / 2, base + 0.25 * margin, formula, color=color, fontsize=13, ha="center", va="bottom")
        axis.set(xlim=limits, ylim=(y.min() - 2.4 * margin, y.max() + margin), xticks=[], yticks=[], xlabel="weight")
        axis.set_title(title, fontsize=13, fontweight="bold", color=_INK)
        axis.legend(loc="upper left", fontsize=9, framealpha=0.9, edgecolor="none")
        for spine in axis.spines.values():
            spine.set_color("0.8")
    axes[0].set_ylabel("loss")
    return axes
