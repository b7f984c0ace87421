"""One learning rate, a factor per variable: against optimizers that each have the multiplied rate."""

import contracts
import keras
import numpy as np
import probes
import pytest
import tensorflow as tf

from kregkit.optimizers import SOAP, LayerwiseLearningRate, Momentum

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]

K = keras.optimizers
FACTORS = {"a/kernel": 0.25, "a/bias": 3.0, "b/kernel": 1.0, "b/bias": 0.0}
INNER = {
    "SGD": lambda a: K.SGD(a, momentum=0.9, nesterov=True),
    "Momentum": lambda a: Momentum(a, weight_decay=0.1),
    "AdamW": lambda a: K.AdamW(a, weight_decay=0.1),
    "Nadam": lambda a: K.Nadam(a),  # Keeps a product that must advance once per step, not once per factor.
    "RMSprop": lambda a: K.RMSprop(a, momentum=0.5, centered=True),
    "Lion": lambda a: K.Lion(a, weight_decay=0.1),
    "Muon": lambda a: K.Muon(a),  # Has a weight decay of its own making.
    "SOAP": lambda a: SOAP(a, beta_2=0.6, precondition_frequency=2, weight_decay=0.1),
    "clipped": lambda a: K.Adam(a, global_clipnorm=0.1),
}


def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(6, activation="tanh", name="a"), keras.layers.Dense(1, name="b")],
        name="net",
    )


def train(optimizer, epochs=2, callbacks=(), **kwargs):
    built = model()
    x, y = contracts.regression_data()
    built.compile(optimizer, "mse", jit_compile=False, **kwargs)
    built.fit(x, y, batch_size=6, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))
    return built


def gradient_sequence(num=6):
    rng = np.random.default_rng(0)
    shapes = [tuple(variable.shape) for variable in model().trainable_variables]
    return [[keras.ops.convert_to_tensor(rng.normal(size=shape), "float32") for shape in shapes] for _ in range(num)]


