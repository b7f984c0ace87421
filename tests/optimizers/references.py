"""Update rules in float64 NumPy, one coroutine each: `rule.send(gradient)` returns the next weights.

Written from the papers and from Keras's documentation, not from any code: where Keras departs from a paper, the line
that does says so. `run` feeds one the gradients of a problem.
"""

import numpy as np


def sgd(x, a):
    while True:
        g = yield x
        x = x - a * g


def keras_momentum(x, a, rho, nesterov=False):
    """The look-ahead form of Nesterov, in Keras's variable: the point where the gradient is taken."""
    v = np.zeros_like(x)
    point = x  # Without the look-ahead.
    while True:
        g = yield (point + rho * v if nesterov else point)
        v = rho * v - a * g
        point = point + v


def momentum(x, a, rho, nesterov=False):
    """Velocity as the sum of all gradients, each weighted by its age."""
    gradients = []
    while True:
        gradients.append((yield x))
        ages = np.arange(len(gradients))[::-1]
        v = sum(rho**age * g for age, g in zip(ages, gradients))
        x = x - a * (gradients[-1] + rho * v if nesterov else v)


def adagrad(x, a, epsilon=1e-7):
    s = np.full_like(x, 0.1)  # The lecture and the paper start at 0.
    while True:
        g = yield x
        s = s + g**2
        x = x - a * g / np.sqrt(s + epsilon)  # They add epsilon to the root.


def rmsprop(x, a, rho=0.9, rate=0.0, centered=False, epsilon=1e-7):
    s, mean, v = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    while True:
        g = yield x
        s = rho * s + (1 - rho) * g**2
        mean = rho * mean + (1 - rho) * g
        variance = s - mean**2 if centered else s
        v = rate * v + a * g / np.sqrt(variance + epsilon)  # Elsewhere epsilon is added to the root.
        x = x - v


def adadelta(x, a, rho=0.95, epsilon=1e-7):
    s, d = np.zeros_like(x), np.zeros_like(x)
    while True:
        g = yield x
        s = rho * s + (1 - rho) * g**2
        step = np.sqrt(d + epsilon) / np.sqrt(s + epsilon) * g
        d = rho * d + (1 - rho) * step**2
        x = x - a * step


def adam(x, a, b1=0.9, b2=0.999, epsilon=1e-7, amsgrad=False, correct=True, decay=0.0, hat=True):
    m, s, top, t = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x), 0
    while True:
        g = yield x
        t += 1
        x = x * (1 - a * decay)
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * g**2
        top = np.maximum(top, s) if amsgrad else s
        c1, c2 = (1 - b1**t, 1 - b2**t) if correct else (1, 1)
        # "Epsilon hat": the paper's main form adds epsilon after the correction, so tiny gradients differ from it.
        x = x - a * (m / c1) / (np.sqrt(top / c2) + epsilon / (np.sqrt(c2) if hat else 1))


def adamax(x, a, b1=0.9, b2=0.999, epsilon=1e-7):
    m, u, t = np.zeros_like(x), np.zeros_like(x), 0
    while True:
        g = yield x
        t += 1
        m = b1 * m + (1 - b1) * g
        u = np.maximum(b2 * u, np.abs(g))
        x = x - a / (1 - b1**t) * m / (u + epsilon)


def nadam(x, a, b1=0.9, b2=0.999, epsilon=1e-7):
    m, s, t, product = np.zeros_like(x), np.zeros_like(x), 0, 1.0
    while True:
        g = yield x
        t += 1
        now, after = (b1 * (1 - 0.5 * 0.96**k) for k in (t, t + 1))
        product *= now
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * g**2
        mean = after * m / (1 - product * after) + (1 - now) * g / (1 - product)
        x = x - a * mean / (np.sqrt(s / (1 - b2**t)) + epsilon)


def ftrl(x, a, l1=0.0, l2=0.0):
    n, z = np.full_like(x, 0.1), np.zeros_like(x)
    while True:
        g = yield x
        z = z + g - (np.sqrt(n + g**2) - np.sqrt(n)) / a * x
        n = n + g**2
        x = np.where(np.abs(z) <= l1, 0.0, (np.sign(z) * l1 - z) / (np.sqrt(n) / a + 2 * l2))


