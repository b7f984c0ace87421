"""Every private name that kregkit uses is still there and still means what it did.

A failure here names the function of `kregkit/_core/keras_internals.py` to mend; nothing else uses the name.
"""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from kregkit._core import keras_internals as internals


def gone(function):
    return f"kregkit._core.keras_internals.{function.__name__} no longer does what its docstring says"


@pytest.fixture
def model():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dropout(0.5, seed=1)])
    model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(1, kernel_regularizer="l2")])
    model.compile("sgd", "mse", metrics=["mae"])
    return model


def test_flatten_layers(model):
    inner = model.layers[0]
    expected = {id(model), id(inner), *map(id, inner.layers), id(model.layers[1])}
    layers = internals.flatten_layers(model)
    assert expected <= set(map(id, layers)), gone(internals.flatten_layers)
    assert len(layers) == len(set(map(id, layers))), gone(internals.flatten_layers)
    assert model not in internals.flatten_layers(model, include_self=False), gone(internals.flatten_layers)


def test_nodes_and_history(model):
    functional = internals.functional_of(model)
    operations = [node.operation for node in internals.nodes_in_order(functional)]
    assert [operation for operation in operations if operation in model.layers] == model.layers, gone(
        internals.nodes_in_order
    )
    assert internals.functional_of(functional) is functional, gone(internals.functional_of)
    operation, node_index, tensor_index = internals.keras_history(functional.outputs[0])
    assert operation is model.layers[-1] and tensor_index == 0, gone(internals.keras_history)
    node = internals.inbound_nodes(operation)[node_index]
    assert len(node.input_tensors) == 1, gone(internals.inbound_nodes)
    assert internals.keras_history(np.ones(2)) is None, gone(internals.keras_history)

    class Subclass(keras.Model):
        pass

    assert internals.functional_of(Subclass()) is None, gone(internals.functional_of)


def test_masks():
    outputs = keras.layers.Embedding(3, 2, mask_zero=True)(np.array([[1, 0]]))
    assert internals.get_mask(outputs).numpy().tolist() == [[True, False]], gone(internals.get_mask)
    x = tf.reshape(tf.range(4.0), (1, 2, 2))
    internals.set_mask(x, tf.constant([[True, False]]))
    mean = keras.layers.GlobalAveragePooling1D()(x)
    assert mean.numpy().tolist() == [[0.0, 1.0]], gone(internals.set_mask)
    plain = tf.ones((1, 2))
    internals.set_mask(plain, None)
    assert internals.get_mask(plain) is None, gone(internals.set_mask)


def test_layers(model):
    inner, dense = model.layers
    assert internals.own_trainable_variables(dense) == [dense.kernel, dense.bias], gone(
        internals.own_trainable_variables
    )
    dense.trainable = False
    assert len(internals.own_trainable_variables(dense)) == 2, gone(internals.own_trainable_variables)
    assert internals.own_trainable_variables(inner) == [], gone(internals.own_trainable_variables)
    dropout = inner.layers[-1]
    assert internals.seed_generators(dropout) == [dropout.seed_generator], gone(internals.seed_generators)
    assert internals.takes_training(dropout) and not internals.takes_training(keras.layers.Flatten()), gone(
        internals.takes_training
    )
    name, method = internals.apply_scores(keras.layers.AdditiveAttention())
    assert callable(method) and name in vars(keras.layers.Attention), gone(internals.apply_scores)
    inputs = {"b": keras.Input((2,), name="b"), "a": keras.Input((1,), name="a")}
    functional = keras.Model(inputs, inputs["a"])
    standardized = internals.standardize_inputs(functional)({"a": np.zeros((3, 1)), "b": np.zeros((3, 2))})
    expected = [tensor.shape[1] for tensor in functional.inputs]
    assert [tensor.shape[1] for tensor in standardized] == expected, gone(internals.standardize_inputs)
    loss = keras.losses.MeanSquaredError()
    with internals.computing_in("float64", [dense], [loss]):
        found = dense.compute_dtype, loss.dtype, dense.kernel.dtype
        assert found == ("float64", "float64", "float64"), gone(internals.computing_in)
    found = dense.compute_dtype, loss.dtype, dense.kernel.dtype
    assert found == ("float32", "float32", "float32"), gone(internals.computing_in)
    penalised = keras.layers.Dense(1, activity_regularizer="l2")
    penalised(np.ones((2, 2), "float32"))
    assert penalised.losses
    internals.clear_losses(penalised)
    assert not penalised.losses, gone(internals.clear_losses)