@pytest.mark.parametrize("name", INNER)
def test_equals_optimizers_with_the_multiplied_rates(name):
    make, rate = INNER[name], 2.0**-5
    built = model()
    optimizer = LayerwiseLearningRate(make(rate), FACTORS)
    optimizer.build(built.trainable_variables)
    for gradients in gradient_sequence():
        optimizer.apply(gradients)
    for index, factor in enumerate(FACTORS.values()):
        alone = model()
        # A rate of its own for all; the one variable of interest is compared.
        other = make(rate * factor)
        other.build(alone.trainable_variables)
        for gradients in gradient_sequence():
            # A global norm counts no frozen variable's gradient.
            gradients = [one * bool(own) for one, own in zip(gradients, FACTORS.values())]
            other.apply(gradients)
        got, expected = (keras.ops.convert_to_numpy(m.trainable_variables[index]) for m in (built, alone))
        if factor == 0:
            expected = keras.ops.convert_to_numpy(model().trainable_variables[index])
            np.testing.assert_array_equal(got, expected)
        else:
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_all_ones_is_the_optimizer_itself_bit_for_bit():
    plain = train(K.AdamW(0.01, use_ema=True, ema_momentum=0.5, clipnorm=0.1))
    wrapped = train(LayerwiseLearningRate(K.AdamW(0.01, use_ema=True, ema_momentum=0.5, clipnorm=0.1)))
    for one, other in zip(plain.get_weights(), wrapped.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_factor_zero_freezes_weights_and_slots():
    built = train(LayerwiseLearningRate(K.AdamW(0.1), {"a/.*": 0}))
    for one, other in zip(built.get_weights()[:2], model().get_weights()[:2]):
        np.testing.assert_array_equal(one, other)
    slots = [v for v in built.optimizer.variables if "_a_" in v.path]
    assert len(slots) == 4
    assert all(not np.any(keras.ops.convert_to_numpy(slot)) for slot in slots)
    assert np.any(built.get_weights()[2] != model().get_weights()[2])


def frozen_kernel(optimizer, constraint=None):
    """Returns a kernel of factor 0 before and after training, and the model."""
    built = model()
    built.layers[0].kernel.constraint = constraint
    start = built.get_weights()[0]
    x, y = contracts.regression_data()
    built.compile(LayerwiseLearningRate(optimizer, {"a/kernel": 0}), "mse", jit_compile=False)
    built.fit(x, y, batch_size=6, epochs=3, shuffle=False, verbose=0)
    return start, built.get_weights()[0], built


def test_factor_zero_is_kept_by_averages_bit_for_bit():
    start = np.random.default_rng(0).normal(size=1000).astype("float32")
    variables = [keras.Variable(start, name="frozen"), keras.Variable(start, name="free")]
    optimizer = LayerwiseLearningRate(K.SGD(0.1, use_ema=True, ema_momentum=0.99), {"frozen": 0})
    optimizer.build(variables)
    for _ in range(10):
        optimizer.apply([keras.ops.zeros(1000)] * 2)
    optimizer.finalize_variable_values(variables)
    frozen, free = (keras.ops.convert_to_numpy(variable.value) for variable in variables)
    np.testing.assert_array_equal(frozen, start)
    # What rounding does to an average of equal numbers.
    assert np.any(free != start)


def test_factor_zero_is_kept_by_constraints_and_accumulators():
    start, end, _ = frozen_kernel(K.SGD(0.1), keras.constraints.MaxNorm(0.1))
    np.testing.assert_array_equal(end, start)
    _, _, built = frozen_kernel(K.SGD(0.1, gradient_accumulation_steps=5))
    accumulators = [
        np.any(keras.ops.convert_to_numpy(variable))
        for variable in built.optimizer.variables
        if "gradient_accumulator" in variable.path
    ]
    assert accumulators == [False, True, True, True]


def test_factor_zero_is_not_counted_by_the_global_norm():
    ends = []
    for frozen in (False, True):
        built = model()
        if frozen:
            built.layers[0].trainable = False
        optimizer = K.SGD(0.1, global_clipnorm=0.1)
        built.compile(optimizer if frozen else LayerwiseLearningRate(optimizer, {"a/.*": 0}), "mse", jit_compile=False)
        x, y = contracts.regression_data()
        built.fit(x, y, batch_size=6, shuffle=False, verbose=0)
        ends.append(built.get_weights())
    for one, other in zip(*ends):
        np.testing.assert_array_equal(one, other)


def nested(late=False):
    """A model in a model: Keras drops its name, and a Sequential's, from the paths when it loads a file."""
    keras.utils.set_random_seed(0)
    inner = [keras.layers.Dense(6, activation="tanh", name="a"), keras.layers.Dense(6, name="b")]
    backbone = keras.Sequential(inner if late else [keras.Input((8,)), *inner], name="backbone")
    return keras.Sequential([keras.Input((8,)), backbone, keras.layers.Dense(1, name="head")], name="net")


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_by_depth_survives_a_file_though_paths_change(tmp_path, late, trained):
    built = nested(late)
    built.compile(LayerwiseLearningRate.by_depth(K.Adam(0.01), built, 0.5), "mse", jit_compile=False)
    x, y = contracts.regression_data()
    if trained:
        built.fit(x, y, epochs=1, shuffle=False, verbose=0)
    built.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert list(loaded.optimizer.factors.values()) == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    assert set(loaded.optimizer.factors) != {variable.path for variable in built.trainable_variables}
    for one in (built, loaded):
        one.fit(x, y, epochs=1, shuffle=False, verbose=0)
    for one, other in zip(built.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(one, other)
    # And once more, from the paths of the file.
    loaded.save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    assert list(again.optimizer.factors.values()) == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]


def test_patterns_of_a_nested_models_name_survive_a_file(tmp_path):
    built = nested()
    built.compile(LayerwiseLearningRate(K.SGD(0.01), {"backbone/.*": 0.1}, default=2.0), "mse", jit_compile=False)
    x, y = contracts.regression_data()
    built.fit(x, y, verbose=0)
    built.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert list(loaded.optimizer.factors.values()) == [0.1, 0.1, 0.1, 0.1, 2.0, 2.0]
    assert loaded.optimizer.multipliers == {"backbone/.*": 0.1}


def copied(model, how, path):
    if how == "clone":
        return keras.models.clone_model(model)
    model.save(path / "copy.keras")
    return keras.models.load_model(path / "copy.keras")


@pytest.mark.parametrize("how", ["clone", "file"])
@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, K.LossScaleOptimizer])
def test_patterns_of_a_nested_models_name_reach_copies_of_an_untrained_model(tmp_path, how, wrap):
    patterns = {"backbone/.*": 0.1, "backbone/b/bias": 0.2, "head/kernel": 3.0}
    built = nested()
    built.compile(wrap(LayerwiseLearningRate(K.SGD(0.01), patterns, default=2.0)), "mse")
    for _ in range(2):
        built = copied(built, how, tmp_path)
        optimizer = (
            getattr(built.optimizer, "inner_optimizer", None) if wrap is K.LossScaleOptimizer else built.optimizer
        )
        assert list(optimizer.factors.values()) == [0.1, 0.1, 0.1, 0.2, 3.0, 2.0]


