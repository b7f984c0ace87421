"""A compiled model and some real batches, to be tried out in every way and left exactly as they were."""

import contextlib
import dataclasses
import functools
import math
import time

import keras
import numpy as np
import tensorflow as tf

from kregkit._core.backends import require_tensorflow
from kregkit._core.checks import check_data, check_integer
from kregkit._core.graph import all_layers, last_activation
from kregkit._core.keras_internals import build_as_fit_does
from kregkit._core.output_kinds import flat_losses, output_tasks, task_of_loss
from kregkit._core.weights import assign_values, copy_values
from kregkit.diagnostics._calls import quiet, recorded
from kregkit.diagnostics._constant_outputs import constant_outputs
from kregkit.diagnostics._data import named_arrays, sample_batches
from kregkit.diagnostics._optimizers import fresh_optimizer
from kregkit.diagnostics._untouched import untouched

# Of one pass, how many numbers are kept: 256 MiB of float32.
_MAX_NUMBERS = 2**26


@contextlib.contextmanager
def probing(model, data, batch_size=32, max_examples=1024, end=math.inf):
    """Yields a `Probe`; `data` that is one already, as `preflight` passes it on, is yielded as it is.

    No more is read after `end`, a `time.monotonic()`; the probe's `cut` says so.
    """
    if isinstance(data, Probe):
        yield data
        return
    require_tensorflow("A check of a model")
    _check_model(model)
    check_integer("batch_size", batch_size, 2)
    check_data("data", data)
    batches = sample_batches(data, batch_size, max_examples, end=end)
    late = time.monotonic() >= end
    if model.loss is not None and batches[0][1] is None:
        raise ValueError("Every batch must hold inputs and labels. Received: y=None")
    if not (model.built and all(layer.built for layer in all_layers(model))):
        # Not undone afterwards: `fit` goes on with the same weights that it would have drawn itself.
        build_as_fit_does(model, batches[0])
    with untouched(model):
        probe = Probe(model, batches, data)
        num = len(keras.tree.flatten(probe.examples[0])[0])
        probe.cut = f"reading the data is slow, all checks see {num} examples" if late and num < max_examples else ""
        yield probe


