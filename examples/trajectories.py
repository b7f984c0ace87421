"""What paths the update rules take: valleys, a saddle, a local minimum, noise.

    python examples/trajectories.py [--smoke]

Every rule runs at the best learning rate of its own for each landscape, found on one grid: at a shared rate AdaGrad,
whose steps only shrink, would stand still. Draws three pictures:

- `trajectories.png`: paths over contours, and losses against steps;
- `momentum.png`: velocity, gradient and step of momentum and of Nesterov's momentum;
- `taylor.png`: the steps of gradient descent and of Newton's method in one dimension.
"""

import pathlib
import sys

import matplotlib
import numpy as np

matplotlib.use("Agg")

import keras
import matplotlib.pyplot as plt
import tensorflow as tf

from kregkit import optimizers, plots

SMOKE = "--smoke" in sys.argv
OUTPUT = pathlib.Path(__file__).parent / "output"
STEPS = 15 if SMOKE else 80
RATES = np.geomspace(1e-2, 1, 3) if SMOKE else np.geomspace(1e-4, 31.6, 23)
NOISE = 0.6
SEEDS = 1 if SMOKE else 5

RULES = {
    "SGD": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: optimizers.Momentum(0.1, momentum=0.9),
    "Nesterov": lambda: optimizers.Momentum(0.1, momentum=0.9, nesterov=True),
    "L-BFGS": None,
    "AdaGrad": lambda: keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.0),
    "RMSProp": lambda: keras.optimizers.RMSprop(0.1),
    "Adam, uncorrected": lambda: optimizers.Adam(0.1, bias_correction=False),
    "Adam": lambda: optimizers.Adam(0.1),
    "SOAP": lambda: optimizers.SOAP(0.1, beta_1=0.9, beta_2=0.8, precondition_frequency=1),
}
GROUPS = [["SGD", "momentum", "Nesterov", "L-BFGS"], ["AdaGrad", "RMSProp", "Adam, uncorrected", "Adam", "SOAP"]]
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


def turned(x, y):
    """Returns the coordinates in a frame at 40 degrees, which is no axis of any rule."""
    c, s = np.cos(np.radians(40)), np.sin(np.radians(40))
    return c * x + s * y, c * y - s * x


def valley(x, y):
    return (x**2 + 60 * y**2) / 2


def rotated_valley(x, y):
    return valley(*turned(x, y))


def saddle(x, y):
    return (x**2 - y**2) / 2 + y**4 / 4


def two_minima(x, y):
    return x**4 / 4 - x**2 / 2 + 0.12 * x + y**2 / 2


LOW = min(np.roots([1, 0, -1, 0.12]).real)  # The deeper of the two minima.
LANDSCAPES = {
    "ill-conditioned valley": {
        "function": valley, "start": (-2.4, 0.9), "limits": ((-2.8, 1.2), (-1.3, 1.3)), "minima": [(0, 0)],
        "note": "condition number 60",
    },
    "rotated valley": {
        "function": rotated_valley, "start": (-2.3, -0.5), "limits": ((-2.8, 1.8), (-2.4, 1.9)), "minima": [(0, 0)],
        "note": "the same, turned by 40 degrees",
    },
    "saddle point": {
        "function": saddle, "start": (-1.8, 1e-3), "limits": ((-2.1, 1.5), (-1.7, 1.7)), "minima": [(0, 1), (0, -1)],
        "lowest": -0.25, "note": "starting almost on the ridge",
    },
    "local minimum": {
        "function": two_minima, "start": (2.0, 1.2), "limits": ((-2.2, 2.4), (-1.7, 1.7)), "minima": [(LOW, 0)],
        "lowest": float(two_minima(LOW, 0)), "note": "the star is the deeper one",
    },
    "noisy gradient": {
        "function": valley, "start": (-2.4, 0.9), "limits": ((-2.8, 1.2), (-1.3, 1.3)), "minima": [(0, 0)],
        "noise": NOISE, "note": "the first valley; dashed: without noise",
    },
}  # fmt: skip


