"""Every name that Keras, TensorFlow, TFDS and Optuna don't make public and that kregkit needs: one function per name.

Each function says what it gives, why nothing public does, and what breaks without the name. Where a renamed attribute
would go unnoticed, the function looks for it and raises. `tests/core/test_keras_internals.py` pins each one.
"""

import contextlib
import functools
import inspect
import sys
import weakref

import keras

from kregkit._core.replacing import replaced_all


def _required(thing, name, what):
    """Returns a private attribute, or raises an error that says which feature of kregkit needs it."""
    try:
        return getattr(thing, name)
    except AttributeError as error:
        raise RuntimeError(
            f"kregkit needs `{type(thing).__name__}.{name}` {what}, and this version of its library doesn't have it: "
            f"install a version that kregkit supports. Received: keras.__version__={keras.__version__!r}"
        ) from error


# Layers and graphs of models.


def flatten_layers(model, include_self=True):
    """Returns all layers of a model or layer at any depth, each once, in the order in which they were attached.

    Wrapped layers, cells and layers in lists are among them. Public `model.layers` lists the outermost ones only.
    Without it, noise, normalisation layers and frozen layers inside others would be overlooked.
    """
    layers = _required(model, "_flatten_layers", "to find layers inside others")(include_self=include_self)
    # A subclassed model that shares a layer with a nested one is listed twice by Keras.
    return list({id(layer): layer for layer in layers}.values())


def inner_layers(layer):
    """Returns the layers directly inside a layer, such as the one that a wrapper wraps.

    Public `layers` is there for models only. Without it a weight's place in a model can't be named.
    """
    return _required(layer, "_flatten_layers", "to find layers inside others")(include_self=False, recursive=False)


def inbound_nodes(operation):
    """Returns the nodes of a layer or operation: one per call on symbolic tensors.

    `operation.input` raises for layers that were called twice. Without it graphs can't be walked backwards.
    """
    return _required(operation, "_inbound_nodes", "to walk a model's graph")


def functional_of(model):
    """Returns the functional model that runs `model`: itself, the one inside a `Sequential`, or None.

    `Sequential` has no public name for it. Without it a sequential model has no graph to walk.
    """
    if isinstance(model, keras.Sequential):
        return _required(model, "_functional", "to read a Sequential's graph")
    return model if hasattr(model, "_nodes_by_depth") else None


def nodes_in_order(functional):
    """Returns the nodes of a functional model in the order in which they are computed.

    Nothing public tells which of a layer's calls belong to this model. Without it graphs can't be split or copied.
    """
    by_depth = _required(functional, "_nodes_by_depth", "to walk a model's graph")
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def keras_history(tensor):
    """Returns `(operation, node_index, tensor_index)` of a symbolic tensor, or None for any other tensor.

    Nothing public tells which layer made a tensor. Without it neither the last activation nor the head is found, so a
    symbolic tensor without the attribute is an error.
    """
    history = getattr(tensor, "_keras_history", None)
    if history is None and isinstance(tensor, keras.KerasTensor) and not hasattr(keras.Input((1,)), "_keras_history"):
        _required(keras.Input((1,)), "_keras_history", "to find a model's last layer")
    return history


# Layers.


def get_mask(tensor):
    """Returns the mask that a layer attached to its output, or None.

    Keras passes masks from layer to layer on the tensors; nothing public reads one. Without it masked steps would
    count like others, silently: the test asks an Embedding for its mask.
    """
    return getattr(tensor, "_keras_mask", None)


def set_mask(tensor, mask):
    """Attaches a mask to a tensor for the layers that follow; None attaches nothing.

    `tf.function` returns new tensors without their masks, and nothing public attaches one.
    """
    if mask is not None:
        tensor._keras_mask = mask


def own_trainable_variables(layer):
    """Returns the layer's own weights that were made to be trained, frozen or not, without those of layers inside.

    Public `trainable_variables` holds inner layers' too, and nothing where the layer is frozen.
    """
    return list(_required(layer, "_trainable_variables", "to tell whose weights are whose"))


def seed_generators(layer):
    """Returns the layer's own seed generators.

    Public `non_trainable_variables` holds their states but not the generators. Without it noise can't be frozen.
    """
    return list(_required(layer, "_seed_generators", "to find a layer's random numbers"))