def _check_model(model):
    if not isinstance(model, keras.Model) or not getattr(model, "compiled", False) or model.optimizer is None:
        raise ValueError(f"`model` must be a compiled Keras model with an optimizer. Received: model={model!r}")
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
        deadline: Float, the `time.monotonic()` by which the running check should end. Defaults to infinity.
        cut: String, what the running check left out to keep to it; empty where it left out nothing.
    """

    def __init__(self, model, batches, data=None):
        self.model = model
        self.batches = batches
        self.data = data
        self.deadline, self.cut = math.inf, ""
        self._compiled_gradients, self._numbers = {}, 0
        self.examples = tuple(
            None if parts[0] is None else keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
            for parts in zip(*batches)
        )

    def first(self, num):
        """Returns the first `num` examples as a batch."""
        return keras.tree.map_structure(lambda array: None if array is None else array[:num], self.examples)

    def spread(self, num):
        """Returns `num` examples: evenly spaced ones of a dataset in its order, and the first of shuffled arrays."""
        total = len(keras.tree.flatten(self.examples[0])[0])
        if not isinstance(self.data, (tf.data.Dataset, keras.utils.PyDataset)) or num >= total:
            return self.first(num)
        index = np.linspace(0, total - 1, num).astype(int)
        return keras.tree.map_structure(lambda array: None if array is None else array[index], self.examples)

    def time_left(self):
        """Returns the seconds until the deadline."""
        return self.deadline - time.monotonic()

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
        calls = []
        with recorded(self.model, calls):
            prediction = self.model(self.first(1)[0], training=False)
        self._numbers = sum(int(np.prod(tensor.shape)) for _, outputs in calls for tensor in outputs)
        return prediction

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
        known = [(of_loss or task, shape) for of_loss, task, shape in zip(self.loss_tasks, self.tasks, shapes)]
        if len(known) != len(named):
            known = [(None, ())] * len(named)
        return [(name, array, *one) for (name, array), one in zip(named, known)]

    @functools.cached_property
    def observation(self):
        """One quiet forward and backward pass over up to 128 examples, of large models 16, run eagerly.

        Holds `loss` and `total` (with penalties), `baseline` (the loss of a prediction that knows nothing), `constant`
        (the loss of the best prediction that is the same for all examples: class frequencies, mean or median),
        `outputs`, `records` (list of `Record`, in the order of the calls) and `gradients` (one array per trainable
        variable, None where the loss doesn't depend on it).
        """
        tasks, calls, variables = self.tasks, [], [variable.value for variable in self.model.trainable_variables]
        # The outputs of every layer are kept.
        x, y, weight = self.first(min(128, max(16, _MAX_NUMBERS // max(self._numbers, 1))))
        with tf.GradientTape() as tape:
            with recorded(self.model, calls), quiet(self.model):
                prediction = self.model(x, training=False)
            loss, total = self.loss(x, y, prediction, weight, training=False)
        # All at once: a pass per layer would cost the square of the depth.
        flat = [output for _, outputs in calls for output in outputs]
        slopes = tape.gradient(total, [*variables, *flat])
        gradients, slopes = slopes[: len(variables)], iter(slopes[len(variables) :])
        records = []
        for layer, values in calls:
            pairs = [(value, next(slopes)) for value in values]
            zeros = [tf.zeros_like(value) if slope is None else slope for value, slope in pairs]
            records.append(Record(layer, _arrays(values), _arrays(zeros)))
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
            records=records,
            gradients=_arrays(gradients),
        )

    def gradients(self, calm):
        """Returns the compiled `function(x, y, weight, scale)` that returns `(loss, prediction, gradients)`.

        Gradients are those of `scale` times the loss. If `calm`, the pass is quiet and its loss without penalties.
        It is traced once for all checks: of deep models that takes longer than many steps.
        """
        if calm in self._compiled_gradients:
            return self._compiled_gradients[calm]
        variables = self.model.trainable_variables

        def gradients(x, y, weight, scale):
            with tf.GradientTape() as tape:
                with quiet(self.model) if calm else contextlib.nullcontext():
                    prediction = self.model(x, training=not calm)
                plain, total = self.loss(x, y, prediction, weight, training=True)
                loss = plain if calm else total
                scaled = loss * tf.cast(scale, loss.dtype)
            return loss, prediction, tape.gradient(scaled, [variable.value for variable in variables])

        self._compiled_gradients[calm] = self.compiled(gradients)
        return self._compiled_gradients[calm]

    def trainer(self, optimizer, calm=False, predicts=False):
        """Returns `step(x, y, weight)`, one real training step on the model's weights, which returns the loss.

        Args:
            optimizer: Keras optimizer, fresh.
            calm: Boolean, whether the step is quiet and its loss without penalties.
            predicts: Boolean, whether `step` returns `(loss, prediction)`, both from before the step.
        """
        variables = self.model.trainable_variables
        optimizer.build(variables)
        gradients = self.gradients(calm)

        def update(slopes):
            pairs = [(slope, variable) for slope, variable in zip(slopes, variables) if slope is not None]
            if pairs:
                optimizer.apply(*map(list, zip(*pairs)))

        update = self.compiled(update)

        def step(x, y, weight):
            loss, prediction, slopes = gradients(x, y, weight, optimizer.scale_loss(tf.constant(1.0)))
            update(slopes)
            return (loss, prediction) if predicts else loss

        return step

    @functools.cached_property
    def _own_trainer(self):
        optimizer = fresh_optimizer(self.model.optimizer)
        step = self.trainer(optimizer)
        return optimizer, step, copy_values(optimizer.variables)

    def own_trainer(self):
        """Returns `(optimizer, step)`: a fresh copy of the model's optimizer, and a step by it, traced once."""
        optimizer, step, values = self._own_trainer
        assign_values(optimizer.variables, values)
        return optimizer, step


def _arrays(tensors):
    # Gradients of embeddings are sparse.
    return [None if tensor is None else tf.convert_to_tensor(tensor).numpy() for tensor in tensors]


def _uninformed(task, tensor, activation):
    """Returns the prediction of someone who knows nothing: what the last activation makes of zeros."""
    if task is not None and task.kind == "probabilities":
        return tf.fill(tf.shape(tensor), tf.cast(1 / tensor.shape[-1] if task.link == "softmax" else 0.5, tensor.dtype))
    known = activation in ("sigmoid", "softplus", "exponential") and (task is None or task.kind == "values")
    return keras.activations.get(activation)(tf.zeros_like(tensor)) if known else tf.zeros_like(tensor)
