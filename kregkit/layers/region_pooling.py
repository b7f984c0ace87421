"""Max pooling over given regions, computed by gathers alone."""

import math
from collections.abc import Sequence

import keras
from keras import ops

from kregkit._core import rules
from kregkit._core.checks import check_choice
from kregkit._core.types import Shape, Tensor
from kregkit.layers._backend import compile_apart, on_tensorflow, runs_eagerly
from kregkit.layers._rows import gather, with_gradient


@rules.checked(
    overlapping=rules.boolean,
    compiled=rules.choice(None, True, False),
    inputs=rules.tensor(),
    boundaries=rules.entries(),
)
def fractional_max_pool(
    inputs: Tensor,
    boundaries: Sequence[Tensor],
    overlapping: bool = False,
    data_format: str | None = None,
    compiled: bool | None = None,
) -> Tensor:
    """Takes the maximum over rectangles given by a sequence of boundaries per axis.

    With boundaries `0 = s_0 < s_1 < ... < s_N = n` along an axis, output `i` is the maximum over `s_i ... s_{i+1} - 1`,
    or over `s_i ... min(s_{i+1}, n - 1)` with `overlapping=True`. Given the sequences that
    `tf.nn.fractional_max_pool` returns, outputs and gradients are that operation's, up to ties: here the first largest
    entry along an axis takes the gradient.

    A rectangle's maximum is the maximum over columns of the maxima over rows, so that an axis is pooled at a time, by
    as many gathers as the largest increment (and one more if overlapping). An input lies in at most two windows of an
    axis, so that the gradient is two gathers as well, and no scatter; it needs nothing but each axis's input.

    Args:
        inputs: Float tensor with one, two or three spatial axes, all of known length: `(batch, ..., channels)` or
            `(batch, channels, ...)`.
        boundaries: List with, for each spatial axis, an integer array or tensor `(outputs + 1,)` to share one set of
            regions, `(batch, outputs + 1)` for regions per example, or `(batch, channels, outputs + 1)` for regions
            per channel of each example. All axes' must have the same rank. Increments are at least 1. Tensors of a
            graph are taken to have increments of at most `ceil(n / outputs)`, the largest that Graham's sequences
            have; arrays, and tensors where no graph is traced, are looked at.
        overlapping: Boolean, whether a window includes the next one's first entry. Defaults to `False`.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to Keras's setting.
        compiled: Boolean, whether XLA compiles the operation when the graph around it isn't compiled; TensorFlow
            only. Defaults to True where TensorFlow traces a graph on CPUs, which halves the time there.

    Returns:
        Tensor like `inputs`, with `outputs` entries along each spatial axis.

    Raises:
        ValueError: for boundaries that don't fit the inputs.

    Example:

    >>> x = keras.ops.reshape(keras.ops.arange(5.0), (1, 5, 1))
    >>> pooled = fractional_max_pool(x, [[0, 2, 3, 5]], data_format="channels_last")
    >>> keras.ops.convert_to_numpy(pooled)[0, :, 0].tolist()
    [1.0, 2.0, 4.0]

    Reference: [Graham, 2014](https://arxiv.org/abs/1412.6071)
    """
    data_format = data_format or keras.config.image_data_format()
    check_choice("data_format", data_format, ("channels_last", "channels_first"))
    inputs = ops.convert_to_tensor(inputs)
    num_axes = len(inputs.shape) - 2
    if num_axes < 1:
        raise ValueError(f"`inputs` must have one or more spatial axes. Received: inputs.shape={tuple(inputs.shape)}")
    if len(boundaries) != num_axes:
        raise ValueError(
            f"`boundaries` must have one sequence for each of the {num_axes} spatial axes. "
            f"Received: len(boundaries)={len(boundaries)}"
        )
    sizes = spatial_sizes(inputs.shape, data_format)
    widths = [_largest_increment(sequence, size) for sequence, size in zip(boundaries, sizes)]
    boundaries = [ops.cast(sequence, "int32") for sequence in boundaries]
    ranks = {len(sequence.shape) for sequence in boundaries}
    if len(ranks) > 1 or not ranks <= {1, 2, 3}:
        raise ValueError(
            "All sequences of `boundaries` must have the same rank, 1, 2 or 3. "
            f"Received: shapes={[tuple(sequence.shape) for sequence in boundaries]}"
        )
    (rank,) = ranks

    first = data_format == "channels_first"
    if first and rank < 3:
        inputs = ops.moveaxis(inputs, 1, -1)
    elif not first and rank == 3:
        inputs = ops.moveaxis(inputs, -1, 1)
    shape = ops.shape(inputs)
    channels = shape[-1]
    if rank == 3:
        # Each channel of each example is an example of its own, with one channel.
        channels = shape[1]
        inputs = ops.reshape(inputs, (-1, *sizes, 1))
        boundaries = [ops.reshape(sequence, (-1, sequence.shape[-1])) for sequence in boundaries]
    pooled = _pool(inputs, boundaries, widths, overlapping, compiled)
    outputs = [sequence.shape[-1] - 1 for sequence in boundaries]
    if rank == 3:
        pooled = ops.reshape(pooled, (-1, channels, *outputs))
        return pooled if first else ops.moveaxis(pooled, 1, -1)
    return ops.moveaxis(pooled, -1, 1) if first else pooled


