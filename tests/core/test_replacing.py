"""One object's attributes are back as they were, however the block ends."""

import types

import keras
import pytest

from kregkit._core.replacing import replaced, replaced_all


class Thing:
    def call(self):
        return "class"


def test_a_class_s_method_shows_through_again():
    thing = Thing()
    with replaced(thing, "call", lambda: "block"):
        assert thing.call() == "block"
        assert Thing().call() == "class"
    assert thing.call() == "class" and vars(thing) == {}


@pytest.mark.parametrize("own", [None, "own"])
def test_an_attribute_of_the_object_s_own_comes_back_also_none_and_after_an_interrupt(own):
    thing = Thing()
    thing.call = own
    with pytest.raises(KeyboardInterrupt), replaced(thing, "call", "block"):
        raise KeyboardInterrupt
    assert vars(thing) == {"call": own}


def test_a_block_inside_a_block_puts_back_the_outer_one_s():
    thing = Thing()
    with replaced_all([(thing, "call", 1), (thing, "other", 2), (thing, "call", 3)]):
        assert (thing.call, thing.other) == (3, 2)
    assert vars(thing) == {}


def test_a_change_that_fails_undoes_those_before_it():
    thing = Thing()
    with pytest.raises(TypeError), replaced_all([(thing, "call", 1), (3, "call", 1)]):
        raise AssertionError("not reached")
    assert vars(thing) == {}


def test_keras_does_not_track_the_value():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    before = len(layer.weights)
    with replaced(layer, "call", keras.layers.Dense(1)):
        assert len(layer.weights) == before
    assert "call" not in vars(layer)


def test_modules_can_be_changed_and_properties_are_refused():
    module = types.ModuleType("module")
    module.function = 1
    with replaced(module, "function", 2):
        assert module.function == 2
    assert module.function == 1
    with pytest.raises(TypeError, match="property"), replaced(keras.layers.Dense(1), "kernel", 1):
        raise AssertionError("not reached")
