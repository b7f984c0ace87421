"""DropConnect of recurrent layers: kernels whose masks hold for all steps of a sequence."""

import keras
from keras import ops

from kregkit._core.replacing import replaced_all
from kregkit.layers._hash import mixed_key

RECURRENT = (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)
_KERNELS = ("recurrent_kernel", "kernel")


def check_recurrent(layer, mask, inference):
    """Raises `ValueError` for a recurrent layer that can't be wrapped."""
    if inference != "mean":
        raise ValueError(
            "The mean over the masks of a recurrent kernel has no closed form: with LSTM, GRU and SimpleRNN take "
            f"inference='mean', and `kregkit.inference.marginalize` for the mean of draws. Received: {inference=}"
        )
    if layer.dropout or layer.recurrent_dropout:
        raise ValueError(
            "The wrapped layer must not drop units itself: leave out `recurrent_dropout`, and in place of `dropout` "
            "put `SpatialDropout1D` before it, which drops the same. "
            f"Received: dropout={layer.dropout}, recurrent_dropout={layer.recurrent_dropout}"
        )
    if mask == "exact" and (layer.stateful or layer.activity_regularizer is not None):
        raise ValueError(
            "With mask='exact' the layer runs one example at a time, and must not be stateful nor have an activity "
            f"regularizer. Received: {mask=}"
        )


class RecurrentMasks:
    """The masks of one call of a `DropConnect` around a recurrent layer.

    Args:
        wrapper: The `DropConnect` layer.
        rows: Integer or scalar tensor, the number of examples.
        training: What the layer is called with.

    The methods take the arguments of the call, a dictionary with `inputs`, `initial_state` and `mask`.
    """

    def __init__(self, wrapper, rows, training):
        self._wrapper, self._layer, self._cell = wrapper, wrapper.layer, wrapper.layer.cell
        self._rows, self._training = rows, training
        self._names = _KERNELS[: 2 if wrapper.input_kernel else 1]

    def draw_nothing(self, arguments):
        """Runs the layer as it is."""
        return self._run([], arguments)

    def draw_batch(self, arguments):
        """Runs the layer with one mask for all examples, or for all of a draw."""
        factors = {name: self._wrapper.kernel_factor(self._shape_of(name), per_replica=False) for name in self._names}
        if len(factors["recurrent_kernel"].shape) == 2:
            return self._run(self._masked(factors), arguments)
        return self._run(self._stepping(lambda name, kernel: _per_draw(kernel * factors[name])), arguments)

    def draw_exact(self, arguments):
        """Runs the layer one example at a time, each with masks of its own."""
        wrapper = self._wrapper
        keys = {name: wrapper.next_key() for name in self._names}
        source = wrapper.noise_source
        numbers = ops.arange(self._rows, dtype="int32") if source is None else source.examples()
        given = {name: value for name, value in arguments.items() if value is not None}

        def one(element):
            example, number = element
            factors = {
                name: wrapper.factor(self._shape_of(name), mixed_key(keys[name], number)) for name in self._names
            }
            outputs = self._run(self._masked(factors), _mapped(lambda x: x[None], example))
            return keras.tree.map_structure(lambda x: x[0], outputs)

        return ops.map(one, (given, numbers))

    def draw_example(self, arguments):
        """Runs the layer with one mask, turned for each example by signs on what goes in and what comes out."""
        return self._run(self._stepping(lambda name, kernel: self._signed_product(kernel)), arguments)

    def _stepping(self, product_of):
        """Returns the changes by which the layer computes its steps with other products than those of its kernels.

        Args:
            product_of: Callable `(name, kernel)` that returns a function `(x, columns)`, for the dropped kernels.
        """
        products = {}
        for name in _KERNELS:
            kernel = ops.cast(getattr(self._cell, name), self._cell.compute_dtype)
            products[name] = product_of(name, kernel) if name in self._names else _plain(kernel)
        step = next(function for kind, function in _STEPS if isinstance(self._layer, kind))

        def call(inputs, states, training=False):
            output, *others = step(self._cell, products, inputs, *states)
            return output, [output, *others]

        # The cuDNN way through the layer leaves its cell out.
        without = [(self._layer, "use_cudnn", False)] if hasattr(self._layer, "use_cudnn") else []
        return [(self._cell, "call", call), *without]

    def _signed_product(self, kernel):
        wrapper, (into, out_of) = self._wrapper, kernel.shape
        turned = kernel * (wrapper.kernel_factor((into, out_of)) - 1)
        plain, deviation = _plain(kernel), (_plain if len(turned.shape) == 2 else _per_draw)(turned)
        signs_in, signs_out = wrapper.signs((self._rows, into)), wrapper.signs((self._rows, out_of))

        def product(x, columns=slice(None)):
            return plain(x, columns) + deviation(x * signs_in, columns) * signs_out[:, columns]

        return product

    def _shape_of(self, name):
        return tuple(getattr(self._cell, name).shape)

    def _masked(self, factors):
        dtype = self._cell.compute_dtype
        return [
            (self._cell, name, ops.cast(getattr(self._cell, name), dtype) * ops.cast(factor, dtype))
            for name, factor in factors.items()
        ]

    def _run(self, changes, arguments):
        arguments = dict(arguments)
        with replaced_all(changes):
            return self._layer(arguments.pop("inputs"), **arguments, training=self._training)


