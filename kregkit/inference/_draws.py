"""Random numbers that depend on where they are used, not on when."""

import math

import numpy as np
import tensorflow as tf

_PHILOX = 1


class NotFoldableError(ValueError):
    """A layer draws noise that all rows of a batch share, so that several draws can't share a batch."""


class Draws:
    """Random numbers for one pass over `k` draws of `B` examples, folded into `k * B` rows, the draw first.

    Each number is a function of the seed, the place in the model, the draw and the example alone, so that a result
    doesn't depend on how draws and examples are divided into passes. This is what counter-based generators are for:
    Philox's key is the seed and the place, and its 128-bit counter holds the draw above and the example below.

    Args:
        seed: Integer.
        draws: Integer tensor `(k,)`, the draws' numbers. `k` is static.
        batch: Integer or scalar tensor, `B`.
        start: Integer scalar tensor, the first example's number in the data set.
        shared: Boolean, whether all examples meet the same noise.
    """

    def __init__(self, seed, draws, batch, start, shared=False):
        self.seed, self.draws, self.batch, self.start = seed, draws, batch, start
        self.shared = shared
        self.num_draws = draws.shape[0]
        self._calls = {}

    def uniform(self, place, shape, noise_shape=None):
        """Returns uniform numbers in [0, 1), float32, to be combined with a tensor of a shape.

        Args:
            place: Integer that identifies the layer.
            shape: List of integers or scalar tensors. The first is `k * B`, or a multiple of it where examples were
                split into windows or time steps, or 1 for what has no examples.
            noise_shape: As in `keras.layers.Dropout`: `None` entries are those of `shape`, 1 is broadcast. On the
                first axis, 1 shares the noise among the examples. Defaults to `shape`.
        """
        return self._for_rows(tf.raw_ops.StatelessRandomUniformV2, place, shape, noise_shape)

    def normal(self, place, shape):
        """Returns standard normal numbers; arguments as in `uniform`."""
        return self._for_rows(tf.raw_ops.StatelessRandomNormalV2, place, shape, None)

    def uniform_of_layer(self, place, shape):
        """Returns uniform numbers of a shape that a layer asks for: per row if the first axis can be the rows'."""
        if shape and not (isinstance(shape[0], int) and shape[0] != self.num_draws * self.batch):
            return self._for_rows(tf.raw_ops.StatelessRandomUniformV2, place, list(shape), None)
        self._require_one("noise of a whole batch")
        return tf.reshape(self.uniform_per_draw(place, shape), shape)

    def uniform_per_draw(self, place, shape):
        """Returns uniform numbers `(k, *shape)` that all examples of a draw share."""
        numbers = self._numbers(tf.raw_ops.StatelessRandomUniformV2, place, _product(shape), together=True)
        return tf.reshape(numbers, [self.num_draws, *shape])

    def seed_of_pass(self, place):
        """Returns a seed `(2,)` for `keras.random`; those of successive examples follow each other."""
        self._require_one("noise drawn for a whole batch")
        words = tf.stack([(self._key(place) & 0xFFFFFFFF) + self.start, self.draws[0]])
        return tf.cast(words % 2**32, "uint32")

    def _require_one(self, what):
        if self.num_draws > 1:
            raise NotFoldableError(what)

    def _for_rows(self, operation, place, shape, noise_shape):
        lead = shape[0]
        noise = [full if own is None else own for own, full in zip(noise_shape or [None] * len(shape), shape)]
        rest = noise[1:]
        if isinstance(lead, int) and lead == 1 and not (isinstance(self.batch, int) and self.batch == 1):
            self._require_one(f"noise on a tensor without a batch axis, of shape {tuple(shape)}")
            return tf.reshape(self._numbers(operation, place, _product(rest), together=True), noise)
        if noise_shape is not None and noise_shape[0] == 1:
            numbers = self._numbers(operation, place, _product(rest), together=True)
            numbers = tf.broadcast_to(numbers, tf.stack([self.num_draws, lead // self.num_draws, _product(rest)]))
        else:
            count = _product(rest) * (lead // (self.num_draws * self.batch))
            numbers = self._numbers(operation, place, count, self.shared)
            if self.shared:
                numbers = tf.broadcast_to(numbers, tf.stack([self.num_draws, self.batch, count]))
        return tf.reshape(numbers, tf.stack([lead, *rest]))

    def _numbers(self, operation, place, count, together):
        """Returns `(k, B, count)` numbers, or `(k, 1, count)` that the examples use together."""
        rows = 1 if together else self.batch
        # One step of the counter gives four numbers.
        steps = (count + 3) // 4
        first = tf.zeros((), "int64") if together else self.start * tf.cast(steps, "int64")
        key = tf.constant([self._key(place)], "uint64")
        # An operation's counter runs on: what follows the last example of a draw is not the next draw's first.
        blocks = [
            operation(
                shape=tf.stack([rows, 4 * steps]),
                key=key,
                counter=tf.cast(tf.stack([first, self.draws[index]]), "uint64"),
                alg=_PHILOX,
            )
            for index in range(self.num_draws)
        ]
        return tf.stack(blocks)[:, :, :count]

    def _key(self, place):
        """Returns a new 64-bit key for one more use of the noise of `place`, an integer."""
        call = self._calls[place] = self._calls.get(place, -1) + 1
        words = np.random.SeedSequence([self.seed, place, call]).generate_state(1, np.uint64)
        return int(words[0])


def _product(sizes):
    static = math.prod(size for size in sizes if isinstance(size, int))
    for size in sizes:
        if not isinstance(size, int):
            static = static * size
    return static


def sizes(tensor):
    """Returns the axes' sizes, as integers where they are known."""
    dynamic = tf.shape(tensor)
    return [dynamic[axis] if size is None else size for axis, size in enumerate(tensor.shape)]
