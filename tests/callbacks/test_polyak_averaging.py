"""Polyak averages against a float64 replay of the weights that training passed through."""

import copy
import pickle
import warnings

import keras
import numpy as np
import probes
import pytest
import tensorflow as tf
from bits import same_bits

from kregkit._core.weights import copy_values
from kregkit.callbacks import PolyakAveraging, SnapshotEnsemble

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]


def replay(start, weights, decay, start_step=0, warmup=False):
    """Returns the average after `weights`, one row per update, with the batch that each came from."""
    average, count, total = np.array(start, "float64"), 0, 0.0
    for step, row in weights:
        if step < start_step:
            average = np.array(row)
        elif decay == "uniform":
            total, count = total + row, count + 1
            average = total / count
        else:
            now = min(decay, (1 + count) / (10 + count)) if warmup else decay
            average, count = now * average + (1 - now) * row, count + 1
    return average


def flat(weights):
    return np.concatenate([np.ravel(weight) for weight in weights]).astype("float64")


def unscored():
    """Of several averages, the first is put in where no validation tells the best, and that is said."""
    return pytest.warns(
        UserWarning, match=r"PolyakAveraging chooses among \[.*\] by 'val_loss', which was never in the logs"
    )


def fit(model, callbacks, num=14, **arguments):
    x, y = probes.regression(num)
    return model.fit(
        x, y, callbacks=callbacks, **{"batch_size": 2, "epochs": 2, "verbose": 0, "shuffle": False, **arguments}
    )


def updates(record):
    """Returns `(batch, weights)` of each step in `record` that updated."""
    iterations = record.rows[:, 0]
    changed = np.diff(np.concatenate([[0], iterations])) > 0
    return [(step, row[1:]) for step, row in enumerate(record.rows) if changed[step]]


AVERAGES = {
    "exponential": (0.9, {}),
    "uniform": ("uniform", {}),
    "warm-up": (0.9, {"warmup": True}),
    "started late": (0.8, {"start_step": 5}),
    "uniform, started late": ("uniform", {"start_step": 9}),
    "warm-up, started late": (0.95, {"start_step": 3, "warmup": True}),
    "last": (0.0, {}),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_average_of_all_updates(name):
    decay, settings = AVERAGES[name]
    model = probes.small_model(batch_normalization=True, steps_per_execution=3)
    start = flat(model.get_weights())
    record, average = probes.record_weights(), PolyakAveraging(decay, **settings)
    fit(model, [average, record])
    assert len(record.rows) == 14
    expected = replay(start, updates(record), decay, **settings)
    # BatchNormalization statistics are the third and fourth of the weights, and they move.
    assert not np.allclose(record.rows[-1, 1:], expected, atol=1e-4) or name == "last"
    np.testing.assert_allclose(flat(model.get_weights()), expected, rtol=2e-6, atol=2e-6)
    with average.raw():
        np.testing.assert_array_equal(flat(model.get_weights()), record.rows[-1, 1:])
    np.testing.assert_allclose(flat(model.get_weights()), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("wrap", ["plain", pytest.param("multi", marks=probes.needs_multi_optimizer)])
def test_one_move_per_update_under_accumulation(wrap):
    inner = keras.optimizers.SGD(0.05, gradient_accumulation_steps=3)
    optimizer = inner if wrap == "plain" else keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(inner))
    model = probes.small_model(optimizer)
    start = flat(model.get_weights())
    record, average = probes.Record(lambda model: [inner.iterations, *model.weights]), PolyakAveraging([0.5, "uniform"])
    with unscored():
        fit(model, [average, record], batch_size=1)
    moves = updates(record)
    assert [step for step, _ in moves] == list(range(2, 28, 3))
    for decay in average.decays:
        with average.applied(decay):
            np.testing.assert_allclose(flat(model.get_weights()), replay(start, moves, decay), rtol=3e-6, atol=1e-6)
    assert average.get_state()["updates"] == 9


def test_one_move_per_update_where_loss_scaling_skips():
    model = probes.slope_model(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=4.0))
    record, average = probes.record_weights(), PolyakAveraging(["uniform", 0.5])
    data = probes.ones(8)
    data[[0, 3, 7]] = np.inf
    with unscored():
        model.fit(data, data, batch_size=1, shuffle=False, verbose=0, callbacks=[average, record])
    moves = updates(record)
    assert [step for step, _ in moves] == [1, 2, 4, 5, 6]
    for decay in average.decays:
        with average.applied(decay):
            np.testing.assert_allclose(flat(model.get_weights()), replay([0.0], moves, decay), rtol=1e-6)


