"""A full-batch loss as a function of one flat vector: value, gradient, Hessian-vector product. TensorFlow only."""

import contextlib

import keras
import numpy as np
import tensorflow as tf


class Objective:
    """A scalar function of a flat float64 vector, compiled once.

    Args:
        variables: List of `tf.Variable`, what the vector stands for.
        parts: List of `(count, make)`: the value is the sum over `parts` and over `index in range(count)` of
            `make(index)`, a scalar tensor. A part with a count above one becomes a loop in the graph, so that the
            memory of its activations is used once.
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

    def show(self, vector):
        """Like `settle`, and free if the variables hold the vector since it was last evaluated."""
        if self._evaluated is None or not np.array_equal(vector, self._evaluated):
            self.settle(vector)

    def settle(self, vector):
        """Like `set`, and brings the statistics to those of the vector."""
        self.set(vector)
        if self.statistics:
            self.value_and_gradient(vector)

    def set(self, vector):
        """Puts the vector's values into the variables, each in its own dtype."""
        self._evaluated = None
        pieces = np.split(np.asarray(vector), np.cumsum(self._sizes)[:-1])
        for variable, piece, shape in zip(self.variables, pieces, self._shapes):
            variable.assign(piece.reshape(shape).astype(variable.dtype.as_numpy_dtype))

    def value_and_gradient(self, vector):
        """Returns the value as a float and the gradient as a float64 vector."""
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
        """Returns `totals` plus the sum of `function(make, index)`, a list of tensors, over all parts."""
        for count, make in self._parts:
            if count == 1:
                totals = [total + term for total, term in zip(totals, function(make, 0))]
            else:

                def body(index, *totals, make=make):
                    return [index + 1, *(total + term for total, term in zip(totals, function(make, index)))]

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

        def term(make, index):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(self.variables)
                value = make(index)
            return [tf.cast(value, tf.float64), self._flatten(_dense(tape.gradient(value, self.variables)))]

        return self._accumulate(term, [tf.zeros((), tf.float64), tf.zeros((self.size,), tf.float64)])

    def _hessian_product_graph(self, vector, direction):
        self._assign(vector)
        self._prepare()
        directions = self._split(direction)

        def term(make, index):
            # Reverse over reverse: every differentiable operation has it, which forward mode can't say.
            with tf.GradientTape(watch_accessed_variables=False) as outer:
                outer.watch(self.variables)
                with tf.GradientTape(watch_accessed_variables=False) as inner:
                    inner.watch(self.variables)
                    value = make(index)
                gradients = _dense(inner.gradient(value, self.variables))
                slope = tf.add_n([
                    tf.reduce_sum(gradient * tf.cast(along, gradient.dtype))
                    for gradient, along in zip(gradients, directions)
                    if gradient is not None
                ])  # fmt: skip
            return [self._flatten(_dense(outer.gradient(slope, self.variables)))]

        with _twice_differentiable_moments():
            return self._accumulate(term, [tf.zeros((self.size,), tf.float64)])[0]


def _dense(tensors):
    return [tf.convert_to_tensor(tensor) if isinstance(tensor, tf.IndexedSlices) else tensor for tensor in tensors]


@contextlib.contextmanager
def _twice_differentiable_moments():
    """Gives `tf.nn.moments`, and so every normalisation layer, its true second derivative while a graph is traced.

    TensorFlow stops the gradient of the mean inside of the variance: right for the first derivative, where that term
    is zero, and wrong for the second.
    """

    def moments(x, axes, shift=None, keepdims=False, name=None):
        mean = tf.reduce_mean(x, axes, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axes, keepdims=keepdims)
        return (mean if keepdims else tf.squeeze(mean, axes)), variance

    original = tf.nn.moments
    tf.nn.moments = moments
    try:
        yield
    finally:
        tf.nn.moments = original


