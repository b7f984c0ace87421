"""What paths the update rules take: valleys, a saddle, a local minimum, noise.

    python examples/trajectories.py [--smoke]

Draws, to examples/output/:

- `problem.png` and `problem.gif`: SGD and momentum at one small rate, what is wrong with SGD, and the gradient's size;
- `fair.png`: all rules, each with its own rate, momentum and betas on each landscape, found on one grid;
- `momentum.png`: velocity, gradient and step of momentum and of Nesterov's momentum;
- `taylor.png`: the steps of gradient descent and of Newton's method in one dimension.
"""

import functools
import pathlib
import sys

import matplotlib
import numpy as np

matplotlib.use("Agg")

import keras
import matplotlib.pyplot as plt
import tensorflow as tf
from matplotlib import animation

from kregkit import optimizers, plots

SMOKE = "--smoke" in sys.argv
OUTPUT = pathlib.Path(__file__).parent / "output"
STEPS = 15 if SMOKE else 80
RATES = np.geomspace(1e-2, 1, 2) if SMOKE else np.geomspace(1e-3, 10, 17)
SHARED_RATE = 0.03
NOISE = 0.6
SEEDS = 1 if SMOKE else 3


def momentum(rho, nesterov=False):
    return lambda: optimizers.Momentum(0.1, momentum=rho, nesterov=nesterov)


def adam(beta_1, beta_2, **options):
    return lambda: optimizers.Adam(0.1, beta_1, beta_2, **options)


def soap(beta_1, beta_2):
    return lambda: optimizers.SOAP(0.1, beta_1=beta_1, beta_2=beta_2, precondition_frequency=1)


# Each rule with the settings that are tried beside its rate.
RULES = {
    "SGD": {"": lambda: keras.optimizers.SGD(0.1)},
    "momentum": {f"{rho}": momentum(rho) for rho in (0.5, 0.7, 0.9)},
    "Nesterov": {f"{rho}": momentum(rho, True) for rho in (0.5, 0.7, 0.9)},
    "AdaGrad": {"": lambda: keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.0)},
    "L-BFGS": None,
    "RMSProp": {f"{rho}": (lambda rho=rho: keras.optimizers.RMSprop(0.1, rho)) for rho in (0.9, 0.99)},
    "Adam, uncorrected": {
        f"{one}, {two}": adam(one, two, bias_correction=False) for one, two in ((0.9, 0.999), (0.5, 0.9))
    },
    "Adam": {f"{one}, {two}": adam(one, two) for one, two in ((0.9, 0.999), (0.9, 0.9), (0.5, 0.9))},
    "SOAP": {f"{one}, {two}": soap(one, two) for one, two in ((0.9, 0.8), (0.5, 0.8), (0.5, 0.95))},
}
GROUPS = [["SGD", "momentum", "Nesterov", "AdaGrad", "L-BFGS"], ["RMSProp", "Adam, uncorrected", "Adam", "SOAP"]]
COLORS = {
    "SGD": "#6c757d",
    "momentum": "#2a6fbb",
    "Nesterov": "#12a594",
    "L-BFGS": "#111111",
    "AdaGrad": "#c08a00",
    "RMSProp": "#3a9d23",
    "Adam, uncorrected": "#f2849e",
    "Adam": "#c9184a",
    "SOAP": "#7b2cbf",
}
INK = "0.25"
ARROWS = {"velocity": "#2a9d8f", "gradient": "#d1495b", "step": "#2b4c9b"}


