"""The train step that a fit's traced callbacks share: their clock, their hooks, and the traced functions they reuse.

A `TrainStep` belongs to one model during one `fit`. Its hooks run inside the compiled step, under
`steps_per_execution`, XLA and `tf.distribute` alike. What a trace reads outlives the fit: `KeptFunctions` keeps traced
functions and their variables beside the model's own train function, so that a later fit whose callbacks have the same
kinds and settings traces nothing. Keras drops its train function when a trace of it would no longer be right
(`compile`, for one), and what is kept goes with it.
"""

import contextlib
import functools
import warnings

import keras
import tensorflow as tf

from kregkit._core import keras_internals
from kregkit._core.graph import all_layers
from kregkit._core.optimizers import leaf_optimizers, own_optimizers, wrapped_optimizers
from kregkit._core.training_data import remember_training_data
from kregkit.callbacks._gradients_again import rerouted
from kregkit.callbacks._kept_functions import KeptFunctions, TracedFunction
from kregkit.callbacks._trace_key import Identity, Unrepeatable, hook_key, value_key
from kregkit.callbacks._train_function import TrainFunction


class Hook:
    """What a train step calls. `before_step`, `after_step` and `after_update` run inside the compiled step.

    Attributes:
        needs_compiled_optimizer: True if the hook only works when the step calls `model.optimizer.apply`.
        untraced_attributes: Names of the attributes that the three traced methods don't read. All others decide
            whether a later fit can reuse the traced step; those of base classes need not be repeated.
    """

    needs_compiled_optimizer = False
    untraced_attributes: tuple[str, ...] = ()

    def restore(self):
        """Runs once per fit, after the last `on_train_begin` of all callbacks and before every hook's `prepare`."""

    def prepare(self):
        """Runs once per fit, after the last `on_train_begin` of all callbacks and before the first epoch."""

    def before_step(self, step):
        """Runs inside the step before the model's own. `step`: int64 scalar tensor, batches trained so far."""

    def after_step(self, step, logs):
        """Runs inside the step after the model's own; may add scalar tensors to the dictionary `logs`."""

    def after_update(self, step):
        """Runs inside the step when it has changed the weights: not on skipped or accumulated batches."""

    def apply_gradients(self, step, gradients, variables, apply, gradients_again):
        """Runs inside the step in place of the compiled optimizer's `apply`, which it calls.

        Args:
            step: As for `before_step`.
            gradients: List of tensors, scaled as the optimizer wants them; `None` where there is none.
            variables: List of the variables that they belong to.
            apply: Function of gradients and variables, the optimizer's own.
            gradients_again: Function without arguments that runs the model's own step again up to this place, with the
                weights as they are when it is called and the same random numbers, and returns its gradients. Nothing
                else of that second run is kept.
        """
        return apply(gradients, variables)

    def before_epoch_end(self, logs):
        """Runs at each epoch's end before any callback's `on_epoch_end`; may change the dictionary `logs` for all."""

    def release(self):
        """Runs once when the fit has ended, in whatever way: put back here what the step changed."""


