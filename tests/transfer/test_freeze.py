import keras
import numpy as np
import pytest
from transfer.models import convolutional, dense, randomised, values, vectors

from kregkit.transfer import freeze, unfreeze


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
    ("start", "names"), [(1, ["head"]), (2, ["middle", "head"]), ("norm", ["norm", "middle", "head"])]
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


def test_refuses():
    for call in (
        lambda: freeze(dense(), "absent"),
        lambda: freeze(dense(), 4),
        lambda: freeze(dense(), 1.5),
        lambda: unfreeze(dense(), 0),
        lambda: unfreeze(dense(), "absent"),
    ):
        with pytest.raises(ValueError, match="Received: (until|start)="):
            call()