TURN = np.radians(40)  # Which is no axis of any rule.
ROTATION = np.array([[np.cos(TURN), np.sin(TURN)], [-np.sin(TURN), np.cos(TURN)]])
LOW = min(np.roots([1, 0, -1, 0.12]).real)  # The deeper of the two minima.
STILL = {"quadratic": np.diag([1.0, 60.0]), "quartic": (0.0, 0.0), "tilt": 0.0}
# Each loss is `(w'Aw) / 2 + sum(q w^4) / 4 + tilt w_1`, so that one traced function descends them all.
LANDSCAPES = {
    "ill-conditioned valley": {
        **STILL, "start": (-2.4, 0.9), "limits": ((-2.8, 1.2), (-1.3, 1.3)), "minima": [(0, 0)],
        "note": "condition number 60",
    },
    "rotated valley": {
        **STILL, "quadratic": ROTATION.T @ np.diag([1.0, 60.0]) @ ROTATION, "start": (-2.3, -0.5),
        "limits": ((-2.8, 1.8), (-2.4, 1.9)), "minima": [(0, 0)], "note": "the same, turned by 40 degrees",
    },
    "saddle point": {
        **STILL, "quadratic": np.diag([1.0, -1.0]), "quartic": (0.0, 1.0), "start": (-1.8, 1e-3),
        "limits": ((-2.1, 1.5), (-1.7, 1.7)), "minima": [(0, 1), (0, -1)], "lowest": -0.25,
        "note": "starting almost on the ridge",
    },
    "local minimum": {
        **STILL, "quadratic": np.diag([-1.0, 1.0]), "quartic": (1.0, 0.0), "tilt": 0.12, "start": (2.0, 1.2),
        "limits": ((-2.2, 2.4), (-1.7, 1.7)), "minima": [(LOW, 0)],
        "lowest": LOW**4 / 4 - LOW**2 / 2 + 0.12 * LOW, "note": "the star is the deeper one",
    },
    "noisy gradient": {
        **STILL, "start": (-2.4, 0.9), "limits": ((-2.8, 1.2), (-1.3, 1.3)), "minima": [(0, 0)], "noise": NOISE,
        "note": "the first valley",
    },
}  # fmt: skip


def loss_of(landscape):
    """Returns the loss as a function of both coordinates."""
    (a, b), (_, c) = landscape["quadratic"]
    p, q = landscape["quartic"]
    return lambda x, y: (a * x**2 + 2 * b * x * y + c * y**2) / 2 + (p * x**4 + q * y**4) / 4 + landscape["tilt"] * x


def slope_of(landscape, path):
    """Returns the gradient's length at every point of a path."""
    path = np.asarray(path, float)
    gradient = path @ landscape["quadratic"] + np.asarray(landscape["quartic"]) * path**3 + [landscape["tilt"], 0]
    return np.linalg.norm(gradient, axis=1)


@functools.cache
def runner(make):
    """Returns `run(landscape, rate, seed)`, a rule's path. The weights are a 2x1 matrix, so that SOAP can turn them."""
    weights = keras.Variable(np.zeros((2, 1), "float32"))
    optimizer = make()
    optimizer.build([weights])
    fresh = [keras.ops.convert_to_numpy(variable).copy() for variable in optimizer.variables]

    @tf.function
    def descend(quadratic, quartic, tilt, noise, seed):
        path = tf.TensorArray(tf.float32, STEPS + 1, element_shape=(2, 1)).write(0, weights.value)
        for step in tf.range(STEPS):
            gradient = tf.linalg.matmul(quadratic, weights.value) + quartic * weights.value**3 + tilt
            gradient += noise * tf.random.stateless_normal((2, 1), tf.stack([seed, step]))
            optimizer.apply([gradient], [weights])
            path = path.write(step + 1, tf.convert_to_tensor(weights))
        return path.stack()

    def run(landscape, rate, seed=0):
        for variable, value in zip(optimizer.variables, fresh):
            variable.assign(value)
        weights.assign(np.reshape(landscape["start"], (2, 1)))
        optimizer.learning_rate = rate
        column = [np.reshape(landscape["quartic"], (2, 1)), np.array([[landscape["tilt"]], [0.0]])]
        parts = [landscape["quadratic"], *column, landscape.get("noise", 0.0)]
        return descend(*(tf.constant(part, tf.float32) for part in parts), tf.constant(seed)).numpy()[:, :, 0]

    return run