@pytest.mark.parametrize("how", ["clone", "file"])
def test_by_depth_reaches_copies_whose_layers_have_new_names(tmp_path, how):
    """A subclass makes its layers anew, and Keras numbers them on."""

    @keras.saving.register_keras_serializable("tests")
    class Subclass(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.head, self.stem = keras.layers.Dense(1), keras.layers.Dense(3)

        def call(self, inputs):
            return self.head(self.stem(inputs))

        def get_config(self):
            return {}

    built = Subclass()
    built(np.ones((2, 4)))
    built.compile(LayerwiseLearningRate.by_depth(K.SGD(0.1), built, 0.5), "mse")
    copy = copied(built, how, tmp_path)
    assert {v.path for v in copy.trainable_variables}.isdisjoint(v.path for v in built.trainable_variables)
    assert list(copy.optimizer.factors.values()) == [1.0, 1.0, 0.5, 0.5]


def test_a_config_of_another_model_matches_its_patterns_anew():
    optimizer = LayerwiseLearningRate(K.SGD(), {".*bias": 0.5})
    optimizer.build(model().trainable_variables)
    again = LayerwiseLearningRate.from_config(optimizer.get_config())
    layers = [keras.layers.Dense(6, name="b", use_bias=False), keras.layers.Dense(1, name="a")]
    other = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(1, name="c", use_bias=False)], name="net")
    again.build(other.trainable_variables)
    assert again.factors == {"net/b/kernel": 1.0, "net/a/kernel": 1.0, "net/a/bias": 0.5, "net/c/kernel": 1.0}


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, K.LossScaleOptimizer])
def test_callbacks_drive_the_one_rate(wrap):
    """A scheduler through the wrapper trains as one that sets the wrapped optimizer's rate."""
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    built = train(wrap(LayerwiseLearningRate(K.SGD(0.08), {"a/.*": 0.5})), epochs=3, callbacks=[schedule])
    assert float(built.optimizer.learning_rate) == pytest.approx(0.01)
    by_schedule = LayerwiseLearningRate(
        K.SGD(K.schedules.PiecewiseConstantDecay([3, 7], [0.04, 0.02, 0.01])), {"a/.*": 0.5}
    )
    other = train(by_schedule, epochs=3)
    for one, expected in zip(built.get_weights(), other.get_weights()):
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-6)


def test_plateau_callback_and_leaf_assignment():
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.1, patience=0, min_delta=1e9)
    built = train(LayerwiseLearningRate(K.SGD(0.1), {"a/.*": 0.5}), epochs=3, callbacks=[plateau])
    assert float(built.optimizer.learning_rate) == pytest.approx(1e-3)
    built.optimizer.inner_optimizer.learning_rate = 0.25
    assert float(built.optimizer.learning_rate) == 0.25


def test_loss_scale_goes_around():
    expected = train(LayerwiseLearningRate(K.Adam(0.01), {"a/.*": 0.5})).get_weights()
    scaled = train(K.LossScaleOptimizer(LayerwiseLearningRate(K.Adam(0.01), {"a/.*": 0.5}))).get_weights()
    for one, other in zip(scaled, expected):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@probes.needs_multi_optimizer
