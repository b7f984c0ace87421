import decimal

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from kregkit.layers import StochasticDepth, _tensorflow, linear_survival

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]

MODES = ("batch", "sample", "subset")


@keras.saving.register_keras_serializable(package="kregkit_tests")
class Double(keras.layers.Layer):
    """A branch whose output is known: `2 x`, plus `context` and `3` where a mask is true."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs, context=None, mask=None):
        x = 2 * inputs
        if context is not None:
            x = x + context
        return x if mask is None else x + 3 * ops.cast(mask, x.dtype)[..., None]

    def compute_output_shape(self, input_shape):
        return input_shape


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def block(units=4):
    return keras.Sequential([keras.layers.Dense(units), keras.layers.BatchNormalization(momentum=0.5)])


def coins(outputs, x):
    """Which rows of `x` have the branch: those that aren't the input."""
    return (np.abs(np.asarray(outputs) - x) > 1e-6).any(axis=tuple(range(1, x.ndim)))


def test_linear_survival_is_the_papers():
    # ResNet-110's 54 blocks, p_L = 0.5: the expected depth is 40, as the paper says.
    probabilities = linear_survival(54)
    assert probabilities[0] == pytest.approx(1 - 1 / 108)
    assert probabilities[-1] == 0.5
    assert sum(probabilities) == pytest.approx(40.25)
    assert linear_survival(1, final=0.25) == [0.25]
    with pytest.raises(ValueError, match="Received: num_blocks=0"):
        linear_survival(0)
    with pytest.raises(ValueError, match="Received: final=0"):
        linear_survival(3, final=0)


@pytest.mark.parametrize("scale", ["train", "test"])
@pytest.mark.parametrize("mode", MODES)
def test_inference_is_the_expectation(mode, scale):
    x = normal(10, 3)
    layer = StochasticDepth(Double(), 0.7, mode=mode, scale=scale, seed=1)
    run = tf.function(lambda: layer(x, training=True))
    draws = 600
    mean = sum(run().numpy() for _ in range(draws)) / draws
    expected = np.asarray(layer(x, training=False))
    np.testing.assert_allclose(expected, x + (2 * x if scale == "train" else 1.4 * x), rtol=1e-5)
    # The branch adds 2x, over p or not, with standard deviation below 2x sqrt(.3 / .7) = 1.31 x. Five deviations.
    np.testing.assert_array_less(np.abs(mean - expected), 5 * 1.31 * np.abs(x) / np.sqrt(draws) + 1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_draws_what_the_mode_says(mode):
    x = normal(9, 3)
    layer = StochasticDepth(Double(), 0.6, mode=mode, seed=1)
    kept = np.array([coins(layer(x, training=True), x) for _ in range(200)])
    sizes = kept.sum(axis=1)
    if mode == "batch":
        assert set(sizes) == {0, 9}
    elif mode == "subset":
        assert set(sizes) == {5}  # round(0.6 * 9)
    else:
        assert len(set(sizes)) > 4
    rate = {"batch": 0.6, "sample": 0.6, "subset": 5 / 9}[mode]
    trials = 200 if mode == "batch" else 1800
    assert abs(kept.mean() - rate) < 5 * np.sqrt(0.25 / trials)
    if mode != "batch":
        # Every example's share alike, and no pair bound together.
        assert (np.abs(kept.mean(axis=0) - rate) < 5 * np.sqrt(0.25 / 200)).all()
        pair = (kept[:, 0] & kept[:, 1]).mean()
        together = rate * 4 / 8 if mode == "subset" else rate**2
        assert abs(pair - together) < 5 * np.sqrt(0.25 / 200)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_subset_of_any_batch(batch, jit):
    layer = StochasticDepth(Double(), 0.5, mode="subset", seed=0)
    x = normal(batch, 3)

    @tf.function(jit_compile=jit, input_signature=[tf.TensorSpec((None, 3))])
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, x)

    y, gradient = run(x)
    size = max(1, int(0.5 * batch + 0.5))
    kept = coins(y, x)
    assert kept.sum() == size
    factor = np.where(kept, 2 * batch / size, 0)[:, None]
    np.testing.assert_allclose(y, x * (1 + factor), rtol=1e-6)
    np.testing.assert_allclose(gradient, np.broadcast_to(1 + factor, x.shape), rtol=1e-6)