def test_compiled_parts(model):
    arguments = internals.compile_arguments(model)
    assert arguments["loss"] == "mse" and arguments["metrics"] == ["mae"], gone(internals.compile_arguments)
    assert internals.flat_losses(model) == [], gone(internals.flat_losses)
    model.train_on_batch(np.ones((2, 4)), np.ones((2, 1)))
    assert internals.compiled_loss(model).built, gone(internals.compiled_loss)
    assert [loss.name for loss in internals.flat_losses(model)] == ["mse"], gone(internals.flat_losses)
    assert internals.compile_arguments(keras.Sequential()) is None, gone(internals.compile_arguments)
    assert internals.compiled_loss(keras.Sequential()) is None, gone(internals.compiled_loss)


def test_build_as_fit_does():
    model = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    internals.build_as_fit_does(model, (np.ones((2, 4), "float32"), np.ones((2, 1), "float32"), None))
    assert model.built and len(model.weights) == 4, gone(internals.build_as_fit_does)


def test_learning_rate_schedule():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    found = [internals.learning_rate_schedule(keras.optimizers.SGD(rate)) for rate in (schedule, 0.1)]
    assert found == [schedule, None], gone(internals.learning_rate_schedule)


def test_directions_of_metrics():
    directions = [
        internals.metric_direction(metric)
        for metric in (keras.metrics.AUC(), keras.metrics.MeanSquaredError(), keras.metrics.Mean())
    ]
    assert directions == ["max", "min", None], gone(internals.metric_direction)
    wrapper = keras.metrics.MeanMetricWrapper(keras.losses.huber)
    assert internals.wrapped_function(wrapper) is keras.losses.huber, gone(internals.wrapped_function)


