import keras
import numpy as np
import pytest
from transfer.models import convolutional, dense, randomised, values, vectors

from kregkit.transfer import GradualUnfreeze, freeze, unfreeze

pytestmark = pytest.mark.trains


def trainable(model):
    return [layer.name for layer in model.layers if layer.weights and layer.trainable]


@pytest.mark.parametrize(
    ("until", "names"),
    [
        (None, ["low", "norm", "middle", "head"]),
        ("low", ["low"]),
        ("norm", ["low", "norm"]),
        ("low|middle", ["low", "norm", "middle"]),
        (0, []),
        (1, ["low", "norm"]),
        (2, ["low", "norm", "middle"]),
        (3, ["low", "norm", "middle", "head"]),
        (-1, ["low", "norm", "middle"]),
        (-3, []),
    ],
)
def test_freeze_until(until, names):
    model = dense()
    assert freeze(model, until) == names
    assert trainable(model) == [name for name in ("low", "norm", "middle", "head") if name not in names]
    assert freeze(model, model.layers[0]) == (names or ["low"])


@pytest.mark.parametrize(
    ("start", "names"),
    [
        (1, ["head"]),
        (2, ["middle", "head"]),
        ("norm", ["norm", "middle", "head"]),
        ("norm|middle", ["norm", "middle", "head"]),
    ],
)
def test_unfreeze_from(start, names):
    model = dense()
    freeze(model)
    assert unfreeze(model, start) == names == trainable(model)
    assert unfreeze(model) == ["low", "norm", "middle", "head"]


def test_nested_model_that_was_frozen_as_a_whole_opens():
    inner = convolutional()
    model = keras.Sequential([keras.Input((8, 8, 1)), inner, keras.layers.Dense(2, name="last")])
    inner.trainable = False
    assert unfreeze(model, "conv_2") == ["conv_2", "norm_2", "classes", "last"]
    assert {one.path.split("/")[-2] for one in model.trainable_variables} == {"conv_2", "norm_2", "classes", "last"}
    assert freeze(model, inner)[-1] == "classes"


def test_frozen_batch_normalization_infers_and_keeps_its_statistics():
    x, y = vectors()
    model = randomised(dense(keras.optimizers.SGD(0.1)))
    freeze(model, "norm")
    before = values(model)
    np.testing.assert_array_equal(np.asarray(model(x, training=True)), np.asarray(model(x, training=False)))
    model.fit(x, y, epochs=2, verbose=0)
    after = values(model)
    assert {name.split("/")[0] for name in before if before[name] != after[name]} == {"middle", "head"}
    unfreeze(model)
    model.fit(x, y, epochs=1, verbose=0)
    assert all(after[name] != bits for name, bits in values(model).items())


def test_slots_for_all_weights_and_none_lost_when_a_layer_thaws():
    x, y = vectors()
    model = dense(keras.optimizers.Adam(0.01))
    model.get_layer("low").trainable = False
    freeze(model, -1)
    assert len(model.optimizer._momentums) == 8
    model.fit(x, y, epochs=2, verbose=0)
    slots = [np.array(one) for one in model.optimizer._momentums]
    assert [bool(one.any()) for one in slots] == [False] * 6 + [True] * 2
    unfreeze(model)
    assert all(np.array_equal(one, np.array(other)) for one, other in zip(slots, model.optimizer._momentums))
    model.fit(x, y, epochs=1, verbose=0)
    assert all(np.array(one).any() for one in model.optimizer._momentums)


def test_optimizer_built_while_frozen_is_told_before_it_trains():
    x, y = vectors()
    model = dense(keras.optimizers.Adam(0.01))
    model.layers[0].trainable = False
    model.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match=r"compile the model again\. Received: missing=.*low"):
        unfreeze(model)
    assert trainable(model) == ["norm", "middle", "head"]
    # What was built can still train, and more can freeze.
    assert unfreeze(model, 2) == ["norm", "middle", "head"]
    assert freeze(model, -1) == ["low", "norm", "middle"]
    model.fit(x, y, verbose=0)


def test_layers_within_layers_and_single_variables_are_put_back():
    class Block(keras.layers.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.one, self.two = keras.layers.Dense(4, name="one"), keras.layers.Dense(4, name="two")

        def build(self, shape):
            self.one.build(shape)
            self.two.build(shape)

        def call(self, inputs):
            return self.two(self.one(inputs))

    x, y = vectors()
    model = keras.Sequential([keras.Input((4,)), Block(name="block"), keras.layers.Dense(2, name="head")])
    block = model.get_layer("block")
    block.one.trainable = False
    block.two.bias.trainable = False
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    paths = [one.path for one in model.trainable_variables]
    before = values(model)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[GradualUnfreeze([(0, "head"), (1, "block")])])
    assert [one.path for one in model.trainable_variables] == paths
    assert not block.one.trainable and block.trainable
    changed = {name for name, bits in values(model).items() if before[name] != bits}
    # The block lists its parts' weights as well.
    assert changed == {"block/kernel", "two/kernel", "head/kernel", "head/bias"}
    assert len(model.optimizer._momentums) == 6
    # Asked for by name, all of it trains.
    freeze(model, "block")
    unfreeze(model)
    assert len(model.trainable_variables) == 6


def test_a_model_without_weights_is_refused_where_its_optimizer_would_be_built_on_nothing():
    class Late(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = keras.layers.Dense(2, name="head")

        def call(self, inputs):
            return self.head(inputs)

    model = Late()
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="call it once. Received: model="):
        freeze(model, "head")
    assert not model.optimizer.built and model.head.trainable


def test_slopes_per_place_are_no_kernel_of_their_own():
    layers = [keras.Input((8, 2)), keras.layers.Conv1D(3, 3, name="conv"), keras.layers.PReLU(name="slopes")]
    model = keras.Sequential([*layers, keras.layers.Dense(2, name="head")])
    assert freeze(model, 1) == ["conv", "slopes"] and freeze(model, 2) == ["conv", "slopes", "head"]


def test_refuses():
    for call in (
        lambda: freeze(dense(), "absent"),
        # A pattern matches whole names.
        lambda: freeze(dense(), "mid"),
        lambda: freeze(dense(), 4),
        lambda: freeze(dense(), 1.5),
        lambda: unfreeze(dense(), 0),
        lambda: unfreeze(dense(), "absent"),
    ):
        with pytest.raises(ValueError, match="Received: (until|start)="):
            call()
