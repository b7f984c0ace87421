import keras
import numpy as np
import pytest

from kregkit.data import Augment, AugmentLayer, ColorJitter, MixUp, RandomCrop, RandomFlip, RandomRotation
from kregkit.data._random import keys_from_pair

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype="uint8")


def test_is_augment_by_the_layers_own_keys():
    operations = [RandomFlip(), RandomCrop(1), RandomRotation(10), ColorJitter()]
    layer = AugmentLayer(operations, seed=3)
    pair = keras.random.SeedGenerator(3).next()
    expected = Augment(operations)(IMAGES, keys_from_pair(pair, 4))
    np.testing.assert_allclose(layer(IMAGES, training=True), expected, atol=1e-6)
    # The next call draws anew; another layer of the same seed repeats.
    assert np.abs(np.asarray(layer(IMAGES, training=True)) - expected).max() > 0.01


def test_test_time_and_shapes():
    layer = AugmentLayer([RandomFlip(), RandomCrop(0, size=(4, 6))])
    np.testing.assert_allclose(layer(IMAGES) * 255, IMAGES[:, 2:6, 1:7], rtol=1e-6)
    assert layer.compute_output_shape((None, 8, 8, 3)) == (None, 4, 6, 3)
    model = keras.Sequential([keras.Input((8, 8, 3), dtype="uint8"), layer])
    assert model.output_shape == (None, 4, 6, 3)
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0) * 255, IMAGES[:, 2:6, 1:7], rtol=1e-6)


def test_half_precision_only_rounds_the_result():
    images = IMAGES.astype("float32") / 255
    full = AugmentLayer([RandomRotation(10)], seed=0)(images, training=True)
    half = AugmentLayer([RandomRotation(10)], seed=0, dtype="mixed_float16")(images, training=True)
    assert half.dtype == "float16"
    np.testing.assert_array_equal(half, keras.ops.cast(full, "float16"))


def test_eager_calls_share_their_graph(caplog):
    layer = AugmentLayer([RandomRotation(10), ColorJitter()], seed=0)
    with caplog.at_level("WARNING", "tensorflow"):
        for _ in range(6):
            layer(IMAGES, training=True)
    assert not caplog.records
    (function,) = layer._augment._functions.values()
    assert function.experimental_get_tracing_count() == 1


def test_mixing_is_refused():
    with pytest.raises(ValueError, match="must not mix labels.*Received: "):
        AugmentLayer([MixUp(num_classes=3)])


def test_anything_but_images_is_said():
    boxes = np.zeros((4, 1, 4), "float32")
    for inputs in ({"images": IMAGES, "bounding_boxes": {"boxes": boxes}}, (IMAGES, boxes)):
        with pytest.raises(ValueError, match=r"takes images alone[\s\S]*Received: a (dict|tuple)"):
            AugmentLayer([RandomFlip()])(inputs, training=True)
