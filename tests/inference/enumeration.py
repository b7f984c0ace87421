"""Marginalized models against every outcome of their noise."""

import itertools

import numpy as np

from kregkit.inference import marginalize

# A normal deviate is further out less than once in a million times, for hundreds of numbers at once.
SIGMAS = 6.5


def each_draw(model, x, count, **arguments):
    """The draws one by one: what the mean of T draws has more than that of T - 1."""
    means = [marginalize(model, draws=n, **arguments)(x) for n in range(1, count + 1)]
    sums = [np.zeros_like(means[0]), *(n * np.asarray(mean, "float64") for n, mean in enumerate(means, 1))]
    return np.diff(sums, axis=0)


def assert_converges(model, x, values, probabilities=None, draws=4000, **arguments):
    """The mean over draws is that of `values` (one array per outcome of the noise), and so is the deviation."""
    values = np.asarray(values, "float64")
    if probabilities is None:
        probabilities = np.full(len(values), 1 / len(values))
    exact = np.tensordot(probabilities, values, 1)
    deviation = np.sqrt(np.tensordot(probabilities, (values - exact) ** 2, 1))
    mean, spread = marginalize(model, draws=draws, spread=True, **arguments)(x)
    np.testing.assert_allclose(mean, exact, rtol=0, atol=SIGMAS * deviation.max() / np.sqrt(draws) + 1e-5)
    np.testing.assert_allclose(spread["std"], deviation, rtol=0, atol=0.15 * deviation.max() + 1e-5)


def masks(count, rate):
    """All dropout masks of some units, inverted, and their probabilities."""
    bits = np.array(list(itertools.product([0, 1], repeat=count)))
    return bits / (1 - rate), np.prod(np.where(bits, 1 - rate, rate), axis=1)