def test_multi_optimizer_goes_around():
    expected = train(LayerwiseLearningRate(K.Adam(0.01), {"a/.*": 0.5})).get_weights()
    choose = K.OptimizerMap(LayerwiseLearningRate(K.Adam(0.01), {"a/.*": 0.5}))
    both = train(K.MultiOptimizer(choose)).get_weights()
    for one, other in zip(both, expected):
        np.testing.assert_array_equal(one, other)


def test_accumulation_and_averages_are_the_inner_optimizers():
    optimizer = LayerwiseLearningRate(K.SGD(0.1, gradient_accumulation_steps=2, use_ema=True), {"a/.*": 0.5})
    built = train(optimizer, epochs=1)
    assert int(optimizer.iterations) == 2
    # `fit` ends by putting the averages in; they are of steps of the multiplied rate.
    plain = train(K.SGD(0.1, gradient_accumulation_steps=2, use_ema=True), epochs=1)
    start = model().get_weights()
    # The first accumulated gradient is the same for both, so the first step is half as long; later ones nearly so.
    ours, theirs = built.get_weights()[0] - start[0], plain.get_weights()[0] - start[0]
    assert 0.4 < np.sum(ours * theirs) / np.sum(theirs**2) < 0.6


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, K.LossScaleOptimizer])
def test_swap_ema_weights_callback_evaluates_the_averages(wrap):
    weights = {}

    class Recorder(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            weights["trained"] = self.model.get_weights()

        def on_test_batch_end(self, batch, logs=None):
            weights["evaluated"] = self.model.get_weights()

    x, y = contracts.regression_data()
    built = model()
    built.compile(wrap(LayerwiseLearningRate(K.SGD(0.25, use_ema=True, ema_momentum=0.5), {"a/.*": 0.5})), "mse")
    callbacks = [keras.callbacks.SwapEMAWeights(), Recorder()]
    built.fit(x, y, batch_size=6, shuffle=False, verbose=0, callbacks=callbacks, validation_data=(x, y))
    # Four steps, by Keras's own optimizer with the rates multiplied by hand.
    plain, average = model(), None
    for start in range(0, 24, 6):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((plain(x[start : start + 6]) - y[start : start + 6]) ** 2)
        gradients = tape.gradient(loss, [variable.value for variable in plain.trainable_variables])
        for variable, gradient, factor in zip(plain.trainable_variables, gradients, (0.5, 0.5, 1, 1)):
            variable.assign_sub(0.25 * factor * gradient)
        now = plain.get_weights()
        average = now if average is None else [0.5 * old + 0.5 * new for old, new in zip(average, now)]
    for got, expected in zip(weights["evaluated"], average):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    assert np.abs(weights["trained"][0] - weights["evaluated"][0]).max() > 1e-3


def test_exclusion_from_weight_decay_is_kept():
    optimizer = LayerwiseLearningRate(K.AdamW(0.1, weight_decay=0.5), default=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    variables = [keras.Variable(np.ones(2), name=name) for name in ("kernel", "bias")]
    optimizer.build(variables)
    optimizer.apply([keras.ops.zeros(2), keras.ops.zeros(2)])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variables[0]), 1 - 0.5 * 0.1 * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variables[1]), 1)


def test_patterns_match_whole_paths_or_what_stands_behind_a_slash():
    paths = ("net/a/kernel", "net/aa/kernel", "net/a/kernel_scale")
    variables = [keras.Variable(0.0) for _ in paths]
    for variable, path in zip(variables, paths):
        variable._path = path
    optimizer = LayerwiseLearningRate(K.SGD(), {"a/kernel": 0.5})
    optimizer.build(variables)
    assert list(optimizer.factors.items()) == list(zip(paths, (0.5, 1.0, 1.0)))


def test_unmatched_pattern_lists_the_paths():
    optimizer = LayerwiseLearningRate(K.SGD(), {"a/.*": 0.5, "c/.*": 2.0})
    with pytest.raises(ValueError, match=r"net/a/kernel\n  net/a/bias\n(.*\n)*Received: multipliers=\['c/\.\*'\]"):
        optimizer.build(model().trainable_variables)
    assert not optimizer.inner_optimizer.built


