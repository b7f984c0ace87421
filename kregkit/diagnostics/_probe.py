"""A compiled model and some real batches, to be tried out in every way and left exactly as they were."""

import contextlib
import copy
import functools
import logging
import random
import sys

import keras
import numpy as np
import tensorflow as tf

from kregkit._core.checks import check_integer
from kregkit._core.optimizers import leaf_optimizers
from kregkit._core.tasks import loss_tasks, output_tasks
from kregkit._core.weights import assign_values, copy_values
from kregkit.diagnostics._data import sample_batches


@contextlib.contextmanager
def untouched(model):
    """Lets a block do anything to a model's variables; afterwards their bits, and all seeds, are what they were."""
    variables = list({id(one): one for one in _all_variables(model)}.values())
    values = copy_values(variables)
    # Building a loss creates metrics in it, which the user's own first step shall do.
    compiled_loss = model._compile_loss
    attributes = {} if compiled_loss is None else dict(vars(compiled_loss))
    metrics = [] if compiled_loss is None else list(compiled_loss._metrics)
    state, numpy_state = random.getstate(), np.random.get_state()
    functions = {name: vars(model).get(name) for name in ("train_function", "test_function", "predict_function")}
    # Many small functions are traced here once each, of which TensorFlow would warn.
    logger = logging.getLogger("tensorflow")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        yield
    finally:
        logger.setLevel(level)
        assign_values(variables, values)
        if compiled_loss is not None:
            vars(compiled_loss).clear()
            vars(compiled_loss).update(attributes)
            compiled_loss._metrics[:] = metrics
        vars(model).update(functions)
        random.setstate(state)
        np.random.set_state(numpy_state)
        for layer in model._flatten_layers():
            # Penalties are tensors of the graphs that were traced here.
            layer._clear_losses()


def _all_variables(model):
    yield from model.variables
    yield from model.metrics_variables
    if model.optimizer is not None:
        yield from model.optimizer.variables
    # What layers without a seed of their own draw from.
    yield sys.modules[keras.random.SeedGenerator.__module__].global_seed_generator().state


@contextlib.contextmanager
def probing(model, data, batch_size=32, max_examples=1024):
    """Yields a `Probe`; `data` that is one already, as `preflight` passes it on, is yielded as it is."""
    if isinstance(data, Probe):
        yield data
        return
    _check_model(model)
    check_integer("batch_size", batch_size, 2)
    with untouched(model):
        yield Probe(model, sample_batches(data, batch_size, max_examples))


def _check_model(model):
    if not isinstance(model, keras.Model) or not getattr(model, "compiled", False) or model.optimizer is None:
        raise ValueError(f"`model` must be a compiled Keras model with an optimizer. Received: model={model!r}")
    if not model.built:
        raise ValueError(
            "`model` must be built, so that its weights exist: begin it with a keras.Input, or call it on a batch "
            f"first. Received: model={model.name!r}, built={model.built}"
        )
    if model.distribute_strategy is not None and model.distribute_strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "Checks run on one device: build the model outside of the strategy's scope for them. "
            f"Received: replicas={model.distribute_strategy.num_replicas_in_sync}"
        )


class Record:
    """What one layer did in one call: its inputs, outputs, and the loss's gradient to the outputs, as arrays."""

    def __init__(self, layer, inputs, outputs, gradients=None):
        self.layer, self.inputs, self.outputs, self.gradients = layer, inputs, outputs, gradients


class Observation:
    """A quiet step on the observed batch, as arrays: see `Probe.observation`."""

    def __init__(self, **values):
        vars(self).update(values)