def test_the_running_callback_list_is_found(model):
    found = []

    class Finder(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            found.append(internals.running_callback_list())

    finder = Finder()
    model.fit(np.ones((2, 4)), np.ones((2, 1)), verbose=0, callbacks=[finder])
    assert finder in found[0].callbacks, gone(internals.running_callback_list)
    assert internals.running_callback_list() is None, gone(internals.running_callback_list)


def test_the_running_fit_tells_its_arguments_and_its_data(model):
    found = []

    class Finder(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            found.append((internals.running_fit(model), internals.running_fit_spec(model)))

    def batches():
        while True:
            yield np.ones((2, 4), "float32"), np.ones((2, 1), "float32")

    x, y = np.ones((4, 4), "float32"), np.ones((4, 1), "float32")
    finder = {"verbose": 0, "callbacks": [Finder()]}
    model.fit(x, y, batch_size=2, validation_data=(x, y), validation_freq=3, **finder)
    model.fit(batches(), steps_per_epoch=1, **finder)
    (arguments, spec), (_, of_generator) = found
    assert arguments["validation_data"][0] is x and arguments["validation_freq"] == 3, gone(internals.running_fit)
    assert arguments["validation_steps"] is None, gone(internals.running_fit)
    for one in (spec, of_generator):
        assert one[0].shape[1:].as_list() == [4] and one[0].dtype == tf.float32, gone(internals.running_fit_spec)
    assert internals.running_fit(model) == {}, gone(internals.running_fit)
    assert internals.running_fit_spec(model) is None, gone(internals.running_fit_spec)


def test_a_fit_whose_callback_list_is_hidden_is_an_error(model):
    class Hidden(keras.callbacks.CallbackList):
        def on_epoch_begin(self, epoch, logs=None):
            internals.running_callback_list(self.model)

    with pytest.raises(RuntimeError, match="can't find it"):
        model.fit(np.ones((2, 4)), np.ones((2, 1)), verbose=0, callbacks=Hidden(model=model, epochs=1, steps=1))


def test_callback_model_name(model):
    callback = keras.callbacks.Callback()
    callback.set_model(model)
    assert vars(callback)[internals.callback_model_name()] is model, gone(internals.callback_model_name)


def test_initial_epoch_of_a_backup(model, tmp_path):
    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    x, y = np.ones((2, 4)), np.ones((2, 1))
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, epochs=4, verbose=0, callbacks=[backup, Killed()])
    assert internals.initial_epoch(model) is None, gone(internals.initial_epoch)
    model.fit(x, y, epochs=4, verbose=0, callbacks=[backup])
    assert internals.initial_epoch(model) == 2, gone(internals.initial_epoch)
    internals.clear_initial_epoch(model)
    assert len(model.fit(x, y, epochs=3, verbose=0).epoch) == 3, gone(internals.clear_initial_epoch)

    class Later(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            internals.set_initial_epoch(self.model, 1)

    assert model.fit(x, y, epochs=3, verbose=0, callbacks=[Later()]).epoch == [1, 2], gone(internals.set_initial_epoch)
    internals.clear_initial_epoch(model)


def test_fit_s_own_validation_is_told_from_other_evaluations(model):
    seen, evaluate = [], model.evaluate

    def watching(*args, **kwargs):
        seen.append(internals.uses_cached_validation(kwargs))
        return evaluate(*args, **kwargs)

    model.evaluate = watching
    x, y = np.ones((2, 4)), np.ones((2, 1))
    model.fit(x, y, validation_data=(x, y), verbose=0)
    model.evaluate(x, y, verbose=0)
    assert seen == [True, False], gone(internals.uses_cached_validation)


def test_global_state_holds_the_names_that_come_next():
    state = internals.global_state()
    before = state["object_name_uids"].copy()
    name = keras.layers.Dense(1).name
    assert state["object_name_uids"] != before, gone(internals.global_state)
    state["object_name_uids"] = before
    assert keras.layers.Dense(1).name == name, gone(internals.global_state)


def test_all_applications_download_through_one_module(monkeypatch):
    module = internals.download_module()

    class Asked(Exception):
        pass

    def get_file(*args, **kwargs):
        raise Asked

    monkeypatch.setattr(module, "get_file", get_file)
    with pytest.raises(Asked):
        keras.applications.MobileNetV2((96, 96, 3), weights="imagenet", include_top=False)


def test_optimizer_variables(model):
    assert internals.optimizer_variables(model.optimizer) == [], gone(internals.optimizer_variables)
    model.optimizer.build(model.trainable_variables)
    assert internals.optimizer_variables(model.optimizer) == model.trainable_variables, gone(
        internals.optimizer_variables
    )


def test_calling_models(model):
    class Asked(keras.optimizers.SGD):
        def build(self, variables):
            models.append(internals.calling_models())
            super().build(variables)

    models = []
    model.compile(Asked(), "mse")
    model.train_on_batch(np.ones((2, 4)), np.ones((2, 1)))
    assert models == [[model]], gone(internals.calling_models)
    assert internals.calling_models() == [], gone(internals.calling_models)


def test_inner_layers(model):
    inner, dense = model.layers
    wrapper = keras.layers.TimeDistributed(inner)
    assert internals.inner_layers(wrapper) == [inner], gone(internals.inner_layers)
    assert [layer for layer in internals.inner_layers(model) if layer.weights] == [inner, dense], gone(
        internals.inner_layers
    )


def test_variable_index():
    variables = [keras.Variable(0.0), keras.Variable(0.0)]
    optimizer = keras.optimizers.SGD()
    optimizer.build(variables)
    found = [
        internals.variable_index(optimizer, one) for one in (variables[1], variables[1].value, keras.Variable(0.0))
    ]
    assert found == [1, 1, None], gone(internals.variable_index)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_slots(amsgrad):
    variables = [keras.Variable(0.0), keras.Variable(0.0)]
    optimizer = keras.optimizers.Adam(beta_1=0.5, beta_2=0.75, amsgrad=amsgrad)
    for gradient in (2.0, 0.0):
        optimizer.apply([tf.constant(0.0), tf.constant(gradient)], variables)
    slots = internals.adam_slots(optimizer, variables[1])
    expected = [0.5, 0.75, 1.0 if amsgrad else None]
    assert [slot if slot is None else float(slot) for slot in slots] == expected, gone(internals.adam_slots)


def test_wrapped_state_names():
    optimizer = keras.optimizers.SGD(use_ema=True)
    optimizer.build([keras.Variable(0.0)])
    for name in internals.wrapped_state_names():
        assert hasattr(optimizer, name), gone(internals.wrapped_state_names)


def test_updates_that_are_replaced_are_called_and_can_call_the_optimizers_own():
    calls = []
    optimizer = keras.optimizers.SGD(0.5, weight_decay=0.5, use_ema=True, ema_momentum=0.5)

    def update(gradient, variable, learning_rate):
        calls.append("update")
        type(optimizer).update_step(optimizer, gradient, variable, learning_rate)

    def decay(variables):
        calls.append("decay")
        internals.decay_weights(optimizer, variables, tf.constant(0.25))

    def average(variables):
        calls.append("average")
        (kept,) = internals.average_weights(optimizer, variables)
        calls.append(float(kept))

    internals.replace_updates(optimizer, update, None, decay, average)
    variable = keras.Variable(8.0)
    optimizer.apply([tf.constant(2.0)], [variable])
    # Decay: 8 * (1 - 0.5 * 0.25) = 7; step: 7 - 0.5 * 2.
    assert calls[:3] == ["decay", "update", "average"], gone(internals.replace_updates)
    assert float(variable) == 6.0, gone(internals.decay_weights)
    assert calls[3] == 6.0, gone(internals.average_weights)
    with pytest.raises(RuntimeError, match="to give layers rates of their own"):
        internals.replace_updates(type("Other", (), {})(), update, None, decay, average)


def test_compiled_by_xla():
    seen = []

    def function(x):
        seen.append(internals.compiled_by_xla(tf.compat.v1.get_default_graph()))
        return x

    tf.function(function, jit_compile=True, autograph=False)(tf.ones(()))
    tf.function(function, autograph=False)(tf.ones(()))
    assert seen == [True, False], gone(internals.compiled_by_xla)


def test_serialized_graph_can_be_read_again():
    dataset = tf.data.Dataset.range(3)
    variant = tf.raw_ops.DatasetFromGraph(graph_def=internals.serialized_graph(dataset))
    copy = tf.data.experimental.from_variant(variant, dataset.element_spec)
    assert [int(number) for number in copy] == [0, 1, 2], gone(internals.serialized_graph)


def test_progress_bars_active():
    import tensorflow_datasets as tfds

    before = internals.progress_bars_active(tfds)
    try:
        for active in (False, True):
            (tfds.enable_progress_bar if active else tfds.disable_progress_bar)()
            assert internals.progress_bars_active(tfds) is active, gone(internals.progress_bars_active)
    finally:
        (tfds.enable_progress_bar if before else tfds.disable_progress_bar)()


def test_trial_id():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING))
    trial = optuna.Trial(study, internals.trial_id(study.get_trials(deepcopy=False)[0]))
    assert trial.number == 0, gone(internals.trial_id)


