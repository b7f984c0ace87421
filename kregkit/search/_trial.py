"""One trial: training one setting once or several times, watched, in this process or a fresh one."""

import math
import multiprocessing
import pickle
import traceback

import keras
import numpy as np

from kregkit._core.interrupts import start_unreached, uninterrupted
from kregkit._core.metrics import bounds, direction, has_one_value, is_better, one_value
from kregkit.search.interval import metric_interval


class Monitor(keras.callbacks.Callback):
    """Reports a metric after each epoch and stops hopeless trainings.

    It ends `fit` by `stop_training`, so that the other callbacks end as they would after any epoch.

    Args:
        metric: String, the logged quantity to report.
        mode: `"min"` or `"max"`.
        report: Callable `(epoch, value)` that returns whether to stop.
        epochs: Integer; the last of them is reported, but stops nothing.
        max_loss_ratio: Float or None: a loss above this many times the first batch's loss, or one that isn't finite,
            stops at once. The loss is Keras's running mean over the epoch's batches.
        guessed: Boolean, whether `mode` was read from the metric's name: a model that says otherwise is an error.
    """

    def __init__(self, metric, mode, report, epochs, max_loss_ratio, guessed=False):
        super().__init__()
        self.metric, self.mode = metric, mode
        self.report, self.total, self.max_loss_ratio = report, epochs, max_loss_ratio
        self.guessed = guessed
        self.reason = None
        self.epochs = 0
        self.fits = 0

    def on_train_begin(self, logs=None):
        self.fits += 1
        mode = direction(self.metric, "auto" if self.guessed else self.mode, self.model, "direction")
        if mode != self.mode:
            better = "larger" if self.mode == "min" else "smaller"
            raise ValueError(
                f"Of the model's {self.metric!r} {better} values are better, unlike those of Keras's metric of this "
                f"name: pass `direction` to the search, or name the metric otherwise. Received: direction='auto'"
            )
        self._initial_loss = self._best = None

    def on_train_batch_end(self, batch, logs=None):
        if self.reason:
            # `train` fits again although the trial has been ended.
            self.model.stop_training = True
            return
        loss = (logs or {}).get("loss")
        if loss is None or self.max_loss_ratio is None:
            return
        loss = float(loss)
        if self._initial_loss is None:
            self._initial_loss = loss
        # A loss that starts below zero has no scale to compare with.
        too_high = self._initial_loss > 0 and loss > self.max_loss_ratio * self._initial_loss
        if too_high or not math.isfinite(loss):
            self.reason = f"loss {loss:.3g} after a first one of {self._initial_loss:.3g}"
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        value = (logs or {}).get(self.metric)
        # Repeats and folds train the same setting again: the first fit speaks for all.
        if self.reason or value is None or self.fits > 1:
            return
        value = one_value(self.metric, value)
        if is_better(value, self._best, self.mode):
            self._best = value
        stop = self.report(epoch, value)
        if stop and epoch + 1 < self.total:
            self.reason = f"pruned after epoch {epoch + 1}"
            self.model.stop_training = True


def best_epoch(history, metric, mode):
    """Returns a run's logs at its epoch with the best metric; NaN is never the best.

    Raises:
        ValueError: The history does not hold the metric, or several values of it at each epoch.
    """
    record = getattr(history, "history", history)
    if not isinstance(record, dict) or not record.get(metric):
        keys = sorted(record) if isinstance(record, dict) else record
        raise ValueError(f"`train` must return a History that holds {metric!r}. Received: history={keys!r}")
    best, best_index = None, 0
    for epoch, value in enumerate(record[metric]):
        value = one_value(metric, value)
        if is_better(value, best, mode):
            best, best_index = value, epoch
    length = len(record[metric])
    # With validation_freq > 1 the lists differ in length; those of another length are left out, and so is what has a
    # value per class.
    return {
        name: one_value(name, values[best_index])
        for name, values in record.items()
        if len(values) == length and has_one_value(values[best_index])
    }


