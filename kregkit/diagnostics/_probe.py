"""A compiled model and some real batches, to be tried out in every way and left exactly as they were."""

import contextlib
import dataclasses
import functools

import keras
import numpy as np
import tensorflow as tf

from kregkit._core.backends import require_tensorflow
from kregkit._core.checks import check_integer
from kregkit._core.graph import last_activation
from kregkit._core.tasks import flat_losses, output_tasks, task_of_loss
from kregkit.diagnostics._calls import quiet, recorded
from kregkit.diagnostics._constant_outputs import constant_outputs
from kregkit.diagnostics._data import named_arrays, sample_batches
from kregkit.diagnostics._untouched import untouched


@contextlib.contextmanager
def probing(model, data, batch_size=32, max_examples=1024):
    """Yields a `Probe`; `data` that is one already, as `preflight` passes it on, is yielded as it is."""
    if isinstance(data, Probe):
        yield data
        return
    require_tensorflow("A check of a model")
    _check_model(model)
    check_integer("batch_size", batch_size, 2)
    with untouched(model):
        batches = sample_batches(data, batch_size, max_examples)
        if model.loss is not None and batches[0][1] is None:
            raise ValueError("Every batch must hold inputs and labels. Received: y=None")
        yield Probe(model, batches, data)


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


@dataclasses.dataclass
class Record:
    """One call of a layer: its floating-point outputs, and the gradients of the loss to them, as arrays."""

    layer: keras.layers.Layer
    outputs: list
    gradients: list


@dataclasses.dataclass
class Observation:
    """A quiet forward and backward pass: see `Probe.observation`."""

    num: int
    loss: float
    total: float
    baseline: float
    constant: float
    outputs: list
    records: list
    gradients: list


