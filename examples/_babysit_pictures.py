"""Two pictures of `babysit.py`: activation functions with their derivatives, and why inputs are centred."""

import matplotlib.pyplot as plt
import numpy as np


def activation_curves(limit=5.0, num=401):
    """Returns the activation functions and their derivatives on a line.

    Args:
        limit: Float > 0: they are evaluated from `-limit` to `limit`.
        num: Integer, the number of points.

    Returns:
        Dictionary from a name to `{"x": ..., "y": ..., "derivative": ...}`, arrays. Maxout is drawn as the largest of
        three lines of `x`, which is what it can learn.

    Example:

    >>> curves = activation_curves(limit=2.0, num=5)
    >>> curves["tanh"]["derivative"].round(2).tolist()
    [0.07, 0.42, 1.0, 0.42, 0.07]
    """
    x = np.linspace(-limit, limit, num)
    sigmoid, tanh = 1 / (1 + np.exp(-x)), np.tanh(x)
    lines, slopes = np.stack([-0.5 * x - 1.5, 0.2 * x, 1.2 * x - 1.0]), np.array([-0.5, 0.2, 1.2])
    functions = {
        "sigmoid": (sigmoid, sigmoid * (1 - sigmoid)),
        "tanh": (tanh, 1 - tanh**2),
        "ReLU": (np.maximum(x, 0), (x > 0) * 1.0),
        "leaky ReLU": (np.where(x > 0, x, 0.1 * x), np.where(x > 0, 1.0, 0.1)),
        "ELU": (np.where(x > 0, x, np.expm1(np.minimum(x, 0))), np.where(x > 0, 1.0, np.exp(np.minimum(x, 0)))),
        "maxout": (lines.max(0), slopes[lines.argmax(0)]),
    }
    return {name: {"x": x, "y": y, "derivative": slope} for name, (y, slope) in functions.items()}


def draw_activation_functions(curves):
    """Draws activation functions and, dashed, their derivatives; returns the Figure."""
    rows = -(-len(curves) // 3)
    figure, grid = plt.subplots(rows, 3, figsize=(9, 2.5 * rows), squeeze=False, layout="constrained")
    for axes, (name, curve) in zip(grid.flat, curves.items()):
        axes.axhline(0, color="0.8", linewidth=0.8)
        axes.axvline(0, color="0.8", linewidth=0.8)
        axes.plot(curve["x"], curve["y"], linewidth=1.8, label="function")
        axes.plot(curve["x"], curve["derivative"], "--", linewidth=1.4, label="derivative")
        axes.set_ylim(max(-2.0, np.min(curve["y"]) - 0.3), min(3.0, np.max(curve["y"]) + 0.3))
        _polish(axes)
        axes.set_title(name, fontsize=11, fontweight="bold")
    grid[0, 0].legend(frameon=False, fontsize=8, loc="upper left")
    figure.supxlabel("input", fontsize=10)
    figure.supylabel("output; slope", fontsize=10)
    for axes in grid.flat[len(curves) :]:
        axes.axis("off")
    return figure


def compare_centering(x, y, distance=3.0, angles=None):
    """Shows why centred inputs make the loss less sensitive to `W`.

    A line that separates two classes is turned a little about the origin. Far from the origin, as uncentred inputs
    are, the same turn moves the line far off the data, and the loss rises steeply; around the origin it hardly does.

    Args:
        x: Array `(num, features)`, at least two features; the two of the largest spread are used, standardised.
        y: Array of two classes, 0 and 1.
        distance: Float >= 0, how many standard deviations off the uncentred inputs lie, along the line.
        angles: Array of turns in radians. Defaults to -0.5 to 0.5.

    Returns:
        Dictionary with `angles`, and `centred` and `uncentred`, each with `points` `(num, 2)`, `labels`, `weights`
        `(2,)`, `bias` and `losses`, the mean logistic loss at each turn.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 100)
    >>> found = compare_centering(rng.normal(size=(200, 2)) + 3 * y[:, None], y)
    >>> bool(np.ptp(found["uncentred"]["losses"]) > 3 * np.ptp(found["centred"]["losses"]))
    True
    """
    x, y = np.asarray(x, "float64").reshape(len(x), -1), np.asarray(y).reshape(-1).astype(int)
    chosen = np.argsort(x.std(0))[::-1][:2]
    points = (x[:, chosen] - x[:, chosen].mean(0)) / np.maximum(x[:, chosen].std(0), 1e-12)
    angles = np.linspace(-0.5, 0.5, 101) if angles is None else np.asarray(angles, "float64")
    weights, bias = _logistic(points, y)
    result = {"angles": angles}
    along = np.array([-weights[1], weights[0]]) / np.linalg.norm(weights)
    for name, shift in (("centred", 0.0 * along), ("uncentred", distance * along * np.sign(along.sum() or 1))):
        # The line through the moved points is the same.
        moved = points + shift
        losses = []
        for angle in angles:
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            losses.append(_loss(moved @ (turn @ weights) + bias, y))
        result[name] = {
            "points": moved, "labels": y, "weights": weights, "bias": float(bias), "losses": np.array(losses),
        }  # fmt: skip
    return result


def _loss(logits, y):
    return float(np.mean(np.logaddexp(0, logits) - y * logits))


def _logistic(points, y, penalty=0.05, steps=30):
    """Returns the weights and bias of a ridge logistic regression, by Newton's method."""
    design = np.column_stack([points, np.ones(len(points))])
    solution = np.zeros(3)
    ridge = penalty * np.diag([1.0, 1.0, 0.0])
    for _ in range(steps):
        probability = 1 / (1 + np.exp(-design @ solution))
        slope = design.T @ (probability - y) / len(y) + ridge @ solution
        curvature = design.T * (probability * (1 - probability)) @ design / len(y) + ridge + 1e-9 * np.eye(3)
        solution = solution - np.linalg.solve(curvature, slope)
    return solution[:2], solution[2]


def draw_centering(comparison):
    """Draws a separating line and its turns on uncentred and centred inputs, and the loss against the turn."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    turned = np.radians(9)
    for one, name, color in zip(axes, ("uncentred", "centred"), ("C1", "C0")):
        case = comparison[name]
        points = case["points"]
        for label, marker in ((0, "o"), (1, "^")):
            chosen = points[case["labels"] == label]
            one.plot(*chosen.T, marker, markersize=3, alpha=0.5, color="C2" if label else "C4")
        low, high = np.minimum(points.min(0), 0) - 0.6, np.maximum(points.max(0), 0) + 0.6
        for turn, style in ((-turned, "--"), (turned, "--"), (0.0, "-")):
            matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            normal = matrix @ case["weights"]
            size = normal @ normal
            along = np.array([-normal[1], normal[0]]) / np.sqrt(size)
            line = -case["bias"] * normal / size + np.array([[-20], [20]]) * along
            one.plot(*line.T, style, color=color, linewidth=1.8 if turn == 0 else 1.1)
        one.plot(0, 0, "+", color="0.2", markersize=10)
        one.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), title=f"{name} inputs")
        one.set_aspect("equal")
        one.set_xlabel("first principal direction (deviations)\ndashed: weights turned by 9 degrees")
        _polish(one)
        axes[2].plot(np.degrees(comparison["angles"]), case["losses"], color=color, linewidth=1.8, label=name)
    axes[0].set_ylabel("second direction (deviations)")
    axes[2].set(xlabel="turn of the weights (degrees)", ylabel="loss (nats)")
    _polish(axes[2])
    axes[2].legend(frameon=False)
    return figure


def _polish(axes):
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
