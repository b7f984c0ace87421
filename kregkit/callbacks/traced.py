"""The base of callbacks that work inside the train step."""

from typing import Any

import keras

from kregkit._core.keras_internals import callback_model_name
from kregkit._core.written import Written
from kregkit.callbacks._train_step import Hook, TrainStep

_MODEL = callback_model_name()


class TracedCallback(Written, Hook, keras.callbacks.Callback):
    """A callback whose per-step work is traced into the model's train step.

    Override `before_step(step)`, `after_step(step, logs)` or `after_update(step)`. They run as TensorFlow code inside
    the compiled step, once for every batch, also where `steps_per_execution` trains several batches per callback
    call, under XLA, and on every replica. `step` counts the batches trained before this one; what `after_step` adds
    to `logs` is seen by every callback and by `History`; `after_update` runs only where the weights have changed, not
    on batches that loss scaling skipped or that were only accumulated. `prepare()` runs after every callback's
    `on_train_begin` and before the first epoch. `release()` runs once when the fit ends, in any way: return, exception
    or interrupt; where the fit returns, that is after every callback's `on_train_end`. After it the model trains as if
    the callback had never been there.

    A subclass that overrides `on_train_begin` or `on_epoch_begin` calls `super()`'s. Between the first and `release`,
    `self.train_step` holds what the fit's traced callbacks share: `step` and `epoch` (variables), `steps_per_epoch`,
    `epochs`, the list `callbacks` of all the fit's callbacks, and `variable(self, name, value, dtype)`, which gives
    variables to write in the step.

    Later fits of a model reuse the traced step where all its traced callbacks are kregkit's. With a subclass of the
    user's, each fit traces its step anew: nobody can tell what its methods read.

    Example: a number that the step computes, in the logs.

    >>> import keras, numpy as np, tensorflow as tf
    >>> class StepParity(TracedCallback):
    ...     def after_step(self, step, logs):
    ...         logs["parity"] = step % 2
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x = np.zeros((6, 2), "float32")
    >>> history = model.fit(x, x[:, :1], batch_size=2, epochs=2, verbose=0, callbacks=[StepParity()])
    >>> history.history["parity"]
    [0.0, 1.0]
    """

    untraced_attributes: tuple[str, ...] = (_MODEL, "params", "train_step")
    # What belongs to one fit, and isn't pickled or copied.
    fit_attributes: tuple[str, ...] = (_MODEL, "train_step")
    train_step: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.train_step = TrainStep.join(self)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.train_step is None:
            raise RuntimeError(
                "The work of kregkit's callbacks in this fit was ended: by `train_on_batch` or a `fit` inside it with "
                "the same model, or by the fit of another model that was given the same callback object. Call these "
                f"outside of `fit`, or with other objects. Received: callback={type(self).__name__}"
            )
        self.train_step.start_epoch(epoch)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        # Outside of `fit` nobody else says that training has ended.
        if self.train_step is not None and not self.train_step.callbacks:
            self.train_step.close()

    def __getstate__(self):
        # A copy goes on with what was counted and averaged, and belongs to no model until it is given to `fit`.
        dropped = {name for base in type(self).__mro__ for name in vars(base).get("fit_attributes", ())}
        return {**{name: value for name, value in vars(self).items() if name not in dropped}, _MODEL: None}