def function_objective(function, x0, jit_compile=False):
    """Returns the objective of `function`, a scalar of one tensor with the shape and dtype of `x0`."""
    variable = tf.Variable(x0)

    def make(_):
        value = tf.convert_to_tensor(function(variable.read_value()))
        if value.shape.rank != 0:
            raise ValueError(f"`f` must return a scalar. Received: shape={tuple(value.shape)}")
        return value

    return Objective([variable], [(1, make)], jit_compile=jit_compile)


@contextlib.contextmanager
def model_objective(model, x, y, loss, batch_size, stochastic, batch_normalization, seed, jit_compile=False):
    """Yields the objective of a model's trainable weights.

    Afterwards seed states are as they were, and so are a normalisation's statistics unless it `keeps_statistics`.
    """
    if tf.distribute.has_strategy() or any(
        isinstance(variable.value, tf.distribute.DistributedValues) for variable in model.variables
    ):
        raise ValueError("minimize and curvature work on one device: build the model outside of a strategy's scope")
    x, y = _tensors("x", x), _tensors("y", y)
    lengths = {int(tensor.shape[0]) for tensor in keras.tree.flatten((x, y)) if tensor is not None}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"`x` and `y` must have one and the same number of examples. Received: lengths={lengths}")
    (num,) = lengths
    batch_size = num if batch_size is None else min(batch_size, num)
    chunked = batch_size < num

    layers = model._flatten_layers(include_self=False)
    generators = _drawn([generator for layer in [model, *layers] for generator in layer._seed_generators], model, x)
    drawing = [layer for layer in layers if any(generator in generators for generator in layer._seed_generators)]
    if generators and stochastic == "refuse":
        names = ", ".join(layer.name for layer in drawing) or model.name
        raise ValueError(
            "A full-batch solver needs an objective that stays put, and these layers draw random numbers: "
            f"{names}. Freeze their draws with stochastic='freeze', or run them in "
            f"inference mode with stochastic='inference'. Received: stochastic={stochastic!r}"
        )
    normalizations = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    if chunked and normalizations and batch_normalization == "training":
        raise ValueError(
            "Batch statistics of chunks are not those of the full batch: with batch_normalization='training', "
            f"`batch_size` must be None. Received: batch_size={batch_size}"
        )
    training = normalizations if batch_normalization == "training" else []
    if stochastic == "freeze":
        training = training + drawing
    evaluate = _loss_function(model, loss, chunked)

    whole, rest = divmod(num, batch_size)

    def share(start, size):
        def piece(tensor):
            if tensor is None:
                return None
            sliced = tf.slice(tensor, [start] + [0] * (tensor.shape.rank - 1), [size, *tensor.shape[1:]])
            return tf.ensure_shape(sliced, (size, *tensor.shape[1:]))

        xs, ys = (x, y) if size == num else keras.tree.map_structure(piece, (x, y))
        with _in_training_mode(training), _without_memory(normalizations):
            prediction = model(xs, training=False)
            return evaluate(xs, ys, prediction, size / num)

    parts = [(whole, lambda index: share(index * batch_size, batch_size))]
    if rest:
        parts.append((1, lambda _: share(whole * batch_size, rest)))

    def prepare():
        for index, generator in enumerate(generators):
            generator.state.assign([seed + index, 0])

    variables = [variable.value for variable in model.trainable_variables]
    if not variables:
        raise ValueError(f"`model` must be built and have trainable weights. Received: model={model!r}")
    dtypes = {layer.compute_dtype for layer in layers if layer.weights}
    statistics = [
        variable.value
        for layer in normalizations
        if layer in training and layer.trainable
        for variable in layer.non_trainable_variables
    ]
    objective = Objective(
        variables, parts, prepare if stochastic == "freeze" else lambda: None, jit_compile, dtypes, statistics
    )
    states = [generator.state.numpy() for generator in generators]
    before = [variable.numpy() for variable in statistics]
    try:
        yield objective
    finally:
        for generator, state in zip(generators, states):
            generator.state.assign(state)
        if not objective.keeps_statistics:
            for variable, value in zip(statistics, before):
                variable.assign(value)


