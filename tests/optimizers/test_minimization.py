"""Full-batch solvers against SciPy on plain NumPy, and what they do to the model around them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize

from kregkit._core.seeds import derived_seed
from kregkit.callbacks import CosineDecay, PolyakAveraging
from kregkit.optimizers import curvature, minimize, minimize_function
from kregkit.optimizers._objective import Objective
from kregkit.optimizers._solver import METHODS, objective_of

pytestmark = [pytest.mark.trains, pytest.mark.one_in(3)]

PENALTY = 2.0**-10  # Keras rounds the factor of an L2 penalty to float32.
WIDE = {"initial_trust_radius": 500.0, "max_trust_radius": 1000.0}  # So that first steps are rejected.


@pytest.fixture(scope="module")
def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    return x / 16, y


@pytest.fixture(scope="module")
def logistic(digits):
    """The known minimum of a penalised softmax regression, by SciPy on float64 NumPy."""
    x, y = digits
    one_hot = np.eye(10)[y]

    def value_and_gradient(vector):
        weights, bias = vector[:640].reshape(64, 10), vector[640:]
        logits = x @ weights + bias
        logits -= logits.max(axis=1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        error = (np.exp(logs) - one_hot) / len(x)
        gradient = np.concatenate([(x.T @ error + 2 * PENALTY * weights).ravel(), error.sum(axis=0)])
        return -np.mean(logs[np.arange(len(y)), y]) + PENALTY * np.sum(weights**2), gradient

    options = {"maxiter": 2000, "gtol": 1e-10, "ftol": 0, "maxfun": 10000}
    return optimize.minimize(value_and_gradient, np.zeros(650), jac=True, method="L-BFGS-B", options=options)


def softmax_regression(dtype="float32"):
    regularizer = keras.regularizers.L2(PENALTY)
    layer = keras.layers.Dense(10, kernel_initializer="zeros", kernel_regularizer=regularizer, dtype=dtype)
    return keras.Sequential([keras.Input((64,), dtype=dtype), layer])


def cross_entropy(y, logits):
    return keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)


def small_model(*middle, seed=0):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(5, activation="tanh"), *middle, keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((3,)), *layers])


def small_data(num=20):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num, 3)).astype("float32")
    return x, np.sin(x[:, :1])


def objective(model, x, y, loss="mse", batch_size=None, stochastic="refuse", batch_normalization="inference"):
    return objective_of(model, x, y, loss, batch_size, stochastic, batch_normalization, seed=0)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("L-BFGS-B", {"gtol": 1e-8, "ftol": 0}),
        ("Newton-CG", {"xtol": 1e-10}),
        ("trust-krylov", {"gtol": 1e-7}),
    ],
)
def test_float64_model_reaches_the_known_minimum(digits, logistic, method, options):
    model = softmax_regression("float64")
    history = minimize(model, *digits, cross_entropy, method, max_iterations=1000, options=options, verbose=0)
    assert abs(history.result.fun - logistic.fun) < 1e-8 * logistic.fun
    np.testing.assert_allclose(model.get_weights()[0].ravel(), logistic.x[:640], atol=1e-4)


@pytest.mark.parametrize("method", ["L-BFGS-B", "Newton-CG"])
def test_float32_model_reaches_the_known_minimum(digits, logistic, method):
    x, y = digits
    model = softmax_regression()
    history = minimize(model, x.astype("float32"), y, cross_entropy, method, max_iterations=500, verbose=0)
    assert abs(history.result.fun - logistic.fun) < 1e-5 * logistic.fun


@pytest.mark.parametrize("method", METHODS)
def test_every_method_descends(method):
    x, y = small_data()
    model = small_model()
    history = minimize(model, x, y, "mse", method, max_iterations=40, verbose=0)
    assert history.history["loss"][-1] < 0.02
    assert np.all(np.diff(history.history["loss"]) <= 0)
    with objective(model, x, y) as f:
        norm = np.linalg.norm(f.value_and_gradient(f.get())[1])
    assert history.history["gradient_norm"][-1] == pytest.approx(norm, rel=1e-3, abs=1e-6)
    # What the model holds is what is reported.
    model.compile(loss="mse")
    assert model.evaluate(x, y, verbose=0) == pytest.approx(history.result.fun, rel=1e-5)


@pytest.fixture
def hard():
    """Convolution, pooling, normalisations, a table of embeddings and a penalty of activations, in float64."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    image, word = keras.Input((6, 6, 2)), keras.Input((3,), dtype="int32")
    a = keras.layers.Conv2D(3, 3, activation="softplus", activity_regularizer=keras.regularizers.L2(0.1))(image)
    a = keras.layers.BatchNormalization()(keras.layers.MaxPooling2D()(a))
    a = keras.layers.GroupNormalization(3)(keras.layers.LayerNormalization()(a))
    b = keras.layers.Embedding(5, 2, embeddings_regularizer="l2")(word)
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(a), keras.layers.Flatten()(b)])
    model = keras.Model([image, word], keras.layers.Dense(3, kernel_regularizer="l2")(joined))
    rng = np.random.default_rng(0)
    yield model, [rng.normal(size=(11, 6, 6, 2)), rng.integers(0, 5, size=(11, 3))], rng.integers(0, 3, size=11)
    keras.config.set_floatx("float32")