def test_subset_has_one_size_whether_the_batch_is_known_or_not():
    for probability in [*linear_survival(7), 0.21, 0.26, 0.29, 0.35, 0.999]:
        layer = StochasticDepth(Double(), probability, mode="subset")
        for batch in [*range(1, 60), 90, 150, 225, 4096]:
            expected = max(1, int(decimal.Decimal(str(probability)) * batch + decimal.Decimal("0.5000001")))
            assert layer._subset_size(batch) == expected
            assert int(layer._subset_size(ops.convert_to_tensor(batch))) == expected


@pytest.mark.parametrize("jit", [False, True])
def test_subset_trains_on_a_partial_last_batch(jit):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, StochasticDepth(block(), 0.5, mode="subset", seed=0)(inputs))
    model.compile("sgd", "mse", jit_compile=jit)
    history = model.fit(normal(11, 4), normal(11, 4), batch_size=4, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_subset_rounds_to_the_size_at_hand_at_test_time():
    layer = StochasticDepth(Double(), 0.5, mode="subset", scale="test", seed=0)
    x = normal(7, 3)
    np.testing.assert_allclose(layer(x, training=False), x * (1 + 2 * 4 / 7), rtol=1e-6)
    assert coins(layer(x, training=True), x).sum() == 4


@pytest.mark.parametrize("how", ["graph", "eager", "jit"])
def test_dropped_branch_keeps_its_state_and_has_no_gradient(how):
    branch = block()
    layer = StochasticDepth(branch, 0.5, seed=3)
    x = normal(6, 4)
    layer.build((None, 4))

    def step():
        with tf.GradientTape() as tape:
            y = layer(x, training=True)
            loss = tf.reduce_sum(y * x)
        return y, tape.gradient(loss, [variable.value for variable in branch.trainable_variables])

    run = step if how == "eager" else tf.function(step, jit_compile=how == "jit")
    seen = set()
    for _ in range(12):
        before = [variable.numpy() for variable in branch.non_trainable_variables]
        y, gradients = run()
        after = [variable.numpy() for variable in branch.non_trainable_variables]
        dropped = not coins(y, x).any()
        seen.add(dropped)
        assert all((one == other).all() for one, other in zip(before, after)) == dropped
        assert all((np.asarray(one) == 0).all() for one in gradients) == dropped
    assert seen == {True, False}


def test_dropped_branch_is_not_computed():
    calls = tf.Variable(0)

    class Counting(keras.layers.Layer):
        def call(self, inputs):
            calls.assign_add(1)
            return inputs

    layer = StochasticDepth(Counting(), 0.5, seed=0)
    x = normal(2, 3)
    run = tf.function(lambda: layer(x, training=True))
    kept = sum(coins(run(), x).any() for _ in range(30))
    assert calls.numpy() == kept
    assert 0 < kept < 30


@pytest.mark.parametrize("jit", [False, True])
def test_xla_on_cpus_gets_no_conditional(jit, monkeypatch):
    monkeypatch.setattr(_tensorflow, "has_accelerator", lambda: False)
    layer = StochasticDepth(Double(), 0.5, seed=0)
    run = tf.function(lambda x: layer(x, training=True), jit_compile=jit)
    operations = run.get_concrete_function(tf.TensorSpec((None, 3))).graph.get_operations()
    assert any(operation.type in ("If", "StatelessIf") for operation in operations) != jit


def test_subset_statistics_are_those_of_the_subset():
    branch = keras.Sequential([keras.layers.BatchNormalization(momentum=0.0)])
    layer = StochasticDepth(branch, 0.5, mode="subset", seed=0)
    x = normal(8, 3)
    kept = coins(layer(x, training=True), x)
    assert kept.sum() == 4
    np.testing.assert_allclose(branch.layers[0].moving_mean, x[kept].mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("jit", [False, True])
def test_dropped_branch_has_no_loss(jit):
    branch = keras.layers.Dense(3, activity_regularizer=keras.regularizers.L2(0.1))
    layer = StochasticDepth(branch, 0.5, seed=0)
    x = normal(4, 3)
    layer.build((None, 3))

    @tf.function(jit_compile=jit)
    def run():
        y = layer(x, training=True)
        return y, sum(layer.losses)

    expected = 0.1 * (np.asarray(branch(x)) ** 2).sum() / 4
    for _ in range(8):
        y, loss = run()
        assert float(loss) == pytest.approx(expected if coins(y, x).any() else 0, rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_several_inputs_masks_and_keywords(mode):
    x, context = normal(6, 5, 3), normal(6, 5, 3, seed=1)
    mask = np.random.default_rng(2).random((6, 5)) < 0.5
    layer = StochasticDepth(Double(), 0.5, mode=mode, seed=5)
    plain = 2 * x + context + 3 * mask[..., None]
    np.testing.assert_allclose(layer(x, context=context, mask=mask), x + plain, rtol=1e-5)
    for _ in range(4):
        y = layer(x, context=context, mask=mask, training=True)
        kept = coins(y, x)
        np.testing.assert_allclose(y, x + np.where(kept, 2, 0)[:, None, None] * plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_attention_branch_trains(mode):
    attention = keras.layers.MultiHeadAttention(2, 4)
    query, value = keras.Input((5, 8)), keras.Input((7, 8))
    outputs = StochasticDepth(attention, 0.5, mode=mode, seed=0)(query, value=value)
    model = keras.Model([query, value], keras.layers.Flatten()(outputs))
    model.compile("sgd", "mse")
    history = model.fit([normal(10, 5, 8), normal(10, 7, 8)], normal(10, 40), batch_size=4, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    assert attention.built


def test_mask_reaches_the_branch_and_what_follows():
    inputs = keras.Input((4,), dtype="int32")
    x = keras.layers.Embedding(5, 3, mask_zero=True)(inputs)
    y = StochasticDepth(Double(), 0.5)(x)
    model = keras.Model(inputs, [x, y])
    ids = np.array([[1, 2, 0, 0]])
    before, after = model.predict(ids, verbose=0)
    np.testing.assert_allclose(after, 3 * before + 3 * (ids != 0)[..., None], rtol=1e-5)
    assert y._keras_mask is not None


def test_shortcut_of_another_shape():
    layer = StochasticDepth(keras.layers.Dense(5), 0.5, shortcut=keras.layers.Dense(5), seed=0)
    assert layer.compute_output_shape((None, 3)) == (None, 5)
    x = normal(2, 3)
    np.testing.assert_allclose(layer(x), layer.branch(x) + layer.shortcut(x), rtol=1e-6)
    with pytest.raises(ValueError, match=r"shape of the shortcut's.*Received: shape=\(2, 5\)"):
        StochasticDepth(keras.layers.Dense(5))(x)
    with pytest.raises(ValueError, match=r"first axis, or one row for all. Received: shape=\(3, 3\)"):
        StochasticDepth(Double(), mode="subset")(x, context=normal(3, 3), training=True)


@pytest.mark.parametrize("training", [False, True])
def test_draw_call_hands_training_to_the_shortcut(training):
    shortcut = keras.layers.BatchNormalization(momentum=0.0)
    layer = StochasticDepth(keras.layers.Identity(), 0.5, shortcut=shortcut, seed=0)
    x = 3 + normal(4, 3)
    layer.build(x.shape)
    layer.draw_call(x, training=training)
    np.testing.assert_allclose(shortcut.moving_mean, x.mean(axis=0) if training else np.zeros(3), rtol=1e-5)


def test_wrong_shapes_are_refused_when_a_model_is_put_together():
    inputs = keras.Input((3,))
    with pytest.raises(ValueError, match=r"shape of the shortcut's.*Received: shape=\(None, 5\)"):
        StochasticDepth(keras.layers.Dense(5))(inputs)
    with pytest.raises(ValueError, match=r"which is \(None, 4\). Received: shape=\(None, 5\)"):
        StochasticDepth(keras.layers.Dense(5), shortcut=keras.layers.Dense(4))(inputs)


def test_branch_with_several_inputs_has_its_weights_as_soon_as_the_model_is_put_together():
    query, value = keras.Input((5, 8)), keras.Input((7, 6))
    attention = keras.layers.MultiHeadAttention(2, 4)
    outputs = StochasticDepth(attention)(query, value=value)
    assert tuple(outputs.shape) == (None, 5, 8)
    assert len(keras.Model([query, value], outputs).trainable_weights) == 8


@pytest.mark.parametrize("mode", MODES)
def test_masks_that_tensors_carry_reach_a_branch_with_several_inputs(mode):
    attention = keras.layers.MultiHeadAttention(2, 4)
    x = normal(6, 5, 4)
    plain = np.asarray(attention(x, x, attention_mask=np.arange(5)[None, None] < 3))
    layer = StochasticDepth(attention, 0.5, mode=mode, seed=1)

    def masked():
        return keras.layers.Masking()(np.where(np.arange(5)[:, None] < 3, x, 0))

    for training in (True, True, True, False):
        tensor = masked()
        y = np.asarray(layer(tensor, tensor, training=training))
        kept = coins(y, np.asarray(tensor))
        expected = np.asarray(tensor) + (2 if training else 1) * kept[:, None, None] * plain
        # Masked queries get what masked rows hold, which is nobody's business.
        np.testing.assert_allclose(y[:, :3], expected[:, :3], rtol=1e-4, atol=1e-5)


def test_one_row_may_stand_for_the_batch_in_a_subset():
    x, context = normal(6, 3), normal(1, 3, seed=1)
    layer = StochasticDepth(Double(), 0.5, mode="subset", seed=0)
    run = tf.function(lambda x: layer(x, context=context, training=True), input_signature=[tf.TensorSpec((None, 3))])
    kept = coins(run(x), x)
    assert kept.sum() == 3
    layer.seed_generator.state.assign([0, 0])
    y = run(x)
    np.testing.assert_allclose(y, x + 2 * coins(y, x)[:, None] * (2 * x + context), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_draw_call_leaves_batch_normalization_in_inference(mode):
    branch = block(3)
    layer = StochasticDepth(branch, 0.5, mode=mode, seed=0)
    x = normal(8, 3)
    full = np.asarray(layer(x))
    before = [variable.numpy() for variable in branch.variables]
    for _ in range(6):
        y = np.asarray(layer.draw_call(x, training=False))
        kept = coins(y, x)
        np.testing.assert_allclose(y, x + 2 * kept[:, None] * (full - x), rtol=1e-5, atol=1e-6)
    for one, other in zip(before, branch.variables):
        np.testing.assert_array_equal(one, other.numpy())


def test_momentum_goes_on_moving_a_dropped_branch():
    branch = keras.layers.Dense(3)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, StochasticDepth(branch, 0.5, seed=3)(inputs))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    x = normal(4, 3)
    moved = []
    for _ in range(8):
        before = branch.kernel.numpy()
        model.train_on_batch(x, -x)
        moved.append(not np.array_equal(before, branch.kernel.numpy()))
    first = moved.index(True)
    assert all(moved[first:])


def test_replicas_share_the_batch_coin_and_differ_in_examples():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
    x = normal(16, 2)
    for mode in ("batch", "sample"):
        with strategy.scope():
            layer = StochasticDepth(Double(), 0.5, mode=mode, seed=0)
            layer.build((None, 2))
        run = tf.function(lambda layer=layer: strategy.run(lambda: layer(tf.constant(x), training=True)))
        pairs = [[coins(one, x) for one in strategy.experimental_local_results(run())] for _ in range(6)]
        assert all((one == other).all() for one, other in pairs) == (mode == "batch")


@pytest.mark.parametrize("mode", MODES)
def test_layer_scale_multiplies_the_branch_and_is_trained(mode):
    x = normal(6, 3)
    layer = StochasticDepth(Double(), 0.5, mode=mode, seed=1, layer_scale=0.1)
    np.testing.assert_allclose(np.asarray(layer(x)), x + 0.1 * 2 * x, rtol=1e-6)
    assert [weight.name for weight in layer.trainable_weights] == ["layer_scale"]
    layer.branch_factors.assign([1.0, 0.5, 0.0])
    for run in (lambda f: f(), tf.function(lambda f: f())):
        for _ in range(6):
            with tf.GradientTape() as tape:
                y = run(lambda: layer(x, training=True))
                total = tf.reduce_sum(y)
            gradient = tape.gradient(total, layer.branch_factors.value)
            kept = coins(y, x)
            factor = 1 / kept.mean() if mode == "subset" else 2.0
            expected = x + factor * kept[:, None] * 2 * x * np.array([1.0, 0.5, 0.0])
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(gradient, (factor * kept[:, None] * 2 * x).sum(0), rtol=1e-4, atol=1e-5)


def test_layer_scale_starts_where_half_precision_has_no_numbers():
    layer = StochasticDepth(Double(), 1.0, layer_scale=1e-8, dtype="mixed_float16")
    layer.build((2, 3))
    # 1e-8 is 0 in float16; times 2 * 5000 it is no more.
    outputs = layer._branch(np.full((2, 3), 5e3, "float16"), (), {}, np.zeros((2, 3), "float16"))
    np.testing.assert_allclose(np.asarray(outputs, "float32"), 1e-4, rtol=1e-3)