def test_a_second_fit_goes_on_from_the_raw_weights():
    model, together = probes.small_model(), probes.small_model()
    average, whole = PolyakAveraging(0.9, start_step=4), PolyakAveraging(0.9, start_step=4)
    fit(model, [average], epochs=1)
    held = model.get_weights()
    fit(model, [average], epochs=1)
    assert not same_bits(held, model.get_weights())
    fit(together, [whole], epochs=2)
    assert same_bits(model.get_weights(), together.get_weights())
    assert average.get_state()["updates"] == 10
    with average.raw(), whole.raw():
        assert same_bits(model.get_weights(), together.get_weights())


def test_weights_changed_meanwhile_start_a_new_average():
    model = probes.small_model()
    average = PolyakAveraging(0.9)
    fit(model, [average])
    new = [np.full_like(weight, 0.25) for weight in model.get_weights()]
    model.set_weights(new)
    record = probes.record_weights()
    fit(model, [average, record])
    np.testing.assert_allclose(
        flat(model.get_weights()), replay(flat(new), [(0, row[1:]) for row in record.rows], 0.9), rtol=2e-6, atol=1e-6
    )


class Constant(keras.layers.Layer):
    """Adds nothing, but holds a mask of infinities and a trainable weight without a gradient."""

    def build(self, input_shape):
        self.mask = self.add_weight(shape=(4,), trainable=False, name="mask")
        self.count = self.add_weight(shape=(), dtype="int32", trainable=False, initializer="zeros", name="count")

    def call(self, x):
        self.count.assign_add(1)
        return x


def test_swapping_keeps_every_bit_also_of_infinities_and_nan():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), Constant(), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    # A NaN with a payload, infinities, a negative zero, a denormal.
    odd = np.array([0x7FC12345, 0x7F800000, 0xFF800000, 0x80000000, 0x00000001, 0x3F800001], "uint32").view("float32")
    planted = model.get_weights()
    planted[2] = odd.reshape(2, 3)
    planted[0] = np.array([-np.inf, np.inf, 0.0, -np.inf], "float32")
    model.set_weights(planted)
    average = PolyakAveraging([0.9, "uniform"])
    fit(model, [average], validation_data=probes.regression(4))
    with average.raw():
        raw = model.get_weights()
        # The integers are not averaged; the gradients are NaN where the loss is.
        assert int(raw[1]) > 0
        assert same_bits([raw[0]], [planted[0]])
    left = copy_values(model.weights)
    # A mask that doesn't change is its own average.
    assert same_bits([left[0]], [planted[0]])
    for block in (average.applied(), average.applied("uniform"), average.raw()):
        with block:
            pass
        assert same_bits(copy_values(model.weights), left)
    model.set_weights(planted)
    with average.applied():
        assert not same_bits(copy_values(model.weights), planted)
    assert same_bits(copy_values(model.weights), planted)


def test_training_is_bit_identical_with_and_without_it():
    x, y = probes.regression(6)
    plain, averaged = (probes.small_model(keras.optimizers.Adam(0.01), batch_normalization=True) for _ in range(2))
    average = PolyakAveraging(0.9)
    fit(plain, [], validation_data=(x, y))
    fit(averaged, [average], validation_data=(x, y))
    with average.raw():
        assert same_bits(plain.get_weights(), averaged.get_weights())


