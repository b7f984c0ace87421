"""What hides behind `model.optimizer`, and beside it."""

import types

import keras
import probes

from kregkit._core.optimizers import leaf_optimizers, own_optimizers


def test_leaves_behind_wrappers():
    one = keras.optimizers.SGD()
    assert leaf_optimizers(one) == [one]
    assert leaf_optimizers(keras.optimizers.LossScaleOptimizer(one)) == [one]


@probes.needs_multi_optimizer
def test_leaves_of_several():
    one, other = keras.optimizers.SGD(), keras.optimizers.Adam()
    several = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(other, {"a": one, "b": other}))
    assert leaf_optimizers(several) == [one, other]
    assert leaf_optimizers(keras.optimizers.LossScaleOptimizer(several)) == [one, other]


def test_leaves_of_other_wrappers_that_hold_an_inner_optimizer():
    class Wrapper:
        def __init__(self, inner):
            self.inner_optimizer = inner

    one = keras.optimizers.SGD()
    assert leaf_optimizers(Wrapper(Wrapper(one))) == [one]


def test_those_of_a_model_are_found_in_whatever_holds_them():
    plain, listed, nested, inside = (keras.optimizers.SGD() for _ in range(4))
    inner = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    inner.compile(inside, "mse")

    class Several(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner, self.listed, self.kept = inner, [listed], {"of": {"one": plain}}
            self.space = types.SimpleNamespace(nested=(nested, self))

    assert {id(one) for one in own_optimizers(Several())} == {id(one) for one in (plain, listed, nested, inside)}


def test_a_long_chain_of_objects_is_searched_to_its_end():
    one = keras.optimizers.SGD()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    chain = types.SimpleNamespace(next=one)
    for _ in range(5000):
        chain = types.SimpleNamespace(next=chain)
    model.chain = chain
    assert own_optimizers(model) == [one]
