import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from kregkit.data import RandomFlip, image_folder, pipeline
from kregkit.data.bundled_digits import prepared_digits
from kregkit.data.sources import ArraySource, FileSource, SequenceSource, StreamSource, open_source

NUM = 6


def write(root, broken=()):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                image = rng.integers(0, 256, (8, 10, 3), dtype="uint8")
                (folder / f"{number}.png").write_bytes(tf.io.encode_png(image).numpy())
    for path in broken:
        (root / path).write_bytes(b"\x89PNG this is no image")
    return root


def labels_of(dataset):
    return np.concatenate([y for _, y in dataset])


def test_digits_by_name_and_by_builder(data_dir):
    named = pipeline("digits", 100, [RandomFlip()], data_dir=data_dir, cache=True)
    assert isinstance(named.source, ArraySource) and len(named) == 15
    streamed = pipeline(prepared_digits(data_dir), 100, split="test")
    assert isinstance(streamed.source, StreamSource) and len(streamed) == 4
    part = pipeline("digits", 100, data_dir=data_dir, split="train[:80%]")
    assert sum(len(x) for x, _ in part) == 1150


def test_random_access_tfds_source(tmp_path):
    from kregkit.data._digits_builder import Digits

    builder = Digits(data_dir=tmp_path)
    builder.download_and_prepare(file_format="array_record")
    dataset = pipeline(builder, 100, [RandomFlip()], split="test")
    assert isinstance(dataset.source, SequenceSource)
    expected = [builder.as_data_source("test")[i]["label"] for i in range(360)]
    order = [labels_of(dataset) for _ in range(2)]
    assert sorted(order[0]) == sorted(expected) and (order[0] != order[1]).any()
    np.testing.assert_array_equal(labels_of(pipeline(builder, 100, split="test", training=False)), expected)


def test_unprepared_builder(tmp_path):
    from kregkit.data._digits_builder import Digits

    with pytest.raises(FileNotFoundError, match="download_and_prepare.*Received: source="):
        pipeline(Digits(data_dir=tmp_path), 10)


@pytest.mark.parametrize("how", ["path", "string", "builder", "source"])
def test_folder_of_images(tmp_path, how):
    root = write(tmp_path)
    source = {
        "path": lambda: root, "string": lambda: str(root), "builder": lambda: tfds.ImageFolder(str(root)),
        "source": lambda: image_folder(root, "train"),
    }[how]()  # fmt: skip
    dataset = pipeline(source, 4, [RandomFlip()], cache=how == "path")
    assert isinstance(dataset.source, FileSource) and len(dataset) == 2
    for _ in range(2):
        assert sorted(labels_of(dataset)) == [0, 0, 0, 1, 1, 1]
    expected = {image["image"].numpy().tobytes() for image in tfds.ImageFolder(str(root)).as_dataset("train")}
    plain = pipeline(source, 1, training=False)
    assert {np.round(x[0].numpy() * 255).astype("uint8").tobytes() for x, _ in plain} == expected


def test_broken_image_is_named_or_skipped(tmp_path, caplog):
    root = write(tmp_path, broken=["train/dog/1.png"])
    with pytest.raises(tf.errors.OpError, match=r"train/dog/1\.png can't be read"):
        list(pipeline(root, 4, [RandomFlip()]))
    with caplog.at_level(logging.WARNING, "kregkit.data"):
        dataset = pipeline(root, 4, [RandomFlip()], on_error="skip")
        for _ in range(2):
            assert sorted(labels_of(dataset)) == [0, 0, 0, 1, 1]
    assert [path.endswith("train/dog/1.png") for path in dataset.source.skipped] == [True]
    assert caplog.text.count("Skipped") == 1
    assert int(dataset.epoch) == 2


def test_label_file(tmp_path):
    root = write(tmp_path) / "train"
    file = tmp_path / "labels.csv"
    file.write_text("file,label\ncat/0.png,b\ndog/2.png,a\n")
    source = image_folder(root, labels=file)
    assert source.size == 2 and source.class_names == ["a", "b"]
    np.testing.assert_array_equal(labels_of(pipeline(source, 2, training=False)), [1, 0])


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("cat/0.png,a\ncat/9.png,a\n", FileNotFoundError, r"labels\.csv, line 2: there is no file .*9\.png"),
        ("cat/0.png,a,b\n", ValueError, r"labels\.csv, line 1: expected"),
        ("cat/0.png,a\n,b\n", ValueError, r"labels\.csv, line 2: expected"),
        ("cat/0.png,a\ncat/0.png,b\n", ValueError, r"labels\.csv, line 2: .* was named before"),
        ("file,label\n", ValueError, r"labels\.csv names no images"),
    ],
)
def test_wrong_label_file(tmp_path, text, error, match):
    root = write(tmp_path) / "train"
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(error, match=rf"{match}[\s\S]*Received: "):
        image_folder(root, labels=tmp_path / "labels.csv")


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="no label file"):
        image_folder(tmp_path, labels=tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match="no folder"):
        image_folder(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no folder"):
        pipeline(tmp_path / "none", 2)
    with pytest.raises(ValueError, match="holds no images"):
        pipeline(tmp_path, 2)
    root = write(tmp_path / "images")
    (root / "train" / "empty").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*empty holds no images"):
        pipeline(root, 2)
    with pytest.raises(ValueError, match="Received: split='validation'"):
        pipeline(tfds.ImageFolder(str(root)), 2, split="validation")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ((np.zeros((4, 2)), np.zeros(3)), "one length"),
        (np.zeros((0, 8, 8, 3)), "one length"),
        ({}, "one length"),
        (3, "`source` must be"),
        ("no_such_set", "a data set that TFDS knows"),
        (range(0), "at least one example"),
        (tf.data.Dataset.range(0), "at least one example"),
        (tf.data.Dataset.range(3).repeat(), "must end"),
    ],
)
def test_bad_source(source, text):
    with pytest.raises(ValueError, match=rf"{text}[\s\S]*Received: "):
        open_source(source)


def test_structures_of_arrays_and_cached_streams(tmp_path):
    source = open_source({"a": np.arange(5), "b": [np.ones((5, 2))]})
    assert source.size == 5 and keras.tree.flatten(source.fetch([3]))[0].numpy() == [3]
    dataset = pipeline(tf.data.Dataset.range(7), 3, cache=tmp_path / "cache")
    for _ in range(2):
        assert sorted(np.concatenate(list(dataset))) == list(range(7))
    assert list(tmp_path.glob("cache*"))