def test_two_patterns_on_one_path_are_refused_but_the_exact_path_goes_first():
    with pytest.raises(ValueError, match=r"One pattern must match 'net/a/kernel'. Received: patterns="):
        LayerwiseLearningRate(K.SGD(), {"a/.*": 0.5, ".*kernel": 2.0}).build(model().trainable_variables)
    optimizer = LayerwiseLearningRate(K.SGD(), {".*": 0.5, "net/a/bias": 2.0})
    optimizer.build(model().trainable_variables)
    assert list(optimizer.factors.values()) == [0.5, 2.0, 0.5, 0.5]


def wrappers():
    yield LayerwiseLearningRate(K.SGD())
    yield K.LossScaleOptimizer(K.SGD())
    if probes.HAS_MULTI_OPTIMIZER:
        yield K.MultiOptimizer(lambda v: K.SGD())


@pytest.mark.parametrize("wrong", list(wrappers()))
def test_wrappers_inside_are_refused(wrong):
    with pytest.raises(ValueError, match="Received: optimizer="):
        LayerwiseLearningRate(wrong)


def test_wrapping_again_does_not_multiply_twice():
    inner = K.SGD(1.0)
    LayerwiseLearningRate(inner, default=0.5)
    optimizer = LayerwiseLearningRate(inner, default=0.5)
    x = keras.Variable(1.0)
    optimizer.apply([keras.ops.ones(())], [x])
    assert float(x) == 0.5


def test_by_depth_counts_kernels_through_nested_models():
    backbone = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(2, 3, use_bias=False, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.DepthwiseConv2D(3, name="depthwise"),
        ],
        name="backbone",
    )
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.GlobalAveragePooling2D()(backbone(inputs))
    built = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    optimizer = LayerwiseLearningRate.by_depth(K.Adam(), built, decay=0.5)
    factors = {path.rpartition("backbone/")[2]: factor for path, factor in optimizer.multipliers.items()}
    assert factors == {
        "conv/kernel": 0.25,
        "norm/gamma": 0.25,
        "norm/beta": 0.25,
        "depthwise/kernel": 0.5,
        "depthwise/bias": 0.5,
        "head/kernel": 1.0,
        "head/bias": 1.0,
    }
    built.compile(optimizer, "mse")
    built.fit(np.zeros((4, 8, 8, 1)), np.zeros((4, 3)), verbose=0)


class Tower(keras.Model):
    """A subclass with attributes in another order than its calls, a nested model, and weights of its own."""

    def __init__(self):
        super().__init__(name="tower")
        self.token = self.add_weight(shape=(1, 4), name="token")
        self.head = keras.layers.Dense(2, name="head")
        self.blocks = {"late": keras.layers.Dense(4, name="late"), "early": keras.layers.Dense(4, name="early")}
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.stem = keras.Sequential([keras.layers.Dense(4, name="stem")], name="inner")

    def call(self, inputs, training=False):
        x = self.stem(inputs["left"]) + inputs["right"] + self.token
        x = self.norm(self.blocks["early"](x))
        return self.head(self.blocks["late"](x))


def test_by_depth_counts_in_the_order_of_calls_of_a_subclass():
    built = Tower()
    built({"left": np.ones((2, 3)), "right": np.ones((2, 4))})
    optimizer = LayerwiseLearningRate.by_depth(K.Adam(), built, decay=0.5)
    optimizer.build(built.trainable_variables)
    factors = {path.split("/")[-2 if "/" in path else 0]: factor for path, factor in optimizer.factors.items()}
    expected = {"stem": 0.125, "early": 0.25, "norm": 0.25, "late": 0.5, "head": 1.0}
    assert {name: factors[name] for name in expected} == expected
    assert [factor for path, factor in optimizer.factors.items() if path.endswith("token")] == [0.125]


def test_by_depth_counts_in_the_order_of_calls_of_a_functional_model():
    late, early = keras.layers.Dense(3, name="late"), keras.layers.Dense(3, name="early")
    late.build((None, 3))
    inputs = keras.Input((3,))
    built = keras.Model(inputs, late(early(inputs)))
    factors = LayerwiseLearningRate.by_depth(K.Adam(), built, decay=0.5).multipliers
    assert list(factors.items()) == [
        ("early/kernel", 0.5),
        ("early/bias", 0.5),
        ("late/kernel", 1.0),
        ("late/bias", 1.0),
    ]


