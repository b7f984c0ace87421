"""Some rows of a batch, taken out and put back, each the other's gradient: no scatter either way."""

from keras import ops

from kregkit.layers._noise import on_tensorflow


def gather(x, rows):
    """Returns the rows of `x` whose numbers are given; none is negative."""
    tensorflow = on_tensorflow()
    return tensorflow.gather(x, rows) if tensorflow is not None else ops.take(x, rows, axis=0)


def random_subset(noise, size):
    """Returns `(kept, slots)` for a uniformly random subset of the rows.

    Args:
        noise: Tensor `(batch,)` of independent numbers.
        size: Integer or scalar tensor, the subset's size.

    Returns:
        `kept`: `(size,)`, the rows in the subset. `slots`: `(batch,)`, each row's place in `kept`, or `size`.
    """
    order = ops.argsort(noise)
    return order[:size], ops.minimum(ops.argsort(order), size)


def _upstream(args, upstream):
    # TensorFlow and JAX pass the gradient as the only argument, PyTorch by name.
    return args[0] if upstream is None else upstream


def _take(x, kept):
    return gather(x, kept)


def _put(x, slots):
    return gather(ops.concatenate([x, ops.zeros_like(x[:1])], axis=0), slots)


def take_rows(x, kept, slots):
    """Returns the rows `kept` of `x`."""
    if "float" not in str(x.dtype):
        return _take(x, kept)

    @ops.custom_gradient
    def take(x):
        return _take(x, kept), lambda *args, upstream=None: _put(_upstream(args, upstream), slots)

    return take(x)


def put_rows(x, kept, slots):
    """Returns a whole batch: the rows of `x` where `take_rows` took them, zeros elsewhere."""

    @ops.custom_gradient
    def put(x):
        return _put(x, slots), lambda *args, upstream=None: _take(_upstream(args, upstream), kept)

    return put(x)
