import functools

import keras
import numpy as np
import pytest
from keras import layers, losses

from kregkit._core.graph import last_activation
from kregkit._core.output_kinds import Task, loss_tasks, output_tasks, task_of_loss

SOFTMAX, SIGMOID = Task("probabilities", "softmax"), Task("probabilities", "sigmoid")


@pytest.mark.parametrize(
    ("loss", "task"),
    [
        ("sparse_categorical_crossentropy", SOFTMAX),
        ("CategoricalCrossentropy", SOFTMAX),
        (losses.CategoricalFocalCrossentropy(), SOFTMAX),
        (losses.CategoricalCrossentropy(from_logits=True), Task("logits", "softmax")),
        (losses.CategoricalCrossentropy(axis=1), None),
        (losses.BinaryCrossentropy(), SIGMOID),
        (losses.BinaryFocalCrossentropy(from_logits=True), Task("logits", "sigmoid")),
        (losses.binary_crossentropy, SIGMOID),
        (functools.partial(losses.binary_crossentropy, from_logits=True), Task("logits", "sigmoid")),
        ("mse", Task("values")),
        (losses.Huber(), Task("values")),
        (lambda y, p: p, None),
        (None, None),
    ],
)
def test_task_of_loss(loss, task):
    assert task_of_loss(loss) == task


def functional(*tail):
    inputs = outputs = keras.Input((4,))
    for layer in tail:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize(
    ("tail", "name"),
    [
        ([layers.Dense(3, activation="softmax")], "softmax"),
        ([layers.Dense(3), layers.Softmax()], "softmax"),
        ([layers.Dense(3), layers.Softmax(axis=1)], None),
        ([layers.Dense(3), layers.Activation("sigmoid")], "sigmoid"),
        ([layers.Dense(4, activation="softmax"), layers.Activation("linear", dtype="float32")], "softmax"),
        ([layers.Dense(4, activation="sigmoid"), layers.Reshape((2, 2)), layers.Identity()], "sigmoid"),
        ([layers.Dense(3)], "linear"),
        ([layers.Dense(3), keras.ops.softmax], "softmax"),
        ([layers.Dense(3), keras.ops.sigmoid], "sigmoid"),
        ([keras.Sequential([layers.Dense(3, activation="softmax")])], "softmax"),
        ([layers.RepeatVector(2), layers.TimeDistributed(layers.Dense(3, activation="softmax"))], "softmax"),
        ([layers.Dense(3), layers.LayerNormalization()], None),
    ],
)
def test_last_activation(tail, name):
    assert last_activation(functional(*tail).outputs[0]) == name


def test_the_loss_tells_before_the_activation():
    model = functional(layers.Dense(3))
    model.compile(loss=losses.CategoricalCrossentropy(from_logits=True))
    assert output_tasks(model, model.outputs[0]) == [Task("logits", "softmax")]
    assert loss_tasks(model) == (Task("logits", "softmax"),)
    model = functional(layers.Dense(3, activation="softmax"))
    for loss in ("mse", "binary_crossentropy", None):
        model.compile(loss=loss)
        assert output_tasks(model, model.outputs[0]) == [SOFTMAX]
    model = functional(layers.Dense(3, activation="sigmoid"))
    model.compile(loss="mse")
    assert output_tasks(model, model.outputs[0]) == [Task("values")]


def two_outputs(as_dictionary):
    inputs = keras.Input((4,))
    b, a = layers.Dense(1, name="b")(inputs), layers.Dense(3, name="a", activation="softmax")(inputs)
    return keras.Model(inputs, {"b": b, "a": a} if as_dictionary else [b, a])


@pytest.mark.parametrize("as_dictionary", [True, False])
def test_several_outputs(as_dictionary):
    model = two_outputs(as_dictionary)
    structure = keras.tree.map_structure(np.asarray, model.predict(np.ones((2, 4)), verbose=0))
    expected = [SOFTMAX, Task("values")] if as_dictionary else [Task("values"), SOFTMAX]
    model.compile(loss={"b": "mse", "a": "categorical_crossentropy"})
    assert output_tasks(model, structure) == expected
    assert output_tasks(model, structure, {"a": "probabilities", "b": "values"}) == expected
    model.compile(loss={"a": None, "b": "mse"} if as_dictionary else ["mse", None])
    assert output_tasks(model, structure) == expected


def test_what_is_given_goes_first():
    model = functional(layers.Dense(3))
    one = functional(layers.Dense(1))
    assert output_tasks(model, model.outputs[0], "logits") == [Task("logits", "softmax")]
    assert output_tasks(one, one.outputs[0], "logits") == [Task("logits", "sigmoid")]
    assert output_tasks(one, one.outputs[0], "values") == [Task("values")]
    with pytest.raises(ValueError, match="could be probabilities, logits or values"):
        output_tasks(model, model.outputs[0])
    with pytest.raises(ValueError, match=r"Received: outputs='logit'"):
        output_tasks(model, model.outputs[0], "logit")
    with pytest.raises(ValueError, match="must match the model's 1 outputs"):
        output_tasks(model, model.outputs[0], ["logits", "values"])