@pytest.mark.parametrize("batch_normalization", ["inference", "training"])
def test_gradient_and_hessian_against_finite_differences(hard, batch_normalization):
    model, x, y = hard
    rng = np.random.default_rng(1)
    with objective(model, x, y, cross_entropy, batch_normalization=batch_normalization) as f:
        point = f.get() + 0.1 * rng.normal(size=f.size)
        direction = rng.normal(size=f.size)
        step = 1e-5
        ahead, behind = (f.value_and_gradient(point + sign * step * direction) for sign in (1, -1))
        _, gradient = f.value_and_gradient(point)
        product = f.hessian_product(point, direction)
    assert (ahead[0] - behind[0]) / (2 * step) == pytest.approx(gradient @ direction, rel=1e-7)
    differences = (ahead[1] - behind[1]) / (2 * step)
    assert np.linalg.norm(product - differences) < 1e-6 * np.linalg.norm(differences)


def test_value_is_keras_own_regularisation_included(hard):
    model, x, y = hard
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    model.compile(loss=loss)
    for given in (loss, cross_entropy, None):
        with objective(model, x, y, given) as f:
            value, _ = f.value_and_gradient(f.get())
        assert value == pytest.approx(model.evaluate(x, y, batch_size=11, verbose=0), rel=1e-6)


# Of 11 examples: one each; a last chunk that isn't full, of three and of one; exactly one chunk.
@pytest.mark.parametrize(("reduction", "sizes"), [("sum_over_batch_size", (1, 4, 10, 11)), ("sum", (4,))])
def test_chunks_give_the_full_batch(hard, reduction, sizes):
    model, x, y = hard
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction, dtype="float64")
    results = []
    for size in (None, *sizes):
        with objective(model, x, y, loss, batch_size=size) as f:
            direction = np.arange(f.size) / f.size
            results.append([*f.value_and_gradient(f.get()), f.hessian_product(f.get(), direction)])
    for chunked in results[1:]:
        for one, full in zip(chunked, results[0]):
            np.testing.assert_allclose(one, full, rtol=1e-10, atol=1e-12)


def test_jit_compiles_to_the_same():
    x, y = small_data()
    results = [
        minimize(small_model(), x, y, "mse", "Newton-CG", 5, verbose=0, jit_compile=jit) for jit in (False, True)
    ]
    np.testing.assert_allclose(results[0].history["loss"], results[1].history["loss"], rtol=1e-4)


class Recorder(keras.callbacks.Callback):
    def __init__(self, stop_at=None, fail_at=None):
        super().__init__()
        self.calls, self.weights, self.stop_at, self.fail_at = [], [], stop_at, fail_at

    def on_train_begin(self, logs=None):
        self.calls.append("train begin")

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(f"begin {epoch}")

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(f"end {epoch}")
        self.weights.append(self.model.get_weights())
        if epoch == self.fail_at:
            raise KeyboardInterrupt
        self.model.stop_training = epoch == self.stop_at

    def on_train_end(self, logs=None):
        self.calls.append("train end")


