"""Random numbers that depend on where they are used, not on when."""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

_PHILOX = 1
# Where the indices of seed generators begin, behind those of layers.
_OWN = 2**24
_UNIFORM, _NORMAL = tf.raw_ops.StatelessRandomUniformV2, tf.raw_ops.StatelessRandomNormalV2


class NotFoldableError(ValueError):
    """A layer draws noise that all rows of a batch share, so several draws can't share a batch."""


def key_of_state(state: dict[str, Any], start: str | None, stream: Any, use: Any) -> Any:
    """Returns a key `(2,)` that follows from a seed generator's state, another one for each batch, stream and use.

    Args:
        state: Integer tensor `(2,)`.
        start: Integer scalar tensor, the number of the batch's first example in the data set.
        stream: Integer scalar tensor, the member's number.
        use: Integer.
    """
    words = tf.cast(state, "uint64")
    counter = tf.cast(tf.stack([start, stream * 2**32 + use]), "uint64")
    key = tf.bitwise.bitwise_xor(tf.bitwise.left_shift(words[:1], tf.constant(32, "uint64")), words[1:])
    operation = tf.raw_ops.StatelessRandomUniformFullIntV2
    return operation(shape=[2], key=key, counter=counter, alg=_PHILOX, dtype=tf.uint32)


