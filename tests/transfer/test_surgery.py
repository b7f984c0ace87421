import keras
import numpy as np
import pytest
from transfer.models import convolutional, dense, images, randomised, values

from kregkit.layers import DropConnect
from kregkit.transfer import insert, reinitialize, strip, surgery

L = keras.layers


def test_insert_keeps_weights_and_predictions_and_acts_where_it_stands():
    model, x = randomised(convolutional()), images()
    new = insert(model, after="relu_1", layer=L.SpatialDropout2D(0.9, seed=0, name="noise"))
    assert values(new) == values(model)
    np.testing.assert_array_equal(new.predict(x, verbose=0), model.predict(x, verbose=0))
    # Both users of `relu_1`, the next convolution and the skip, get the noise.
    skip = keras.Model(
        new.input, [new.get_layer("noise").output, new.get_layer("relu_2").output, new.get_layer("skip").output]
    )
    noise, high, total = (np.asarray(one) for one in skip(x, training=True))
    assert (noise == 0).any()
    np.testing.assert_allclose(total, noise + high, rtol=1e-6)
    assert "noise" not in [layer.name for layer in model.layers]


def test_insert_doubling_layer_changes_what_follows_by_its_rule():
    model, x = randomised(dense()), np.ones((3, 4), "float32")
    new = insert(model, "middle", L.Rescaling(2.0, name="double"))
    kernel, bias = model.get_layer("head").get_weights()
    middle = keras.Model(model.inputs, model.get_layer("middle").output).predict(x, verbose=0)
    np.testing.assert_allclose(new.predict(x, verbose=0), 2 * middle @ kernel + bias, rtol=1e-5)


def test_insert_in_several_places_and_nested_models():
    new = insert(convolutional(), "relu_.*", L.GaussianNoise(0.1, name="noise"))
    assert {"noise_0", "noise_1"} <= {layer.name for layer in new.layers}
    inner = randomised(convolutional())
    outer = keras.Sequential([keras.Input((8, 8, 1)), inner, L.Dense(2, name="last")])
    within, behind = (
        insert(outer, "relu_1", L.Dropout(0.5, name="noise")),
        insert(outer, inner, L.Dropout(0.5, name="noise")),
    )
    assert "noise" in [layer.name for layer in within.layers[0].layers]
    assert [layer.name for layer in behind.layers] == ["convolutional", "noise", "last"]
    assert values(within) == values(behind) == values(outer)


def test_strip_leaves_predictions_and_weights():
    inputs = keras.Input((8, 8, 1))
    x = L.RandomFlip(name="flip")(inputs)
    x = L.Conv2D(3, 3, name="conv")(x)
    x = L.GaussianNoise(0.5, name="gauss")(L.SpatialDropout2D(0.5, name="spatial")(x))
    x = L.ActivityRegularization(0.1, name="activity")(L.Flatten()(x))
    x = DropConnect(L.Dense(4, "relu", name="wrapped"), 0.5, name="connect")(x)
    model = randomised(keras.Model(inputs, L.Dense(2, name="last")(L.Dropout(0.5, name="drop")(x))))
    new, x = strip(model), images()
    names = {layer.name for layer in new.layers}
    assert not names & {"flip", "gauss", "spatial", "activity", "connect", "drop"} and "wrapped" in names
    np.testing.assert_array_equal(new.predict(x, verbose=0), model.predict(x, verbose=0))
    weights = [np.asarray(one) for one in model.get_weights() if one.dtype == "float32"]
    assert all(np.array_equal(one, other) for one, other in zip(weights, new.get_weights()))
    # Nothing in it draws any more.
    np.testing.assert_array_equal(np.asarray(new(x, training=True)), np.asarray(new(x, training=True)))


def test_strip_asks_layers_and_reaches_nested_models(tmp_path):
    class Marked(L.Layer):
        training_only = True

        def call(self, inputs, training=False):
            return inputs * 0 if training else inputs

    inner = keras.Sequential([keras.Input((4,)), L.Dense(3), Marked(), L.Dropout(0.5)], name="inner")
    model = keras.Sequential([keras.Input((4,)), inner, L.Dense(2)])
    new = strip(model)
    assert [type(layer) for layer in new.layers[0].layers] == [L.Dense]
    # The file no longer needs the class.
    new.save(tmp_path / "model.keras")
    x = np.ones((2, 4), "float32")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


