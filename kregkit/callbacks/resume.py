"""Take up a killed run where its last checkpoint was, bit for bit."""

import copy
import os
import pathlib
import time
import warnings
from typing import Any, Literal

import keras

from kregkit._core import keras_internals
from kregkit._core.backends import require_tensorflow
from kregkit._core.checks import check_choice, check_integer, check_number
from kregkit._core.optimizers import own_optimizers, wrapped_optimizers
from kregkit._core.types import Path
from kregkit._core.workers import gather_from_workers, worker
from kregkit.callbacks import _callback_states
from kregkit.callbacks._checkpoints import Checkpoints
from kregkit.callbacks._data_place import DataPlace, draw_seed
from kregkit.callbacks._run_identity import counted_callbacks, differences, run_identity
from kregkit.callbacks._run_record import record_begin, record_end
from kregkit.callbacks._run_variables import RunVariables, as_arrays, get_seeds, set_seeds
from kregkit.callbacks.traced import TracedCallback


class Resume(TracedCallback):
    """Writes checkpoints, and goes on from the newest one when the same program is started again.

    A run that was killed at any instant and started again, as often as it takes, ends in the same bits as one that
    was not: weights, the optimizer's slots and iterations, the loss scale, `history`, logged rates and files. Once it
    has ended, running the program again changes nothing and gives the same model; with more epochs it goes on. A second
    fit of the program with the same object is a run of its own, whose checkpoints lie in `fit-2` in the directory.

    Saved are all variables of the model, its optimizers and metrics; the seeds of random layers and of Keras, NumPy
    and Python; the place in the data; and what callbacks remember: all of kregkit's, Keras's `History`,
    `EarlyStopping`, `ReduceLROnPlateau`, `ModelCheckpoint`, `SwapEMAWeights` and `CSVLogger`, and any callback that
    has `get_state()` (numbers, strings, arrays, and lists and dictionaries of these) and `set_state(state)`, called
    after all `on_train_begin`. Other callbacks start anew. It works at any place in the list of callbacks.

    **Data.** A pass that was left within is read again up to its place, which costs the reading; nothing is trained
    twice. `kregkit.data.pipeline` goes on in its epoch. Arrays are shuffled by a seed that is stored, anew in each
    epoch (after `keras.utils.set_random_seed` Keras's own order is kept, which then is the same in each epoch). A
    `tf.data.Dataset` must repeat itself in a new process: a shuffle without a seed, Python code in it, numbers drawn
    without seed or in parallel, and generators are refused. A `PyDataset` must give the same batch for the same
    index; one that changes at epochs' ends needs `get_state` and `set_state`.

    **Files.** A checkpoint is one file with a checksum, `checkpoint-NNNNNNNN.state`, there whole or not at all. It is
    copied within the step and written in the background. A file that is damaged is named in a warning, and the next
    older one is used. If one can't be written (the disk is full), a warning says so and training goes on. One process
    at a time may use the directory. Of several workers, each keeps what only it has (sums of metrics, unsynchronized
    statistics, seeds) in a directory `worker-N` in it, and all go on from the newest checkpoint that all have.

    Args:
        directory: String or path of a directory for this run only; all workers see the same one.
        save_freq: `"epoch"`, or an integer >= 1: a checkpoint each so many batches, exact to one execution of
            `steps_per_execution`, and at the end of training. Defaults to `"epoch"`.
        seconds: Float > 0, or `None`: in addition, a checkpoint when the last one is so many seconds old. Not on
            several workers, whose clocks differ.
        keep: Integer >= 1, how many checkpoints stay. Defaults to `2`.
        data: `"replay"`, or `"restart"`, which takes any data and begins a pass anew where a run is taken up, with a
            warning: the weights then aren't those of an uninterrupted run. Defaults to `"replay"`.

    Raises:
        ValueError: An argument is out of range. In `fit`, before the first step: the model, or an optimizer of its own,
            is built by that step; after that step, if a part of the model was compiled with the optimizer. In `fit`,
            before anything is changed: the order of the data can't be repeated; the checkpoint is of another model,
            optimizer, data set or list of callbacks; another process uses the directory; `BackupAndRestore` is in the
            list.

    Example:

    >>> import keras, numpy as np, tempfile
    >>> def train(epochs):
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile("adam", "mse")
    ...     x = np.ones((8, 2), "float32")
    ...     return model.fit(x, x[:, :1], epochs=epochs, verbose=0, callbacks=[Resume(directory)])
    >>> directory = tempfile.mkdtemp()
    >>> first, second = train(2), train(3)  # the second goes on from the first
    >>> len(second.history["loss"]), second.history["loss"][:2] == first.history["loss"]
    (3, True)
    """

    untraced_attributes: tuple[str, ...] = (
        *("directory", "save_freq", "seconds", "keep", "data", "_checkpoints", "_places", "_identity", "_loaded"),
        *("_last", "_run_variables", "_since_save", "_batches_done", "_due", "_epoch", "_saved_at"),
        *("_prepared", "_fits", "_unbuilt"),
    )
    fit_attributes: tuple[str, ...] = ("_places", "_last", "_run_variables", "_checkpoints", "_loaded", "_unbuilt")
    _places: Any = None
    _last: Any = None
    _run_variables: Any = None
    _checkpoints: Any = None
    _loaded: Any = None
    _unbuilt: Any = ()

    def __init__(
        self,
        directory: Path,
        save_freq: int | Literal["epoch"] = "epoch",
        seconds: float | None = None,
        keep: int = 2,
        data: Literal["replay", "restart"] = "replay",
    ) -> None:
        super().__init__()
        if not isinstance(directory, (str, os.PathLike)) or not str(directory):
            raise ValueError(f"`directory` must be a string or a path. Received: directory={directory!r}")
        self.directory = directory
        if not isinstance(save_freq, str):
            save_freq = check_integer("save_freq", save_freq, 1)
        elif save_freq != "epoch":
            raise ValueError(f"`save_freq` must be 'epoch' or an integer >= 1. Received: save_freq={save_freq!r}")
        self.save_freq = save_freq
        self.seconds = None if seconds is None else check_number("seconds", seconds, 0, low_open=True)
        self.keep = check_integer("keep", keep, 1)
        self.data = check_choice("data", data, ("replay", "restart"))
        self._prepared, self._fits = False, 0

    @property
    def fit_directory(self) -> pathlib.Path:
        """The directory of the present fit, or of the next one."""
        path = pathlib.Path(self.directory)
        return path / f"fit-{self._fits + 1}" if self._fits else path

    # Before the fit begins: nothing is changed until all has been looked at.

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        # `fit` introduces the model to all callbacks before any `on_train_begin`, which may empty files.
        callback_list = keras_internals.introduced_callback_list(model)
        if callback_list is not None and keras_internals.running_fit(model):
            self._look(callback_list.callbacks)

    def _look(self, callbacks):
        require_tensorflow("Resume")
        iterator = keras_internals.fit_epoch_iterator(self.model)
        if iterator is None:
            raise ValueError("Resume works in `fit` only. Received: callbacks outside of `fit`")
        names = [type(callback).__name__ for callback in callbacks]
        for kind, advice in (
            (keras.callbacks.BackupAndRestore, "leave BackupAndRestore out, which keeps less and restores it again"),
            (Resume, "one is enough"),
        ):
            if any(isinstance(callback, kind) and callback is not self for callback in callbacks):
                raise ValueError(
                    f"{kind.__name__} and Resume both take up a run: {advice}. Received: callbacks={names}"
                )
        here = worker(self.model)
        if here.count > 1 and self.seconds is not None:
            raise ValueError(
                "Workers' clocks differ, and all must save the same batch: leave `seconds` out, and use `save_freq`. "
                f"Received: seconds={self.seconds} with {here.count} workers"
            )
        draw = draw_seed
        if here.count > 1:
            seed = int(self._gather(draw_seed())[0])
            draw = lambda: seed  # noqa: E731
        self._together(lambda: self._take_directory(callbacks, iterator, here, draw))
        try:
            self._together(self._checkpoints.tidy)
            self._loaded = self._checkpoints.load(self._gather)
            self._together(self._check_loaded)
        except BaseException:
            self._checkpoints.release()
            raise
        self._prepared = True

    def _gather(self, value):
        return gather_from_workers(self.model, value)

    def _together(self, function):
        """Calls a function; if it fails on one worker, it fails on all, before one waits for another."""
        error = None
        try:
            function()
        except Exception as raised:
            error = raised
        failed = [index for index, one in enumerate(self._gather(error is not None)) if one]
        if error is not None:
            raise error
        if failed:
            if self._checkpoints is not None:
                self._checkpoints.release()
            raise RuntimeError(f"Resume can't be used: look at the error of worker {failed[0]}. Received: {failed=}")

    def _take_directory(self, callbacks, iterator, here, draw):
        strategy, replay = self.model.distribute_strategy, self.data == "replay"
        self._places = {"data": DataPlace(iterator, strategy, replay, draw_seed=draw)}
        if keras_internals.running_fit(self.model).get("validation_data") is not None:
            validation = keras_internals.validation_iterator(self.model, strategy)
            self._places["validation"] = DataPlace(validation, strategy, replay, "validation_data")
        self._identity = run_identity(self.model, callbacks) | {
            name: place.identity() for name, place in self._places.items()
        }
        if self._checkpoints is None:
            self._checkpoints = Checkpoints(self.fit_directory, self.keep, here)
        self._checkpoints.acquire()

    def _check_loaded(self):
        if self._loaded is not None:
            self._compare(self._loaded["identity"], self._identity)

    def _compare(self, old, new):
        different = differences(old, new)
        if different:
            raise ValueError(
                "The checkpoint is of a different run; use another directory, or the old settings. Different are: "
                f"{'; '.join(different)}. Received: directory={str(self.fit_directory)!r}"
            )

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        callback_list = keras_internals.running_callback_list(self.model)
        if not self._prepared:
            # In a list of callbacks that was made before the fit.
            self._look([] if callback_list is None else callback_list.callbacks)
        self._prepared = False
        try:
            super().on_train_begin(logs)
            if not self.model.built:
                raise ValueError(
                    "The model makes its weights in its first step, and a new process couldn't put them back before "
                    "that: call it once on a batch of inputs before `fit`. "
                    f"Received: model={self.model.name!r}"
                )
            self._check_own_optimizers()
            self._run_variables, self._due = None, False
            self._since_save, self._batches_done, self._saved_at = 0, 0, time.monotonic()
            if self._loaded is not None:
                place = self._loaded["place"]
                epoch = max(place["epoch"], self.params["epochs"]) if place["stopped"] else place["epoch"]
                # `fit` reads it next, and `release` clears it for the fits to come.
                keras_internals.set_initial_epoch(self.model, epoch)
                if place["batch"] or self.train_step.steps_per_epoch is None:
                    self.train_step.resumed = (epoch, place["step"], place["epoch_start"])
            self._last = _LastCallback(self)
            self._last.set_params(self.params)
            self._last.set_model(self.model)
            # It comes after all others, in whatever order they are.
            callback_list.callbacks.append(self._last)
        except BaseException:
            self._checkpoints.release()
            raise
        record_begin(self)

    def _check_own_optimizers(self):
        """Raises `ValueError` if a model's own train step has optimizers whose slots aren't made yet.

        A part of the model, such as a teacher, may have been compiled and be trained by the whole one's optimizer: of
        the part's own optimizer is seen in the first step whether it does anything.
        """
        self._unbuilt = []
        if type(self.model).train_step is keras.Model.train_step:
            # Others than the compiled one do nothing then.
            return
        parts = [layer for layer in keras_internals.flatten_layers(self.model) if layer is not self.model]
        of_parts = {id(one) for part in parts for one in wrapped_optimizers(getattr(part, "optimizer", None))}
        driven = {id(one) for one in wrapped_optimizers(self.model.optimizer)}
        for optimizer in own_optimizers(self.model):
            if optimizer.built or id(optimizer) in driven:
                continue
            if id(optimizer) not in of_parts:
                raise self._late_slots(optimizer)
            self._unbuilt.append(optimizer)

    def _late_slots(self, optimizer):
        return ValueError(
            f"The model's optimizer {optimizer.name!r} makes its slots in its first step, and a new process couldn't "
            "put them back before that: call `optimizer.build(variables)` with the variables that it trains before "
            f"`fit`. Received: model={self.model.name!r}"
        )

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Does nothing: with it Keras calls callbacks within the step's own thread, in step with the variables."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._epoch, self._batches_done = epoch, 0

    # Going on.

    def restore(self) -> Any:
        state = self._loaded
        if state is None:
            return
        place = state["place"]
        if place["batch"]:
            self._build_metrics(len(state["metrics"]))
        variables = self._all_variables()
        self._compare({"variables": state["specs"]}, {"variables": variables.specs()})
        if len(state["variables"]) != len(variables.state):
            raise ValueError(
                f"The checkpoint holds {len(state['variables'])} variables, and the model and its optimizer have "
                f"{len(variables.state)}. Received: directory={str(self.fit_directory)!r}"
            )
        for name, data in self._places.items():
            # A validation ends before a checkpoint is written.
            batch = place["batch"] if name == "data" else 0
            data.set_state(state["places"][name], batch)
        if self.data == "restart":
            warnings.warn(
                "The data begin anew where the run is taken up (data='restart'), so that it doesn't end as one that "
                f"was not interrupted. Received: epoch={place['epoch']}, batch={place['batch']}",
                stacklevel=2,
            )
        variables.assign(variables.state, state["variables"])
        set_seeds(state["seeds"])
        for callback, one in zip(self._counted(), state["callbacks"]):
            _callback_states.set_state(callback, one)
        for hook, (_, one) in zip(self._remembering_hooks(), state["hooks"]):
            hook.set_state(one)
        history = self._find_history()
        if history is not None:
            _callback_states.set_state(history, state["history"])

    def _build_metrics(self, count):
        """Makes the variables of compiled metrics, which the first step would make."""
        spec = keras_internals.running_fit_spec(self.model)
        if len(self.model.metrics_variables) != count and spec is not None:
            with self.model.distribute_strategy.scope():
                keras_internals.build_as_fit_does(self.model, spec)

    def begin(self) -> None:
        """Called after every callback's `on_train_begin`."""
        self.train_step.prepare()
        if self._loaded is None and self.train_step.steps_done() == 0:
            # A run that is killed before its next checkpoint begins again with the same weights and seeds.
            self._save(keras_internals.running_fit(self.model)["initial_epoch"], 0, None)

    def begin_epoch(self, epoch: int) -> None:
        """Called after every callback's `on_epoch_begin`."""
        state = self._loaded
        if state is None:
            return
        self._loaded = None
        place = state["place"]
        if not place["batch"] or epoch != place["epoch"]:
            return
        # Callbacks have begun the epoch a second time, in the midst of it.
        self._batches_done = place["batch"]
        # The data may end here, where its length wasn't known.
        keras_internals.give_epoch_logs(self.model, place["logs"])
        variables = self._all_variables()
        variables.assign(variables.state, state["variables"])
        if len(state["metrics"]) == len(variables.metrics):
            variables.assign(variables.metrics, state["metrics"])
        else:
            warnings.warn(
                "The model's metrics are made in its first step, so that this epoch's logs are those of its remaining "
                f"batches only. Received: epoch={epoch}, batch={place['batch']}",
                stacklevel=2,
            )
        set_seeds(state["seeds"])
        for callback, one in zip(self._counted(), state["callbacks"]):
            if not isinstance(callback, TracedCallback):
                _callback_states.set_state(callback, one)

    # Saving.

    def end_batch(self, batch: int, logs: dict[str, Any] | None) -> None:
        """Called after every callback's `on_train_batch_end`."""
        for optimizer in self._unbuilt:
            if optimizer.built:
                raise self._late_slots(optimizer)
        done = batch + 1
        self._since_save += done - self._batches_done
        self._batches_done = done
        due = (self.save_freq != "epoch" and self._since_save >= self.save_freq) or self._seconds_passed()
        if not due or self.model.stop_training:
            return
        steps = self.train_step.steps_per_epoch
        if steps is not None and done >= steps:
            # The epoch ends first.
            self._due = True
        else:
            self._save(self._epoch, done, logs)

    def end_epoch(self, epoch: int) -> None:
        """Called after every callback's `on_epoch_end`."""
        last = epoch + 1 >= self.params["epochs"] or self.model.stop_training
        if last or self._due or self.save_freq == "epoch" or self._seconds_passed():
            self._save(epoch + 1, 0, None)

    def end(self) -> None:
        """Called after every callback's `on_train_end`."""
        record_end(self)
        self._fits += 1

    def _seconds_passed(self):
        return self.seconds is not None and time.monotonic() - self._saved_at >= self.seconds

    def _save(self, epoch, batch, logs):
        self._due, self._since_save, self._saved_at = False, 0, time.monotonic()
        self._checkpoints.warn_of_failure()
        variables = self._all_variables()
        state = {
            "identity": self._identity,
            "place": {
                "epoch": epoch,
                "batch": batch,
                "step": self.train_step.steps_done(),
                "epoch_start": self.train_step.epoch_start if batch else self.train_step.steps_done(),
                "stopped": bool(self.model.stop_training),
                "logs": copy.copy(logs),
            },
            "specs": variables.specs(),
            "places": {name: data.get_state() for name, data in self._places.items()},
            "seeds": get_seeds(),
            "callbacks": [_callback_states.get_state(callback) for callback in self._counted()],
            "hooks": [[type(hook).__name__, hook.get_state()] for hook in self._remembering_hooks()],
            "history": None if self._find_history() is None else _callback_states.get_state(self._find_history()),
        }
        count = len(variables.state)
        values = variables.read([*variables.state, *(variables.metrics if batch else [])])

        def with_arrays():
            arrays = as_arrays(values)
            return {**state, "variables": arrays[:count], "metrics": arrays[count:]}

        self._checkpoints.save(with_arrays)

    def _all_variables(self):
        if self._run_variables is None:
            self._run_variables = RunVariables(self.model)
        return self._run_variables

    def _counted(self):
        return counted_callbacks(self.train_step.callbacks, leaving_out=[self, self._last])

    def _remembering_hooks(self):
        hooks = [hook for hook in self.train_step.hooks if not isinstance(hook, keras.callbacks.Callback)]
        return [hook for hook in hooks if _callback_states.remembers(hook)]

    def _find_history(self):
        return next(iter(self.train_step.find(keras.callbacks.History)), None)

    def release(self) -> None:
        keras_internals.clear_initial_epoch(self.model)
        try:
            if self._checkpoints is not None:
                self._checkpoints.release()
        finally:
            self._loaded = self._places = self._run_variables = self._last = self._checkpoints = None


class _LastCallback(keras.callbacks.Callback):
    """Stands at the end of the list, and tells `Resume` when all others have done their work."""

    def __init__(self, resume):
        super().__init__()
        self._resume = resume

    def on_train_begin(self, logs=None):
        self._resume.begin()

    def on_epoch_begin(self, epoch, logs=None):
        self._resume.begin_epoch(epoch)

    def on_train_batch_end(self, batch, logs=None):
        self._resume.end_batch(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._resume.end_epoch(epoch)

    def on_train_end(self, logs=None):
        self._resume.end()