def test_callbacks_run_once_per_iteration_with_its_weights():
    x, y = small_data()
    model, recorder = small_model(), Recorder(stop_at=2)
    history = minimize(model, x, y, "mse", max_iterations=50, callbacks=[recorder], verbose=0)
    assert recorder.calls == ["train begin", "begin 0", "end 0", "begin 1", "end 1", "begin 2", "end 2", "train end"]
    assert history is model.history
    assert history.epoch == [0, 1, 2]
    model.compile(loss="mse")
    for weights, loss in zip(recorder.weights, history.history["loss"]):
        model.set_weights(weights)
        assert model.evaluate(x, y, verbose=0) == pytest.approx(loss, rel=1e-5)


def test_callbacks_see_the_iterate_where_a_step_was_rejected():
    x, y = small_data()
    model, recorder = small_model(), Recorder(stop_at=5)
    history = minimize(model, x, y, "mse", "trust-ncg", callbacks=[recorder], options=WIDE, verbose=0)
    losses = history.history["loss"]
    assert 0 in np.diff(losses)
    model.compile(loss="mse")
    for weights, loss in zip(recorder.weights, losses):
        model.set_weights(weights)
        assert model.evaluate(x, y, verbose=0) == pytest.approx(loss, rel=1e-5)


def test_keras_callbacks_work(tmp_path):
    x, y = small_data()
    model = small_model()
    callbacks = [
        keras.callbacks.EarlyStopping("loss", min_delta=1e9, patience=3),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.weights.h5", "loss", save_best_only=True, save_weights_only=True
        ),
    ]
    history = minimize(model, x, y, "mse", max_iterations=50, callbacks=callbacks, verbose=0)
    assert len(history.epoch) == 4
    expected = model.get_weights()
    model.load_weights(tmp_path / "best.weights.h5")
    for one, other in zip(model.get_weights(), expected):
        np.testing.assert_array_equal(one, other)


def test_best_weights_are_restored_at_the_end():
    x, y = small_data()
    model, recorder = small_model(), Recorder()
    # The highest loss is the first: what is restored is not where the solver ends.
    stop = keras.callbacks.EarlyStopping("loss", mode="max", patience=3, restore_best_weights=True)
    minimize(model, x, y, "mse", callbacks=[recorder, stop], verbose=0)
    assert len(recorder.weights) == 4
    for one, other in zip(model.get_weights(), recorder.weights[0]):
        np.testing.assert_array_equal(one, other)


def test_stop_and_resume_goes_on_counting():
    x, y = small_data()
    model = small_model()
    first = minimize(model, x, y, "mse", "Newton-CG", max_iterations=3, verbose=0)
    second = minimize(model, x, y, "mse", "Newton-CG", max_iterations=6, initial_iteration=3, verbose=0)
    assert second.epoch == [3, 4, 5]
    straight = minimize(small_model(), x, y, "mse", "Newton-CG", max_iterations=6, verbose=0)
    # Newton's method keeps nothing between iterations but the weights.
    losses = first.history["loss"] + second.history["loss"]
    np.testing.assert_allclose(losses, straight.history["loss"], rtol=1e-3)


def test_interrupt_leaves_the_last_finished_iterate(capsys):
    x, y = small_data()
    model, recorder = small_model(), Recorder(fail_at=3)
    with pytest.raises(KeyboardInterrupt):
        minimize(model, x, y, "mse", callbacks=[recorder], verbose=1)
    # Keras's callbacks are called in the list's order, and History is the last.
    assert len(model.history.history["loss"]) == 3 and model.history.result is None
    assert recorder.calls[-1] == "end 3" and capsys.readouterr().out.endswith("\n")
    for one, other in zip(model.get_weights(), recorder.weights[-1]):
        np.testing.assert_array_equal(one, other)