def run_trial(train, parameters, epochs, seeds, metric, mode, max_loss_ratio, report, guessed=False):
    """Trains once per seed; returns the outcome as a dictionary of JSON values.

    Its keys: `state` (`"complete"` or `"pruned"`), `value` (the mean over seeds of the metric at each run's best
    epoch), `values`, `interval`, `metrics` (means of all logged quantities at those epochs), `epochs` (how many were
    trained altogether), `reason`.
    """
    monitor = Monitor(metric, mode, report, epochs, max_loss_ratio, guessed)
    runs, epochs_returned = [], 0
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        history = train(dict(parameters), epochs, [monitor])
        if monitor.reason:
            break
        runs.append(best_epoch(history, metric, mode))
        epochs_returned += len(getattr(history, "history", history)[metric])
    # A `train` that leaves the callbacks out is counted by what it returns.
    trained = monitor.epochs or epochs_returned
    values = [run[metric] for run in runs]
    reason = monitor.reason or ("" if all(map(math.isfinite, values)) else f"{metric} is {values}")
    if reason:
        return {"state": "pruned", "value": None, "epochs": trained, "reason": reason}
    value, low, high = metric_interval(values, bounds(metric, monitor.model))
    names = [name for name in runs[0] if all(name in run for run in runs)]
    means = {name: float(np.mean([run[name] for run in runs])) for name in names}
    return {
        "state": "complete",
        "value": value,
        "values": values,
        "interval": None if len(values) == 1 else [low, high],
        "metrics": {name: mean for name, mean in means.items() if math.isfinite(mean)},
        "epochs": trained,
        "reason": "",
    }


# The name of a trial's process. A new process has it before it imports the script that started it.
PROCESS = "kregkit.search trial"


class WorkerDied(RuntimeError):
    """A trial's own process ended without a result, as when the system kills it because memory ran out."""


def _child(connection, arguments):
    def report(epoch, value):
        connection.send(("report", (epoch, value)))
        # Whoever started this process may be gone: then there is nobody to train for.
        return connection.recv()

    try:
        connection.send(("begun", None))
        *arguments, guessed = arguments
        connection.send(("outcome", run_trial(*arguments, report, guessed)))
    except EOFError:
        return
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        connection.send(("error", (*_portable(error), f"In the trial's process:\n{text}")))


def _portable(error):
    """Returns `(error, None)`, or where an exception doesn't pickle, its class and its text.

    Many classes of exceptions can't be unpickled, and `catch` must recognise them nevertheless.
    """
    for content in ((error, None), (type(error), str(error))):
        try:
            pickle.loads(pickle.dumps(content))
            return content
        except Exception:
            continue
    return RuntimeError(f"{type(error).__name__}: {error}"), None


def _received(error, text):
    if text is None:
        return error
    made = error.__new__(error, text)
    made.args = (text,)
    return made


def run_trial_in_process(train, parameters, epochs, seeds, metric, mode, max_loss_ratio, report, guessed=False):
    """Does what `run_trial` does, in a new process, so that all memory is given back at its end.

    Raises:
        ValueError: `train` can't be sent to another process.
        RuntimeError: The process can't import the script, or what `train` needs.
        WorkerDied: The process ended without a result.
    """
    arguments = (train, parameters, epochs, seeds, metric, mode, max_loss_ratio, guessed)
    try:
        pickle.dumps(train)
    except Exception as error:
        raise ValueError(
            "With `fresh_process=True`, `train` must be a function at the top of a module, or an object that pickles; "
            f"a `tf.data.Dataset` doesn't: make it within `train` ({error}). Received: train={train!r}"
        ) from error
    # Not forked: TensorFlow's threads don't survive a fork.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_child, args=(there, arguments), name=PROCESS, daemon=True)
    begun = False
    try:
        start_unreached(process)
        there.close()
        while True:
            try:
                kind, content = here.recv()
            except (EOFError, ConnectionResetError):
                process.join()
                # Killed by a signal, the code is negative: that may be the system's doing.
                if not begun and process.exitcode > 0:
                    raise RuntimeError(
                        "The trial's process ended before the trial began, by the error that it printed. With "
                        "`fresh_process=True`, `train` must be importable, and the script must start the search under "
                        f'`if __name__ == "__main__":`. Received: exit code={process.exitcode}'
                    ) from None
                raise WorkerDied(f"the trial's process ended with code {process.exitcode}") from None
            if kind == "begun":
                begun = True
            elif kind == "report":
                here.send(report(*content))
            elif kind == "error":
                *content, note = content
                received = _received(*content)
                received.add_note(note)
                raise received
            else:
                process.join(timeout=30)
                return content
    finally:
        with uninterrupted():
            if process.pid is not None and process.is_alive():
                process.terminate()
                process.join()
            here.close()
