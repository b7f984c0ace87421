import importlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from kregkit import data, inference
from kregkit._core.late_classes import LateClass, register_late

OPEN = """
import sys, keras, kregkit, numpy
assert not {"kregkit.data", "kregkit.inference"} & set(sys.modules)
print(*(name for name, value in keras.saving.get_custom_objects().items() if hasattr(value, "module")))
model = keras.models.load_model(sys.argv[1])
numpy.save(sys.argv[2], model.predict(numpy.load(sys.argv[3]), verbose=0))
"""


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kind", ["marginal", "augmenting"])
def test_a_file_opens_with_nothing_imported_but_kregkit(kind, tmp_path):
    layers = [keras.layers.Flatten(), keras.layers.Dense(4, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(3)]
    if kind == "augmenting":
        layers.insert(0, data.AugmentLayer([data.RandomFlip()]))
    model = keras.Sequential([keras.Input((6, 6, 1)), *layers])
    if kind == "marginal":
        model = inference.marginalize(model, draws=4, outputs="logits", views=data.FiveCrop(6)).to_model()
    x = np.random.default_rng(0).random((5, 8, 8, 1) if kind == "marginal" else (5, 6, 6, 1), "float32")
    np.save(tmp_path / "x.npy", x)
    model.save(tmp_path / "model.keras")
    files = [tmp_path / name for name in ("model.keras", "y.npy", "x.npy")]
    printed = subprocess.check_output([sys.executable, "-c", OPEN, *files], text=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)
    # Every layer and model of a lazy room has a stand-in.
    importlib.import_module("kregkit.inference._saved")
    lazy = {
        name
        for name, value in keras.saving.get_custom_objects().items()
        if getattr(value, "__module__", "").startswith(("kregkit.data", "kregkit.inference"))
        and issubclass(value, keras.Layer)
    }
    assert set(printed.split()) == lazy


def test_a_stand_in_gives_way_to_the_class():
    assert keras.saving.get_registered_object("kregkit>AugmentLayer") is data.AugmentLayer
    register_late({"kregkit.data.augment_layer": "AugmentLayer"})
    assert keras.saving.get_registered_object("kregkit>AugmentLayer") is data.AugmentLayer
    layer = LateClass("kregkit.data.augment_layer", "AugmentLayer").from_config(
        data.AugmentLayer([data.RandomFlip()]).get_config()
    )
    assert isinstance(layer, data.AugmentLayer)
