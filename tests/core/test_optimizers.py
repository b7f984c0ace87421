"""What hides behind `model.optimizer`."""

import keras
import probes

from kregkit._core.optimizers import leaf_optimizers


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
