"""Running means over draws, in memory that doesn't grow with their number."""

import tensorflow as tf

# The weight of a prediction for a position that its view doesn't show: less than the rounding of a float32 sum.
UNSEEN = 1e-8


class Moments:
    """Running mean, and sum of squared distances from it, of tensors `(batch, ...)` (Chan et al. 1979).

    The state is a plain tuple, which a loop can carry: `(mean,)` or `(mean, squares)`.
    """

    def __init__(self, squares):
        self.squares = squares

    def of_pass(self, y, weight):
        """Returns the state after one pass: `y` is `(k, batch, ...)`, `weight` `(k, batch)` or more of its axes."""
        weight = like(weight, y)
        mean = tf.math.divide_no_nan(tf.reduce_sum(weight * y, 0), tf.reduce_sum(weight, 0))
        return (mean, tf.reduce_sum(weight * (y - mean) ** 2, 0)) if self.squares else (mean,)

    def merge(self, state, count, other, other_count):
        """Returns the state after both; counts are sums of weights."""
        fraction = like(tf.math.divide_no_nan(other_count, count + other_count), state[0])
        difference = other[0] - state[0]
        mean = state[0] + fraction * difference
        if not self.squares:
            return (mean,)
        return mean, state[1] + other[1] + difference**2 * fraction * like(count, state[0])


class Maximum:
    """Running maximum of tensors `(batch, ...)`, with the methods of `Moments`.

    The state is `(maximum of what views show, maximum of the rest)`.
    """

    def of_pass(self, y, weight):
        weight = like(weight, y)
        lowest = tf.constant(y.dtype.min, y.dtype)
        seen = tf.reduce_max(tf.where(weight > 0.5, y, lowest), 0)
        return seen, tf.reduce_max(tf.where((weight > 0) & (weight <= 0.5), y, lowest), 0)

    def merge(self, state, count, other, other_count):
        return tuple(tf.maximum(one, two) for one, two in zip(state, other))

    @staticmethod
    def value(states):
        """Returns the maximum over some states: of what no view shows, that of all predictions."""
        seen, rest = (tf.reduce_max(tf.stack(parts), 0) for parts in zip(*states))
        return tf.where(seen > seen.dtype.min, seen, rest)


def like(weight, y):
    """Returns `weight` cast and with trailing axes of size 1, so that it multiplies `y`."""
    weight = tf.convert_to_tensor(weight)
    for _ in range(len(y.shape) - len(weight.shape)):
        weight = weight[..., tf.newaxis]
    return weight if y.dtype == tf.bool else tf.cast(weight, y.dtype)


def standard_error(state, count):
    """Returns each example's largest standard error of the mean of `count` `(batch,)` draws, by sample variance."""
    _, squares = state
    weight = like(count, squares)
    error = tf.sqrt(squares / tf.maximum(weight - 1.0, 1.0) / tf.maximum(weight, 1.0))
    return tf.reduce_max(tf.reshape(error, [tf.shape(error)[0], -1]), axis=-1)