def clear_losses(layer):
    """Forgets the penalties that a layer's last calls added.

    Keras clears them when the model is called; tensors of a graph that is gone would stay until then.
    """
    _required(layer, "_clear_losses", "to forget penalties of a trial pass")()


def takes_training(layer):
    """Returns whether the layer's `call` takes `training`, also as part of `**kwargs` that Keras knows of.

    `inspect.signature` doesn't see through decorated calls.
    """
    return bool(_required(layer, "_call_has_training_arg", "to run a layer in training mode"))


def apply_scores(layer):
    """Returns `(name, method)` of the step in which an `Attention` layer drops its weights, for `replaced`.

    Public `call` computes scores and drops them in one. Without it dropout in `Attention` can't be drawn per example.
    """
    return "_apply_scores", _required(layer, "_apply_scores", "to draw the dropout of attention's weights")


def standardize_inputs(functional):
    """Returns the method by which a functional model brings what it is called with into the order of its inputs.

    Public `call` does this and runs the layers in one. Without it a model's graph can't be run in two parts.
    """
    return _required(functional, "_standardize_inputs", "to run a model's graph in two parts")


@contextlib.contextmanager
def computing_in(dtype, layers, losses):
    """Lets layers and losses compute in another dtype for a block, their floating-point variables included.

    The public property of a layer may be a map by names, and a loss and a variable have none that can be set. Without
    it gradients can't be checked against float64.
    """
    for layer in layers:
        _required(layer, "_dtype_policy", "to compute in another dtype")
    for loss in losses:
        _required(loss, "_dtype", "to compute in another dtype")
    policy = keras.DTypePolicy(dtype)
    changes = [(layer, "_dtype_policy", policy) for layer in layers] + [(loss, "_dtype", dtype) for loss in losses]
    # A layer may compute with its variables beside others' results, as LoRA does, and goes by their types then.
    variables = {id(variable): variable for layer in layers for variable in layer.variables}.values()
    changes += [(one, "_dtype", dtype) for one in variables if keras.backend.is_float_dtype(one.dtype)]
    with replaced_all(changes):
        yield


# Models: compiled parts and the training loop.


def compile_arguments(model):
    """Returns the arguments that `compile` was given, as they were given, as a dictionary; None if not compiled.

    Public `get_compile_config` serialises them, which fails for losses and metrics that aren't registered.
    """
    if not model.compiled:
        return None
    return dict(_required(model, "_compile_config", "to read what a model was compiled with").config)


def build_as_fit_does(model, batch):
    """Builds a model, its compiled parts and its optimizer from the shapes of one batch `(x, y, sample_weight)`.

    Public `build` knows of no labels and asks subclasses for a method of theirs. `fit` does this before its first
    step; without it a model without an input layer would have to be trained before it can be looked at.
    """
    _required(model, "_symbolic_build", "to build a model as `fit` does")(data_batch=batch)


def compiled_loss(model):
    """Returns the object that computes the compiled loss of all outputs, or None.

    Public `model.loss` is what `compile` was given. The object builds itself at its first use, which a check that
    leaves no trace has to undo.
    """
    return _required(model, "_compile_loss", "to leave a compiled loss untouched")


def flat_losses(model):
    """Returns the loss objects of a compiled model whose loss has been built; empty before that."""
    compiled = compiled_loss(model)
    entries = None if compiled is None else _required(compiled, "_flat_losses", "to find each output's loss")
    return [entry.loss for entry in entries or () if entry is not None]


def metric_direction(metric):
    """Returns `"max"` or `"min"` where a metric says by `_direction` which values are better, or None.

    It is what `EarlyStopping` reads, and what a user's own metric sets for it. Keras's own metrics are known by their
    classes, so that without it only metrics of users have to be told by `mode`.
    """
    return {"up": "max", "down": "min"}.get(getattr(metric, "_direction", None))


def wrapped_function(metric):
    """Returns the function inside a `MeanMetricWrapper`: public `get_config` serialises it."""
    return _required(metric, "_fn", "to tell which values of a metric are better")


