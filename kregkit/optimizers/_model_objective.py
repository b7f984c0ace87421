"""A model's full-batch loss as an objective of its trainable weights. TensorFlow only."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from kregkit._core import keras_internals
from kregkit._core.checks import shown
from kregkit._core.normalization import batch_statistics_in_inference
from kregkit._core.replacing import replaced_all
from kregkit._core.seeds import derived_seed
from kregkit._core.weights import assign_values, copy_values
from kregkit.optimizers._objective import Objective


@contextlib.contextmanager
def model_objective(
    model, x, y, loss, batch_size, stochastic, batch_normalization, seed, jit_compile=False, sample_weight=None
):
    """Yields the objective of a model's trainable weights.

    Afterwards seed states are as they were, and so are BatchNormalization's statistics unless it `keeps_statistics`.
    """
    if tf.distribute.has_strategy() or any(
        isinstance(variable.value, tf.distribute.DistributedValues) for variable in model.variables
    ):
        raise ValueError(
            "Full-batch solvers work on one device: build the model outside of a `tf.distribute` scope. "
            f"Received: model={model!r}"
        )
    x, y, sample_weight = _tensors("x", x), _tensors("y", y), _tensors("sample_weight", sample_weight)
    data = (x, y, sample_weight)
    lengths = {int(tensor.shape[0]) for tensor in keras.tree.flatten(data) if tensor is not None}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"`x`, `y` and `sample_weight` must have the same number of examples. Received: lengths={sorted(lengths)}"
        )
    (num,) = lengths
    batch_size = num if batch_size is None else min(batch_size, num)
    chunked = batch_size < num
    _build(model, x)
    variables = [variable.value for variable in model.trainable_variables]
    if not variables:
        raise ValueError(f"`model` must have trainable weights. Received: model={model!r}")

    layers = keras_internals.flatten_layers(model)
    generators = _drawn_generators(layers, model, x)
    drawing = [
        layer
        for layer in layers
        if layer is not model and any(own in generators for own in keras_internals.seed_generators(layer))
    ]
    if generators and stochastic == "refuse":
        names = ", ".join(layer.name for layer in drawing) or model.name
        raise ValueError(
            "The loss must be the same at every evaluation, and these layers draw random numbers: "
            f"{names}. Freeze their draws with stochastic='freeze', or run them in "
            f"inference mode with stochastic='inference'. Received: stochastic={stochastic!r}"
        )
    normalizations = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    trained = normalizations if batch_normalization == "training" else []
    if chunked and trained:
        raise ValueError(
            "Batch statistics of chunks are not those of the full batch: with batch_normalization='training', "
            f"`batch_size` must be None. Received: batch_size={batch_size}"
        )
    evaluate = _loss_function(model, loss, chunked, sample_weight is not None, y is not None)

    def chunk_value(start, size):
        xs, ys, weights = data if size == num else keras.tree.map_structure(lambda one: _chunk(one, start, size), data)
        with contextlib.ExitStack() as stack:
            # The moving statistics become those of the last batch: of the full batch, seen once.
            stack.enter_context(batch_statistics_in_inference(trained, momentum=0.0))
            if stochastic == "freeze":
                stack.enter_context(_training_mode(drawing))
            return evaluate(xs, ys, model(xs, training=False), weights, size / num)

    num_chunks, rest = divmod(num, batch_size)
    parts = [(num_chunks, lambda index: chunk_value(index * batch_size, batch_size))]
    if rest:
        parts.append((1, lambda _: chunk_value(num_chunks * batch_size, rest)))

    def reset_generators():
        for index, generator in enumerate(generators):
            generator.state.assign([derived_seed(seed, index), 0])

    statistics = [variable for layer in trained if layer.trainable for variable in layer.non_trainable_variables]
    objective = Objective(
        variables,
        parts,
        reset_generators if stochastic == "freeze" else lambda: None,
        jit_compile,
        {layer.compute_dtype for layer in layers if layer.weights and not isinstance(layer, keras.Model)},
        [variable.value for variable in statistics],
    )
    restored = [generator.state for generator in generators]
    if stochastic == "freeze":
        # A layer that is run in training mode may hold normalisation layers, whose statistics then move.
        inside = [layer for outer in drawing for layer in keras_internals.flatten_layers(outer)]
        restored += [v for layer in normalizations if layer in inside for v in layer.non_trainable_variables]
    kept_values, values = copy_values(restored), copy_values(statistics)
    try:
        yield objective
    finally:
        assign_values(restored, kept_values)
        if not objective.keeps_statistics:
            assign_values(statistics, values)


def _build(model, x):
    """Makes the variables of a model that `fit` would build by itself; nothing runs, and no state changes."""
    if not all(layer.built for layer in keras_internals.flatten_layers(model)):
        model(keras.tree.map_structure(lambda data: keras.Input(batch_shape=data.shape, dtype=data.dtype.name), x))


def _tensors(name, structure):
    """Returns the structure's arrays as tensors; `None` stays."""

    if structure is not None and not keras.tree.flatten(structure):
        raise ValueError(
            f"`{name}` must be an array, or a structure of arrays, of all examples. Received: {name}={structure!r}"
        )

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


def _chunk(data, start, size):
    """Returns `size` examples of a tensor; `start` may be a tensor too."""
    if data is None:
        return None
    shape = (size, *data.shape[1:])
    return tf.ensure_shape(tf.slice(data, [start] + [0] * (data.shape.rank - 1), shape), shape)


