"""Rows of a batch, taken out and put back. Each function is the other's gradient, so that none needs a scatter."""

from keras import ops

from kregkit.layers._backend import on_tensorflow


def gather(x, rows):
    """Returns rows of `x`.

    Args:
        x: Tensor.
        rows: Integer tensor of row numbers, none of them negative.
    """
    tensorflow = on_tensorflow()
    return tensorflow.gather(x, rows) if tensorflow is not None else ops.take(x, rows, axis=0)


def random_subset(noise, size):
    """Returns `(kept, slots)` for a uniformly random subset of the rows.

    Args:
        noise: Tensor `(batch,)` of independent numbers.
        size: Integer or scalar tensor, the subset's size.

    Returns:
        `kept`: `(size,)`, the rows in the subset. `slots`: `(batch,)`, each row's index in `kept`, or `size`.
    """
    order = ops.argsort(noise)
    return order[:size], ops.minimum(ops.argsort(order), size)


def with_gradient(forward, backward):
    """Returns a function of one tensor with a gradient of its own.

    Args:
        forward: Callable `x -> y`.
        backward: Callable `(x, gradient of y) -> gradient of x`.
    """

    @ops.custom_gradient
    def function(x):
        def gradient(*args, upstream=None):
            # TensorFlow and JAX pass the gradient as the only argument, PyTorch by name.
            return backward(x, args[0] if upstream is None else upstream)

        return forward(x), gradient

    return function


def _put(x, slots):
    return gather(ops.concatenate([x, ops.zeros_like(x[:1])], axis=0), slots)


def take_rows(x, kept, slots):
    """Returns the rows `kept` of `x`."""
    if "float" not in str(x.dtype):
        return gather(x, kept)
    return with_gradient(lambda x: gather(x, kept), lambda x, gradient: _put(gradient, slots))(x)


def put_rows(x, kept, slots):
    """Returns a whole batch: the rows of `x` where `take_rows` took them, zeros elsewhere."""
    return with_gradient(lambda x: _put(x, slots), lambda x, gradient: gather(gradient, kept))(x)