def running_callback_list(model=None):
    """Returns the `CallbackList` whose `on_train_begin` is running, or None outside of `fit`.

    Keras gives callbacks no way to the list that they are in. Without it no conflict between callbacks is noticed and
    nothing tells that `fit` has failed, so it is an error if `model.fit` is running and its list can't be found.
    """
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if frame.f_code.co_name == "on_train_begin" and isinstance(owner, keras.callbacks.CallbackList):
            return owner
        if frame.f_code.co_name == "fit" and owner is model and model is not None:
            raise RuntimeError(
                "kregkit needs the list of callbacks to find those that don't go together, and can't find it in this "
                "version's `fit`: install a version of Keras that kregkit supports. "
                f"Received: keras.__version__={keras.__version__!r}"
            )
        frame = frame.f_back
    return None


def running_fit(model):
    """Returns the local names of the `fit` of `model` that is running, as a dictionary; empty outside of `fit`.

    Among them are `fit`'s public arguments, which Keras doesn't tell its callbacks. Without it validation data that
    can't be read twice, and models that are built by their first batch, would be noticed too late.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is model and "epochs" in frame.f_locals:
            return dict(frame.f_locals)
        frame = frame.f_back
    return {}


def running_fit_spec(model):
    """Returns the `tf.TypeSpec`s of one batch of the data that the running `fit` of `model` trains on, or None.

    Keras peeks into generators itself, so reading its iterator loses no batch. Without it models that are built by
    their first batch have no weights when callbacks begin, and some callbacks refuse them by name.
    """
    iterator = running_fit(model).get("epoch_iterator")
    return getattr(getattr(iterator, "_distributed_dataset", None), "element_spec", None)


def calling_models():
    """Returns the models of which a method is running, the innermost first.

    Keras builds an optimizer on a list of variables, whose paths lack the names of nested models once a model was
    cloned or loaded; nothing tells which model they belong to. Without it such a model's optimizer is refused where
    its patterns name a nested model.
    """
    models, frame = [], sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.Model) and owner not in models:
            models.append(owner)
        frame = frame.f_back
    return models


def callback_model_name():
    """Returns the name of the attribute in which a callback keeps its model, behind the public property `model`.

    Public `set_model` sets it, and nothing takes it out of a copy. Without it a pickled callback would hold its model.
    """
    name = "_model"
    _required(keras.callbacks.Callback(), name, "to copy callbacks without their model")
    return name


def initial_epoch(model):
    """Returns the epoch at which `BackupAndRestore` tells `fit` to go on, or None.

    Nothing public says that a backup was restored. Without it a restored run would count its epochs from 0.
    """
    return getattr(model, "_initial_epoch", None)


def set_initial_epoch(model, epoch):
    """Has the `fit` whose callbacks are beginning start at `epoch`, as `BackupAndRestore` does.

    Nothing public moves a fit that has begun. Without it a run that was killed couldn't be taken up by a callback.
    """
    if not hasattr(model, "_initial_epoch"):
        _required(model, "_initial_epoch", "to go on in the middle of a run")
    model._initial_epoch = epoch


def clear_initial_epoch(model):
    """Forgets the epoch that `BackupAndRestore` left: Keras never does, and the next `fit` would start there too."""
    model._initial_epoch = None


def introduced_callback_list(model):
    """Returns the `CallbackList` that is introducing `model` to its callbacks (`set_model`), or None.

    Keras gives callbacks no way to the list that they are in. `on_train_begin` is too late for refusing a fit without
    harm: other callbacks have emptied their files by then.
    """
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if frame.f_code.co_name == "set_model" and isinstance(owner, keras.callbacks.CallbackList):
            return owner
        frame = frame.f_back
    return None


def give_epoch_logs(model, logs):
    """Has the epoch that `fit` is in report `logs` if it trains no more steps.

    `fit` knows an epoch's logs from its last step only. Without it an epoch that is resumed after its last step would
    end with empty logs.
    """
    name = "_get_metrics_result_or_logs"
    plain = _required(model, name, "to resume an epoch at its end")

    def gather(own):
        del vars(model)[name]
        return plain(own or logs)

    vars(model)[name] = gather


# The data that `fit` reads.


class EpochIterator:
    """What `fit` reads its batches from: counts the passes over the data, and can begin within one.

    Keras's own object is `epoch_iterator` in `fit`; nothing public tells where in the data a fit is, or begins
    elsewhere. Without it a run can be taken up at epochs' ends only, and then in another order.

    Args:
        iterator: Keras's object.
        end_of_data: Tuple of the exceptions, besides `StopIteration`, by which a pass ends.

    Attributes:
        passes: Integer, the iterators made so far.
        taken: Integer, batches taken from the newest one.
        before_pass: Function without arguments that is called before an iterator is made.
    """

    def __init__(self, iterator, end_of_data=()):
        for name in ("_enumerate_iterator", "_get_iterator", "_current_iterator", "_steps_seen", "_num_batches"):
            _required(iterator, name, "to tell where in the data a fit is")
        _required(iterator, "_distributed_dataset", "to tell where in the data a fit is")
        # The iterator holds this object; a strong reference back would keep the data of ended fits for a while.
        self._reference = weakref.ref(iterator)
        self._end_of_data = end_of_data
        self.passes, self.taken = 0, 0
        self.before_pass = lambda: None
        self._place = None
        vars(iterator)["_get_iterator"] = lambda: _Passes(self)
        vars(iterator)["_enumerate_iterator"] = self._enumerate

    @property
    def iterator(self):
        """Keras's object."""
        return self._reference()

    @property
    def adapter(self):
        """Keras's data adapter: what `fit` was given, in one of its forms."""
        return self.iterator.data_adapter

    @property
    def dataset(self):
        """The `tf.data.Dataset`, distributed by the strategy, from which iterators are made."""
        return self.iterator._distributed_dataset

    @dataset.setter
    def dataset(self, dataset):
        self.iterator._distributed_dataset = dataset

    @property
    def length(self):
        """The batches of a pass as Keras knows it by now, or None."""
        return self.iterator._num_batches

    @length.setter
    def length(self, length):
        self.iterator._num_batches = length

    @property
    def goes_on(self):
        """Whether an epoch goes on in the pass of the epoch before, as `steps_per_epoch` has it."""
        return self.iterator.steps_per_epoch is not None

    def begin_at(self, batch, taken):
        """Has the next epoch begin at a batch, in a pass of which some batches are left out.

        Args:
            batch: Integer, the epoch's batches that are done.
            taken: Integer, batches to leave out of the pass; those of earlier epochs are among them.
        """
        self._place = (batch, taken)

    def make(self):
        """Returns a new iterator over the data, and counts it."""
        self.before_pass()
        self.passes += 1
        self.taken = 0
        return iter(self.dataset)

    def _enumerate(self):
        iterator = self.iterator
        (batch, taken), self._place = self._place or (0, 0), None
        first = True
        for begin, end, source in type(iterator)._enumerate_iterator(iterator):
            if first:
                first = False
                if not self._skip(source, taken):
                    return
                # Keras counts the epoch's own batches itself.
                iterator._steps_seen += max(taken - batch, 0)
            if begin < batch:
                continue
            self.taken += iterator.steps_per_execution
            yield begin, end, source

    def _skip(self, source, count):
        """Takes batches and drops them; returns whether there were that many."""
        for _ in range(count):
            try:
                next(source)
            except (StopIteration, *self._end_of_data):
                return False
        self.taken += count
        return True