def score(path, landscape):
    """Returns the mean logarithm of the loss in the second half of the steps; infinite for a path off the map."""
    (left, right), (bottom, top) = landscape["limits"]
    x, y = path.T.astype("float64")
    if not np.all((left <= x) & (x <= right) & (bottom <= y) & (y <= top)):
        return np.inf
    losses = loss_of(landscape)(x, y) - landscape.get("lowest", 0.0)
    return np.mean(np.log(np.maximum(losses[STEPS // 2 :], 1e-7)))


def second_order_path(function, start):
    points = [start]
    optimizers.minimize_function(
        lambda x: function(x[0], x[1]),
        start,
        max_iterations=STEPS,
        callback=lambda _, x, logs: points.append(x.copy()),
        verbose=0,
    )
    return np.array(points)


def tuned_paths(title, landscape):
    """Returns each rule's path with its best settings, and what these are."""
    paths, labels = {}, {}
    noise = landscape.get("noise", 0.0)
    for name, settings in RULES.items():
        if settings is None:
            if not noise:  # A line search needs a loss that stays put; `minimize_function` refuses another one.
                paths[name] = second_order_path(loss_of(landscape), np.array(landscape["start"]))
            continue
        scores = {}
        for setting, make in list(settings.items())[: 1 if SMOKE else None]:
            for rate in RATES:
                runs = [runner(make)(landscape, rate, seed) for seed in range(SEEDS if noise else 1)]
                scores[setting, rate] = np.mean([score(run, landscape) for run in runs])
        setting, rate = min(scores, key=scores.get)
        if rate in (RATES[0], RATES[-1]) and not SMOKE:
            print(f"{title}: the best rate of {name} lies on the grid's edge: {rate:.2g}")
        paths[name] = runner(settings[setting])(landscape, rate)
        labels[name] = f"({rate:.2g}; {setting})" if setting else f"({rate:.2g})"
    return paths, labels


def draw_fair():
    drawn = {}
    for title, landscape in LANDSCAPES.items():
        paths, labels = tuned_paths(title, landscape)
        drawn[title] = {**landscape, "function": loss_of(landscape), "paths": paths, "labels": labels}
        print(f"{title}:", ", ".join(f"{name} {labels.get(name, '')}" for name in paths))
    axes = plots.trajectories(drawn, GROUPS, COLORS)
    figure = axes[0, 0].figure
    title = "Fair: each rule at its best rate (in brackets; then its momentum or betas)"
    figure.suptitle(title, fontsize=16, fontweight="bold", color="0.2")
    save(figure, "fair.png")


def problem():
    """Returns the landscapes with the paths of SGD and momentum at one rate."""
    drawn = {}
    for title, landscape in LANDSCAPES.items():
        # In a steep valley much momentum swings wide; to leave a minimum it takes much.
        rho = "0.9" if title in ("saddle point", "local minimum") else "0.7"
        rules = {"SGD": RULES["SGD"][""], "momentum": RULES["momentum"][rho]}
        paths = {name: runner(make)(landscape, SHARED_RATE) for name, make in rules.items()}
        slopes = {name: slope_of(landscape, path) for name, path in paths.items()}
        note = f"{landscape['note']}; momentum {rho}"
        drawn[title] = {**landscape, "function": loss_of(landscape), "paths": paths, "below": slopes, "note": note}
    return drawn


def draw_problem():
    drawn = problem()
    axes = plots.trajectories(drawn, colors=COLORS, below="length of the gradient")
    figure = axes[0, 0].figure
    title = f"The problem: SGD and momentum at the same learning rate of {SHARED_RATE}"
    figure.suptitle(title, fontsize=16, fontweight="bold", color="0.2")
    save(figure, "problem.png")
    animate(drawn)


def animate(drawn):
    """Saves the paths of `problem.png` step by step."""
    whole = {title: {**landscape, "paths": {}} for title, landscape in drawn.items()}
    empty = {name: np.array([landscape["start"]]) for landscape in drawn.values() for name in landscape["paths"]}
    for landscape in whole.values():
        start = np.array([landscape["start"]])
        landscape["paths"] = {name: np.repeat(start, 2, axis=0) for name in empty}
        landscape["below"] = {name: values[:1] for name, values in landscape["below"].items()}
        # At a film's size a note would run into its neighbour's.
        del landscape["note"]
    axes = plots.trajectories(whole, colors=COLORS, below="length of the gradient")
    figure = axes[0, 0].figure
    figure.set_size_inches(15, 6)
    title = f"SGD and momentum at the same rate of {SHARED_RATE}"
    figure.suptitle(title, fontsize=15, fontweight="bold", color="0.2")
    lines = []
    for column, landscape in enumerate(drawn.values()):
        slopes = np.concatenate(list(landscape["below"].values()))
        axes[0, column].title.set_fontsize(11)
        axes[1, column].set(
            xlim=(0, STEPS), xticks=[0, STEPS // 2, STEPS], ylim=(slopes.min() / 1.5, slopes.max() * 1.5)
        )
        for name, path in landscape["paths"].items():
            color = COLORS[name]
            (trail,) = axes[0, column].plot([], [], "-", color=color, linewidth=1.6, zorder=40)
            (head,) = axes[0, column].plot([], [], "o", color=color, markersize=6, zorder=41)
            (curve,) = axes[1, column].plot([], [], "-", color=color, linewidth=1.6)
            lines.append((trail, head, curve, path, landscape["below"][name]))

    def show(step):
        for trail, head, curve, path, slope in lines:
            trail.set_data(*path[: step + 1].T)
            head.set_data(*path[step : step + 1].T)
            curve.set_data(np.arange(step + 1), slope[: step + 1])

    figure.canvas.draw()
    figure.set_layout_engine("none")  # Laid out once, not in every frame.
    frames = [*range(0, STEPS + 1, 2), *[STEPS] * 8]
    film = animation.FuncAnimation(figure, show, frames)
    OUTPUT.mkdir(exist_ok=True)
    film.save(OUTPUT / "problem.gif", animation.PillowWriter(fps=8), dpi=60)
    plt.close(figure)
    size = (OUTPUT / "problem.gif").stat().st_size
    print(f"saved {OUTPUT / 'problem.gif'}, {size / 1e6:.2f} MB")


def draw_arrows(panels, function):
    """Draws the velocity, the gradient and the step they add up to, as arrows; returns the Figure."""
    figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 4.4), layout="constrained")
    points = np.array([
        end
        for arrows in panels.values()
        for origin, vector in arrows.values()
        for end in (np.asarray(origin, float), np.add(origin, vector, dtype=float))
    ])  # fmt: skip
    middle, reach = (points.min(0) + points.max(0)) / 2, 0.75 * np.ptp(points, axis=0).max()
    for axis, (title, arrows) in zip(axes, panels.items()):
        draw_contours(axis, function, middle, reach)
        middles = {name: np.add(origin, np.divide(vector, 2), dtype=float) for name, (origin, vector) in arrows.items()}
        for name, (origin, vector) in arrows.items():
            others = [point for other, point in middles.items() if other != name]
            away = middles[name] - (np.mean(others, axis=0) if others else middles[name])
            draw_arrow(axis, np.asarray(origin, float), np.asarray(vector, float), ARROWS[name], name, reach, away)
        start = arrows.get("step", next(iter(arrows.values())))[0]
        axis.plot(*start, "o", markerfacecolor="white", markeredgecolor=INK, markersize=9, zorder=10)
        axis.set(
            xlim=middle[0] + np.array([-reach, reach]), ylim=middle[1] + np.array([-reach, reach]),
            xticks=[], yticks=[], aspect="equal",
        )  # fmt: skip
        axis.set_title(title, fontsize=13, fontweight="bold", color=INK)
        for spine in axis.spines.values():
            spine.set_color("0.8")
    return figure


def draw_contours(axis, function, middle, reach):
    x, y = np.meshgrid(*(center + np.linspace(-1.05 * reach, 1.05 * reach, 161) for center in middle))
    height = np.asarray(function(x, y), float)
    axis.contourf(x, y, np.sqrt(height - height.min()), 18, cmap="PuBu", alpha=0.45)
    axis.contour(x, y, np.sqrt(height - height.min()), 18, colors="white", linewidths=0.8)


def draw_arrow(axis, origin, vector, color, name, reach, away):
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


def draw_momentum():
    """One step of each rule from the same point with the same velocity."""
    point, velocity, rate, decay = np.array([-1.9, 0.8]), np.array([1.75, -1.5]), 0.035, 0.9

    def gradient(at):
        return np.array([at[0], 20 * at[1]])

    push = -rate * gradient(point)
    ahead = point + decay * velocity
    push_ahead = -rate * gradient(ahead)
    panels = {
        "Momentum: gradient at the point": {
            "velocity": (point, decay * velocity),
            "gradient": (point, push),
            "step": (point, decay * velocity + push),
        },
        "Nesterov: gradient where the velocity leads": {
            "velocity": (point, decay * velocity),
            "gradient": (ahead, push_ahead),
            "step": (point, decay * velocity + push_ahead),
        },
    }
    save(draw_arrows(panels, lambda x, y: (x**2 + 20 * y**2) / 2), "momentum.png")


def draw_steps(function, point, slope, curvature, learning_rate, limits):
    """Draws the steps that the tangent and the parabola suggest; returns the Figure."""
    figure, axes = plt.subplots(1, 2, figsize=(10.4, 4.2), sharey=True, layout="constrained")
    x = np.linspace(*limits, 401)
    y = np.asarray(function(x), float)
    height = float(function(point))
    margin = 0.12 * np.ptp(y)
    models = [
        ("first order: tangent", ARROWS["gradient"], height + slope * (x - point), -learning_rate * slope,
         height - learning_rate * slope**2, r"$-\eta\, f'$"),
        ("second order: parabola", ARROWS["step"], height + slope * (x - point) + curvature * (x - point) ** 2 / 2,
         -slope / curvature, height - slope**2 / (2 * curvature), r"$-f'/f''$"),
    ]  # fmt: skip
    for axis, (title, color, model, step, promised, formula) in zip(axes, models):
        axis.plot(x, y, color="0.45", linewidth=2.6, label="loss")
        near = (np.abs(x - point) < 1.7 * abs(step)) & (model < y.max())
        axis.plot(x, np.where(near, model, np.nan), "--", color=color, linewidth=2.2, label="its model at the point")
        after = float(function(point + step))
        axis.plot([point + step] * 2, [promised, after], ":", color=color, linewidth=1.5)
        axis.plot(point, height, "o", markerfacecolor="white", markeredgecolor=INK, markersize=9, zorder=6)
        axis.plot(point + step, promised, "o", color=color, markersize=6, zorder=6, label="what the model promises")
        axis.plot(point + step, after, "*", color="gold", markeredgecolor=INK, markersize=15, zorder=6,
                  label="where the step arrives")  # fmt: skip
        base = y.min() - 1.6 * margin
        axis.annotate(
            "", (point + step, base), (point, base),
            arrowprops={"arrowstyle": "-|>,head_length=0.6,head_width=0.3", "color": color, "linewidth": 2.4,
                        "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
        axis.text(point + step / 2, base + 0.25 * margin, formula, color=color, fontsize=13, ha="center", va="bottom")
        axis.set(xlim=limits, ylim=(y.min() - 2.4 * margin, y.max() + margin), xticks=[], yticks=[], xlabel="weight")
        axis.set_title(title, fontsize=13, fontweight="bold", color=INK)
        axis.legend(loc="upper left", fontsize=9, framealpha=0.9, edgecolor="none")
        for spine in axis.spines.values():
            spine.set_color("0.8")
    axes[0].set_ylabel("loss")
    return figure


def draw_taylor():
    x = keras.Variable(1.6)
    with tf.GradientTape() as outer:
        outer.watch(x.value)
        with tf.GradientTape() as tape:
            tape.watch(x.value)
            loss = bump(x.value)
        slope = tape.gradient(loss, x.value)
    curvature = outer.gradient(slope, x.value)
    figure = draw_steps(
        lambda x: keras.ops.convert_to_numpy(bump(x)), float(x), float(slope), float(curvature), 0.25, (-2.2, 2.3)
    )
    save(figure, "taylor.png")


def bump(x):
    return 0.3 * x**2 + 0.1 * keras.ops.exp(1.3 * x)


def save(figure, name):
    OUTPUT.mkdir(exist_ok=True)
    figure.savefig(OUTPUT / name, dpi=150, facecolor="white")
    plt.close(figure)
    print("saved", OUTPUT / name)


draw_problem()
draw_fair()
draw_momentum()
draw_taylor()