def test_a_missing_name_is_an_error_that_says_what_needs_it():
    with pytest.raises(RuntimeError, match=r"`object._flatten_layers` to find layers inside others.*Received: keras"):
        internals.flatten_layers(object())


def test_global_seed_generator():
    for forget in (lambda: None, keras.utils.clear_session):
        forget()
        generator = internals.global_seed_generator()
        before = np.asarray(generator.state)
        keras.random.uniform((1,))
        assert (np.asarray(generator.state) != before).any(), gone(internals.global_seed_generator)


def test_fit_on_several_workers():
    trainer, name, build = internals.symbolic_build_of_fit()
    assert issubclass(keras.Model, trainer) and getattr(trainer, name) is build, gone(internals.symbolic_build_of_fit)
    parameters = list(inspect.signature(build).parameters)
    assert parameters == ["self", "iterator", "data_batch"], gone(internals.symbolic_build_of_fit)
    module, name, reduce = internals.reduction_of_replicas()
    assert getattr(module, name) is reduce, gone(internals.reduction_of_replicas)
    assert list(inspect.signature(reduce).parameters) == ["values", "strategy", "reduction"], gone(
        internals.reduction_of_replicas
    )
    # `fit` looks it up in its module.
    constants = keras.Model._make_function.__code__.co_consts
    names = [name for code in constants if hasattr(code, "co_names") for name in code.co_names]
    assert name in names, gone(internals.reduction_of_replicas)


def test_loss_scaling():
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    assert not internals.loss_scaling_is_split(scaled.inner_optimizer), gone(internals.loss_scaling_is_split)
    assert isinstance(internals.loss_scaling_asks_one_replica(), bool), gone(internals.loss_scaling_asks_one_replica)
    # Each replica is asked by this method.
    assert bool(scaled.check_finite([tf.ones(2)])) and not scaled.check_finite([tf.constant(np.inf)]), gone(
        internals.loss_scaling_is_split
    )