class _Passes:
    def __init__(self, epochs):
        self._epochs = epochs

    def __iter__(self):
        return self._epochs.make()


def fit_epoch_iterator(model):
    """Returns Keras's object from which the running `fit` of `model` reads its batches, or None."""
    return running_fit(model).get("epoch_iterator")


def validation_iterator(model, strategy):
    """Returns the object from which the running `fit` of `model` reads its validation data, made if it isn't there.

    `fit` makes it at its first validation, and each validation may go on where the last one ended. Without it a
    resumed run would begin its validation data anew.
    """
    fit = running_fit(model)
    if getattr(model, "_eval_epoch_iterator", None) is None:
        model._eval_epoch_iterator = type(fit["epoch_iterator"])(
            x=fit["val_x"],
            y=fit["val_y"],
            sample_weight=fit["val_sample_weight"],
            batch_size=fit["validation_batch_size"] or fit["batch_size"],
            distribute_strategy=strategy,
            steps_per_execution=model.steps_per_execution,
            steps_per_epoch=fit["validation_steps"],
            shuffle=False,
        )
    return model._eval_epoch_iterator


def data_kind(adapter):
    """Returns what `fit` was given: `"arrays"`, `"dataset"`, `"sequence"` (a PyDataset) or `"other"`.

    Keras chooses an adapter by rules of its own, and none of their classes is public.
    """
    kinds = {"ArrayDataAdapter": "arrays", "TFDatasetAdapter": "dataset", "PyDatasetAdapter": "sequence"}
    return kinds.get(type(adapter).__name__, "other")