def _drawn_generators(layers, model, x):
    """Returns those of the layers' seed generators that the model draws from in training mode.

    Recurrent layers own one even without dropout, so it is not enough to have one.
    """
    generators = [generator for layer in layers for generator in keras_internals.seed_generators(layer)]
    drawn = []

    def recorded(generator):
        draw = generator.next
        return lambda *args, **kwargs: (drawn.append(generator), draw(*args, **kwargs))[1]

    if generators:
        with replaced_all([(generator, "next", recorded(generator)) for generator in generators]):
            # Traced and thrown away: nothing runs, no state changes.
            tf.function(lambda: model(x, training=True), autograph=False).get_concrete_function()
    return [generator for generator in generators if generator in drawn]


def _training_mode(layers):
    """Makes these layers run in training mode for a block, whatever `training` they are called with."""

    def trained(layer):
        call, arguments = layer.call, {"training": True} if keras_internals.takes_training(layer) else {}
        return lambda *args, **kwargs: call(*args, **{**kwargs, **arguments})

    return replaced_all([(layer, "call", trained(layer)) for layer in layers])


def _loss_function(model, loss, chunked, weighted, has_targets=True):
    """Returns `evaluate(x, y, prediction, sample_weight, share)`, a chunk's part of the objective.

    Regularisation is included. `share` is the chunk's part of the examples. The shares sum to one, so regularisation
    is counted once.
    """
    if loss is None:
        if not model.compiled:
            raise ValueError("`loss` must be given for a model that is not compiled. Received: loss=None")
        summed = [own for own in keras.tree.flatten(model.loss) if getattr(own, "reduction", "") == "sum"]
        if chunked and summed:
            raise ValueError(f"Pass a loss that is summed as `loss=` to use `batch_size`. Received: loss={summed}")
        _refuse_weighted_mean(keras.tree.flatten(model.loss), chunked and weighted)
        _refuse_no_targets(
            model.loss is None or type(model).compute_loss is not keras.Model.compute_loss or has_targets
        )

        def evaluate(x, y, prediction, sample_weight, share):
            _refuse_mask(prediction, chunked)
            loss = model.compute_loss(x=x, y=y, y_pred=prediction, sample_weight=sample_weight, training=False)
            return loss * share

        return evaluate

    if isinstance(loss, (list, tuple)) or (isinstance(loss, dict) and "class_name" not in loss):
        raise ValueError(
            "`loss` must be one loss; for several outputs compile the model with theirs and leave it out. "
            f"Received: loss={loss!r}"
        )
    try:
        function = keras.losses.get(loss)
    except (ValueError, TypeError) as error:
        raise ValueError(f"`loss` must be a loss, its name or a function. Received: loss={shown(loss)}") from error
    is_sum = getattr(function, "reduction", "") == "sum"
    _refuse_weighted_mean([function], chunked and weighted)
    _refuse_no_targets(not isinstance(function, keras.losses.Loss) or has_targets)

    def evaluate(x, y, prediction, sample_weight, share):
        _refuse_mask(prediction, chunked)
        if (
            tf.is_tensor(y)
            and tf.is_tensor(prediction)
            and prediction.shape.rank == y.shape.rank + 1
            and prediction.shape[-1] == 1
        ):
            y = tf.expand_dims(y, -1)
        if not isinstance(function, keras.losses.Loss):
            y = _as_predicted(y, prediction)
        if sample_weight is None:
            value = tf.reduce_mean(function(y, prediction))
        elif isinstance(function, keras.losses.Loss):
            value = tf.reduce_mean(function(y, prediction, sample_weight=sample_weight))
        else:
            value = tf.reduce_mean(_weighted(function(y, prediction), sample_weight))
        penalties = [tf.cast(tf.reduce_sum(penalty), value.dtype) * share for penalty in model.losses]
        return tf.add_n([value if is_sum else value * share, *penalties])

    return evaluate


def _as_predicted(y, prediction):
    """Returns floating-point targets in the type of the predictions, as `fit` and `Loss` objects hand them on."""
    dtype = keras.tree.flatten(prediction)[0].dtype
    return keras.tree.map_structure(
        lambda one: tf.cast(one, dtype) if tf.is_tensor(one) and one.dtype.is_floating else one, y
    )


def _weighted(losses, sample_weight):
    """Returns each example's losses times its weight."""
    if not tf.is_tensor(sample_weight) or losses.shape.rank == 0:
        raise ValueError(
            "With a function as `loss`, `sample_weight` must be one array, and the function must return a loss for "
            f"each example. Received: shape of the losses={losses.shape}"
        )
    weights = tf.cast(sample_weight, losses.dtype)
    if weights.shape.rank == losses.shape.rank + 1 and weights.shape[-1] == 1:
        weights = tf.squeeze(weights, -1)
    return losses * tf.reshape(weights, [*weights.shape, *[1] * (losses.shape.rank - weights.shape.rank)])


def _refuse_weighted_mean(losses, chunks_are_weighted):
    divided = [loss for loss in losses if getattr(loss, "reduction", "") == "mean_with_sample_weight"]
    if chunks_are_weighted and divided:
        raise ValueError(
            "A loss that is divided by the sum of the weights can't be added up over chunks: `batch_size` must be "
            f"None, or the reduction another one. Received: loss={divided}"
        )


def _refuse_no_targets(good):
    if not good:
        raise ValueError("`y` must hold the targets that the loss compares predictions with. Received: y=None")


def _refuse_mask(prediction, chunked):
    if chunked and any(keras_internals.get_mask(tensor) is not None for tensor in keras.tree.flatten(prediction)):
        raise ValueError(
            "`batch_size` must be None for a model whose output has a mask: chunks may differ in the number of steps "
            "that count. Received: a masked output"
        )
