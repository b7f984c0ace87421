"""When `draws="auto"` stops: which examples need more draws, and how many they took."""

import tensorflow as tf

from kregkit.inference._moments import standard_error

# Draws between two looks at the standard error; a multiple of every number of draws in a pass there.
ROUND = 8


def still_uncertain(active, look, states, tolerance):
    """Returns which of the active examples need more draws: those whose mean isn't yet known to the tolerance.

    Args:
        active: Boolean tensor `(batch,)`.
        look: Boolean scalar tensor, whether this is a moment to stop; elsewhere all go on.
        states: Per output, the running moments of its predictions and how many draws they are of.
        tolerance: Float, the largest standard error of the mean at which an example is done.
    """
    errors = [standard_error(state["prediction"], state["count"]) for state in states]
    worst = tf.reduce_max(tf.stack(errors), axis=0)
    return tf.logical_and(active, tf.logical_or(tf.logical_not(look), worst > tolerance))


class DrawCounter:
    """Counts the draws that the examples of a pass over data took."""

    def __init__(self):
        self._examples, self._draws, self._full, self._least, self._most = (
            tf.Variable(0, dtype="int64", trainable=False) for _ in range(5)
        )
        self.reset()

    def reset(self):
        """Begins anew."""
        for variable in (self._examples, self._draws, self._full, self._most):
            variable.assign(0)
        self._least.assign(tf.int64.max)

    def add(self, counts):
        """Adds a batch: `counts` is a list of pairs, the draws that each example took in a run, and the most."""
        total = tf.cast(tf.add_n([count for count, _ in counts]), "int64")
        full = tf.reduce_any(tf.stack([count >= most for count, most in counts]), axis=0)
        self._examples.assign_add(tf.size(total, out_type="int64"))
        self._draws.assign_add(tf.reduce_sum(total))
        self._full.assign_add(tf.reduce_sum(tf.cast(full, "int64")))
        self._least.assign(tf.minimum(self._least, tf.reduce_min(total)))
        self._most.assign(tf.maximum(self._most, tf.reduce_max(total)))

    def text(self):
        """Returns a sentence about what was counted; empty where nothing was."""
        examples, draws, full, least, most = (
            int(variable.numpy()) for variable in (self._examples, self._draws, self._full, self._least, self._most)
        )
        if not examples:
            return ""
        return (
            f"{draws / examples:.1f} draws per example on average, {least} to {most}; {full} of {examples} examples "
            "took as many as are allowed"
        )