def test_interrupt_returns_the_last_finished_iteration_of_a_function(capsys):
    seen = []

    def callback(iteration, x, logs):
        seen.append((x, logs["loss"]))
        if len(seen) == 3:
            raise KeyboardInterrupt

    def valley(x):
        return keras.ops.sum((x - keras.ops.arange(4.0)) ** 4)

    result = minimize_function(valley, np.full(4, 5.0, "float32"), callback=callback, verbose=1)
    assert (result.success, result.nit, result.status) == (False, 3, 99) and "Interrupted" in result.message
    np.testing.assert_array_equal(result.x, seen[-1][0])
    assert result.fun == seen[-1][1] and result.x.dtype == "float32"
    assert capsys.readouterr().out.endswith("\nInterrupted: the result is that of iteration 3, the last finished one\n")

    def at_once(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        minimize_function(at_once, np.ones(2), verbose=0)


@pytest.mark.parametrize("method", ["L-BFGS-B", "CG", "trust-krylov"])
def test_interrupt_within_an_iteration_leaves_the_last_finished_one(method, monkeypatch):
    x, y = small_data()
    model, recorder, trials = small_model(), Recorder(), []
    evaluate = Objective.value_and_gradient

    def interrupted(self, vector):
        result = evaluate(self, vector)
        trials.append(self.get())
        if len(recorder.weights) == 2:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Objective, "value_and_gradient", interrupted)
    with pytest.raises(KeyboardInterrupt):
        minimize(model, x, y, "mse", method, callbacks=[recorder], verbose=0)
    finished = np.concatenate([weights.ravel() for weights in recorder.weights[-1]])
    assert not np.array_equal(trials[-1], finished)
    for one, other in zip(model.get_weights(), recorder.weights[-1]):
        np.testing.assert_array_equal(one, other)


def test_backup_and_restore_goes_on_where_the_first_call_was_cut(tmp_path):
    x, y = small_data()
    straight = minimize(small_model(), x, y, "mse", "Newton-CG", max_iterations=5, verbose=0)

    def run(max_iterations, *callbacks):
        model = small_model()
        model.compile(keras.optimizers.SGD())
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        return minimize(model, x, y, "mse", "Newton-CG", max_iterations, None, [backup, *callbacks], verbose=0)

    with pytest.raises(KeyboardInterrupt):
        run(5, Recorder(fail_at=2))
    history = run(5)
    assert history.epoch == [3, 4]
    np.testing.assert_allclose(history.history["loss"], straight.history["loss"][3:], rtol=1e-3)
    done = run(4)
    assert (done.epoch, done.result) == ([], None)
    # What Keras never clears doesn't reach the next call.
    assert minimize(done.model, x, y, "mse", "Newton-CG", max_iterations=1, verbose=0).epoch == [0]


@pytest.mark.parametrize("callback", [CosineDecay, PolyakAveraging])
def test_callbacks_of_the_train_step_are_refused(callback):
    x, y = small_data()
    with pytest.raises(ValueError, match=rf"Received: callbacks=\['{callback.__name__}'\]"):
        minimize(small_model(), x, y, "mse", callbacks=[callback()], verbose=0)