def array_settings(adapter):
    """Returns the arrays, the batch size and `shuffle` of an adapter of arrays.

    Nothing public tells them. Without it data can't be told from other data, nor shuffled in a known order.
    """
    names = ("_inputs", "_batch_size", "_shuffle")
    return tuple(_required(adapter, name, "to shuffle arrays in a known order") for name in names)


def shuffled_dataset(adapter, module, shuffle):
    """Returns the dataset of an adapter of arrays, shuffled by another function than `tf.random.shuffle`.

    Without a global seed Keras's own shuffle can't be repeated.

    Args:
        adapter: Keras's adapter.
        module: `tf.random`.
        shuffle: Function of a tensor that returns it in another order.
    """
    with replaced_all([(module, "shuffle", shuffle)]):
        return adapter.get_tf_dataset()


def dataset_inputs(dataset):
    """Returns the datasets that a `tf.data.Dataset` is made of.

    Nothing public tells. Without it a pipeline inside others isn't found.
    """
    return list(_required(dataset, "_inputs", "to find a pipeline inside others")())


def dataset_graphs(dataset):
    """Returns the graphs of the functions that a `tf.data.Dataset` calls itself, as protocol buffers.

    Public `dataset.save` runs the data, and a serialised dataset holds the data too. Without it nobody knows whether a
    dataset draws random numbers of its own.
    """
    return [wrapper.function.graph.as_graph_def() for wrapper in _required(dataset, "_functions", "to look inside")()]


def global_tensorflow_seed():
    """Returns the seed given to `tf.random.set_seed`, or None.

    Nothing public tells. Without it a shuffle that repeats by itself would be replaced by another order.
    """
    context = sys.modules["tensorflow.python.eager.context"]
    return _required(context, "global_seed", "to know whether a shuffle can be repeated")()


def uses_cached_validation(arguments):
    """Returns whether the arguments of `evaluate` are those of `fit`'s own validation.

    Nothing else tells it from an `evaluate` that a callback calls.
    """
    return bool(arguments.get("_use_cached_eval_dataset"))


def global_state():
    """Returns the dictionary of Keras's global state: the names given so far and the global seed generator.

    Public `clear_session` only empties it. Without it a check that leaves no trace would change the names of the
    layers that are made after it.
    """
    module = sys.modules[keras.random.SeedGenerator.__module__]
    return vars(_required(_required(module, "global_state", "to keep names and seeds"), "GLOBAL_STATE_TRACKER", ""))


def global_seed_generator():
    """Returns the seed generator of random numbers that are drawn without a seed.

    Public `set_random_seed` only resets it. Without it such numbers would be the same in every batch of an ensemble.
    """
    if global_state().get("global_seed_generator") is None:
        # Keras makes it at its first use.
        keras.random.uniform((1,))
    return _required(_Attributes(global_state()), "global_seed_generator", "to draw numbers that have no seed")


class _Attributes:
    """The entries of a dictionary as attributes."""

    def __init__(self, entries):
        vars(self).update(entries)


def download_module():
    """Returns the module in which all of `keras.applications` find `get_file`.

    There alone do a weights file and its address come together. Without it `backbone` can't say, before a long wait,
    that the weights are not on disk.
    """
    module = sys.modules[keras.utils.get_file.__module__]
    _required(module, "validate_file", "to find weights on disk")
    return module


