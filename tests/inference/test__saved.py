"""Marginalised models and ensembles as SavedModels, TFLite files and parts of other models."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kregkit.data import Augment, Flips, RandomRotation, TenCrop
from kregkit.inference import Ensemble, calibrate, marginalize

pytestmark = pytest.mark.one_in(2)

rng = np.random.default_rng(0)
ROWS = rng.normal(size=(3, 8)).astype("float32")
IMAGES = rng.normal(size=(3, 8, 8, 1)).astype("float32")


def dense():
    return keras.Sequential([keras.Input((8,)), layers.Dropout(0.2), layers.Dense(3, activation="softmax")])


def segmentation(dropout=0.3):
    return keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Dropout(dropout), layers.Conv2D(2, 3, padding="same", activation="softmax")]
    )


def classifier():
    return keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(3, activation="softmax")])


def two_inputs():
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    hidden = layers.Dropout(0.3)(layers.Concatenate()([a, b]))
    p = layers.Dense(3, activation="softmax", name="p")(hidden)
    return keras.Model({"a": a, "b": b}, {"p": p, "q": layers.Dense(2, activation="softmax", name="q")(hidden)})


CASES = {
    "noise": (lambda: marginalize(dense(), draws=4), ROWS),
    "spread": (lambda: marginalize(dense(), draws=4, spread=True), ROWS),
    "members": (lambda: marginalize(Ensemble([dense(), dense()]), draws="auto", max_draws=16), ROWS),
    "structures": (lambda: marginalize(two_inputs(), draws=4), {"a": ROWS, "b": ROWS + 1}),
    "pixels": (lambda: marginalize(segmentation(), draws=2, views=Flips()), IMAGES),
    "random": (lambda: marginalize(segmentation(), draws=3, views=Augment([RandomRotation(10)], (-9, 9))), IMAGES),
    "crops": (lambda: marginalize(classifier(), views=TenCrop(6), noise=None), IMAGES),
    "ensemble": (lambda: Ensemble([dense(), dense()]), ROWS),
}


def assert_close(results, expected):
    for one, other in zip(keras.tree.flatten(results), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def served(model, data, folder):
    model.export(folder, verbose=False)
    loaded = tf.saved_model.load(folder)
    assert "serving_default" in loaded.signatures
    return loaded.serve(data)


@pytest.mark.parametrize("name", CASES)
def test_export_and_as_a_part(name, tmp_path):
    make, data = CASES[name]
    model = make().to_model()
    expected = model.predict(data, verbose=0)
    model.save(tmp_path / "model.keras")
    # Nothing but the file says what its inputs are.
    model = keras.models.load_model(tmp_path / "model.keras")
    assert_close(served(model, data, tmp_path / "exported"), expected)
    several = isinstance(data, dict)
    inputs = {key: keras.Input((8,), name=key) for key in data} if several else keras.Input(data.shape[1:])
    whole = keras.Model(inputs, model(inputs))
    assert_close(whole.predict(data, verbose=0), expected)
    # Keras exports no dictionary within a tuple, and as parts the other cases are the same.
    if name in ("noise", "structures", "random"):
        assert_close(served(whole, data, tmp_path / "whole"), expected)


def test_weights_are_those_at_export(tmp_path):
    model = marginalize(dense(), draws=4).to_model()
    served(model, ROWS, tmp_path / "before")
    before = tf.saved_model.load(tmp_path / "before").serve(ROWS)
    model.models[0].layers[-1].kernel.assign(np.zeros((8, 3)))
    assert_close(served(model, ROWS, tmp_path / "after"), model(ROWS))
    assert np.abs(np.asarray(before) - model(ROWS)).max() > 0.01


def test_inputs_that_were_never_met(tmp_path):
    model = marginalize(classifier(), views=Flips(), noise=None).to_model()
    exported = served(model, IMAGES[:, :6, :6], tmp_path / "exported")
    assert_close(exported, model(IMAGES[:, :6, :6]))
    model = marginalize(classifier(), views=TenCrop(6), noise=None).to_model()
    signature = [tf.TensorSpec((None, 8, 8, 1))]
    model.export(tmp_path / "given", verbose=False, input_signature=signature)
    assert_close(tf.saved_model.load(tmp_path / "given").serve(IMAGES), model(IMAGES))


@pytest.mark.parametrize("name", ["views", "analytic", pytest.param("ensemble", marks=pytest.mark.slow)])
def test_tflite(name, tmp_path):
    make = {
        "views": lambda: marginalize(segmentation(0.0), views=Flips(), noise=None),
        "analytic": lambda: marginalize(segmentation(), draws="analytic"),
        "ensemble": lambda: Ensemble([segmentation(), segmentation()]),
    }[name]
    model = make().to_model()
    expected = model.predict(IMAGES[:1], verbose=0)
    model.export(str(tmp_path / "model.tflite"), format="litert", verbose=False)
    with pytest.warns(UserWarning, match="tf.lite.Interpreter is deprecated"):
        interpreter = tf.lite.Interpreter(str(tmp_path / "model.tflite"))
    interpreter.allocate_tensors()
    (inputs,), (outputs,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(inputs["index"], IMAGES[:1])
    interpreter.invoke()
    np.testing.assert_allclose(interpreter.get_tensor(outputs["index"]), expected, atol=1e-5)


def test_what_tflite_lacks(tmp_path):
    model = marginalize(dense(), draws=2).to_model()
    with pytest.raises(ValueError, match=r"TFLite lacks.*SavedModel.*operations=.*tf.StatelessRandomUniform"):
        model.export(tmp_path / "model.tflite", format="litert", verbose=False)
    assert not (tmp_path / "model.tflite").exists()
    for arguments in ({"format": "onnx"}, {"format": "litert", "filepath": tmp_path / "model"}):
        with pytest.raises(ValueError, match="must.*Received: "):
            model.export(**{"filepath": tmp_path / "model.onnx", "verbose": False, **arguments})


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["ensemble", "noise", "calibrated"])
def test_every_predictor_exports_itself(name, tmp_path):
    if name == "calibrated":
        model = dense()
        model.compile("sgd", "sparse_categorical_crossentropy")
        data = np.tile(ROWS, (40, 1)), np.arange(120) % 3
        predictor = calibrate(model, data)
    else:
        predictor = CASES[name][0]()
    predictor.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "exported")
    assert_close(loaded.serve(ROWS), predictor.predict(ROWS, verbose=0))
    with pytest.raises(ValueError, match="Received: format='onnx'"):
        predictor.export(tmp_path / "exported", format="onnx")