class Draws:
    """Random numbers for one pass over `k` draws of `B` examples, folded into `k * B` rows, the draw first.

    Each number is a function of the seed, the layer, the draw and the example alone, so a result doesn't depend on
    how draws and examples are divided into passes. Counter-based generators are made for this: Philox's key is the
    seed and the layer, and its 128-bit counter holds the draw above and the example below.

    Args:
        seed: Integer.
        draws: Integer tensor `(k,)`, the draws' numbers. `k` is static.
        batch: Integer or scalar tensor, `B`.
        start: Integer scalar tensor, the first example's number in the data set.
        shared: Boolean, whether all examples meet the same noise.
    """

    def __init__(self, seed: int | None, draws: Any, batch: Any, start: Any, shared: bool = False) -> None:
        self.seed, self.draws, self.batch, self.start = seed, draws, batch, start
        self.shared = shared
        self.num_draws = draws.shape[0]
        self._uses: dict[Any, Any] = {}

    def uniform(self, layer_index: int, shape: Any, noise_shape: Any = None) -> Any:
        """Returns uniform numbers in [0, 1), float32, to be combined with a tensor of a shape.

        Args:
            layer_index: Integer that identifies the layer.
            shape: List of integers or scalar tensors. The first is `k * B`, or a multiple of it where examples were
                split into windows or time steps, or 1 for a tensor that has no axis of examples.
            noise_shape: As in `keras.layers.Dropout`: `None` entries are those of `shape`, 1 is broadcast. On the
                first axis, 1 shares the noise among the examples. Defaults to `shape`.
        """
        return self._for_rows(_UNIFORM, layer_index, shape, noise_shape)

    def normal(self, layer_index: int, shape: Any) -> Any:
        """Returns standard normal numbers; arguments as in `uniform`."""
        return self._for_rows(_NORMAL, layer_index, shape, None)

    def uniform_per_draw(self, layer_index: int, shape: Any) -> Any:
        """Returns uniform numbers `(k, *shape)` that all examples of a draw share."""
        numbers = self._numbers(_UNIFORM, layer_index, _product(shape), together=True)
        return tf.reshape(numbers, [self.num_draws, *shape])

    def key(self, layer_index: int) -> Any:
        """Returns a seed `(2,)` for `keras.random`, the same for all batches: for noise that a whole draw shares.

        Raises:
            NotFoldableError: Several draws share this pass.
        """
        return self._words(layer_index, tf.zeros((), "int64"))

    def key_of_batch(self, layer_index: int) -> Any:
        """Returns a seed `(2,)` for `keras.random`, another one for each batch and draw; raises as `key` does."""
        return self._words(layer_index, self.start)

    def own_key(self, index: int, state: dict[str, Any]) -> Any:
        """Returns a key for the generator with an index; the `next_key` of `own_numbers`."""
        return self.key_of_batch(_OWN + index)

    @property
    def drew(self) -> Any:
        """Boolean, whether anything has been drawn."""
        return bool(self._uses)

    def _words(self, layer_index, low):
        self.require_one_draw("noise drawn for a whole batch")
        counter = tf.cast(tf.stack([low, self.draws[0]]), "uint64")
        operation = tf.raw_ops.StatelessRandomUniformFullIntV2
        return operation(shape=[2], key=self._next_key(layer_index), counter=counter, alg=_PHILOX, dtype=tf.uint32)

    def require_one_draw(self, noise: Any) -> Any:
        """Raises `NotFoldableError` if several draws share this pass; `noise` says what they can't share."""
        if self.num_draws > 1:
            raise NotFoldableError(noise)

    def _for_rows(self, operation, layer_index, shape, noise_shape):
        lead = shape[0]
        noise = [full if own is None else own for own, full in zip(noise_shape or [None] * len(shape), shape)]
        rest = noise[1:]
        if isinstance(lead, int) and lead == 1 and not (isinstance(self.batch, int) and self.batch == 1):
            self.require_one_draw(f"noise on a tensor without a batch axis, of shape {tuple(shape)}")
            return tf.reshape(self._numbers(operation, layer_index, _product(rest), together=True), noise)
        if noise_shape is not None and noise_shape[0] == 1:
            numbers = self._numbers(operation, layer_index, _product(rest), together=True)
            numbers = tf.broadcast_to(numbers, tf.stack([self.num_draws, lead // self.num_draws, _product(rest)]))
        else:
            count = _product(rest) * (lead // (self.num_draws * self.batch))
            numbers = self._numbers(operation, layer_index, count, self.shared)
            if self.shared:
                numbers = tf.broadcast_to(numbers, tf.stack([self.num_draws, self.batch, count]))
        return tf.reshape(numbers, tf.stack([lead, *rest]))

    def _numbers(self, operation, layer_index, count, together):
        """Returns `(k, B, count)` numbers, or `(k, 1, count)` that the examples use together."""
        rows = 1 if together else self.batch
        # One step of the counter gives four numbers.
        steps = (count + 3) // 4
        first = tf.zeros((), "int64") if together else self.start * tf.cast(steps, "int64")
        key = self._next_key(layer_index)
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

    def _next_key(self, layer_index):
        """Returns a new 64-bit key `(1,)` for one more use of the noise of a layer."""
        use = self._uses[layer_index] = self._uses.get(layer_index, -1) + 1
        words = np.random.SeedSequence([self.seed, layer_index, use]).generate_state(1, np.uint64)
        return tf.constant([int(words[0])], "uint64")


@dataclasses.dataclass(frozen=True)
class NoiseSource:
    """Where one layer's noise comes from at test time: what a layer's `noise_source` is while a pass is traced.

    The rows of a batch are `num_draws` draws of the same examples, the draw first.

    Args:
        draws: `Draws`.
        layer_index: Integer that identifies the layer.
    """

    draws: Draws
    layer_index: int

    @property
    def num_draws(self) -> int:
        """Integer, how many draws share the batch."""
        return self.draws.num_draws

    @property
    def shared(self) -> bool:
        """Boolean, whether all examples of a draw shall meet the same noise."""
        return self.draws.shared

    def uniform(self, shape: Any, per_replica: bool = True) -> Any:
        """Returns uniform float32 numbers in [0, 1) of a shape whose first axis is the batch's rows."""
        return self.draws.uniform(self.layer_index, list(shape))

    def uniform_per_draw(self, shape: Any) -> Any:
        """Returns uniform float32 numbers `(num_draws, *shape)`, the same for all examples."""
        return self.draws.uniform_per_draw(self.layer_index, shape)

    def key(self, ordered: Any = True) -> Any:
        """Returns an integer key `(2,)`, the same for all batches of a draw.

        Raises an error if several draws share the batch, on which the passes are made with one draw each.
        """
        return self.draws.key(self.layer_index)

    def key_of_unknown(self, ordered: Any = True) -> Any:
        """Returns a key for a layer whose noise may be each row's: another one for each batch, unless it is shared."""
        return self.key() if self.shared else self.draws.key_of_batch(self.layer_index)

    def examples(self) -> Any:
        """Returns the int32 numbers `(rows,)` of the batch's examples in the data set; zeros where noise is shared."""
        numbers = tf.range(tf.cast(self.draws.batch, "int64")) + self.draws.start
        numbers = tf.zeros_like(numbers) if self.shared else numbers
        return tf.tile(tf.cast(numbers % 2**31, "int32"), [self.num_draws])

    def uniform_of_unknown(self, shape: Any, per_replica: bool = True) -> Any:
        """Returns uniform numbers for a layer that doesn't say whether its shapes' first axis is the batch's rows.

        A size that is only known when the graph runs is taken for the number of rows. A known one may be that by
        chance, and noise of the whole batch isn't folded: each draw then has a pass of its own.
        """
        rows = self.num_draws * self.draws.batch
        if len(shape) and not isinstance(shape[0], int):
            message = "The first axis of the shape of noise must be the batch, or of known size"
            with tf.control_dependencies([tf.debugging.assert_equal(shape[0] % rows, 0, message)]):
                return tf.identity(self.uniform(shape))
        self.draws.require_one_draw("noise that may be a whole batch's")
        if len(shape) and isinstance(rows, int) and shape[0] == rows:
            return self.uniform(shape)
        return tf.reshape(self.uniform_per_draw(tuple(shape)), shape)


def _product(sizes):
    """Returns the product of integers and scalar tensors, an integer where all are."""
    return math.prod(size for size in sizes if isinstance(size, int)) * math.prod(
        (size for size in sizes if not isinstance(size, int)), start=1
    )
