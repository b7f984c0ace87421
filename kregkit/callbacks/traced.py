"""The base of callbacks that work inside the train step."""

import keras

from kregkit.callbacks._train_step import Hook, TrainStep


class TracedCallback(Hook, keras.callbacks.Callback):
    """A callback whose per-step work is traced into the model's train step.

    Override `before_step(step)`, `after_step(step, logs)` or `after_update(step)`. They run as TensorFlow code inside
    the compiled step, once for every batch, also where `steps_per_execution` trains several batches per callback
    call, under XLA, and on every replica. `step` counts the batches trained before this one; what `after_step` adds
    to `logs` is seen by every callback and by `History`; `after_update` runs only where the weights have changed, not
    on batches that loss scaling skipped or that were only accumulated. `release()` runs once when the fit ends, in
    any way: return, exception or interrupt. After it the model trains as if the callback had never been there.

    A subclass that overrides `on_train_begin`, `on_epoch_begin` or `on_train_end` calls `super()`'s. Between the
    first and the last, `self.train_step` holds what the fit's traced callbacks share: `step` and `epoch` (variables),
    `steps_per_epoch`, `epochs`, and the list `callbacks` of all the fit's callbacks.

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

    train_step = None

    def on_train_begin(self, logs=None):
        self.train_step = TrainStep.join(self)

    def on_epoch_begin(self, epoch, logs=None):
        self.train_step.start_epoch(epoch)

    def on_train_end(self, logs=None):
        self.train_step.close()
        self.train_step = None