class TrainStep:
    """The train step of one model during one fit, with the hooks of all traced callbacks.

    Attributes:
        model: The model.
        epochs: Integer, the epoch at which the fit ends.
        steps_per_epoch: Integer, or `None` where the data's length is unknown.
        step: `tf.Variable`, int64, batches trained: read it inside the step.
        epoch: `tf.Variable`, int64, the present epoch.
        offset: Integer, batches that `step` is ahead of whole epochs, after a restart within one.
        epoch_start: Integer, what `step` was when the present epoch began.
        resumed: The place that the run goes on from, `(epoch, step, epoch_start)`, or `None`.
        callbacks: List of all the fit's callbacks.
        validation: Dictionary of the arguments of `fit` that concern validation; empty outside of `fit`.
    """

    @classmethod
    def join(cls, callback):
        """Returns the running fit's train step with `callback`'s hooks in it; the first to join installs it."""
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                f"{type(callback).__name__} traces its work into TensorFlow's train step, so the backend must be "
                f"TensorFlow. Received: backend={keras.backend.backend()!r}"
            )
        if callback.train_step is not None:
            # Of a fit that ended in an error which somebody still looks at, or that runs around this one.
            callback.train_step.close()
        found = TrainFunction.find(callback.model)
        self = cls(callback.model, callback.params) if found is None else found.train_step
        if self.callbacks and sum(other is callback for other in self.callbacks) > 1:
            self.close()
            raise ValueError(
                f"The same {type(callback).__name__} object stands in the list of callbacks twice; make two. "
                f"Received: callbacks={[type(other).__name__ for other in self.callbacks]}"
            )
        self.hooks.append(callback)
        return self

    def __init__(self, model, params):
        _check_loss_scaling(model)
        self.model = model
        self.epochs = params.get("epochs") or 1
        self.steps_per_epoch = params.get("steps")
        self.offset = 0
        self.epoch_start = 0
        self.resumed = None
        self.hooks = []
        self.traced = False
        callback_list = keras_internals.running_callback_list(model)
        self.callbacks = [] if callback_list is None else callback_list.callbacks
        fit = keras_internals.running_fit(model)
        names = ("validation_data", "validation_steps", "validation_split", "validation_freq")
        # Only these: the fit's other names hold its callback list, whose end must be noticed.
        self.validation = {name: fit[name] for name in names if name in fit}
        remember_training_data(model, fit.get("x"))
        self.kept = KeptFunctions.of(model)
        self.kept.current = self
        self._slots = []
        self.step = self.variable(self, "step", 0, "int64")
        self.epoch = self.variable(self, "epoch", 0, "int64")
        self._plain_step = model.train_step
        self._traced = None
        self._prepared = False
        self._build()
        self._updating, self._undriven, self._unsure, self._warned = set(), [], False, False
        driven = wrapped_optimizers(model.optimizer)
        self._driven = {id(optimizer) for optimizer in driven}
        others = [optimizer for optimizer in own_optimizers(model) if id(optimizer) not in self._driven]
        self._train_function = TrainFunction(self, callback_list, [*driven, *others])

    @property
    def closed(self):
        """Whether the fit has ended, or the train step was taken out of it."""
        return self._train_function.closed

    def share(self, kind):
        """Returns the one hook of class `kind` in this fit; the first call makes it, as `kind(self)`."""
        for hook in self.hooks:
            if type(hook) is kind:
                return hook
        self.hooks.append(kind(self))
        return self.hooks[-1]

    def find(self, kind):
        """Returns the list of the fit's callbacks of class `kind`, in their order."""
        return [callback for callback in self.callbacks if isinstance(callback, kind)]

    def variable(self, owner, name, value, dtype):
        """Returns a variable for a hook to read and assign in the step, with `value` in it.

        Later fits in which a hook of the same class, at the same place among those of its class, asks for the same
        name get the same variable, so that a traced step can be reused. It holds another fit's values afterwards:
        what is to last must be copied in `release`.

        Args:
            owner: The hook.
            name: String, different for each of the hook's variables.
            value: Number or array.
            dtype: String.
        """
        kinds = [hook for hook in self.hooks if type(hook) is type(owner)]
        position = next((index for index, hook in enumerate(kinds) if hook is owner), len(kinds))
        with self.model.distribute_strategy.scope():
            variable = self.kept.variable((type(owner), position, name), value, dtype)
        self._slots.append(variable)
        return variable

    def prepare(self):
        """Lets every hook prepare itself once all callbacks have begun."""
        if not self._prepared:
            self._prepared = True
            # A list of its own: a hook may ask for another one.
            for hook in list(self.hooks):
                hook.restore()
            for hook in self.hooks:
                hook.prepare()

    def start_epoch(self, epoch):
        """Sets the clock at an epoch's begin; every hook may call it."""
        self.prepare()
        self.epoch.assign(epoch)
        if self.resumed is not None and self.resumed[0] == epoch:
            self.step.assign(self.resumed[1])
            self.epoch_start = self.resumed[2]
            return
        if self.steps_per_epoch is not None:
            self.step.assign(epoch * self.steps_per_epoch + self.offset)
        self.epoch_start = self.steps_done()

    def end_epoch(self, epoch, logs=None):
        """Runs at an epoch's end, before any callback sees the logs."""
        self.check_epoch()
        for hook in self.hooks if logs is not None else ():
            hook.before_epoch_end(logs)

    def steps_done(self):
        """Returns the number of batches trained, as an integer; outside of the step."""
        return int(keras.ops.convert_to_numpy(self.step.read_value()))

    def retrace(self):
        """Call when something that the model's own step has baked in changes, such as which layers train."""
        self._train_function.choose_again()

    def close(self):
        """Ends the work of all hooks and puts everything back, as at the end of the fit."""
        self._train_function.close()

    def end(self):
        """Lets every hook go: once, when everything else has been undone."""
        if not self.traced and self._traced is not None:
            # Its first step raised, so nobody knows what it holds.
            self.kept.forget(self._traced)
        errors = []
        for hook in self.hooks:
            try:
                hook.release()
            except Exception as error:
                errors.append(error)
            if isinstance(hook, keras.callbacks.Callback):
                hook.train_step = None
        if self.kept.current is self:
            self.kept.current = None
        self._slots, self.validation = [], {}
        if errors:
            raise errors[0]

    # What runs inside the step.

    def run(self, data):
        """The step that is traced: the model's own between the hooks."""
        averaging = [hook for hook in self.hooks if type(hook).after_update is not Hook.after_update]
        # Where the data ends unannounced, TensorFlow begins one more step, and whatever in it needs no data runs before
        # the end is noticed (Keras's own `iterations` among it). What hooks do waits for the data.
        tensors = [part for part in tf.nest.flatten(data, expand_composites=True) if tf.is_tensor(part)]
        with tf.control_dependencies(tensors):
            step = tf.identity(self.step)
            before = self._updates() if averaging else None
            for hook in self.hooks:
                hook.before_step(step)
        with self._rerouted(data, step):
            logs = self._plain_step(data)
        # Tracing has met every branch; run eagerly, a later step may take another one.
        if not tf.executing_eagerly():
            self._check_updating()
        with tf.control_dependencies([step]):
            if averaging:
                # Loss scaling and gradient accumulation train batches without updating the weights.
                tf.cond(self._updates() > before, lambda: self._average(averaging, step), lambda: False)
            logs = dict(logs)
            for hook in self.hooks:
                hook.after_step(step, logs)
            self.step.assign_add(1)
        return logs

    def _rerouted(self, data, step):
        """Returns a context in which the compiled optimizer's `apply` goes through the hook that wants to see it."""
        hooks = [hook for hook in self.hooks if type(hook).apply_gradients is not Hook.apply_gradients]
        if not hooks:
            return contextlib.nullcontext()
        return rerouted(self.model, lambda: self._plain_step(data), functools.partial(hooks[0].apply_gradients, step))

    def _average(self, hooks, step):
        for hook in hooks:
            hook.after_update(step)
        return True

    def _updates(self):
        # Wrappers count batches; what counts updates is the optimizers that make them.
        return tf.add_n([tf.cast(leaf.iterations, tf.int64) for leaf in leaf_optimizers(self.model.optimizer)])

    # Which function runs.

    def choose_function(self, iterator, make):
        """Returns the train function of an earlier fit with the same settings, or `make()`, a new one.

        Args:
            iterator: What the function will be called with.
            make: Function that returns a train function which calls `KeptFunctions.run` while it is traced.
        """
        self.prepare()
        if self.model.run_eagerly:
            self._look_ahead(iterator)
            return make()
        try:
            key = self._key()
        except Unrepeatable:
            self._traced = None
            return make()
        self._traced = self.kept.find(key)
        if self._traced is None:
            self._traced = TracedFunction(key, make(), list(self._slots))
            self.traced = False
            self.kept.keep(self._traced)
        else:
            self.traced = True
            self._warn_of(self._traced.undriven)
        return self._traced.function

    def _key(self):
        model = self.model
        parts = [model, *all_layers(model), *model.variables]
        return (
            value_key(self._plain_step),
            tuple(_optimizer_key(leaf) for leaf in wrapped_optimizers(model.optimizer)),
            (model.jit_compile, model.steps_per_execution, model.unrolled_steps_per_execution),
            Identity(model.distribute_strategy),
            tuple((id(part), part.trainable) for part in parts),
            tuple(hook_key(hook) for hook in self.hooks),
        )

    # Whether the step trains by the optimizer that the hooks watch.

    def note_update(self, optimizer):
        """Called when the step calls an optimizer."""
        self._updating.add(id(optimizer))
        if id(optimizer) not in self._driven and all(optimizer is not other for other in self._undriven):
            self._undriven.append(optimizer)

    def _needing(self):
        return [type(hook).__name__ for hook in self.hooks if hook.needs_compiled_optimizer]

    def _check_updating(self):
        if not self._needing():
            return
        if not self._updating & self._driven:
            raise ValueError(
                f"{', '.join(self._needing())} would have no effect: the model's own `train_step` doesn't update the "
                "weights by the optimizer that `compile` was given. Compile with the one that it uses (`optimizer=`, "
                f"or `super().compile(optimizer=...)`). Received: optimizer={self.model.optimizer.name!r}"
            )
        names = [optimizer.name for optimizer in self._undriven]
        if self._traced is not None:
            self._traced.undriven = names
        self._warn_of(names)

    def _warn_of(self, names):
        # TensorFlow traces a step twice whose first trace makes variables.
        if names and self._needing() and not self._warned:
            self._warned = True
            warnings.warn(
                f"{', '.join(self._needing())} acts on the optimizer that `compile` was given, and the model's own "
                f"`train_step` also trains by {names}, whose rates and updates stay as they are. "
                f"Received: optimizer={self.model.optimizer.name!r}",
                stacklevel=2,
            )

    def _look_ahead(self, iterator):
        """Traces an eager model's own step once without running it, to see which optimizers it calls."""
        own = getattr(self._plain_step, "__func__", None) is not keras.Model.train_step
        spec = getattr(iterator, "element_spec", None)
        if not own or spec is None or not self._needing():
            return
        attributes = vars(self.model)
        before = dict(attributes)
        try:
            tf.function(self._plain_step).get_concrete_function(spec)
        except Exception:
            # A step that only runs eagerly: the first epoch will tell.
            self._unsure = True
        finally:
            # Steps may count themselves in plain attributes, and do something else every so many times.
            for name in set(attributes) | set(before):
                if name not in before:
                    del attributes[name]
                elif attributes.get(name) is not before[name]:
                    self._unsure = self._unsure or isinstance(before[name], (int, float))
                    attributes[name] = before[name]
        if not self._unsure:
            self._check_updating()

    def check_epoch(self):
        """Raises at the first epoch's end if an eager step that one trace couldn't show has used another optimizer."""
        if self._unsure:
            self._unsure = False
            self._check_updating()

    # What `fit` would make at its first step, and hooks may need before.

    def _build(self):
        model = self.model
        if not all(layer.built for layer in all_layers(model)) or not model.built:
            spec = keras_internals.running_fit_spec(model)
            # A step of the model's own may feed it something else.
            if spec is not None and getattr(self._plain_step, "__func__", None) is keras.Model.train_step:
                _build_model(model, spec)
        built = all(layer.built for layer in all_layers(model))
        if model.optimizer is not None and not model.optimizer.built and built and model.trainable_variables:
            with model.distribute_strategy.scope():
                model.optimizer.build(model.trainable_variables)