class Reconstruction(keras.Model):
    """Needs no targets: it adds its own loss."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = keras.layers.Dense(2), keras.layers.Dense(3)

    def call(self, inputs):
        outputs = self.decode(self.encode(inputs))
        self.add_loss(keras.ops.mean((outputs - inputs) ** 2))
        return outputs


@pytest.mark.parametrize("batch_size", [None, 6])
def test_targets_are_not_needed(batch_size):
    x, _ = small_data()
    keras.utils.set_random_seed(0)
    model = Reconstruction()
    model(x[:2])
    model.compile(keras.optimizers.SGD())
    history = minimize(model, x, max_iterations=100, batch_size=batch_size, verbose=0)
    # The best that two of three dimensions can keep.
    lost = np.linalg.svd(x - x.mean(axis=0))[1][-1] ** 2 / x.size
    assert history.history["loss"][-1] == pytest.approx(lost, rel=1e-3)
    assert model.evaluate(x, verbose=0) == pytest.approx(lost, rel=1e-3)


def test_what_is_no_array_is_refused():
    x, y = small_data()
    import tensorflow as tf

    with pytest.raises(ValueError, match=r"`x` must be an array.* Received: x=_TensorSliceDataset"):
        minimize(small_model(), tf.data.Dataset.from_tensor_slices(x), y, "mse", verbose=0)
    with pytest.raises(ValueError, match=r"`y` must be an array.* a list is a structure\. Received: y=list"):
        minimize(small_model(), x, y.tolist(), "mse", verbose=0)


def test_progress_line_and_message(capsys):
    x, y = small_data()
    minimize(small_model(), x, y, "mse", max_iterations=3)
    assert "3/3" in capsys.readouterr().out
    minimize(small_model(), x, y, "mse", max_iterations=3, verbose=0)
    assert capsys.readouterr().out == ""


def test_the_defaults_print_why_the_solver_stopped_by_itself(capsys):
    x, _ = small_data()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    history = minimize(model, x, 2 * x[:, :1] + 1)
    assert 0 < len(history.epoch) < 100
    printed = capsys.readouterr().out
    assert printed.endswith(f"\nThe solver stopped by itself: {history.result.message}\n")
    assert f"{len(history.epoch)}/100" in printed
    # At the minimum already: no iteration, and no progress line.
    model.set_weights([np.array([[2.0], [0.0], [0.0]]), np.ones(1)])
    assert minimize(model, x, 2 * x[:, :1] + 1).history == {}
    assert capsys.readouterr().out.startswith("The solver stopped by itself: ")
    assert curvature(model, x, 2 * x[:, :1] + 1).kind == "minimum"
    result = minimize_function(lambda x: keras.ops.sum((x - 3) ** 2), np.zeros(2))
    assert capsys.readouterr().out.endswith(f"\nThe solver stopped by itself: {result.message}\n")
    # A callback that stops needs no explanation.
    minimize_function(lambda x: keras.ops.sum((x - 3) ** 4), np.zeros(2), callback=lambda *_: True)
    assert "stopped by itself" not in capsys.readouterr().out


class Branches(keras.Model):
    """Built by its first call, on a dictionary; one layer draws, one counts."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = keras.layers.Dense(3, activation="tanh"), keras.layers.Dense(1)
        self.dropout, self.normalization = keras.layers.Dropout(0.5, seed=1), keras.layers.BatchNormalization()

    def call(self, inputs, training=False):
        hidden = self.normalization(self.hidden(inputs["a"]), training=training)
        return self.head(self.dropout(hidden + inputs["b"], training=training))


@pytest.mark.parametrize("batch_size", [None, 7])
def test_models_that_fit_builds_by_itself(batch_size):
    x, y = small_data()
    inputs = {"a": x, "b": x[:, :1]}
    found = []
    for built in (False, True):
        keras.utils.set_random_seed(3)
        model = Branches()
        if built:
            model(inputs)
        arguments = {"batch_size": batch_size, "stochastic": "inference"}
        report = curvature(model, inputs, y, "mse", **arguments)
        assert keras.ops.convert_to_numpy(model.dropout.seed_generator.state).tolist() == [1, 0]
        assert not np.any(model.normalization.moving_mean.numpy())
        history = minimize(model, inputs, y, "mse", max_iterations=3, verbose=0, **arguments)
        found.append([*report.lowest, *history.history["loss"]])
    np.testing.assert_allclose(*found, rtol=1e-3)
    sequential = keras.Sequential([keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)])
    assert np.isfinite(minimize(sequential, x, y, "mse", max_iterations=2, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("layer", [lambda: keras.layers.Dropout(0.5), lambda: keras.layers.GaussianNoise(1.0)])
def test_stochastic_layers(layer):
    x, y = small_data(200)
    model = small_model(layer())
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"these layers draw random numbers: .*Received: stochastic='refuse'"):
        minimize(model, x, y, "mse", verbose=0)
    for one, other in zip(model.get_weights(), before):
        np.testing.assert_array_equal(one, other)

    (generator,) = model.layers[1]._seed_generators
    state = keras.ops.convert_to_numpy(generator.state).copy()
    values = {}
    for mode, batch_size in (("inference", None), ("freeze", None), ("freeze", 60)):
        with objective(model, x, y, stochastic=mode, batch_size=batch_size) as f:
            points = [f.value_and_gradient(f.get())[0] for _ in range(3)]
        assert len(set(points)) == 1
        values[mode, batch_size] = points[0]
    assert len(set(values.values())) == 3
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(generator.state), state)
    with objective(model, x, y, stochastic="freeze") as f:
        # The Hessian is that of the same draws.
        point, direction = f.get(), np.random.default_rng(1).normal(size=f.size)
        ends = [f.value_and_gradient(point + sign * 1e-2 * direction)[1] for sign in (1, -1)]
        difference = (ends[0] - ends[1]) / 2e-2
        product = f.hessian_product(point, direction)
    assert np.linalg.norm(difference - product) < 0.02 * np.linalg.norm(product)
    model.compile(loss="mse")
    assert model.evaluate(x, y, verbose=0) == pytest.approx(values["inference", None], rel=1e-5)
    history = minimize(model, x, y, "mse", max_iterations=5, stochastic="freeze", verbose=0)
    assert history.history["loss"][-1] < values["freeze", None]