class Probe:
    """The model, batches, and what can be done with them. Use inside `untouched` only.

    Attributes:
        model: The compiled model.
        batches: List of `(x, y, sample_weight)`.
        examples: The same, joined.
    """

    def __init__(self, model, batches):
        self.model = model
        self.batches = batches
        self.examples = join(batches)

    def compiled(self, function):
        """Returns `function` as a graph, unless the model is one that must run eagerly."""
        return function if self.model.run_eagerly else tf.function(function, reduce_retracing=True, autograph=False)

    def loss(self, x, y, prediction, weight, training):
        """Returns the compiled loss without and with the penalties of regularisers."""
        total = self.model.compute_loss(x=x, y=y, y_pred=prediction, sample_weight=weight, training=training)
        penalties = [tf.cast(tf.reduce_sum(penalty), total.dtype) for penalty in self.model.losses]
        penalty = tf.add_n(penalties) if penalties else tf.zeros((), total.dtype)
        return total - penalty, total

    @functools.cached_property
    def tasks(self):
        """One `Task`, or None, per output."""
        prediction = self.model(keras.tree.map_structure(lambda array: array[:1], self.examples[0]), training=False)
        self.structure = prediction
        try:
            return output_tasks(self.model, prediction)
        except ValueError:
            return [None] * len(keras.tree.flatten(prediction))

    @property
    def loss_tasks(self):
        """What the losses alone say about the outputs; None where they say nothing."""
        told = loss_tasks(self.model)
        return list(told) if len(told) == len(self.tasks) else [None] * len(self.tasks)

    @functools.cached_property
    def observation(self):
        """One quiet forward and backward pass over up to 128 examples.

        Quiet: batch normalisation uses the batch's statistics, as in training, and no layer draws random numbers.
        Holds `loss` and `total` (with penalties), `baseline` (the loss of a prediction that knows nothing),
        `constant` (the loss of the labels' mean, where the outputs are values), `outputs`, `records` (list of
        `Record`, in the order of the calls) and `gradients` (one array per trainable variable, None if detached).
        """
        model, num = self.model, min(128, len(keras.tree.flatten(self.examples[0])[0]))
        x, y, weight = keras.tree.map_structure(lambda a: None if a is None else a[:num], self.examples)
        tasks, variables, calls = self.tasks, model.trainable_variables, []

        def observe(x, y, weight):
            calls.clear()
            with tf.GradientTape(persistent=True) as tape:
                with recorded(model, calls), quiet(model):
                    prediction = model(x, training=False)
                loss, total = self.loss(x, y, prediction, weight, training=False)
            outputs = [outputs for _, _, outputs in calls]
            sources = [[t for t in keras.tree.flatten(one) if _is_float(t)] for one in outputs]
            gradients = keras.tree.pack_sequence_as(
                sources, tape.gradient(total, keras.tree.flatten(sources), unconnected_gradients="zero")
            )
            slopes = [
                None if slope is None else tf.convert_to_tensor(slope)
                for slope in tape.gradient(total, [variable.value for variable in variables])
            ]
            penalty = total - loss
            flat = [_uninformed(task, tensor) for task, tensor in zip(tasks, keras.tree.flatten(prediction))]
            guess = keras.tree.pack_sequence_as(prediction, flat)
            baseline = self.model.compute_loss(x=x, y=y, y_pred=guess, sample_weight=weight, training=False) - penalty
            return {
                "loss": loss,
                "total": total,
                "baseline": baseline,
                "outputs": keras.tree.flatten(prediction),
                "inputs": [[t for t in keras.tree.flatten(one) if tf.is_tensor(t)] for _, one, _ in calls],
                "values": sources,
                "layer_gradients": gradients,
                "gradients": [slope for slope in slopes if slope is not None],
                "attached": [slope is not None for slope in slopes],
            }

        seen = self.compiled(observe)(x, y, weight)
        seen = keras.tree.map_structure(lambda t: t.numpy() if tf.is_tensor(t) else t, seen)
        records = [
            Record(layer, inputs, values, gradients)
            for (layer, _, _), inputs, values, gradients in zip(
                calls, seen["inputs"], seen["values"], seen["layer_gradients"]
            )
        ]
        slopes = iter(seen["gradients"])
        return Observation(
            num=num,
            loss=float(seen["loss"]),
            total=float(seen["total"]),
            baseline=float(seen["baseline"]),
            outputs=seen["outputs"],
            records=records,
            gradients=[next(slopes) if attached else None for attached in seen["attached"]],
        )

    def optimizer(self, learning_rate=None):
        """Returns a fresh copy of the model's optimizer with no slots yet, its rates plain numbers."""
        original = self.model.optimizer
        config = copy.deepcopy(original.get_config())
        rates = self.rates()
        if learning_rate is not None:
            rates = [learning_rate * rate / rates[0] if rates[0] else learning_rate for rate in rates]
        fresh = type(original).from_config(_plain_rates(config, iter(rates)))
        for leaf, rate in zip(leaf_optimizers(fresh), rates):
            leaf.learning_rate = rate
        return fresh

    def rates(self):
        """Returns each leaf optimizer's learning rate; of a schedule, the highest from here on."""
        return [_rate(leaf) for leaf in leaf_optimizers(self.model.optimizer)]

    def trainer(self, optimizer, calm=False, ratios=False):
        """Returns a compiled `step(x, y, weight)`, one real training step on the model's weights.

        Args:
            optimizer: Keras optimizer, fresh.
            calm: Boolean, whether the step is quiet and its loss without penalties.
            ratios: Boolean, whether `step` returns `(loss, update norms, weight norms)` rather than the loss.
        """
        variables = self.model.trainable_variables
        optimizer.build(variables)

        def step(x, y, weight):
            with tf.GradientTape() as tape:
                with quiet(self.model) if calm else contextlib.nullcontext():
                    prediction = self.model(x, training=not calm)
                plain, total = self.loss(x, y, prediction, weight, training=True)
                loss = plain if calm else total
                scaled = optimizer.scale_loss(loss)
            gradients = tape.gradient(scaled, [variable.value for variable in variables])
            pairs = [(gradient, variable) for gradient, variable in zip(gradients, variables) if gradient is not None]
            before = [tf.identity(variable.value) for variable in variables] if ratios else []
            if pairs:
                optimizer.apply(*map(list, zip(*pairs)))
            if not ratios:
                return loss
            moved = [tf.norm(tf.cast(v.value - b, "float32")) for v, b in zip(variables, before)]
            return loss, moved, [tf.norm(tf.cast(b, "float32")) for b in before]

        return self.compiled(step)