def _build_model(model, spec):
    """Makes the weights of a model that is built by its first batch, from the types of that batch."""
    x = keras.utils.unpack_x_y_sample_weight(spec)[0]
    try:
        inputs = keras.tree.map_structure(lambda one: keras.KerasTensor(one.shape, one.dtype.name), x)
        with model.distribute_strategy.scope():
            model(inputs)
    except Exception:
        # A `call` that symbolic inputs don't suit: the first batch will build it, and what needs weights says so.
        return


def _check_loss_scaling(model):
    replicas = model.distribute_strategy.num_replicas_in_sync
    optimizers = [] if model.optimizer is None or replicas == 1 else wrapped_optimizers(model.optimizer)
    if any(keras_internals.loss_scaling_is_split(optimizer) for optimizer in optimizers):
        raise ValueError(
            "Under loss scaling, Keras asks one replica whether gradients have overflowed, and another's overflow "
            "turns the weights into NaN: call `kregkit.distribution.enable_loss_scaling()` once before `fit`. "
            f"Received: optimizer={model.optimizer.name!r} with {replicas} replicas"
        )


def _optimizer_key(optimizer):
    """Returns the optimizer and its plain settings, which a trace has baked in."""
    settings = {
        name: value
        for name, value in vars(optimizer).items()
        if isinstance(value, (bool, int, float, str, type(None))) and name != "built"
    }
    return (Identity(optimizer), value_key(settings))