class Probe:
    """The model, batches, and what can be done with them. Use inside `untouched` only.

    "Quiet" passes are those in which batch normalisation uses the batch's statistics, as in training, and no layer
    draws random numbers.

    Attributes:
        model: The compiled model.
        batches: List of `(x, y, sample_weight)`, arrays or structures of them.
        examples: The same, joined.
        data: What the batches were taken from; `None` where that isn't known.
    """

    def __init__(self, model, batches, data=None):
        self.model = model
        self.batches = batches
        self.data = data
        self.examples = tuple(
            None if parts[0] is None else keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
            for parts in zip(*batches)
        )

    def first(self, num):
        """Returns the first `num` examples as a batch."""
        return keras.tree.map_structure(lambda array: None if array is None else array[:num], self.examples)

    def compiled(self, function):
        """Returns `function` as a graph, unless the model is one that must run eagerly."""
        return function if self.model.run_eagerly else tf.function(function, reduce_retracing=True, autograph=False)

    def loss(self, x, y, prediction, weight, training):
        """Returns the compiled loss without and with the penalties of regularisers."""
        total = self.model.compute_loss(x=x, y=y, y_pred=prediction, sample_weight=weight, training=training)
        penalties = [tf.cast(tf.reduce_sum(penalty), total.dtype) for penalty in self.model.losses]
        return (total - tf.add_n(penalties) if penalties else total), total

    @functools.cached_property
    def prediction(self):
        """The model's outputs for one example, as their structure."""
        return self.model(self.first(1)[0], training=False)

    @property
    def batches_per_epoch(self):
        """The number of batches in an epoch; None where the data don't tell."""
        if isinstance(self.data, keras.utils.PyDataset):
            return self.data.num_batches
        if isinstance(self.data, tf.data.Dataset):
            count = int(self.data.cardinality())
            return count if count > 0 else None
        if self.data is None:
            return None
        num = len(keras.tree.flatten(self.data[0])[0])
        return -(-num // len(keras.tree.flatten(self.batches[0][0])[0]))

    @functools.cached_property
    def observed_outputs(self):
        """The untrained outputs of up to 128 examples, flat, as arrays, in a quiet pass."""
        with quiet(self.model):
            return _arrays(keras.tree.flatten(self.model(self.first(128)[0], training=False)))

    @functools.cached_property
    def tasks(self):
        """One `Task`, or None, per output: what it is by its loss, or by the last activation."""
        try:
            return output_tasks(self.model, self.prediction)
        except ValueError:
            return [None] * len(keras.tree.flatten(self.prediction))

    @functools.cached_property
    def losses(self):
        """What `compile` was given for each output; None where it was given nothing."""
        return flat_losses(self.model, self.prediction, len(keras.tree.flatten(self.prediction)))

    @property
    def loss_tasks(self):
        """What the losses alone say about the outputs; None where they say nothing."""
        return [task_of_loss(loss) for loss in self.losses]

    @property
    def activations(self):
        """The name of each output's last activation; None where the model's graph doesn't tell."""
        outputs = getattr(self.model, "outputs", None) or []
        return (
            [last_activation(one) for one in outputs] if len(outputs) == len(self.losses) else [None] * len(self.losses)
        )

    def labels(self, y=None):
        """Returns `(name, array, task, shape of the output)` per label array, in the order of the outputs.

        Task and shape are None and () where there isn't one label array per output. `y` defaults to all examples'.
        """
        y = self.examples[1] if y is None else y
        if y is None:
            return []
        names = list(getattr(self.model, "output_names", None) or [])
        if isinstance(y, dict) and set(y) == set(names) and not isinstance(self.prediction, dict):
            # The outputs are a list, the labels go by their names.
            named = [(f"label {name!r}", y[name]) for name in names]
        else:
            named = named_arrays(y, "label")
        shapes = [tuple(output.shape) for output in keras.tree.flatten(self.prediction)]
        known = [(told or task, shape) for told, task, shape in zip(self.loss_tasks, self.tasks, shapes)]
        if len(known) != len(named):
            known = [(None, ())] * len(named)
        return [(name, array, *one) for (name, array), one in zip(named, known)]

    @functools.cached_property
    def observation(self):
        """One quiet forward and backward pass over up to 128 examples, run eagerly.

        Holds `loss` and `total` (with penalties), `baseline` (the loss of a prediction that knows nothing), `constant`
        (the loss of the best prediction that is the same for all examples: class frequencies, mean or median),
        `outputs`, `records` (list of `Record`, in the order of the calls) and `gradients` (one array per trainable
        variable, None where the loss doesn't depend on it).
        """
        x, y, weight = self.first(128)
        tasks, calls, variables = self.tasks, [], [variable.value for variable in self.model.trainable_variables]
        with tf.GradientTape(persistent=True) as tape:
            with recorded(self.model, calls), quiet(self.model):
                prediction = self.model(x, training=False)
            loss, total = self.loss(x, y, prediction, weight, training=False)
        # All at once: a pass per layer would cost the square of the depth.
        slopes = tape.gradient(total, [list(outputs) for _, outputs in calls], unconnected_gradients="zero")
        gradients = [
            None if slope is None else tf.convert_to_tensor(slope) for slope in tape.gradient(total, variables)
        ]
        outputs = keras.tree.flatten(prediction)
        guesses = [list(map(_uninformed, tasks, outputs, self.activations)), *constant_outputs(self.labels(y), outputs)]
        constants = [
            float(self.loss(x, y, keras.tree.pack_sequence_as(prediction, guess), weight, training=False)[0])
            for guess in guesses
        ]
        return Observation(
            num=len(keras.tree.flatten(x)[0]),
            loss=float(loss),
            total=float(total),
            baseline=constants[0],
            constant=min((one for one in constants if np.isfinite(one)), default=constants[0]),
            outputs=_arrays(outputs),
            records=[Record(layer, _arrays(values), _arrays(slope)) for (layer, values), slope in zip(calls, slopes)],
            gradients=_arrays(gradients),
        )

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


def _arrays(tensors):
    # Gradients of embeddings are sparse.
    return [None if tensor is None else tf.convert_to_tensor(tensor).numpy() for tensor in tensors]


def _uninformed(task, tensor, activation):
    """Returns the prediction of someone who knows nothing: what the last activation makes of zeros."""
    if task is not None and task.kind == "probabilities":
        return tf.fill(tf.shape(tensor), tf.cast(1 / tensor.shape[-1] if task.link == "softmax" else 0.5, tensor.dtype))
    known = activation in ("sigmoid", "softplus", "exponential") and (task is None or task.kind == "values")
    return keras.activations.get(activation)(tf.zeros_like(tensor)) if known else tf.zeros_like(tensor)
