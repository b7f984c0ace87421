import keras
import numpy as np
import pytest
from transfer.models import convolutional, dense, images, randomised, values

from kregkit.transfer import replace_head

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]

L = keras.layers


def same_but(model, before, *absent):
    """Asserts that the weights are bit-identical to those `before`, but for some layers that are gone or new."""
    now = values(model)
    expected = {name: bits for name, bits in before.items() if name.split("/")[0] not in absent}
    assert {name: bits for name, bits in now.items() if not name.startswith("head/")} == expected


def test_functional_body_is_kept_bit_for_bit_and_is_a_copy():
    model = randomised(convolutional())
    before = values(model)
    new = replace_head(model, 7)
    assert (
        new.output_shape == (None, 7)
        and new.layers[-1].name == "head"
        and new.layers[-1].activation.__name__ == "linear"
    )
    same_but(new, before, "classes")
    x = images()
    body = keras.Model(model.input, model.get_layer("pool").output)
    kernel, bias = new.layers[-1].get_weights()
    np.testing.assert_allclose(new.predict(x, verbose=0), body.predict(x, verbose=0) @ kernel + bias, rtol=1e-5)
    new.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    new.fit(x, np.zeros(len(x), "int32"), verbose=0)
    assert values(model) == before


def test_sequential_and_twice():
    model = randomised(dense())
    new = replace_head(replace_head(model, 3), 4, activation="softmax")
    assert [layer.name for layer in new.layers[1:]] == ["low", "norm", "middle", "head"]
    same_but(new, values(model), "head")
    np.testing.assert_allclose(new.predict(np.ones((2, 4)), verbose=0).sum(-1), 1, rtol=1e-5)


def test_activation_dropout_and_reshape_behind_the_head_go_with_it():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name="body"), L.Dense(2, name="head"), L.Softmax()])
    assert [layer.name for layer in replace_head(model, 9).layers[1:]] == ["body", "head"]


def test_convolutional_head_as_in_mobilenet_and_squeezenet():
    inputs = keras.Input((8, 8, 1))
    body = L.Conv2D(4, 3, activation="relu", name="body")(inputs)
    pooled = L.GlobalAveragePooling2D(keepdims=True)(body)
    mobile = L.Softmax()(L.Reshape((5,))(L.Conv2D(5, 1, name="classes")(L.Dropout(0.1)(pooled))))
    squeeze = L.Softmax()(L.GlobalAveragePooling2D()(L.Conv2D(5, 1, name="maps")(body)))
    for outputs, gone in ((mobile, "classes"), (squeeze, "maps")):
        new = replace_head(keras.Model(inputs, outputs), 3)
        assert new.output_shape == (None, 3) and gone not in [layer.name for layer in new.layers]
        assert new.count_params() == 4 * 10 + 5 * 3