def test_who_judges_sees_the_average_and_who_stands_before_sees_the_raw_weights(tmp_path):
    x, y = probes.regression(6, seed=5)
    seen = {}

    class Look(keras.callbacks.Callback):
        def __init__(self, name):
            super().__init__()
            self.name = name
            seen[name] = []

        def on_epoch_end(self, epoch, logs=None):
            seen[self.name].append((flat(self.model.get_weights()), logs["val_loss"]))

    model = probes.small_model(batch_normalization=True)
    start, record, average = flat(model.get_weights()), probes.record_weights(), PolyakAveraging(0.8)
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=10, restore_best_weights=True)
    history = fit(
        model, [Look("before"), average, record, Look("after"), checkpoint, stopping], epochs=3, validation_data=(x, y)
    )
    averages = [replay(start, updates(record)[: 7 * epoch], 0.8) for epoch in (1, 2, 3)]
    np.testing.assert_allclose([row for row, _ in seen["after"]], averages, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal([row for row, _ in seen["before"]], record.rows[[6, 13, 20], 1:])
    scorer = probes.small_model(batch_normalization=True)
    for (row, logged), place in zip(seen["after"], range(3)):
        shapes = [weight.shape for weight in scorer.get_weights()]
        parts = np.split(row, np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1])
        scorer.set_weights([part.reshape(shape) for part, shape in zip(parts, shapes)])
        assert scorer.evaluate(x, y, verbose=0) == pytest.approx(logged, rel=1e-5)
        assert history.history["val_loss"][place] == logged
    best = int(np.argmin(history.history["val_loss"]))
    np.testing.assert_allclose(
        flat(keras.models.load_model(tmp_path / "best.keras").get_weights()), seen["after"][best][0]
    )
    if best != 2:
        np.testing.assert_array_equal(flat(model.get_weights()), seen["after"][best][0])