def symbolic_build_of_fit():
    """Returns `(class, name, function)` of the method by which `fit` builds a model under a strategy, for `setattr`.

    It takes an `iterator` of the data, or one `data_batch`. Without it models can't be trained on several workers, as
    long as Keras's own fails there (keras#20585).
    """
    trainer, name = _tensorflow_trainer(), "_maybe_symbolic_build"
    return trainer, name, _required(trainer, name, "to train on several workers")


def reduction_of_replicas():
    """Returns `(module, name, function)` of what makes one value of those of all replicas, for `setattr`.

    `fit`, `evaluate` and `predict` look it up in their module at each trace. Without it models can't be trained on
    several workers, as long as Keras's own fails there (keras#20585).
    """
    module, name = sys.modules[_tensorflow_trainer().__module__], "reduce_per_replica"
    return module, name, _required(module, name, "to train on several workers")


def _tensorflow_trainer():
    """Returns the base class of models that holds TensorFlow's `fit`."""
    return next(base for base in keras.Model.__mro__ if "train_on_batch" in vars(base) and "tensorflow" in str(base))


# Callbacks.


def callback_attributes(callback):
    """Returns the names of the attributes in which a callback of Keras keeps what it remembers from epoch to epoch.

    Keras's callbacks have no `get_state`; some of the names are private. Without it a resumed run would start to count
    anew in them. Callbacks that aren't listed remember nothing, or files of their own.
    """
    names = []
    for kind, kept in _CALLBACK_ATTRIBUTES.items():
        if isinstance(callback, kind):
            names += kept
    return names


_CALLBACK_ATTRIBUTES = {
    keras.callbacks.History: ["history", "epoch"],
    keras.callbacks.EarlyStopping: ["wait", "stopped_epoch", "best", "best_weights", "best_epoch"],
    keras.callbacks.ReduceLROnPlateau: ["wait", "cooldown_counter", "best"],
    keras.callbacks.ModelCheckpoint: ["best", "_batches_seen_since_last_saving", "_last_batch_seen"],
    keras.callbacks.SwapEMAWeights: ["_ema_weights_in_model"],
}


# Optimizers.


def optimizer_variables(optimizer):
    """Returns the variables that an optimizer was built on; empty before that.

    Public `optimizer.variables` are its own slots.
    """
    return list(_required(optimizer, "_trainable_variables", "to know which weights an optimizer trains"))


def variable_index(optimizer, variable):
    """Returns the variable's number among those that an optimizer was built on, or None.

    `update_step` gets the backend's own variables, in pieces under `tf.distribute`; only Keras's key tells them apart.
    Without it a step finds neither a variable's slots nor its factor.
    """
    try:
        return _required(optimizer, "_get_variable_index", "to find a variable's state")(variable)
    except KeyError:
        return None


def adam_slots(optimizer, variable):
    """Returns the averages of the gradient and of its square, and the latter's largest or None, that Adam keeps.

    Public `optimizer.variables` holds them in no promised order. Without it Adam can't leave its correction out.
    """
    names = ["_momentums", "_velocities", *(["_velocity_hats"] if optimizer.amsgrad else [])]
    index = variable_index(optimizer, variable)
    slots = [_required(optimizer, name, "to find Adam's averages")[index] for name in names]
    return slots if optimizer.amsgrad else [*slots, None]


def wrapped_state_names():
    """Returns the attributes in which Keras reads the state of whatever optimizer a model has.

    A wrapper has to have them too: nothing public says how. Without it a wrapper would count its own steps, and Keras
    would find neither averages nor variables.
    """
    return ("_iterations", "_model_variables_moving_average", "_trainable_variables", "_trainable_variables_indices")


def replace_updates(optimizer, update, parallel_update, decay, average):
    """Has an optimizer call other functions in place of those of its methods that change weights or averages of them.

    `apply` itself (clipping, accumulation, constraints) stays. Public `update_step` is only one of these methods, and
    isn't called on the torch backend. Without the others a layer's weights would decay at another layer's rate,
    silently, so a missing one is an error.

    Args:
        optimizer: A `keras.optimizers.Optimizer`.
        update: Callable `(gradient, variable, learning_rate)`.
        parallel_update: Callable `(gradients, variables, learning_rate)`, for the torch backend.
        decay: Callable `(variables)`, weight decay.
        average: Callable `(variables)`, Keras's own moving averages.
    """
    if hasattr(optimizer, "_parallel_update_step"):
        optimizer._parallel_update_step = parallel_update
    else:
        optimizer.update_step = update
    for name, function in (("_apply_weight_decay", decay), ("_update_model_variables_moving_average", average)):
        _required(optimizer, name, "to give layers rates of their own")
        setattr(optimizer, name, function)


