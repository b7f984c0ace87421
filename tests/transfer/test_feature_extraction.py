import keras
import numpy as np
import pytest
from transfer.models import convolutional, images, randomised

from kregkit.transfer import features

L = keras.layers


def test_several_stages_against_hand_built_submodels():
    model, x = randomised(convolutional()), images()
    stages = features(model, ["relu_1", model.get_layer("skip")])
    found = stages.predict(x, verbose=0)
    for name, one in zip(["relu_1", "skip"], found):
        reference = keras.Model(model.input, model.get_layer(name).output)
        np.testing.assert_array_equal(one, reference.predict(x, verbose=0))
    pooled = features(model, ["relu_1"], pooling="max").predict(x, verbose=0)
    np.testing.assert_array_equal(np.asarray(pooled).reshape(len(x), -1), found[0].max((1, 2)))


def test_one_layer_gives_one_output_and_shares_weights():
    model = convolutional()
    one = features(model, "conv_1")
    assert one.output_shape == (None, 8, 8, 3)
    assert one.get_layer("conv_1") is model.get_layer("conv_1")
    assert len(features(model, ["relu_.*"]).outputs) == 2


def test_layers_of_nested_models():
    inner, x = randomised(convolutional()), images()
    inputs = keras.Input((8, 8, 1))
    outer = keras.Model(inputs, L.Dense(2, name="last")(inner(L.Rescaling(0.5)(inputs))))
    found = features(outer, ["relu_2", "last"]).predict(x, verbose=0)
    reference = keras.Model(inner.input, inner.get_layer("relu_2").output).predict(x * 0.5, verbose=0)
    np.testing.assert_allclose(found[0], reference, rtol=1e-5)
    np.testing.assert_allclose(found[1], outer.predict(x, verbose=0), rtol=1e-5)
    assert found[0].any()


def test_features_can_be_taken_again_from_what_shares_the_layers():
    model = convolutional()
    features(model, ["relu_1"], pooling="average")
    assert len(features(model, ["relu_1", "relu_2"]).outputs) == 2


def test_refuses():
    inputs = keras.Input((4,))
    shared = L.Dense(4, name="shared")
    twice = keras.Model(inputs, shared(shared(inputs)))
    for call, text in (
        (lambda: features(convolutional(), ["absent"]), "conv_1"),
        (lambda: features(convolutional(), ["("]), "regular expression"),
        (lambda: features(convolutional(), [3]), "must name layers"),
        (lambda: features(convolutional(), ["conv_1"], pooling="mean"), "pooling"),
        (lambda: features(twice, "shared"), "called once"),
    ):
        with pytest.raises(ValueError, match=text) as error:
            call()
        assert "Received: " in str(error.value)