def runner(make, function, start, noise):
    """Returns `run(rate, seed)`, the path of a rule. The weights are a 2x1 matrix, so that SOAP has a side to turn."""
    start = tf.constant(np.reshape(start, (2, 1)), tf.float32)
    weights = keras.Variable(start)
    optimizer = make()
    optimizer.build([weights])
    fresh = [keras.ops.convert_to_numpy(variable).copy() for variable in optimizer.variables]

    @tf.function
    def descend(seed):
        path = tf.TensorArray(tf.float32, STEPS + 1, element_shape=(2, 1)).write(0, start)
        for step in tf.range(STEPS):
            with tf.GradientTape() as tape:
                loss = function(weights[0, 0], weights[1, 0])
            gradient = tape.gradient(loss, weights.value)
            gradient += noise * tf.random.stateless_normal((2, 1), tf.stack([seed, step]))
            optimizer.apply([gradient], [weights])
            path = path.write(step + 1, tf.convert_to_tensor(weights))
        return path.stack()

    def run(rate, seed=0):
        for variable, value in zip(optimizer.variables, fresh):
            variable.assign(value)
        weights.assign(start)
        optimizer.learning_rate = rate
        return descend(tf.constant(seed)).numpy()[:, :, 0]

    return run


def score(path, landscape):
    """Returns the mean logarithm of the loss in the second half of the steps; infinite for a path off the map."""
    (left, right), (bottom, top) = landscape["limits"]
    x, y = path.T.astype("float64")
    if not np.all((left <= x) & (x <= right) & (bottom <= y) & (y <= top)):
        return np.inf
    losses = landscape["function"](x, y) - landscape.get("lowest", 0.0)
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
    """Returns each rule's path at its best rate, and the rates."""
    paths, labels = {}, {}
    noise = landscape.get("noise", 0.0)
    for name, make in RULES.items():
        if make is None:
            if noise:
                continue  # A line search needs a loss that stays put; `minimize_function` refuses another one.
            paths[name] = second_order_path(landscape["function"], np.array(landscape["start"]))
            continue
        run = runner(make, landscape["function"], landscape["start"], noise)
        seeds = range(SEEDS if noise else 1)
        scores = [np.mean([score(run(rate, seed), landscape) for seed in seeds]) for rate in RATES]
        best = int(np.argmin(scores))
        if best in (0, len(RATES) - 1) and not SMOKE:
            print(f"{title}: the best rate of {name} lies on the grid's edge: {RATES[best]:.2g}")
        paths[name] = run(RATES[best])
        labels[name] = f"({RATES[best]:.2g})"
    return paths, labels


def draw_trajectories():
    drawn = {}
    for title, landscape in LANDSCAPES.items():
        paths, labels = tuned_paths(title, landscape)
        drawn[title] = {**landscape, "paths": paths, "labels": labels}
        print(f"{title}:", ", ".join(f"{name} {labels.get(name, '')}" for name in paths))
    still = drawn["ill-conditioned valley"]["paths"]
    noisy = drawn["noisy gradient"]
    noisy["faint"] = {name: valley(*still[name].T.astype("float64")) for name in noisy["paths"]}
    axes = plots.trajectories(drawn, GROUPS, COLORS)
    figure = axes[0, 0].figure
    figure.suptitle("Update rules, each at its best learning rate", fontsize=16, fontweight="bold", color="0.2")
    save(figure, "trajectories.png")


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
    save(plots.step_arrows(panels, lambda x, y: (x**2 + 20 * y**2) / 2)[0].figure, "momentum.png")


def draw_taylor():
    x = keras.Variable(1.6)
    with tf.GradientTape() as outer:
        outer.watch(x.value)
        with tf.GradientTape() as tape:
            tape.watch(x.value)
            loss = bump(x.value)
        slope = tape.gradient(loss, x.value)
    curvature = outer.gradient(slope, x.value)
    axes = plots.taylor_steps(
        lambda x: keras.ops.convert_to_numpy(bump(x)), float(x), float(slope), float(curvature), 0.25, (-2.2, 2.3)
    )
    save(axes[0].figure, "taylor.png")


def bump(x):
    return 0.3 * x**2 + 0.1 * keras.ops.exp(1.3 * x)


def save(figure, name):
    OUTPUT.mkdir(exist_ok=True)
    figure.savefig(OUTPUT / name, dpi=150, facecolor="white")
    plt.close(figure)
    print("saved", OUTPUT / name)


draw_trajectories()
draw_momentum()
draw_taylor()