@pytest.mark.parametrize("layer", [keras.layers.GRU, keras.layers.LSTM, keras.layers.SimpleRNN])
def test_recurrent_layers_draw_only_with_dropout(layer):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 4, 2)).astype("float32"), rng.normal(size=(12, 1)).astype("float32")

    def built(**arguments):
        keras.utils.set_random_seed(0)
        return keras.Sequential([keras.Input((4, 2)), layer(3, **arguments), keras.layers.Dense(1)])

    with objective(built(), x, y) as f:
        point, direction = f.get(), rng.normal(size=f.size)
        clean, _ = f.value_and_gradient(point)
        # Backpropagation through time, twice.
        product = f.hessian_product(point, direction)
        ends = [f.value_and_gradient(point + sign * 1e-2 * direction)[1] for sign in (1, -1)]
    difference = (ends[0] - ends[1]) / 2e-2
    assert np.linalg.norm(difference - product) < 0.02 * np.linalg.norm(product)

    model = built(dropout=0.5, recurrent_dropout=0.25)
    with pytest.raises(ValueError, match="these layers draw random numbers"):
        minimize(model, x, y, "mse", verbose=0)
    with objective(model, x, y, stochastic="inference") as f:
        assert f.value_and_gradient(f.get())[0] == pytest.approx(clean, rel=1e-6)
    with objective(model, x, y, stochastic="freeze") as f:
        points = [f.value_and_gradient(f.get())[0] for _ in range(3)]
    assert len(set(points)) == 1
    assert points[0] != pytest.approx(clean, rel=1e-3)
    for layer in model._flatten_layers():
        for generator in layer._seed_generators:
            generator.state.assign([derived_seed(0, 0), 0])
    expected = np.mean((keras.ops.convert_to_numpy(model(x, training=True)) - y) ** 2)
    assert points[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("policy", "precision"),
    [("float64", 2.0**-52), ("float32", 2.0**-23), ("mixed_float16", 2.0**-10), ("mixed_bfloat16", 2.0**-7)],
)
def test_precision_is_that_of_the_computation(policy, precision):
    x, y = small_data()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, dtype=policy)])
    with objective(model, x, y) as f:
        assert f.precision == precision


def test_structures_of_compiled_losses_and_frozen_layers():
    keras.utils.set_random_seed(0)
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
    frozen = keras.layers.Dense(4, activation="tanh", trainable=False)
    hidden = frozen(keras.layers.Concatenate()(list(inputs.values())))
    heads = {"p": keras.layers.Dense(1, name="p"), "q": keras.layers.Dense(3, activation="softmax", name="q")}
    model = keras.Model(inputs, {name: head(hidden) for name, head in heads.items()})
    model.compile(loss={"p": "mse", "q": "sparse_categorical_crossentropy"}, loss_weights={"p": 0.3, "q": 2.0})
    x, y = small_data()
    x, y = {"a": x, "b": x[:, :2]}, {"p": y, "q": np.arange(len(x)) % 3}
    before = frozen.get_weights()
    history = minimize(model, x, y, max_iterations=5, batch_size=8, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert model.evaluate(x, y, verbose=0)[0] == pytest.approx(history.history["loss"][-1], rel=1e-5)
    for one, other in zip(frozen.get_weights(), before):
        np.testing.assert_array_equal(one, other)


def test_batch_normalization():
    x, y = small_data(200)
    model = small_model(keras.layers.BatchNormalization())
    with objective(model, x, y) as f:
        f.value_and_gradient(f.get())
    moving = model.layers[1].non_trainable_variables
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(moving[0]), 0)
    before = model.get_weights()
    with objective(model, x, y, batch_normalization="training") as f:
        f.value_and_gradient(f.get())
    curvature(model, x, y, "mse", k=1, batch_normalization="training")
    for one, other in zip(model.get_weights(), before):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="Received: batch_size=50"):
        minimize(model, x, y, "mse", batch_size=50, batch_normalization="training", verbose=0)