def join(batches):
    """Returns one batch from several."""
    return tuple(
        None if parts[0] is None else keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
        for parts in zip(*batches)
    )


def _is_float(value):
    return tf.is_tensor(value) and value.dtype.is_floating


def _uninformed(task, tensor):
    """Returns the prediction of someone who knows nothing."""
    if task is not None and task.kind == "probabilities":
        return tf.fill(tf.shape(tensor), tf.cast(1 / tensor.shape[-1] if task.link == "softmax" else 0.5, tensor.dtype))
    return tf.zeros_like(tensor)


def _rate(leaf):
    schedule = getattr(leaf, "_learning_rate", None)
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        now = int(keras.ops.convert_to_numpy(leaf.iterations))
        steps = now + np.unique(np.geomspace(1, 1e5, 60).astype(int)) - 1
        return max(float(schedule(int(step))) for step in steps)
    return float(keras.ops.convert_to_numpy(leaf.learning_rate))


def _plain_rates(config, rates):
    """Returns an optimizer's config with numbers in place of schedules, inner optimizers' included."""
    if isinstance(config, dict):
        return {
            key: next(rates, 0.001) if key == "learning_rate" else _plain_rates(value, rates)
            for key, value in config.items()
        }
    return [_plain_rates(value, rates) for value in config] if isinstance(config, list) else config


def leaves(model):
    """Returns the layers that hold no other layers, in the model's order, and those of composite layers."""
    return [layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)]


@contextlib.contextmanager
def recorded(model, calls):
    """Appends `(layer, inputs, outputs)` to `calls` for each layer that is called in the block."""

    def recording(layer):
        call = layer.call

        @functools.wraps(call)
        def run(*args, **kwargs):
            outputs = call(*args, **kwargs)
            calls.append((layer, args[:1], outputs))
            return outputs

        return run

    with _shadowed({layer: recording(layer) for layer in leaves(model)}):
        yield


@contextlib.contextmanager
def quiet(model):
    """Makes batch normalisation use the batch's statistics although the model is called with `training=False`."""

    def trained(layer):
        call = layer.call

        @functools.wraps(call)
        def run(*args, **kwargs):
            return call(*args, **{**kwargs, "training": True})

        return run

    layers = [
        layer for layer in leaves(model) if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    with _shadowed({layer: trained(layer) for layer in layers}):
        yield


@contextlib.contextmanager
def _shadowed(calls):
    # Attributes of the instances shadow their methods, without Keras tracking them.
    before = {layer: vars(layer).get("call") for layer in calls}
    for layer, call in calls.items():
        vars(layer)["call"] = call
    try:
        yield
    finally:
        for layer, call in before.items():
            if call is None:
                del vars(layer)["call"]
            else:
                vars(layer)["call"] = call