def test_reinitialize_draws_anew_and_leaves_the_rest():
    model = randomised(dense())
    before = values(model)
    assert reinitialize(model, 2) == ["middle", "head"]
    after = values(model)
    changed = {name for name in before if before[name] != after[name]}
    assert {name.split("/")[0] for name in changed} == {"middle", "head"} and len(changed) == 4
    kernel, bias = model.get_layer("middle").get_weights()
    limit = np.sqrt(6 / 11)
    assert not bias.any() and np.abs(kernel).max() <= limit and len(np.unique(kernel)) == 30
    assert reinitialize(model, 3) == ["low", "norm", "middle", "head"]
    assert reinitialize(model, "norm") == ["norm"]
    assert [one.tolist() for one in model.get_layer("norm").get_weights()] == [[1] * 6, [0] * 6, [0] * 6, [1] * 6]


def test_strip_keeps_what_draws_at_test_time_too():
    class Always(L.Dropout):
        def call(self, inputs, training=None):
            return super().call(inputs, training=True)

    model = keras.Sequential([keras.Input((4,)), L.Dropout(0.5), Always(0.5), L.Dense(2)])
    assert [type(layer) for layer in strip(model).layers] == [Always, L.Dense]


def test_strip_knows_all_of_keras_that_does_something_in_training_only():
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    base = L.RandomFlip.__mro__[1]
    # These compute at test time as well, or do to every image what they do.
    kept = {"RandomCrop", "CenterCrop", "Resizing", "Solarization", "Equalization", "AutoContrast"}
    kept |= {"MaxNumBoundingBoxes", "ContrastLimitedAdaptiveHistogramEqualization", "CLAHE"}
    kinds = {name: getattr(L, name) for name in dir(L) if name not in kept}
    kinds = {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, base)}
    assert len(kinds) > 20
    arguments = {
        "RandomTranslation": (0.1, 0.1),
        "RandomZoom": (0.1,),
        "RandomContrast": (0.5,),
        "Pipeline": ([],),
        "RandomPosterization": (4,),
    }
    for name, kind in kinds.items():
        try:
            layer = kind(*arguments.get(name, ()))
        except TypeError:
            layer = kind(0.5)
        np.testing.assert_allclose(layer(images, training=False), images, err_msg=name)
        if name != "Pipeline":
            assert type(layer) in surgery._TRAINING_ONLY, name


def test_strip_empties_a_model_of_augmentations(tmp_path):
    augment = keras.Sequential([L.RandomFlip(), L.RandomRotation(0.1)], name="augment")
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(augment(inputs))))
    new, x = strip(model), images()
    np.testing.assert_array_equal(new.predict(x, verbose=0), model.predict(x, verbose=0))
    new.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


def test_reinitialize_draws_anew_where_the_initializer_has_a_seed():
    start = keras.initializers.HeNormal(seed=1)
    model = keras.Sequential([keras.Input((4,)), L.Dense(50, kernel_initializer=start, name="one")])
    old = model.get_weights()[0]
    reinitialize(model, "one")
    new = model.get_weights()[0]
    assert not (new == old).any()
    # He's standard deviation from 200 draws, cut at two: five standard errors.
    assert new.std() == pytest.approx(np.sqrt(2 / 4), rel=0.25)


def test_reinitialize_does_all_or_nothing():
    class Odd(L.Layer):
        many = False

        def build(self, shape):
            self.parts = [self.add_weight(shape=(2,), name=f"part_{index}") for index in range(1 + self.many)]

        def call(self, inputs):
            return inputs

    odd = Odd(name="odd")
    odd.many = True
    model = randomised(keras.Sequential([keras.Input((4,)), L.Dense(3, name="low"), odd]))
    before = values(model)
    with pytest.raises(ValueError, match="its own config. Received: layer='odd'"):
        reinitialize(model, ["low", "odd"])
    assert values(model) == before


def test_strip_keeps_drop_connect_that_draws_at_test_time():
    wrapped = DropConnect(L.Dense(3), 0.5, inference="gaussian", name="connect")
    assert "connect" in [layer.name for layer in strip(keras.Sequential([keras.Input((4,)), wrapped])).layers]


def test_refuse_and_leave_the_model_alone():
    model = randomised(dense())
    before = values(model)
    for call, text in (
        (lambda: insert(model, "absent", L.Dropout(0.5)), "`after`"),
        (lambda: insert(model, "low", "dropout"), "`layer`"),
        (lambda: insert(model, "low", L.Dense(3)), "keep the shape"),
        (lambda: reinitialize(model, ["head", "absent"]), "`layers`"),
        (lambda: reinitialize(model, 9), "`layers`"),
        (lambda: strip(keras.Sequential([L.Dense(2)])), "functional or built"),
    ):
        with pytest.raises(ValueError, match=text) as error:
            call()
        assert "Received: " in str(error.value)
    assert values(model) == before