def lion(x, a, b1=0.9, b2=0.99):
    m = np.zeros_like(x)
    while True:
        g = yield x
        x = x - a * np.sign(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * g


def lamb(x, a, b1=0.9, b2=0.999, epsilon=1e-7):
    m, s, t = np.zeros_like(x), np.zeros_like(x), 0
    while True:
        g = yield x
        t += 1
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * g**2
        step = (m / (1 - b1**t)) / (np.sqrt(s / (1 - b2**t)) + epsilon)
        size, length = np.linalg.norm(x), np.linalg.norm(step)
        x = x - a * step * (size / length if size > 0 and length > 0 else 1.0)


def adafactor(x, a, epsilon_1=1e-30, epsilon_2=1e-3, clip=1.0):
    rows = columns = s = 0.0
    t = 0
    while True:
        g = yield x
        t += 1
        b2 = 1 - t**-0.8
        square = g**2 + epsilon_1
        if x.ndim == 2:
            rows = b2 * rows + (1 - b2) * square.mean(axis=1)
            columns = b2 * columns + (1 - b2) * square.mean(axis=0)
            s = np.outer(rows, columns) / rows.mean()
        else:
            s = b2 * s + (1 - b2) * square
        u = g / np.sqrt(s)
        u = u / max(1.0, np.sqrt(np.mean(u**2)) / clip)
        x = x - max(epsilon_2, np.sqrt(np.mean(x**2))) * min(a, t**-0.5) * u


def muon(x, a, rho=0.95, rms=0.2):
    """Matrices; vectors go to Adam, as Keras says."""
    v = np.zeros_like(x)
    while True:
        g = yield x
        v = rho * v + g
        u = g + rho * v
        u = u / (np.linalg.norm(u) + 1e-7)
        left, singular, right = np.linalg.svd(u, full_matrices=False)
        for _ in range(5):  # The polynomial of a matrix is that of its singular values.
            singular = 3.4445 * singular - 4.7750 * singular**3 + 2.0315 * singular**5
        x = x - a * rms * np.sqrt(max(x.shape)) * (left * singular) @ right


def schedule_free_adamw(y, a, b1=0.9, b2=0.999, epsilon=1e-8, keras=False):
    z, x, s, t = y, y, np.zeros_like(y), 0
    while True:
        g = yield y
        t += 1
        s = b2 * s + (1 - b2) * g**2
        z = z - a * g / (np.sqrt(s / (1 - b2**t)) + epsilon)
        if keras:  # Keras 3.15 means to recover x with the old z, but on TensorFlow reads it after its update.
            x = (y - (1 - b1) * z) / b1
        x = (1 - 1 / t) * x + z / t
        y = (1 - b1) * z + b1 * x


def soap(x, a, b1=0.95, b2=0.95, epsilon=1e-8, every=3, rounding=0.0):
    """SOAP on a matrix, Adam up to the first turn; the momentum is in the weights' own axes, as the paper has it."""
    m, v, t = np.zeros_like(x), np.zeros_like(x), 0
    second = [np.zeros((dim, dim)) for dim in x.shape]
    q = [np.eye(dim) for dim in x.shape]
    while True:
        g = yield x
        t += 1
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * (q[0].T @ g @ q[1]) ** 2
        root = np.sqrt(v / (1 - b2**t))
        first = every * int(np.ceil(round(1 / (1 - b2) / every, 6)))
        floor = 256 * rounding * np.linalg.norm(root) if t > first else 0.0
        step = (q[0].T @ m @ q[1]) / (1 - b1**t) / (root + epsilon + floor)
        x = x - a * q[0] @ step @ q[1].T
        second = [b2 * old + (1 - b2) * new for old, new in zip(second, (g @ g.T, g.T @ g))]
        if t == first:
            q = [np.linalg.svd(matrix)[0] for matrix in second]
            energies = [np.diag(basis.T @ matrix @ basis) for basis, matrix in zip(q, second)]
            v = (q[0] ** 2).T @ v
            v = v * (energies[0] / np.maximum(v.sum(axis=1), 1e-300))[:, None]
            v = v @ q[1] ** 2
            v = v * (energies[1] / np.maximum(v.sum(axis=0), 1e-300))[None, :]
        elif t % every == 0 and t > first:
            for axis, matrix in enumerate(second):
                order = np.argsort(np.diag(q[axis].T @ matrix @ q[axis]))[::-1]
                v = np.take(v, order, axis=axis)
                q[axis] = np.linalg.qr(matrix @ q[axis][:, order])[0]


def gradients(kind, shape, steps=20, seed=0):
    """Returns the gradients' part that doesn't depend on the weights, and how much of the weights is added to it."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(steps, *shape))
    if kind == "sparse":
        g *= rng.uniform(size=g.shape) < 0.2
    elif kind == "zero":
        g[rng.uniform(size=steps) < 0.5] = 0.0
    elif kind == "huge":
        g *= 10.0 ** rng.uniform(-2, 8, size=g.shape)
    elif kind == "tiny":  # Where epsilon stands shows here.
        return 1e-6 * g, 0.0
    return g, 0.1


def run(rule, x, pushes, pull):
    """Returns the weights after each step under the gradients `push + pull * weights`, and those gradients."""
    x = next(rule)
    path, met = [x], []
    for push in pushes:
        met.append(push + pull * x)
        x = rule.send(met[-1])
        path.append(x)
    return np.array(path), np.array(met)