@pytest.mark.parametrize(
    ("interrupted", "method", "options"),
    [(False, "L-BFGS-B", None), (True, "L-BFGS-B", None), (False, "trust-ncg", WIDE), (True, "trust-ncg", WIDE)],
)
def test_statistics_of_the_full_batch_become_the_moving_ones(interrupted, method, options):
    """So that the trained model's loss in inference mode is the one that was minimised."""
    x, y = small_data(200)
    model = small_model(keras.layers.BatchNormalization())
    recorder = Recorder(fail_at=3) if interrupted else Recorder(stop_at=3)
    arguments = {"callbacks": [recorder], "options": options, "batch_normalization": "training", "verbose": 0}
    try:
        minimize(model, x, y, "mse", method, **arguments)
    except KeyboardInterrupt:
        assert interrupted
    assert model.layers[1].momentum == 0.99
    for one, other in zip(model.get_weights(), recorder.weights[-1]):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    model.compile(loss="mse")
    losses = model.history.history["loss"]
    assert len(losses) >= 3
    assert method == "L-BFGS-B" or 0 in np.diff(losses)
    # As the callbacks saw it.
    for weights, loss in zip(recorder.weights, losses):
        model.set_weights(weights)
        assert model.evaluate(x, y, verbose=0) == pytest.approx(loss, rel=1e-4)


class Restless(keras.layers.Layer):
    """Draws from Keras's global generator, which no layer owns."""

    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs))


def test_a_moving_objective_is_an_error():
    x, y = small_data()
    model = small_model(Restless(), keras.layers.BatchNormalization())
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"two at the same weights differ: .*Received: loss="):
        minimize(model, x, y, "mse", batch_normalization="training", verbose=0)
    for one, other in zip(model.get_weights(), before):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"method": "Nelder-Mead"}, "method='Nelder-Mead'"),
        ({"max_iterations": 0}, "max_iterations=0"),
        ({"initial_iteration": 7, "max_iterations": 7}, "initial_iteration=7, max_iterations=7"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"stochastic": "ignore"}, "stochastic='ignore'"),
        ({"batch_normalization": "off"}, "batch_normalization='off'"),
        ({"seed": -1}, "seed=-1"),
        ({"loss": None}, "loss=None"),
        ({"y": np.zeros((3, 1))}, "lengths="),
    ],
)
def test_bad_arguments_are_refused(arguments, text):
    x, y = small_data()
    model = small_model()
    with pytest.raises(ValueError, match="Received: " + text.replace("(", r"\(")):
        minimize(model, **{"x": x, "y": y, "loss": "mse", "verbose": 0, **arguments})