def _plain(kernel):
    return lambda x, columns=slice(None): ops.matmul(x, kernel[:, columns])


def _per_draw(kernels):
    """Returns the product with kernels `(draws, in, out)`, each for the rows of one draw."""

    def product(x, columns=slice(None)):
        chosen = kernels[..., columns]
        folded = ops.reshape(x, (chosen.shape[0], -1, chosen.shape[1]))
        return ops.reshape(ops.matmul(folded, chosen), (-1, chosen.shape[-1]))

    return product


def _lstm(cell, products, inputs, hidden, carry):
    z = products["kernel"](inputs) + products["recurrent_kernel"](hidden)
    z = z if cell.bias is None else z + ops.cast(cell.bias, z.dtype)
    enter, forget, candidate, leave = ops.split(z, 4, axis=1)
    gate = cell.recurrent_activation
    carry = gate(forget) * carry + gate(enter) * cell.activation(candidate)
    return gate(leave) * cell.activation(carry), carry


def _gru(cell, products, inputs, hidden):
    x, both, last = products["kernel"](inputs), slice(2 * cell.units), slice(2 * cell.units, None)
    bias = None if cell.bias is None else ops.cast(cell.bias, x.dtype)
    if bias is not None:
        x = x + (bias[0] if cell.reset_after else bias)
    if cell.reset_after:
        h = products["recurrent_kernel"](hidden)
        h = h if bias is None else h + bias[1]
        gates, recurrent = h[:, both], h[:, last]
    else:
        gates = products["recurrent_kernel"](hidden, both)
    update, reset = ops.split(cell.recurrent_activation(x[:, both] + gates), 2, axis=1)
    recurrent = reset * recurrent if cell.reset_after else products["recurrent_kernel"](reset * hidden, last)
    return (update * hidden + (1 - update) * cell.activation(x[:, last] + recurrent),)


def _simple(cell, products, inputs, hidden):
    z = products["kernel"](inputs) + products["recurrent_kernel"](hidden)
    z = z if cell.bias is None else z + ops.cast(cell.bias, z.dtype)
    return (z if cell.activation is None else cell.activation(z),)


_STEPS = [(keras.layers.LSTM, _lstm), (keras.layers.GRU, _gru), (keras.layers.SimpleRNN, _simple)]


def _mapped(function, arguments):
    """Returns the call arguments with `function` applied to each tensor."""
    return keras.tree.map_structure(lambda x: None if x is None else function(x), arguments)