class Batches(keras.callbacks.Callback):
    """Notes what the callbacks of a fit can learn of its data."""

    def __init__(self):
        super().__init__()
        self.lists, self.batches = [], []

    def set_model(self, model):
        super().set_model(model)
        self.lists.append(internals.introduced_callback_list(model))

    def on_train_begin(self, logs=None):
        self.epochs = internals.EpochIterator(internals.fit_epoch_iterator(self.model))
        self.begin()

    def begin(self):
        pass

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append((batch, self.epochs.passes, self.epochs.taken))


def test_what_fit_reads(model):
    x, y = np.arange(24.0).reshape(6, 4), np.ones((6, 1))

    class Later(Batches):
        def begin(self):
            self.kind = internals.data_kind(self.epochs.adapter)
            self.settings = internals.array_settings(self.epochs.adapter)
            self.validation = internals.validation_iterator(self.model, self.model.distribute_strategy)
            self.epochs.begin_at(1, 1)
            internals.give_epoch_logs(self.model, {"loss": 7.0})

    later = Later()
    fit = {"epochs": 2, "verbose": 0, "validation_data": (x, y)}
    history = model.fit(x, y, batch_size=2, shuffle=False, callbacks=[later], **fit).history
    assert later in later.lists[0].callbacks, gone(internals.introduced_callback_list)
    # One batch is left out; and Keras makes an iterator too many at each epoch's end.
    assert later.batches == [(1, 1, 2), (2, 1, 3), (0, 3, 1), (1, 3, 2), (2, 3, 3)], gone(internals.EpochIterator)
    assert later.kind == "arrays" and later.settings[1:] == (2, False), gone(internals.array_settings)
    assert len(history["val_loss"]) == 2 and history["loss"][0] != 7.0, gone(internals.validation_iterator)

    class AtEnd(Batches):
        def begin(self):
            self.epochs.begin_at(3, 3)
            internals.give_epoch_logs(self.model, {"loss": 7.0})

    at_end = AtEnd()
    assert model.fit(x, y, batch_size=2, verbose=0, callbacks=[at_end]).history == {"loss": [7.0]}, gone(
        internals.give_epoch_logs
    )
    assert "_get_metrics_result_or_logs" not in vars(model) and not at_end.batches, gone(internals.give_epoch_logs)


def test_orders_of_data():
    adapter = None

    class Shuffled(Batches):
        def begin(self):
            nonlocal adapter
            adapter = self.epochs.adapter

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.arange(6.0)[:, None]
    model.fit(x, x, batch_size=3, verbose=0, callbacks=[Shuffled()])
    dataset = internals.shuffled_dataset(adapter, tf.random, lambda value: value[::-1])
    assert [row for batch, _ in dataset for row in batch[:, 0].numpy()] == [5, 4, 3, 2, 1, 0], gone(
        internals.shuffled_dataset
    )
    inner = tf.data.Dataset.range(3)
    assert internals.dataset_inputs(inner.batch(2)) == [inner], gone(internals.dataset_inputs)
    (graph,) = internals.dataset_graphs(inner.map(lambda number: number + tf.random.uniform((), 0, 9, tf.int64)))
    assert any(node.op == "RandomUniformInt" for node in graph.node), gone(internals.dataset_graphs)
    tf.random.set_seed(11)
    assert internals.global_tensorflow_seed() == 11, gone(internals.global_tensorflow_seed)
    tf.random.set_seed(None)
    assert internals.global_tensorflow_seed() is None, gone(internals.global_tensorflow_seed)


def test_callback_attributes():
    callbacks = [
        keras.callbacks.History(),
        keras.callbacks.EarlyStopping(restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(),
        keras.callbacks.ModelCheckpoint("a.keras"),
        keras.callbacks.SwapEMAWeights(),
    ]
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.SwapEMAWeights):
            callback.on_train_begin()
        names = internals.callback_attributes(callback)
        assert names and all(hasattr(callback, name) for name in names), gone(internals.callback_attributes)
    assert internals.callback_attributes(keras.callbacks.TerminateOnNaN()) == [], gone(internals.callback_attributes)
