"""The one place that changes what `fit` runs: hooks traced into the train step, gone when the fit ends.

A `TrainStep` belongs to one model during one `fit`. It wraps the model's `train_step`, so that its hooks run inside
the compiled step (under `steps_per_execution`, XLA and `tf.distribute` alike), keeps the clock they read, and undoes
everything when the fit ends: in `on_train_end`; when the step, the validation or a callback raises; when the fit's
callback list dies, which is what an exception anywhere else in `fit` leads to; and at the latest when the model's
train function is next asked for, which is how every `fit` begins.
"""

import functools
import sys
import weakref

import keras
import tensorflow as tf

from kregkit._core.optimizers import leaf_optimizers

# How Keras's loop learns that the data has ended: not a failure of the step.
_END_OF_DATA = (StopIteration, tf.errors.OutOfRangeError)

# The hooks of a fit's callback list that run between those that begin and end it.
_LIST_HOOKS = (
    *(f"on_epoch_{when}" for when in ("begin", "end")),
    *(f"on_{what}_batch_{when}" for what in ("train", "test") for when in ("begin", "end")),
    *(f"on_test_{when}" for when in ("begin", "end")),
    "on_train_end",
)


def local_variable(initial_value, dtype, name):
    """Returns a variable that each replica keeps and updates for itself, without any exchange.

    Such a variable may be assigned in a replica's step and inside `cond`, where a mirrored one may not. Reading it
    outside the step gives the first replica's value.
    """
    return tf.Variable(
        initial_value,
        dtype=dtype,
        trainable=False,
        name=name,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


class Hook:
    """What a train step calls. Everything but `release` runs inside the compiled step."""

    def before_step(self, step):
        """Runs inside the step before the model's own. `step`: int64 scalar tensor, batches trained so far."""

    def after_step(self, step, logs):
        """Runs inside the step after the model's own; may add scalar tensors to the dictionary `logs`."""

    def after_update(self, step):
        """Runs inside the step when it has changed the weights: not on skipped or accumulated batches."""

    def release(self):
        """Runs once when the fit has ended, in whatever way: put back here what the step changed."""


class TrainStep:
    """The wrapped train step of one model during one fit.

    Attributes:
        model: The model.
        epochs: Integer, the epoch at which the fit ends.
        steps_per_epoch: Integer, or `None` where the data's length is unknown.
        step: `tf.Variable`, int64, batches trained: read it inside the step.
        epoch: `tf.Variable`, int64, the present epoch.
        offset: Integer, batches that `step` is ahead of whole epochs, after a restart within one.
        callbacks: List of all the fit's callbacks.
    """

    @classmethod
    def join(cls, callback):
        """Returns the running fit's train step with `callback`'s hooks in it; the first to join installs it."""
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                f"{type(callback).__name__} traces its work into TensorFlow's train step, so the backend must be "
                f"TensorFlow. Received: backend={keras.backend.backend()!r}"
            )
        self = cls._installed_in(callback.model)
        if self is None:
            self = cls(callback.model, callback.params)
        self.hooks.append(callback)
        return self

    @staticmethod
    def _installed_in(model):
        installed = getattr(vars(model).get("train_step"), "__self__", None)
        return installed if isinstance(installed, TrainStep) else None

    def __init__(self, model, params):
        self.model = model
        self.epochs = params.get("epochs") or 1
        self.steps_per_epoch = params.get("steps")
        self.hooks = []
        self.offset = 0
        self.closed = False
        with model.distribute_strategy.scope():
            self.step = local_variable(0, tf.int64, "step")
            self.epoch = local_variable(0, tf.int64, "epoch")
        fit_callbacks = _running_callback_list()
        self.callbacks = [] if fit_callbacks is None else fit_callbacks.callbacks
        self._finalizer = None
        # Weak, since the list's end tells of the fit's.
        self._fit_callbacks = (lambda: None) if fit_callbacks is None else weakref.ref(fit_callbacks)
        if fit_callbacks is not None:
            self._finalizer = weakref.finalize(fit_callbacks, self.close)
            # An interpreter that ends has nothing to put back.
            self._finalizer.atexit = False
            # On the very list, so that it goes with it.
            vars(fit_callbacks).update({name: self._guard_hook(fit_callbacks, name) for name in _LIST_HOOKS})
        self._build_optimizer()
        self._plain_step = model.train_step
        self._plain_function = model.train_function
        self._plain_make = model.make_train_function
        replaced = {"train_step": self._run, "make_train_function": self._make, "evaluate": self._guard_evaluate()}
        # What the user set on this very model, rather than on its class, is put back as it was.
        self._own_attributes = {name: vars(model)[name] for name in replaced if name in vars(model)}
        self._replaced = tuple(replaced)
        vars(model).update(replaced)
        self._make(force=True)

    def share(self, kind):
        """Returns the one hook of class `kind` in this fit; the first call makes it, as `kind(self)`."""
        for hook in self.hooks:
            if type(hook) is kind:
                return hook
        self.hooks.append(kind(self))
        return self.hooks[-1]

    def start_epoch(self, epoch):
        """Sets the clock at an epoch's begin; every hook may call it."""
        if self.closed:
            raise RuntimeError(
                "The train function was made anew by `train_on_batch` or a `fit` inside the running one, which ended "
                "the work of kregkit's callbacks. Call them on another model, or outside `fit`"
            )
        self.epoch.assign(epoch)
        if self.steps_per_epoch is not None:
            self.step.assign(epoch * self.steps_per_epoch + self.offset)

    def close(self):
        """Undoes everything; the first call counts."""
        if self.closed:
            return
        self.closed = True
        if self._finalizer is not None:
            self._finalizer.detach()
        attributes = vars(self.model)
        for name in self._replaced:
            attributes.pop(name, None)
        attributes.update(self._own_attributes)
        fit_callbacks = self._fit_callbacks()
        for name in () if fit_callbacks is None else _LIST_HOOKS:
            vars(fit_callbacks).pop(name, None)
        # `compile` may have dropped the function since; then there is nothing to put back.
        if self.model.train_function is self._guarded:
            self.model.train_function = self._plain_function
        for hook in self.hooks:
            hook.release()

    def _make(self, force=False):
        if not force:
            # A fit or train_on_batch begins, and none of this fit's callbacks has closed it: it ended in an error.
            self.close()
            return self.model.make_train_function()
        self._plain_make(force=True)
        self._traced = self.model.train_function
        self.model.train_function = self._guarded = self._closing_on_error(self._traced)

    def _build_optimizer(self):
        """Makes the optimizer's variables, which Keras would make when it traces the step: hooks may need them."""
        model = self.model
        # The layers of a model that builds itself in its first call have no weights yet.
        built = all(layer.built for layer in model._flatten_layers(include_self=False))
        if model.optimizer is not None and not model.optimizer.built and built and model.trainable_variables:
            with model.distribute_strategy.scope():
                model.optimizer.build(model.trainable_variables)

    def _closing_on_error(self, function):
        """Returns `function`, with everything undone when it raises.

        An exception's traceback keeps the fit's frames alive, and with them its callback list, for as long as someone
        looks at it; what happens meanwhile must find the model as the fit leaves it.
        """

        @functools.wraps(function)
        def guarded(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except _END_OF_DATA:
                raise
            except BaseException:
                self.close()
                raise

        return guarded

    def _guard_evaluate(self):
        evaluate = self.model.evaluate
        validate = self._closing_on_error(evaluate)

        @functools.wraps(evaluate)
        def guarded(*args, **kwargs):
            # Only the fit's own validation; who evaluates in a callback may well catch an error.
            return (validate if kwargs.get("_use_cached_eval_dataset") else evaluate)(*args, **kwargs)

        return guarded

    def _guard_hook(self, fit_callbacks, name):
        plain, reference = getattr(type(fit_callbacks), name), self._fit_callbacks
        return self._closing_on_error(lambda *args, **kwargs: plain(reference(), *args, **kwargs))

    def _run(self, data):
        averaging = [hook for hook in self.hooks if type(hook).after_update is not Hook.after_update]
        # Where the data ends unannounced, TensorFlow begins one more step, and whatever in it needs no data runs before
        # the end is noticed (Keras's own `iterations` among it). What hooks do waits for the data.
        tensors = [part for part in tf.nest.flatten(data, expand_composites=True) if tf.is_tensor(part)]
        with tf.control_dependencies(tensors):
            step = tf.identity(self.step)
            before = self._updates() if averaging else None
            for hook in self.hooks:
                hook.before_step(step)
        logs = self._plain_step(data)
        with tf.control_dependencies([step]):
            if averaging:
                # Loss scaling and gradient accumulation train batches without updating the weights.
                tf.cond(self._updates() > before, lambda: self._average(averaging, step), lambda: False)
            logs = dict(logs)
            for hook in self.hooks:
                hook.after_step(step, logs)
            self.step.assign_add(1)
        return logs

    def _average(self, hooks, step):
        for hook in hooks:
            hook.after_update(step)
        return True

    def _updates(self):
        # Wrappers count batches; what counts updates is the optimizers that make them.
        return tf.add_n([tf.cast(leaf.iterations, tf.int64) for leaf in leaf_optimizers(self.model.optimizer)])


def _running_callback_list():
    """Returns the `CallbackList` whose `on_train_begin` is being executed, or None.

    Keras gives callbacks no way to the list they are in. It lives as long as the fit's frame does, so its end tells
    of the fit's.
    """
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if frame.f_code.co_name == "on_train_begin" and isinstance(owner, keras.callbacks.CallbackList):
            return owner
        frame = frame.f_back
    return None