def _tensors(name, structure):
    """Returns the structure's arrays as tensors; `None` stays."""

    def tensor(array):
        try:
            converted = None if array is None else tf.convert_to_tensor(array)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`{name}` must be an array, or a structure of arrays, of all examples. "
                f"Received: {name}={type(array).__name__}"
            ) from error
        if converted is not None and converted.shape.rank == 0:
            raise ValueError(
                f"`{name}` must be an array, or a structure of arrays, whose first axis counts the examples; a list "
                f"is a structure. Received: {name}={structure if np.isscalar(structure) else type(structure).__name__}"
            )
        return converted

    return keras.tree.map_structure(tensor, structure)


def _drawn(generators, model, x):
    """Returns those of the model's seed generators that it draws from in training mode.

    Recurrent layers own one even without dropout, so it is not enough to have one.
    """
    drawn = []

    def recorded(generator):
        draw = generator.next
        return lambda *args, **kwargs: (drawn.append(generator), draw(*args, **kwargs))[1]

    if generators:
        for generator in generators:
            vars(generator)["next"] = recorded(generator)
        try:
            # Traced and thrown away: nothing runs, no state changes.
            tf.function(lambda: model(x, training=True), autograph=False).get_concrete_function()
        finally:
            for generator in generators:
                del vars(generator)["next"]
    return [generator for generator in generators if generator in drawn]


@contextlib.contextmanager
def _without_memory(normalizations):
    """Makes moving statistics those of the last batch, while a graph is traced: of the full batch, seen once."""
    momenta = [layer.momentum for layer in normalizations]
    for layer in normalizations:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(normalizations, momenta):
            layer.momentum = momentum


@contextlib.contextmanager
def _in_training_mode(layers):
    """Makes these layers run in training mode, whatever they are told, while a graph is traced."""

    def trained(layer):
        call = layer.call
        return lambda *args, **kwargs: call(
            *args, **({**kwargs, "training": True} if layer._call_has_training_arg else kwargs)
        )

    # An instance attribute shadows the method without Keras tracking it.
    for layer in layers:
        vars(layer)["call"] = trained(layer)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["call"]


def _loss_function(model, loss, chunked):
    """Returns `evaluate(x, y, prediction, weight)`, a chunk's share of the objective, regularisation included.

    `weight` is the chunk's share of the examples. The weights sum to one, so regularisation is counted once.
    """
    if loss is None:
        summed = (
            [one for one in keras.tree.flatten(model.loss) if getattr(one, "reduction", "") == "sum"]
            if model.compiled
            else []
        )
        if chunked and summed:
            raise ValueError(f"Pass a loss that is summed as `loss=` to use `batch_size`. Received: loss={summed}")
        if not model.compiled:
            raise ValueError("`loss` must be given for a model that is not compiled. Received: loss=None")

        def evaluate(x, y, prediction, weight):
            _refuse_mask(prediction, chunked)
            return model.compute_loss(x=x, y=y, y_pred=prediction, training=False) * weight

        return evaluate

    function = keras.losses.get(loss)
    summed = getattr(function, "reduction", "") == "sum"

    def evaluate(x, y, prediction, weight):
        _refuse_mask(prediction, chunked)
        if (
            tf.is_tensor(y)
            and tf.is_tensor(prediction)
            and prediction.shape.rank == y.shape.rank + 1
            and prediction.shape[-1] == 1
        ):
            y = tf.expand_dims(y, -1)
        value = tf.reduce_mean(function(y, prediction))
        penalties = [tf.cast(tf.reduce_sum(penalty), value.dtype) * weight for penalty in model.losses]
        return tf.add_n([value if summed else value * weight, *penalties])

    return evaluate


def _refuse_mask(prediction, chunked):
    if chunked and any(getattr(tensor, "_keras_mask", None) is not None for tensor in keras.tree.flatten(prediction)):
        raise ValueError("A masked loss is no sum over examples: `batch_size` must be None for this model")
