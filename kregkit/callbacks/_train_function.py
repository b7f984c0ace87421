"""Put a `TrainStep` into a model for one fit, and undo it however the fit ends.

Everything is undone when the callback list has run its `on_train_end`; when the step, the validation or a callback
raises; when the callback list is collected, which is what an exception anywhere else in `fit` leads to; and at the
latest when the model's train function is next asked for, which is how every `fit` begins.
"""

import contextlib
import functools
import weakref

import tensorflow as tf

from kregkit._core import keras_internals
from kregkit._core.replacing import replaced, replaced_all
from kregkit.callbacks._gradients_again import acting_for

# Keras's loop learns from these that the data has ended: they are no failure of the step.
_END_OF_DATA = (StopIteration, tf.errors.OutOfRangeError)

# The hooks of a callback list that run after `on_train_begin`.
_LIST_HOOKS = (
    *(f"on_epoch_{when}" for when in ("begin", "end")),
    *(f"on_{what}_batch_{when}" for what in ("train", "test") for when in ("begin", "end")),
    *(f"on_test_{when}" for when in ("begin", "end")),
    "on_train_end",
)


class TrainFunction:
    """What a fit's train step changes on the model, on its optimizers and on the fit's callback list.

    Args:
        train_step: The `TrainStep`.
        callback_list: The `CallbackList` of the fit, or None outside of `fit`.
        optimizers: List of optimizers whose calls the train step wants to hear of.
    """

    @classmethod
    def find(cls, model):
        """Returns what is installed in `model`, or None."""
        installed = getattr(vars(model).get("make_train_function"), "__self__", None)
        return installed if isinstance(installed, cls) else None

    def __init__(self, train_step, callback_list, optimizers):
        self.train_step, self.model = train_step, train_step.model
        self.closed = False
        self._function = None
        self._plain_function, self._plain_make = self.model.train_function, self.model.make_train_function
        # A weak reference: when the callback list is collected, `fit` has ended.
        self._callback_list = (lambda: None) if callback_list is None else weakref.ref(callback_list)
        self._finalizer = None
        if callback_list is not None:
            self._finalizer = weakref.finalize(callback_list, self.close)
            # An interpreter that ends has nothing to put back.
            self._finalizer.atexit = False
            # Set on this instance, so the patch disappears together with the list.
            vars(callback_list).update({name: self._guard_hook(callback_list, name) for name in _LIST_HOOKS})
        self._undo = contextlib.ExitStack()
        changes = [
            (self.model, "train_step", train_step.kept.run),
            (self.model, "make_train_function", self._asked_to_make),
            (self.model, "evaluate", self._guard_evaluate(self.model.evaluate)),
            *((optimizer, "apply", self._noting(optimizer)) for optimizer in optimizers),
        ]
        self._undo.enter_context(replaced_all(changes))
        self._call = self._closing_on_error(self._run)
        self.model.train_function = self._call

    def close(self):
        """Undoes everything; the first call counts."""
        if self.closed:
            return
        self.closed = True
        if self._finalizer is not None:
            self._finalizer.detach()
        self._undo.close()
        callback_list = self._callback_list()
        for name in () if callback_list is None else _LIST_HOOKS:
            vars(callback_list).pop(name, None)
        # `compile` may have dropped the function since; then there is nothing to put back.
        if self.model.train_function is self._call:
            self.model.train_function = self._plain_function
        self._function = None
        self.train_step.end()

    def choose_again(self):
        """Has the function for the next step looked up anew, or made: what it depends on has changed."""
        self._function = None
        self.model.train_function = self._call

    def make_with_hooks(self):
        """Returns a train function that runs the hooks, not yet traced, as the model makes it."""
        with replaced(self.model, "make_train_function", self._plain_make):
            self._plain_make(force=True)
        function, self.model.train_function = self.model.train_function, self._call
        return function

    def _run(self, iterator):
        if self._function is None:
            self._function = self.train_step.choose_function(iterator, self.make_with_hooks)
        logs = self._function(iterator)
        self.train_step.traced = True
        return logs

    def _asked_to_make(self, force=False):
        if not force:
            # A fit or train_on_batch begins, and none of this fit's callbacks has closed it: it ended in an error.
            self.close()
            return self.model.make_train_function()
        # Somebody asks for a new trace, perhaps of settings that no key knows of.
        self.train_step.kept.forget()
        self.choose_again()

    def _noting(self, optimizer):
        plain, note = optimizer.apply, self.train_step.note_update

        @functools.wraps(plain)
        def apply(*args, **kwargs):
            note(optimizer)
            instead = acting_for(optimizer)
            return plain(*args, **kwargs) if instead is None else instead(plain, *args, **kwargs)

        return apply

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

    def _guard_evaluate(self, evaluate):
        validate = self._closing_on_error(evaluate)

        @functools.wraps(evaluate)
        def guarded(*args, **kwargs):
            # Only the fit's own validation: a callback that calls `evaluate` may well catch its error.
            return (validate if keras_internals.uses_cached_validation(kwargs) else evaluate)(*args, **kwargs)

        return guarded

    def _guard_hook(self, callback_list, name):
        plain, reference, close = getattr(type(callback_list), name), self._callback_list, self.close
        first = {
            "on_epoch_begin": lambda *args, **kwargs: self.train_step.prepare(),
            "on_epoch_end": self.train_step.end_epoch,
            "on_train_end": lambda *args, **kwargs: self.train_step.prepare(),
        }.get(name)
        last = close if name == "on_train_end" else None

        # Flat rather than by `_closing_on_error`: two of these run in every step.
        def guarded(*args, **kwargs):
            try:
                if first is not None:
                    first(*args, **kwargs)
                result = plain(reference(), *args, **kwargs)
            except _END_OF_DATA:
                raise
            except BaseException:
                close()
                raise
            if last is not None:
                last()
            return result

        return guarded
