import time

import keras
import numpy as np
import pytest

from kregkit.transfer import backbone, digits_backbone, features

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty directory where Keras looks for weights, and a network in which nothing answers."""
    before = keras.config.keras_home() if hasattr(keras.config, "keras_home") else None
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    module = __import__("sys").modules[keras.utils.get_file.__module__]
    monkeypatch.setattr(module.config, "keras_home", lambda: str(tmp_path))
    yield tmp_path
    assert before is None or keras.config.keras_home() == before


def small(weights):
    return backbone(
        "MobileNetV2", weights, timeout=0.3, alpha=0.35, input_shape=(96, 96, 3), include_top=False
    )  # fmt: skip


FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96_no_top.h5"


def test_offline_names_the_file_and_where_to_put_it_within_seconds(home, monkeypatch):
    def hang(*arguments, **named):
        time.sleep(30)

    monkeypatch.setattr("socket.create_connection", hang)
    get_file = __import__("sys").modules[keras.utils.get_file.__module__].get_file
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as error:
        small("imagenet")
    assert time.monotonic() - start < 5
    for part in ("https://", FILE, str(home / "models" / FILE), "weights=None", "Received: weights='imagenet'"):
        assert part in str(error.value)
    assert __import__("sys").modules[keras.utils.get_file.__module__].get_file is get_file


def test_behind_a_proxy_the_proxy_is_asked(home, monkeypatch):
    asked = []

    def refuse(address, *arguments, **named):
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(FileNotFoundError):
        small("imagenet")
    monkeypatch.setenv("no_proxy", "storage.googleapis.com")
    with pytest.raises(FileNotFoundError):
        small("imagenet")
    assert asked == [("proxy.example", 3128), ("storage.googleapis.com", 443)]


def test_a_damaged_file_is_told_offline(home, monkeypatch):
    def refuse(*arguments, **named):
        raise ConnectionRefusedError

    monkeypatch.setattr("socket.create_connection", refuse)
    (home / "models").mkdir()
    (home / "models" / "resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5").write_bytes(b"half")
    with pytest.raises(FileNotFoundError, match="ResNet50V2 are damaged"):
        backbone("ResNet50V2", include_top=False, input_shape=(32, 32, 3), timeout=0.3)


def test_refused_connection_is_the_same_error(home, monkeypatch):
    def refuse(*arguments, **named):
        raise ConnectionRefusedError

    monkeypatch.setattr("socket.create_connection", refuse)
    # Its module fetches through another's.
    with pytest.raises(FileNotFoundError, match="resnet50v2"):
        backbone("ResNet50V2", timeout=0.3)


def test_a_file_that_was_put_there_loads(home, tmp_path):
    model = small(None)
    model.set_weights([np.full(one.shape, 0.5, one.dtype) for one in model.get_weights()])
    (home / "models").mkdir()
    # Keras's own files are in the old form.
    model.save(home / "models" / FILE)
    assert all((one == 0.5).all() for one in small("imagenet").get_weights())
    model.save_weights(tmp_path / "mine.weights.h5")
    assert all((one == 0.5).all() for one in small(str(tmp_path / "mine.weights.h5")).get_weights())


def test_digits_backbone_learns_repeats_and_leaves_the_global_seed(trained, sets):
    accuracy = np.mean(trained.predict(sets["old"][0], verbose=0).argmax(-1) == sets["old"][1])
    assert accuracy > 0.97
    keras.utils.set_random_seed(3)
    expected = np.random.default_rng(np.random.randint(2**31)).random()
    keras.utils.set_random_seed(3)
    again = backbone(epochs=5)
    assert np.random.default_rng(np.random.randint(2**31)).random() == expected
    for one, other in zip(trained.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(one, other)
    assert features(again, ["relu_2", "relu_4"]).output_shape == [(None, 8, 8, 32), (None, 2, 2, 64)]


def test_digits_backbone_numbers_classes_as_they_are_named_and_begins_by_its_seed(sets):
    x, y = sets["old"]
    models = [digits_backbone(classes=[3, 1], epochs=2, seed=seed) for seed in (0, 1)]
    found = models[0].predict(x[(y == 3) | (y == 1)], verbose=0).argmax(-1)
    assert np.mean(found == (y[(y == 3) | (y == 1)] == 1)) > 0.9
    # Adam's steps of 2e-3 can't take one start to the other.
    one, other = (model.get_layer("conv_1").get_weights()[0] for model in models)
    assert np.abs(one - other).max() > 0.3


def test_refuses():
    for call, text in (
        (lambda: backbone("ResNet5"), "'digits' or one of .*ResNet50"),
        (lambda: backbone(3), "Received: name=3"),
        (lambda: backbone("digits", timeout=0), "timeout"),
        (lambda: digits_backbone(classes=[1]), "two different"),
        (lambda: digits_backbone(classes=[1, 1]), "two different"),
        (lambda: digits_backbone(classes=[1, 12]), "two different"),
        (lambda: digits_backbone(epochs=0), "epochs"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