def test_a_function_as_loss_meets_targets_in_the_predictions_type():
    x, y = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12.0)  # NumPy's float64, a float32 model
    losses = []
    for loss in ("mse", lambda y, prediction: tf.reduce_mean(tf.square(y - prediction), axis=-1)):
        losses.append(minimize(small_model(), x, y, loss, max_iterations=2, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_verbose_as_fit_takes_it_and_one_loss_only(capsys):
    x = np.ones((4, 3), "float32")
    minimize(small_model(), x, x[:, 0], "mse", max_iterations=1, verbose="auto")
    minimize_function(lambda x: tf.reduce_sum(tf.square(x)), np.ones(2), max_iterations=1, verbose="auto")
    assert capsys.readouterr().out.count("1/1") >= 2
    for loss in (["mse"], {"out": "mse"}):
        with pytest.raises(ValueError, match=r"must be one loss.*Received: loss="):
            minimize(small_model(), x, x[:, 0], loss)


def test_models_without_weights_and_infinite_losses_are_refused():
    x, y = small_data()
    with pytest.raises(ValueError, match="Received: model="):
        minimize(keras.Sequential([keras.layers.Flatten()]), x, y, "mse")
    with pytest.raises(ValueError, match=r"must be finite at the start\. Received: loss=nan"):
        minimize(small_model(), x * np.nan, y, "mse", verbose=0)


def test_minimize_function_solves_rosenbrock_within_bounds():
    def rosenbrock(x):
        return keras.ops.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    seen = []
    result = minimize_function(
        rosenbrock, np.zeros(6), max_iterations=200, callback=lambda i, x, logs: seen.append((i, x.shape)), verbose=0
    )
    np.testing.assert_allclose(result.x, 1, atol=1e-4)
    assert seen == [(i, (6,)) for i in range(result.nit)]
    newton = minimize_function(rosenbrock, np.zeros(6), "trust-krylov", 200, tolerance=1e-8, verbose=0)
    np.testing.assert_allclose(newton.x, 1, atol=1e-7)
    bounded = minimize_function(rosenbrock, np.zeros(6), bounds=(-1.0, 0.5), verbose=0)
    assert bounded.x.max() <= 0.5
    stopped = minimize_function(rosenbrock, np.zeros((6,), "float32"), callback=lambda i, *_: i == 2, verbose=0)
    assert stopped.nit == 3
    assert stopped.x.dtype == "float32"


def test_minimize_function_refuses():
    with pytest.raises(ValueError, match=r"must return a scalar. Received: shape=\(3,\)"):
        minimize_function(lambda x: x, np.zeros(3))
    with pytest.raises(ValueError, match="Received: dtype=int64"):
        minimize_function(keras.ops.sum, np.zeros(3, int))
    with pytest.raises(ValueError, match="Received: method='BFGS'"):
        minimize_function(keras.ops.sum, np.zeros(3), "BFGS", bounds=(0, 1))
    with pytest.raises(ValueError, match="two at the same weights differ"):
        minimize_function(lambda x: keras.ops.sum(x * keras.random.normal((3,))), np.ones(3, "float32"))


@pytest.mark.parametrize("loss", ["mse", keras.losses.MeanSquaredError(), None])
@pytest.mark.parametrize("batch_size", [None, 5])
def test_sample_weights_are_those_of_weighted_least_squares(loss, batch_size):
    rng = np.random.default_rng(3)
    x, y, weights = rng.normal(size=(14, 3)), rng.normal(size=(14, 1)), rng.uniform(0, 3, 14)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False, dtype="float64")])
    model.compile("sgd", "mse")
    history = minimize(model, x, y, loss, batch_size=batch_size, sample_weight=weights, verbose=0)
    best = np.linalg.solve(x.T @ (weights[:, None] * x), x.T @ (weights[:, None] * y))
    # The losses are float32: near the minimum they tell weights apart to the root of its precision. Without
    # sample weights the solution lies 0.1 away.
    np.testing.assert_allclose(model.get_weights()[0], best, atol=2e-3)
    value = np.mean(weights * ((x @ best - y) ** 2)[:, 0])
    assert history.history["loss"][-1] == pytest.approx(value, rel=1e-5)
    # As `evaluate` counts them.
    assert model.evaluate(x, y, sample_weight=weights, batch_size=14, verbose=0) == pytest.approx(value, rel=1e-5)


def test_sample_weights_that_cant_be_used_are_refused():
    x = np.ones((6, 3), "float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=r"same number of examples. Received: lengths=\[5, 6\]"):
        minimize(model, x, x[:, :1], "mse", sample_weight=np.ones(5), verbose=0)
    with pytest.raises(ValueError, match="a loss for each example"):
        minimize(model, x, x[:, :1], lambda y, p: tf.reduce_mean(y - p), sample_weight=np.ones(6), verbose=0)
    divided = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    with pytest.raises(ValueError, match="divided by the sum of the weights"):
        minimize(model, x, x[:, :1], divided, sample_weight=np.ones(6), batch_size=2, verbose=0)
