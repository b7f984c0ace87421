"""A full-batch loss as a function of one flat vector: value, gradient, Hessian-vector product. TensorFlow only."""

import numpy as np
import tensorflow as tf

from kregkit.optimizers._hessian_product import gradient_of, hessian_product


class Objective:
    """A scalar function of a flat float64 vector, compiled once.

    Args:
        variables: List of `tf.Variable`, whose values the vector holds one after another.
        parts: List of `(count, value_function)`: the function's value is the sum over `parts` and over `index in
            range(count)` of `value_function(index)`, a scalar tensor. A part with a count above one becomes a loop in
            the graph, so that the memory of its activations is used once.
        prepare: Callable, run in the graph before each evaluation.
        jit_compile: Boolean, whether XLA compiles the graph.
        dtypes: Names of the dtypes, beside the variables' own, that the value is computed in.
        statistics: List of further variables that each evaluation overwrites.
    """

    def __init__(self, variables, parts, prepare=lambda: None, jit_compile=False, dtypes=(), statistics=()):
        self.variables = variables
        self._parts = parts
        self._prepare = prepare
        self._evaluated = None
        self.statistics = statistics
        self.keeps_statistics = False
        self._shapes = [tuple(variable.shape) for variable in variables]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self.size = sum(self._sizes)
        # Values are only as exact as the least exact variable or computation.
        self.precision = max(
            float(np.spacing(np.ones((), dtype.as_numpy_dtype)))
            for dtype in {variable.dtype for variable in variables} | {tf.as_dtype(dtype) for dtype in dtypes}
            if dtype.is_floating
        )
        vector = tf.TensorSpec((self.size,), tf.float64)
        self._value_and_gradient = tf.function(
            self._value_and_gradient_graph, input_signature=[vector], jit_compile=jit_compile, autograph=False
        )
        self._hessian_product = tf.function(
            self._hessian_product_graph, input_signature=[vector, vector], jit_compile=jit_compile, autograph=False
        )

    def get(self):
        """Returns the variables as one float64 vector."""
        return np.concatenate([variable.numpy().ravel() for variable in self.variables]).astype("float64")

    def set(self, vector):
        """Puts the vector's values into the variables, each in its own dtype."""
        self._evaluated = None
        pieces = np.split(np.asarray(vector), np.cumsum(self._sizes)[:-1])
        for variable, piece, shape in zip(self.variables, pieces, self._shapes):
            variable.assign(piece.reshape(shape).astype(variable.dtype.as_numpy_dtype))

    def set_with_statistics(self, vector):
        """Like `set`, and brings the statistics to those of the vector.

        Nothing is computed where the last evaluation left both there.
        """
        if self._evaluated is None or not np.array_equal(vector, self._evaluated):
            self.set(vector)
            if self.statistics:
                self.value_and_gradient(vector)

    def value_and_gradient(self, vector):
        """Returns the value as a float and the gradient as a float64 vector."""
        self._evaluated = None
        value, gradient = self._value_and_gradient(vector)
        self._evaluated = vector.copy()
        return float(value), gradient.numpy()

    def hessian_product(self, vector, direction):
        """Returns the Hessian at `vector` times `direction`, exactly, as a float64 vector."""
        self._evaluated = None
        return self._hessian_product(vector, direction).numpy()

    def _assign(self, vector):
        for variable, piece in zip(self.variables, self._split(vector)):
            variable.assign(piece)

    def _split(self, vector):
        return [
            tf.cast(tf.reshape(piece, shape), variable.dtype)
            for variable, piece, shape in zip(self.variables, tf.split(vector, self._sizes), self._shapes)
        ]

    def _flatten(self, tensors):
        """Returns one float64 vector; None, a variable that the value doesn't depend on, is zeros."""
        return tf.concat(
            [
                tf.zeros((size,), tf.float64) if tensor is None else tf.cast(tf.reshape(tensor, (-1,)), tf.float64)
                for tensor, size in zip(tensors, self._sizes)
            ],
            axis=0,
        )

    def _accumulate(self, function, totals):
        """Returns `totals` plus the sum over all parts of the tensors that `function` makes of a part's value."""
        for count, value_function in self._parts:

            def body(index, *totals, value_function=value_function):
                terms = function(lambda: value_function(index))
                return [index + 1, *(total + term for total, term in zip(totals, terms))]

            if count == 1:
                _, *totals = body(0, *totals)
            else:
                _, *totals = tf.while_loop(
                    lambda index, *_, count=count: index < count,
                    body,
                    [tf.constant(0), *totals],
                    parallel_iterations=1,
                    maximum_iterations=count,
                )
        return totals

    def _value_and_gradient_graph(self, vector):
        self._assign(vector)
        self._prepare()

        def terms(value_function):
            value, gradients = gradient_of(value_function, self.variables)
            return [tf.cast(value, tf.float64), self._flatten(gradients)]

        return self._accumulate(terms, [tf.zeros((), tf.float64), tf.zeros((self.size,), tf.float64)])

    def _hessian_product_graph(self, vector, direction):
        self._assign(vector)
        self._prepare()
        directions = self._split(direction)

        def terms(value_function):
            return [self._flatten(hessian_product(value_function, self.variables, directions))]

        return self._accumulate(terms, [tf.zeros((self.size,), tf.float64)])[0]


def function_objective(function, x0, jit_compile=False):
    """Returns the objective of `function`, a scalar of one tensor with the shape and dtype of `x0`."""
    variable = tf.Variable(x0)

    def value_function(_):
        value = tf.convert_to_tensor(function(variable.read_value()))
        if value.shape.rank != 0:
            raise ValueError(f"`f` must return a scalar. Received: shape={tuple(value.shape)}")
        return value

    return Objective([variable], [(1, value_function)], jit_compile=jit_compile)