@pytest.mark.parametrize(("pooling", "width"), [("average", 4), ("max", 4), ("flatten", 144)])
def test_body_without_head_is_pooled(pooling, width):
    # A 1x1 convolution with a ReLU is a body's end, not class maps.
    model = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(4, 3), L.Conv2D(4, 1, activation="relu", name="end")])
    new = replace_head(model, 3, pooling=pooling)
    assert new.get_layer("head").kernel.shape == (width, 3)
    x = images()
    maps = model.predict(x, verbose=0)
    reduced = {"average": maps.mean((1, 2)), "max": maps.max((1, 2)), "flatten": maps.reshape(len(x), -1)}[pooling]
    kernel, bias = new.get_layer("head").get_weights()
    np.testing.assert_allclose(new.predict(x, verbose=0), reduced @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_nested_models_with_and_without_the_head_inside():
    inner = randomised(convolutional())
    inputs = keras.Input((8, 8, 1))
    inside = keras.Model(inputs, L.Activation("softmax")(inner(inputs)))
    outside = keras.Sequential([keras.Input((8, 8, 1)), inner, L.Dense(3, name="last")])
    one, other = replace_head(inside, 6), replace_head(outside, 6)
    same_but(one, values(inner), "classes")
    same_but(other, values(inner))
    assert one.get_layer("head").kernel.shape == (3, 6) and other.get_layer("head").kernel.shape == (5, 6)


def test_normalization_and_random_layers_keep_their_state():
    x = images()
    normal = L.Normalization()
    normal.adapt(x * 3 + 2)
    model = keras.Sequential([keras.Input((8, 8, 1)), normal, L.Dropout(0.5, seed=1), L.Flatten(name="flat")])
    flat = replace_head(model, 2)
    features = keras.Model(flat.input, flat.get_layer("flat").output)
    np.testing.assert_array_equal(features.predict(x, verbose=0), model.predict(x, verbose=0))


def test_operations_in_the_graph_and_a_loss_that_keras_cant_copy():
    inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(4, 3, padding="same", name="body")(inputs)
    x = keras.ops.relu(x + inputs) * 2
    model = randomised(keras.Model(inputs, L.Dense(2, name="classes")(L.GlobalAveragePooling2D(name="pool")(x))))
    model.compile("adam", lambda truth, found: keras.ops.mean((truth - found) ** 2))
    new, x = replace_head(model, 3), images()
    same_but(new, values(model), "classes")
    one, other = (keras.Model(each.input, each.get_layer("pool").output) for each in (new, model))
    np.testing.assert_array_equal(one.predict(x, verbose=0), other.predict(x, verbose=0))
    assert model.compiled and not new.compiled


def test_layers_that_forget_their_names_keep_them():
    class Scale(L.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(shape[-1],), name="factor")

        def call(self, inputs):
            return inputs * self.factor

    class Doubled(Scale):
        def __init__(self, times=2, **arguments):
            super().__init__(**arguments)

    model = randomised(keras.Sequential([keras.Input((4,)), Doubled(name="mine"), L.Dense(2)]))
    same_but(replace_head(model, 3), values(model), model.layers[-1].name)


def test_signals_and_their_class_maps():
    signal = [keras.Input((16, 2)), L.Conv1D(4, 3, name="body"), L.ReLU(), L.Conv1D(5, 1, name="maps")]
    new = replace_head(keras.Sequential([*signal, L.GlobalAveragePooling1D(), L.Softmax()]), 3)
    assert new.output_shape == (None, 3) and new.get_layer("head").kernel.shape == (4, 3)
    assert "maps" not in [layer.name for layer in new.layers]


def test_new_head_begins_as_keras_begins_a_dense_layer():
    keras.utils.set_random_seed(0)
    kernel, bias = replace_head(dense(), 400).get_layer("head").get_weights()
    # Glorot's uniform on 5 and 400 units; the largest of 2000 draws is within 2 % of the limit but for e^-40.
    limit = np.sqrt(6 / 405)
    assert 0.98 * limit < np.abs(kernel).max() <= limit and not bias.any()


def test_convolutions_that_make_no_class_maps_are_body():
    pool = L.GlobalAveragePooling2D()
    wide, flat, bent = L.Conv2D(4, 3), L.Conv2D(4, 1), L.Conv2D(4, 1, activation="relu")
    for last, behind in ((wide, pool), (flat, L.Flatten()), (bent, pool)):
        new = replace_head(keras.Sequential([keras.Input((8, 8, 1)), last, behind]), 3)
        assert last.name in [layer.name for layer in new.layers]


def test_logits_are_float32_under_a_mixed_policy():
    keras.config.set_dtype_policy("mixed_float16")
    new = replace_head(dense(), 3)
    assert new.get_layer("low").compute_dtype == "float16" and new.output.dtype == "float32"


def test_refuses():
    model = dense()
    several = keras.Model(model.inputs, [model.layers[0].output, model.layers[-1].output])
    for call, text in (
        (lambda: replace_head(model, 0), "num_classes"),
        (lambda: replace_head(model, 2, pooling="mean"), "pooling"),
        (lambda: replace_head(model, 2, name="low"), "`name`"),
        (lambda: replace_head(several, 2), "one output"),
        (lambda: replace_head(keras.Sequential([L.Dense(2)]), 2), "functional or built"),
        (lambda: replace_head("model", 2), "functional or built"),
    ):
        with pytest.raises(ValueError, match=text) as error:
            call()
        assert "Received: " in str(error.value)


def test_application_with_and_without_top():
    top = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)
    bare = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, include_top=False)
    for model in (top, bare):
        new = replace_head(model, 4)
        assert new.output_shape == (None, 4) and new.get_layer("head").kernel.shape == (1280, 4)
        same_but(new, values(model), "predictions")