def test_by_depth_says_when_the_order_of_calls_cant_be_known():
    class TwoArguments(Tower):
        def call(self, left, right):
            return super().call({"left": left, "right": right})

    built = TwoArguments()
    built(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="order in which this model calls its layers isn't known: .*Received: model="):
        LayerwiseLearningRate.by_depth(K.Adam(), built, decay=0.5)


def test_by_depth_refuses_bad_arguments():
    with pytest.raises(ValueError, match="Received: decay=0"):
        LayerwiseLearningRate.by_depth(K.SGD(), model(), 0)
    with pytest.raises(ValueError, match="Received: model="):
        LayerwiseLearningRate.by_depth(K.SGD(), keras.Sequential([keras.layers.Dense(2)]), 0.5)


def test_patterns_name_a_functional_backbone_though_its_variables_dont():
    inner = keras.Input((4,))
    hidden = keras.layers.Dense(3, name="first")(inner)
    backbone = keras.Model(inner, keras.layers.Dense(3, name="second")(hidden), name="backbone")
    layers = [keras.Input((4,)), backbone, keras.layers.Dense(1, name="backbone_head")]
    model = keras.Sequential(layers, name="net")
    x = np.ones((2, 4), "float32")

    def factors(multipliers):
        model.compile(LayerwiseLearningRate(keras.optimizers.SGD(0.1), multipliers), "mse")
        model.train_on_batch(x, x[:, :1])
        return list(model.optimizer.factors.values())

    assert factors({"backbone/.*": 0.1}) == [0.1] * 4 + [1.0] * 2
    # This one matches a layer by its own path, too: the backbone's layers must not be left out for it.
    assert factors({"backbone.*": 0.1}) == [0.1] * 6
    assert factors({"backbone/.*": 0.1, "backbone/first/kernel": 0.2}) == [0.2] + [0.1] * 3 + [1.0] * 2
    assert factors({"second/kernel": 0.2, "backbone/.*": 0.1}) == [0.1, 0.1, 0.2, 0.1, 1.0, 1.0]
    with pytest.raises(ValueError, match=r"(?s)net/backbone/first/kernel.*Received: multipliers=\['spine/.*'\]"):
        factors({"spine/.*": 0.1})
    alone = LayerwiseLearningRate(keras.optimizers.SGD(0.1), {"backbone/.*": 0.1})
    with pytest.raises(ValueError, match="`build` is called on a list of variables"):
        alone.build(model.trainable_variables)


def test_factors_name_all_variables_of_two_backbones_with_equal_paths():
    def backbone(name):
        inputs = keras.Input((8,))
        return keras.Model(inputs, keras.layers.Dense(1, name="one")(inputs), name=name)

    inputs = keras.Input((8,))
    built = keras.Model(inputs, keras.layers.add([backbone("a")(inputs), backbone("b")(inputs)]), name="net")
    optimizer = LayerwiseLearningRate(K.SGD(0.1), {"a/.*": 0.0, "b/.*": 0.5})
    built.compile(optimizer, "mse")
    built.train_on_batch(*contracts.regression_data())
    expected = {"a/one/kernel": 0.0, "a/one/bias": 0.0, "b/one/kernel": 0.5, "b/one/bias": 0.5}
    assert optimizer.factors == {f"net/{path}": factor for path, factor in expected.items()}


def test_patterns_match_kerass_own_path_of_a_layer_that_another_model_built():
    layer = keras.layers.Dense(1, name="one")
    keras.Sequential([keras.Input((8,)), layer], name="old")
    built = keras.Sequential([keras.Input((8,)), layer], name="new")
    optimizer = LayerwiseLearningRate(K.SGD(0.1), {"old/.*/kernel": 0.5, "new/.*/bias": 0.25})
    built.compile(optimizer, "mse")
    built.train_on_batch(*contracts.regression_data())
    assert optimizer.factors == {"old/one/kernel": 0.5, "old/one/bias": 0.25}
