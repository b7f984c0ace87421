import dataclasses
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from transfer.models import values

from kregkit.transfer import FineTuned, fine_tune, recommend
from kregkit.transfer._graph import weighted_layers

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]

CELLS = {
    "linear head": (20, "similar"),
    "heads on several stages": (20, "different"),
    "fine-tune the top": (2000, "similar"),
    "fine-tune most": (2000, "different"),
}


def changed(before, after):
    return {name.split("/")[0] for name in before if before[name] != after.get(name)}


@pytest.mark.parametrize("strategy", CELLS)
def test_each_plan_trains_what_it_says(strategy, trained, sets):
    num, similarity = CELLS[strategy]
    plan = recommend(num, 5, similarity)
    assert plan.strategy == strategy
    x, y = sets["new"]
    before = values(trained)
    short = dataclasses.replace(plan, head_epochs=1, epochs=1 if strategy == "linear head" else 3)
    fitted = keras.callbacks.Callback()
    tuned = fine_tune(trained, (x[:100], y[:100]), sets["test"], short, callbacks=[fitted])
    assert isinstance(tuned, FineTuned) and tuned.model.output_shape == (None, 5)
    assert len(tuned.history.history["val_accuracy"]) == short.epochs
    assert values(trained) == before
    body = {name: bits for name, bits in before.items() if not name.startswith("head/")}
    expected = {
        "linear head": set(),
        "heads on several stages": {"conv_3", "norm_3", "conv_4", "norm_4"},
        "fine-tune the top": {"conv_4", "norm_4"},
        "fine-tune most": {f"{kind}_{index}" for kind in ("conv", "norm") for index in range(1, 5)},
    }[strategy]
    assert changed(body, values(tuned.model)) == expected
    rates = plan.head_learning_rate * np.array([1, *[plan.learning_rate_factor] * 2])
    np.testing.assert_allclose(tuned.history.history["learning_rate"], rates[: short.epochs], rtol=1e-5)
    assert tuned.model.get_layer("head").kernel.shape[0] == (128 if plan.stages == 3 else 64)
    assert any("random" in layer.name for layer in fitted.model.layers) == plan.augment
    # It evaluates on its own, without what augments.
    loss, accuracy = tuned.model.evaluate(*sets["test"], verbose=0)
    assert np.isfinite(loss) and 0 <= accuracy <= 1
    assert not any("random" in layer.name for layer in tuned.model.layers)


def test_the_top_begins_anew_and_the_head_begins_solved(trained, sets):
    x, y = sets["new"]
    # Next to no training: what differs was drawn anew.
    plan = dataclasses.replace(recommend(20, 5, "different"), head_learning_rate=1e-9, head_epochs=1, epochs=1)
    tuned = fine_tune(trained, (x[y < 4], y[y < 4]), (x, y), plan)
    body = {name: bits for name, bits in values(trained).items() if not name.startswith("head/")}
    assert changed(body, values(tuned.model)) == {"conv_4"}
    # A class that only the validation data hold has an output too.
    assert tuned.model.output_shape == (None, 5)
    found = tuned.model.predict(x[y < 4], verbose=0).argmax(-1)
    assert np.mean(found == y[y < 4]) > 0.8


def test_learns_new_digits_from_few(trained, sets):
    x, y = sets["new"]
    chosen = np.concatenate([np.flatnonzero(y == one)[:10] for one in range(5)])
    keras.utils.set_random_seed(1)
    tuned = fine_tune(trained, (x[chosen], y[chosen]), plan=recommend(50, 5, "similar"))
    _, accuracy = tuned.model.evaluate(*sets["test"], verbose=0)
    assert accuracy > 0.8
    assert "learning_rate" in tuned.history.history


def test_layers_thaw_stage_by_stage_from_the_top(trained, sets):
    x, y = (part[:32] for part in sets["new"])
    weights = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: weights.append([layer.trainable for layer in weighted_layers(record.model)])
    )
    plan = dataclasses.replace(recommend(1000, 5, "different"), head_epochs=1, epochs=3)
    fine_tune(trained, (x, y), plan=plan, callbacks=[record])
    # Four convolutions and the head: the head alone, then the upper half of the body, then all.
    assert weights == [[False] * 4 + [True], [False] * 2 + [True] * 3, [True] * 5]


def test_makes_its_own_plan(trained, sets):
    x, y = sets["new"]
    record = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: stop(record, epoch))

    def stop(callback, epoch):
        callback.model.stop_training = True

    tuned = fine_tune(trained, (x[:60], y[:60]), callbacks=[record])
    assert tuned.plan.strategy in CELLS and len(tuned.history.epoch) == 1


def test_a_dataset_trains_as_arrays_do(trained, sets):
    x, y = (part[:96] for part in sets["new"])
    plan = dataclasses.replace(recommend(20, 5, "different"), head_epochs=1, epochs=3)
    plan = dataclasses.replace(plan, augment=False, reinitialize=0.0)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(96)
    validation = tf.data.Dataset.from_tensor_slices(sets["test"]).batch(50)
    arrays = fine_tune(trained, (x, y), sets["test"], plan, batch_size=96)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="`shuffle=True` was passed")
        batches = fine_tune(trained, dataset, validation, plan)
    assert batches.history.history["val_accuracy"] == pytest.approx(arrays.history.history["val_accuracy"], abs=0.01)
    for one, other in zip(arrays.model.get_weights(), batches.model.get_weights()):
        np.testing.assert_allclose(one, other, rtol=0.02, atol=0.02)


def test_several_inputs():
    rng = np.random.default_rng(0)
    x = {"one": rng.normal(size=(40, 4)).astype("float32"), "two": rng.normal(size=(40, 3)).astype("float32")}
    inputs = {name: keras.Input(part.shape[1:], name=name) for name, part in x.items()}
    joined = keras.layers.Concatenate()([inputs["one"], inputs["two"]])
    body = keras.layers.Dense(8, "relu", name="body")(joined)
    model = keras.Model(inputs, keras.layers.Dense(2)(body))
    plan = dataclasses.replace(recommend(40, 2, "different"), head_epochs=1, epochs=2)
    tuned = fine_tune(model, (x, (x["one"][:, 0] > 0).astype(int)), plan=plan)
    assert tuned.model.predict(x, verbose=0).shape == (40, 2)


def test_refuses(trained, sets):
    x, y = sets["new"]
    with pytest.raises(ValueError, match="Received: plan="):
        fine_tune(trained, (x, y), plan="linear head")
    with pytest.raises(ValueError, match="integers"):
        fine_tune(trained, (x, y / 2))
    with pytest.raises(ValueError, match="batch_size"):
        fine_tune(trained, (x, y), batch_size=0)
    with pytest.raises(ValueError, match="must end.* Received: train=_RepeatDataset"):
        fine_tune(trained, tf.data.Dataset.from_tensor_slices((x, y)).batch(8).repeat())
    with pytest.raises(ValueError, match="pair of arrays .* Received: validation="):
        fine_tune(trained, (x, y), (x, y, y))
    with pytest.raises(ValueError, match="not one-hot"):
        fine_tune(trained, (x, np.eye(5)[y]))
    with pytest.raises(ValueError, match="one label per example"):
        fine_tune(trained, (x[:-1], y))
