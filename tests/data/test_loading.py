import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from kregkit.data import _tfds, digits, load


class KregkitToy(tfds.core.GeneratorBasedBuilder):
    """Four numbers, without supervised keys."""

    VERSION = tfds.core.Version("1.0.0")
    prepared = 0

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"x": tfds.features.Scalar(np.int64)})
        )

    def _split_generators(self, _):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        type(self).prepared += 1
        yield from ((index, {"x": index}) for index in range(4))


def test_digits_by_name(data_dir, no_network):
    by_name, direct = load("digits", "test", data_dir), digits("test", data_dir)
    for (image, label), (other, same) in zip(by_name.take(5), direct):
        assert np.array_equal(image, other) and label == same


def test_offline_and_not_prepared_says_what_where_and_how(tmp_path, monkeypatch):
    monkeypatch.setattr(_tfds, "network_answers", lambda: False)
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError) as error:
        load("cifar10", "train", tmp_path)
    assert time.perf_counter() - start < 10
    text = str(error.value)
    assert "cifar10/3.0.2" in text and f"tfds build cifar10 --data_dir {tmp_path}" in text
    assert str(tmp_path / "cifar10" / "3.0.2") in text and "network" in text
    assert text.endswith(f"Received: name='cifar10', data_dir={tmp_path!r}")
    assert not any(tmp_path.iterdir())


def test_download_false_never_asks_the_network(tmp_path, no_network):
    with pytest.raises(FileNotFoundError, match="forbidden"):
        load("cifar10", "train", tmp_path, download=False)


@pytest.mark.parametrize("download", [None, True])
def test_prepares_where_it_can_and_only_once(tmp_path, monkeypatch, download):
    monkeypatch.setattr(_tfds, "network_answers", lambda: True)
    KregkitToy.prepared = 0
    for _ in range(2):
        dataset = load("kregkit_toy", "train[:3]", tmp_path, as_supervised=False, download=download)
        assert len(list(dataset)) == 3
    assert KregkitToy.prepared == 1
    with pytest.raises(ValueError, match=r"as_supervised=False.*Received: as_supervised=True"):
        load("kregkit_toy", "train", tmp_path)


def test_network_answers_within_its_limit(monkeypatch):
    import urllib.request

    def sleepy(*_, **__):
        time.sleep(2)
        raise OSError

    def refused(*_, **__):
        raise urllib.error.URLError("refused")

    def forbidden(*_, **__):
        raise urllib.error.HTTPError("url", 403, "forbidden", {}, None)

    for answer, expected in ((sleepy, False), (refused, False), (forbidden, True)):
        monkeypatch.setattr(urllib.request, "urlopen", answer)
        start = time.perf_counter()
        assert _tfds.network_answers(seconds=0.2) is expected
        assert time.perf_counter() - start < 1.5


def test_unknown_name_suggests_near_ones(tmp_path, no_network):
    with pytest.raises(ValueError, match=r"cifar10.*Received: name='cifar1'"):
        load("cifar1", "train", tmp_path)


@pytest.mark.parametrize("name", ["", None, 3])
def test_bad_name(name):
    with pytest.raises(ValueError, match="Received: name="):
        load(name, "train")


def test_bad_download(data_dir):
    with pytest.raises(ValueError, match="Received: download='yes'"):
        load("digits", "train", data_dir, download="yes")