def update_in_parallel(optimizer, gradients, variables, learning_rate):
    """Runs the torch backend's update of several variables, replaced or not."""
    type(optimizer)._parallel_update_step(optimizer, gradients, variables, learning_rate)


def decay_weights(optimizer, variables, learning_rate):
    """Runs an optimizer's weight decay of some variables, replaced or not, as if it had another learning rate.

    Keras reads the rate in the midst of it: from the property, or from the method on the torch backend.
    """
    type(optimizer)._apply_weight_decay(_AtLearningRate(optimizer, learning_rate), variables)


class _AtLearningRate:
    """An optimizer as its own methods see it, with another learning rate."""

    def __init__(self, optimizer, learning_rate):
        self._optimizer = optimizer
        self.learning_rate = learning_rate

    def _get_current_learning_rate(self):
        return self.learning_rate

    def __getattr__(self, name):
        return getattr(self._optimizer, name)


def average_weights(optimizer, variables):
    """Runs Keras's own moving averages of all variables, replaced or not, and returns the averages."""
    type(optimizer)._update_model_variables_moving_average(optimizer, variables)
    return (
        _required(optimizer, "_model_variables_moving_average", "to find moving averages") if optimizer.use_ema else []
    )


@functools.cache
def loss_scaling_asks_one_replica():
    """Returns whether Keras's `LossScaleOptimizer` asks one replica alone whether gradients are finite.

    Only the source tells: it takes the first replica's answer, before gradients are summed, and says in a comment that
    all are the same. Without it, weights under `mixed_float16` become NaN on several replicas, silently.
    """
    source = inspect.getsource(keras.optimizers.LossScaleOptimizer).replace("#", " ")
    return "Each replica computed the same `finite` value" in " ".join(source.split())


def loss_scaling_is_split(optimizer):
    """Returns whether replicas that train by `optimizer` would skip different steps: a fault of Keras, not mended."""
    kind = keras.optimizers.LossScaleOptimizer
    mended = hasattr(kind.check_finite, "__wrapped__")
    return isinstance(optimizer, kind) and not mended and loss_scaling_asks_one_replica()


def learning_rate_schedule(optimizer):
    """Returns the schedule that an optimizer was made with, or None.

    Public `learning_rate` is its value at the present step; `get_config` fails for schedules that aren't registered.
    """
    schedule = _required(optimizer, "_learning_rate", "to read a learning rate schedule")
    return schedule if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule) else None


# TensorFlow.


def compiled_by_xla(graph):
    """Returns whether a TensorFlow graph, or one around it, is being traced for a `tf.function(jit_compile=True)`.

    `jit_compile` enters a control-flow context for as long as it traces; nothing public tells. Without it layers would
    put compiled parts into compiled graphs, and checks that print would break under XLA.
    """
    while graph is not None:
        context = _required(graph, "_get_control_flow_context", "to tell whether XLA compiles a graph")()
        while context is not None:
            if type(context).__name__ == "XLAControlFlowContext":
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False


def serialized_graph(dataset):
    """Returns the serialised graph of a `tf.data.Dataset`, a string tensor.

    Public `dataset.save` runs the data. Without it a data set can't be copied without moving its seeds.
    """
    return _required(dataset, "_as_serialized_graph", "to copy a data set")()


# TFDS.


def progress_bars_active(tfds):
    """Returns whether TFDS shows progress bars: public functions switch them, none tells."""
    return getattr(tfds.core.utils.tqdm_utils, "_active", True)


# Optuna.


def trial_id(trial):
    """Returns the identity of a stored trial, from which a worker's `optuna.Trial` is made.

    Public `study.ask` makes trials without the slot that tells workers apart.
    """
    return _required(trial, "_trial_id", "to share a search between workers")