def spatial_sizes(shape: Shape, data_format: str | None):
    """Returns the lengths of the spatial axes, or raises `ValueError` where one isn't known."""
    sizes = tuple(shape[1:-1] if data_format == "channels_last" else shape[2:])
    if any(size is None for size in sizes):
        raise ValueError(
            "Fractional pooling needs spatial axes of known length, since its number of regions follows from it. "
            f"Received: shape={tuple(shape)}"
        )
    return sizes


def _largest_increment(boundaries, size):
    """Returns the longest window, after checking the boundaries where their values can be read."""
    if ops.is_tensor(boundaries) and not runs_eagerly():
        return -(-size // (boundaries.shape[-1] - 1))
    array = ops.convert_to_numpy(boundaries)
    if array.dtype.kind not in "iu":
        raise ValueError(f"Boundaries must be integers. Received: boundaries={array.tolist()}")
    increments = array[..., 1:] - array[..., :-1]
    if (array[..., 0] != 0).any() or (array[..., -1] != size).any() or (increments < 1).any():
        raise ValueError(
            f"Boundaries must rise from 0 to the axis's length {size}. Received: boundaries={array.tolist()}"
        )
    return int(increments.max())


def _pool(inputs, boundaries, widths, overlapping, compiled):
    """Pools a channels-last tensor; `boundaries` are `(outputs + 1,)`, or `(examples, outputs + 1)`."""
    compile = compile_apart() if compiled is None else None
    if compiled and (tensorflow := on_tensorflow()) is not None and not tensorflow.compiled_by_xla():
        compile = tensorflow.compiled
    # An axis at a time also when compiled: XLA would fuse both into one loop that computes everything many times.
    for axis, (sequence, width) in enumerate(zip(boundaries, widths), start=1):
        inputs = _pool_and_unpool(inputs, axis, sequence, width, overlapping, compile)
    return inputs


def _pool_and_unpool(inputs, axis, boundaries, width, overlapping, compile):
    """Pools one axis and defines the gradient, both through `compile` where that isn't None."""
    size = inputs.shape[axis]

    def forward(x, boundaries):
        return _pool_axis(x, axis, boundaries, width, overlapping)[0]

    def backward(x, gradient, boundaries):
        # Finding the winners again is cheaper than keeping them.
        winner = _pool_axis(x, axis, boundaries, width, overlapping, want_winner=True)[1]
        return _unpool_axis(gradient, axis, size, boundaries, width, winner, overlapping)

    if compile is not None:
        forward, backward = compile(forward), compile(backward)

    pool = with_gradient(lambda x: forward(x, boundaries), lambda x, gradient: backward(x, gradient, boundaries))
    return pool(inputs)


def _rows(x, axis):
    """Returns `(rows, entries)`: `x` with all axes up to `axis` in one, and all behind it in one."""
    return ops.reshape(x, (-1, math.prod(x.shape[axis + 1 :])))


def _take(rows, index, x, axis, size):
    """Takes `index` along an axis of length `size`, from `x` as `_rows` lays it out.

    Args:
        rows: Tensor `(groups * size, entries)`.
        index: Integer tensor `(taken,)` or `(examples, taken)`.
        x: The tensor that `rows` came from; only its shape counts.
        axis: Integer, the axis.
    """
    taken = index.shape[-1]
    index = ops.reshape(index, (-1, 1, taken))
    inner = math.prod(x.shape[1:axis])
    batch = ops.shape(x)[0]
    start = ops.reshape(ops.arange(batch * inner, dtype="int32") * size, (batch, inner, 1))
    return gather(rows, ops.reshape(start + index, (-1,)))


def _pool_axis(x, axis, boundaries, width, overlapping, want_winner=False):
    """Returns the maxima along an axis, and for each its index in its window, as int8 or int32."""
    size = x.shape[axis]
    first, behind = boundaries[..., :-1], boundaries[..., 1:]
    rows = _rows(x, axis)
    # A window that is shorter than the longest has its last entry again: a tie, which goes to the first.
    offsets = [ops.minimum(first + offset, behind - 1) for offset in range(width)]
    if overlapping:
        offsets.append(ops.minimum(behind, size - 1))
    largest = _take(rows, offsets[0], x, axis, size)
    winner = ops.zeros(ops.shape(largest), _code(width)) if want_winner else None
    for offset, index in enumerate(offsets[1:], start=1):
        other = _take(rows, index, x, axis, size)
        if want_winner:
            winner = ops.where(other > largest, ops.cast(offset, winner.dtype), winner)
        largest = ops.maximum(largest, other)
    shape = (-1, *x.shape[1:axis], first.shape[-1], *x.shape[axis + 1 :])
    return ops.reshape(largest, shape), winner


def _code(width):
    return "int8" if width < 127 else "int32"


def _unpool_axis(gradient, axis, size, boundaries, width, winner, overlapping):
    """Returns the gradient with respect to the input of `_pool_axis`."""
    first, behind = boundaries[..., :-1], boundaries[..., 1:]
    outputs = first.shape[-1]
    # The window in which an input is not the next one's first entry, and its index there.
    inputs = ops.arange(size, dtype="int32")
    window = ops.sum(ops.cast(inputs[:, None] >= behind[..., None, :], "int32"), axis=-1)
    offset = inputs - ops.take_along_axis(ops.broadcast_to(first, (*ops.shape(window)[:-1], outputs)), window, axis=-1)

    rows = _rows(gradient, axis)

    def of_window(values, index):
        return _take(values, index, gradient, axis, outputs)

    def per_row(index):
        inner = math.prod(gradient.shape[1:axis])
        spread = ops.broadcast_to(ops.reshape(index, (-1, 1, size)), (ops.shape(gradient)[0], inner, size))
        return ops.reshape(spread, (-1, 1))

    zero = ops.zeros((), gradient.dtype)
    won = of_window(winner, window) == ops.cast(per_row(offset), winner.dtype)
    result = ops.where(won, of_window(rows, window), zero)
    if overlapping:
        before = ops.maximum(window - 1, 0)
        shared = ops.logical_and(offset == 0, window > 0)
        won = ops.logical_and(of_window(winner, before) == ops.cast(width, winner.dtype), per_row(shared))
        result = result + ops.where(won, of_window(rows, before), zero)
    return ops.reshape(result, (-1, *gradient.shape[1:axis], size, *gradient.shape[axis + 1 :]))
