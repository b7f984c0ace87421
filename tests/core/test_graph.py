"""Layers in call order, and the last activation."""

import keras
import pytest

from kregkit._core.graph import (
    all_layers,
    block_paths,
    flat_layers,
    last_activation,
    layer_paths,
    layers_as_called,
    matches_path,
    nested_models,
    reads_channels_first,
)

layers = keras.layers


def names(found):
    return [layer.name for layer in found]


def test_layers_stand_in_call_order_whatever_the_order_they_were_made_in():
    last, first = layers.Dense(2, name="last"), layers.Dense(2, name="first")
    inputs = keras.Input((2,))
    assert names(flat_layers(keras.Model(inputs, last(first(inputs))))) == ["first", "last"]


def test_channels_first_are_told_by_the_first_layer_that_has_a_format():
    first, last = (layers.MaxPooling2D(data_format=f"channels_{where}") for where in ("first", "last"))
    assert reads_channels_first(keras.Sequential([keras.Input((2, 6, 8)), layers.ReLU(), first]))
    assert not reads_channels_first(keras.Sequential([keras.Input((6, 8, 2)), last]))
    assert not reads_channels_first(keras.Sequential([keras.Input((6, 8, 2)), layers.Permute((3, 1, 2)), first]))
    assert not reads_channels_first(keras.Sequential([keras.Input((6,)), layers.Dense(2)]))


def test_a_nested_model_s_layers_stand_in_its_place_and_a_shared_layer_once():
    inner = keras.Sequential([keras.Input((2,)), layers.Dense(2, name="b")], name="inner")
    shared = layers.Dense(2, name="a")
    inputs = keras.Input((2,))
    model = keras.Model(inputs, shared(inner(shared(inputs))))
    assert names(flat_layers(model)) == ["a", "b"]
    assert nested_models(model) == [inner]


def test_a_subclass_that_builds_a_graph_inside_itself_has_the_order_of_its_attributes():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = layers.Dense(2, name="one"), layers.Dense(2, name="two")

        def call(self, x):
            return self.two(self.one(x))

    assert names(flat_layers(Net())) == ["one", "two"]


# Keras says of such a model that it has no `build`, and of the dictionary that names it that the names differ.
@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer", "ignore:When providing `inputs` as a dict")
def test_a_subclass_is_called_to_see_the_order_of_its_layers():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.last, self.first = layers.Dense(2, name="last"), layers.Embedding(3, 2, name="first")
            self.unused = layers.Dense(2, name="unused")

        def call(self, x):
            return self.last(self.first(x["tokens"]))

    net = Net()
    net({"tokens": keras.ops.zeros((2, 3), "int32")})
    assert names(layers_as_called(net)) == ["first", "last", "unused"]
    assert "call" not in vars(net.first)
    for unbuilt in (Net(), keras.Sequential([layers.Dense(2)])):
        with pytest.raises(ValueError, match="isn't known before it is built: call it on a batch.*Received: model="):
            layers_as_called(unbuilt)
    inputs = {"tokens": keras.Input((3,), dtype="int32")}
    outer = keras.Model(inputs, layers.Dense(1, name="head")(net(inputs)))
    assert names(layers_as_called(outer)) == ["first", "last", "unused", "head"]


def test_wrappers_are_one_flat_layer_and_all_layers_go_inside():
    model = keras.Sequential([keras.Input((3, 2)), layers.TimeDistributed(layers.Dense(2, name="inside"), name="over")])
    assert names(flat_layers(model)) == ["over"]
    assert {"over", "inside"} <= set(names(all_layers(model)))


def test_a_sequential_that_is_not_built_has_its_order():
    assert names(flat_layers(keras.Sequential([layers.Dense(1, name="a"), layers.Dense(1, name="b")]))) == ["a", "b"]


def test_last_activation_looks_through_reshapes_and_nested_models():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, activation="softmax")])
    outer = keras.Sequential([keras.Input((4,)), inner, layers.Reshape((2, 2)), layers.Flatten()])
    assert last_activation(outer.outputs[0]) == "softmax"
    assert last_activation(keras.Input((4,)) * 2) is None
    assert last_activation(keras.ops.ones((1,))) is None


def test_layer_paths_name_everything_around_a_layer():
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="dense")], name="inner")
    wrapped = keras.layers.TimeDistributed(inner, name="steps")
    model = keras.Sequential([keras.Input((3, 2)), wrapped, keras.layers.Dropout(0.5, name="drop")], name="net")
    paths = dict(layer_paths(model))
    assert paths["net/steps/inner/dense"] is inner.layers[0] and paths["net/drop"] is model.layers[-1]
    assert paths["net"] is model
    assert len({id(layer) for layer in paths.values()}) == len(layer_paths(model))
    path = "net/steps/inner/dense"
    matching = [path, "inner/dense", "dense", "steps/.*", "net/.*", ".*"]
    assert all(matches_path(pattern, path) for pattern in matching)
    assert not any(matches_path(pattern, path) for pattern in ["ense", "inner", "net", "inner/.+/dense", "a|dens"])


def test_block_paths_of_two_equal_models_are_the_same():
    def build():
        block = keras.Sequential([layers.Dense(2), layers.Dense(2)], name="block")
        return keras.Sequential([keras.Input((2,)), layers.Dense(2), layers.BatchNormalization(), block])

    for _ in range(2):
        build()
    first, second = ([path for path, _ in block_paths(build())] for _ in range(2))
    assert first == second
    assert {"dense", "batch_normalization", "block", "block/dense", "block/dense_1"} <= set(first)


def test_names_of_the_users_own_stay_in_block_paths():
    mine = [layers.Dense(2, name=f"dense_{level}") for level in (1, 2)]
    model = keras.Sequential([keras.Input((2,)), *mine, layers.Dense(2, name="top_7")])
    assert [path for path, layer in block_paths(model) if layer.weights] == ["dense_1", "dense_2", "top_7"]


def test_every_layer_has_one_block_path():
    shared = layers.Dense(2)
    model = keras.Sequential([keras.Input((2,)), shared, keras.Sequential([shared, layers.Dense(2)])])
    pairs = block_paths(model)
    assert {id(layer) for _, layer in pairs} == {id(layer) for layer in all_layers(model)}
    assert len({path for path, _ in pairs}) == len(pairs)