def test_early_stopping_restores_the_average_of_its_best_epoch():
    model, rows = probes.slope_model(keras.optimizers.SGD(0.5)), []

    class Worse(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rows.append(flat(self.model.get_weights()))
            logs["score"] = [3.0, 1.0, 2.0, 2.0, 2.0][epoch]

    average = PolyakAveraging(0.5)
    stopping = keras.callbacks.EarlyStopping("score", mode="min", patience=2, restore_best_weights=True)
    model.fit(probes.ones(3), probes.ones(3), batch_size=1, epochs=5, verbose=0, callbacks=[average, Worse(), stopping])
    assert len(rows) == 4
    np.testing.assert_array_equal(flat(model.get_weights()), rows[1])


def test_snapshots_beside_it_are_raw(tmp_path):
    model, record = probes.small_model(), probes.record_weights()
    average = PolyakAveraging(0.9)
    fit(model, [average, SnapshotEnsemble(tmp_path, 2, 0.05), record], validation_data=probes.regression(4))
    for cycle, place in ((1, 6), (2, 13)):
        model.load_weights(tmp_path / f"cycle-{cycle:02d}.weights.h5")
        np.testing.assert_array_equal(flat(model.get_weights()), record.rows[place, 1:])


def test_the_best_of_several_is_chosen_and_its_scores_are_logged():
    x, y = probes.regression(6, seed=3)
    model = probes.small_model(keras.optimizers.SGD(0.3), metrics=["mae"])
    start, record = flat(model.get_weights()), probes.record_weights()
    average = PolyakAveraging([0.0, 0.99, "uniform", 0.5])
    history = fit(model, [average, record], epochs=4, validation_data=(x, y)).history
    scorer, best = probes.small_model(metrics=["mae"]), []
    for epoch in range(4):
        scores = {}
        for decay in average.decays:
            row = replay(start, updates(record)[: 7 * (epoch + 1)], decay)
            scorer.set_weights([row[:2].reshape(2, 1), row[2:]])
            scores[decay] = scorer.evaluate(x, y, verbose=0)
            assert history[f"val_loss_{decay}"][epoch] == pytest.approx(scores[decay][0], rel=1e-4)
        best.append(min(scores, key=lambda decay: scores[decay][0]))
        assert history["val_loss"][epoch] == pytest.approx(scores[best[-1]][0], rel=1e-4)
        assert history["val_mae"][epoch] == pytest.approx(scores[best[-1]][1], rel=1e-4)
    assert best[-1] != average.decays[0]
    assert average.best == best[-1]
    np.testing.assert_allclose(
        flat(model.get_weights()), replay(start, updates(record), best[-1]), rtol=2e-6, atol=1e-6
    )


def test_several_without_validation_warn_and_keep_the_first():
    model = probes.small_model()
    average = PolyakAveraging([0.5, 0.9])
    with unscored():
        fit(model, [average])
    assert average.best == 0.5


def test_state_leaves_and_comes_back():
    whole_model, first_model, second_model = (probes.small_model(keras.optimizers.SGD(0.05)) for _ in range(3))
    whole, first, second = (PolyakAveraging([0.9, "uniform"], start_step=3) for _ in range(3))
    with unscored():
        fit(whole_model, [whole], epochs=2)
        fit(first_model, [first], epochs=1)
        state = first.get_state()
        second.set_state(state)
        fit(second_model, [second], epochs=2, initial_epoch=1)
    for one, other in zip(whole.get_state()["averages"], second.get_state()["averages"]):
        assert same_bits(one, other)
    assert same_bits(whole.get_state()["raw"], second.get_state()["raw"])
    assert same_bits(whole_model.get_weights(), second_model.get_weights())
    with pytest.raises(ValueError, match="Received: averages=2"):
        PolyakAveraging(0.9).set_state(state)


def test_half_precision_weights_are_averaged_in_single():
    keras.config.set_dtype_policy("bfloat16")
    model = probes.small_model(keras.optimizers.SGD(0.05))
    assert model.weights[0].dtype == "bfloat16"
    start, record, average = flat(model.get_weights()), probes.record_weights(), PolyakAveraging(0.9)
    fit(model, [average, record], validation_data=probes.regression(4))
    expected = replay(start, updates(record), 0.9)
    np.testing.assert_allclose(flat(average.get_state()["averages"][0]), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(flat(model.get_weights()), expected, rtol=4e-3, atol=1e-3)
    with average.raw():
        np.testing.assert_array_equal(flat(model.get_weights()), record.rows[-1, 1:])


@pytest.mark.parametrize(
    ("make", "others", "text"),
    [
        (lambda: probes.small_model(keras.optimizers.SGD(0.1, use_ema=True)), [], r"Received: use_ema=True"),
        (
            lambda: probes.small_model(),
            [keras.callbacks.BackupAndRestore("unused")],
            r"BackupAndRestore .*before PolyakAveraging",
        ),
    ],
)
def test_what_would_spoil_the_average_is_refused(make, others, text):
    with pytest.raises(ValueError, match=text):
        fit(make(), [PolyakAveraging(), *others])


def test_a_project_s_own_kind_of_backup_is_refused_as_well(tmp_path):
    class Own(keras.callbacks.BackupAndRestore):
        pass

    with pytest.raises(ValueError, match="before PolyakAveraging"):
        fit(probes.small_model(), [PolyakAveraging(), Own(tmp_path)])
    fit(probes.small_model(), [Own(tmp_path), PolyakAveraging()])


@pytest.mark.parametrize(
    "keeper",
    [
        lambda path: keras.callbacks.ModelCheckpoint(path / "best.keras", save_best_only=True),
        lambda path: keras.callbacks.EarlyStopping(restore_best_weights=True),
    ],
)
def test_who_keeps_raw_weights_by_the_average_s_score_is_warned_of(keeper, tmp_path):
    validation = {"validation_data": probes.regression(4)}
    with pytest.warns(UserWarning, match=r"keeps the raw weights by 'val_loss'.* Received: callbacks="):
        fit(probes.small_model(), [keeper(tmp_path), PolyakAveraging(0.5)], **validation)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*PolyakAveraging")
        fit(probes.small_model(), [PolyakAveraging(0.5), keeper(tmp_path)], **validation)


class Own(keras.callbacks.ModelCheckpoint):
    """A project's own kind of it."""


@pytest.mark.parametrize(
    ("decay", "before", "behind", "text"),
    [
        (0.5, Own("{epoch}.weights.h5", save_weights_only=True), None, "Own keeps the raw weights: place it after"),
        (0.5, None, Own("{batch}.weights.h5", save_weights_only=True, save_freq=50), "Own saves within epochs"),
    ],
)
def test_whose_place_in_the_list_matters_is_named(decay, before, behind, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    callbacks = [one for one in (before, PolyakAveraging(decay), behind) if one is not None]
    with pytest.warns(UserWarning, match=text):
        fit(probes.small_model(), callbacks, epochs=1, validation_data=probes.regression(4))


def test_the_best_of_several_is_told_to_whoever_stands_before_as_well():
    class Reader(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.read, self.kernels = [], []

        def on_epoch_end(self, epoch, logs=None):
            self.read.append(dict(logs))
            self.kernels.append(self.model.layers[0].get_weights()[0].copy())

    before, behind, average = Reader(), Reader(), PolyakAveraging([0.1, 0.9])
    fit(probes.small_model(), [before, average, behind], validation_data=probes.regression(4))
    assert average.best == 0.9
    assert before.read == behind.read
    assert all(not np.array_equal(*pair) for pair in zip(before.kernels, behind.kernels))  # raw, and the average


def test_two_of_them_are_refused():
    with pytest.raises(ValueError, match=r"make one with `decay=\[first, second\]`"):
        fit(probes.small_model(), [PolyakAveraging(0.5), PolyakAveraging(0.9)])


@pytest.mark.parametrize("first", [True, False])
def test_weights_that_another_callback_restores_are_where_averages_start(first):
    class Restore(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.set_weights([np.full(weight.shape, 3.0) for weight in self.model.get_weights()])

    model, average, record = probes.small_model(), PolyakAveraging(0.9), probes.record_weights()
    pair = [average, Restore()] if first else [Restore(), average]
    fit(model, [*pair, record], epochs=1)
    np.testing.assert_allclose(flat(model.get_weights()), replay(np.full(3, 3.0), updates(record), 0.9), rtol=2e-6)


def endless():
    while True:
        yield probes.regression(2)


class Reordered(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return probes.regression(2, seed=index)

    def on_epoch_end(self):
        pass


class Noisy(Reordered):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + np.random.default_rng().normal(size=x.shape), y


def by_python(noise):
    def change(x):
        return np.float32(x + (np.random.default_rng().normal(size=x.shape) if noise else 1.0))

    return batched().map(lambda x, y: (tf.ensure_shape(tf.numpy_function(change, [x], tf.float32), [2, 2]), y))


def batched(num=8):
    return tf.data.Dataset.from_tensor_slices(probes.regression(num)).batch(2)


def noisy(x, y):
    return x + tf.random.normal(tf.shape(x)), y


@pytest.mark.parametrize(
    ("data", "steps", "reason"),
    [
        (endless, 2, "is an iterator"),
        (lambda: batched().shuffle(4).repeat(), 2, "is shuffled anew"),
        (lambda: batched().shuffle(4), 2, "is shuffled anew"),
        (lambda: batched().map(noisy), None, "draws random numbers"),
        (Reordered, 2, "is a PyDataset that reorders itself"),
        (Noisy, None, "is a PyDataset whose first batch is another one"),
        (lambda: by_python(noise=True), None, "is made by Python code that gives another first batch"),
        (lambda: by_python(noise=False), None, None),
        (batched, None, None),
        (batched, 2, None),
        (lambda: batched().shuffle(4), None, None),
        (lambda: batched().shuffle(4, reshuffle_each_iteration=False).take(2).cache().repeat(), 2, None),
        (Reordered, None, None),
        (lambda: probes.regression(4), 1, None),
    ],
)
def test_several_averages_need_data_that_can_be_read_again(data, steps, reason):
    model = probes.small_model(keras.optimizers.SGD(0.0))
    start, fit_one = flat(model.get_weights()), {"epochs": 1, "validation_data": data(), "validation_steps": steps}
    if reason is None:
        # The averages are equal, and so are their scores.
        history = fit(model, [PolyakAveraging([0.5, 0.9])], **fit_one).history
        assert history["val_loss_0.5"] == pytest.approx(history["val_loss_0.9"], rel=1e-5)
        return
    with pytest.raises(ValueError, match=rf"`validation_data` {reason}.*Received: decay=\[0.5, 0.9\]"):
        fit(model, [PolyakAveraging([0.5, 0.9])], **fit_one)
    np.testing.assert_array_equal(flat(model.get_weights()), start)
    assert int(model.optimizer.iterations) == 0


class Late(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1))

    def call(self, x):
        return self.dense(x)


class OwnStep(Late):
    def train_step(self, data):
        return super().train_step(data)


def test_a_model_that_fit_builds_is_averaged_from_its_first_weights():
    lazy = keras.Sequential([keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1))])
    averages = []
    for model in (lazy, Late(), probes.small_model()):
        model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=False)
        fit(model, [PolyakAveraging(0.9)], epochs=1)
        averages.append(flat(model.get_weights()))
    np.testing.assert_allclose(averages[:2], averages[2:] * 2, rtol=1e-6)


def test_a_model_that_only_its_own_step_builds_is_refused_before_its_first_step():
    model = OwnStep()
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    with pytest.raises(ValueError, match=r"makes weights in its first step.*Received: model="):
        fit(model, [PolyakAveraging()])
    assert int(model.optimizer.iterations) == 0
    fit(model, [PolyakAveraging()])


def test_it_is_pickled_and_copied_with_its_averages():
    model, average = probes.small_model(), PolyakAveraging([0.9, "uniform"])
    fit(model, [average], validation_data=probes.regression(4))
    state = average.get_state()
    for again in (copy.deepcopy(average), pickle.loads(pickle.dumps(average))):
        again.set_model(model)
        for one, other in zip(again.get_state()["averages"], state["averages"]):
            assert same_bits(one, other)
        assert same_bits(again.get_state()["raw"], state["raw"])
    fit(model, [again], epochs=1, validation_data=probes.regression(4))
    assert again.get_state()["updates"] == 21


def test_errors_of_use():
    average = PolyakAveraging([0.9, 0.5])
    with pytest.raises(ValueError, match="Received: average=None"), average.applied():
        pass
    with pytest.raises(ValueError, match="Received: average=None"):
        average.get_state()
    fit(probes.small_model(), [average], validation_data=probes.regression(4))
    with pytest.raises(ValueError, match=r"one of \[0.9, 0.5\].*Received: decay=0.7"), average.applied(0.7):
        pass
    with pytest.raises(ValueError, match=r"start with 'val_'. Received: monitor='loss'"):
        PolyakAveraging([0.9, 0.5], monitor="loss")


def test_moves_under_mirrored_strategy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
    weights = []
    for scope in (strategy.scope(), None):
        if scope is None:
            model = probes.small_model()
            average = PolyakAveraging([0.9, "uniform"])
            fit(model, [average], validation_data=probes.regression(4))
        else:
            with scope:
                model = probes.small_model()
            average = PolyakAveraging([0.9, "uniform"])
            fit(model, [average], validation_data=probes.regression(4))
        weights.append([flat(one) for one in average.get_state()["averages"]])
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-5, atol=1e-6)


def swag(rows, rank):
    """Returns mean, diagonal and deviations, by the formulas of Maddox et al. (2019), of weights at some times."""
    mean, deviations = np.zeros(rows.shape[1]), []
    for number, row in enumerate(rows):
        mean = (number * mean + row) / (number + 1)
        deviations.append(row - mean)
    kept = np.array(deviations[-rank:])
    return mean, ((rows**2).mean(0) - mean**2) / 2, kept.T @ kept / (2 * (len(kept) - 1))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("every", [None, 3])
def test_posterior_against_a_replay(every):
    optimizer = keras.optimizers.SGD(0.2)
    model = probes.small_model(optimizer, batch_normalization=True, steps_per_execution=2)
    record = probes.Record(lambda model: list(model.trainable_weights))
    average = PolyakAveraging("uniform", start_step=2, posterior=True, rank=3, posterior_every=every)
    rows = []
    # On through a second fit, by a copy of what the callback remembers.
    for epochs in (2, 3):
        fit(model, [average, record], epochs=epochs)
        rows.append(record.rows)
        state, average = average.get_state(), pickle.loads(pickle.dumps(average))
        average.set_state(state)
        average.set_model(model)
    # Averaged updates number 1, 2, ... are those of batches 2, 3, ...
    chosen = [batch for batch in range(2, 35) if (batch % 7 == 6 if every is None else (batch - 1) % every == 0)]
    mean, diagonal, low_rank = swag(np.concatenate(rows)[chosen], 3)
    posterior = average.weight_posterior()
    trained = [model.weights[index].path for index in posterior.indices]
    assert trained == [weight.path for weight in model.trainable_weights]
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(posterior.diagonal, diagonal, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(posterior.deviations.T @ posterior.deviations, low_rank, rtol=1e-3, atol=1e-7)
    samples = np.array([np.concatenate([w.ravel() for w in posterior.draw(i).values()]) for i in range(2000)])
    assert (np.abs(np.cov(samples.T) - posterior.covariance()) < 0.2 * posterior.covariance().max()).all()


def test_there_is_no_posterior_of_one_time():
    for average, gathered in [(PolyakAveraging(), 0), (PolyakAveraging(posterior=True), 1)]:
        fit(probes.small_model(), [average], epochs=1)
        with pytest.raises(ValueError, match=rf"two times at least.* Received: posterior=.*gathered={gathered}"):
            average.weight_posterior()
