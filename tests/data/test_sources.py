import collections
import logging
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from kregkit.data import (
    MixUp,
    PCAColorNoise,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
    RandomRotation,
    Standardize,
    image_folder,
    pipeline,
)
from kregkit.data._image_files import FileSource
from kregkit.data._open_source import open_source
from kregkit.data.bundled_digits import prepared_digits
from kregkit.data.sources import ArraySource, SequenceSource, StreamSource

pytestmark = pytest.mark.one_in(2)

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


def test_unknown_split(data_dir, tmp_path):
    from kregkit.data._digits_builder import Digits

    builder = Digits(data_dir=tmp_path)
    builder.download_and_prepare(file_format="array_record")
    for source in (builder, prepared_digits(data_dir)):
        with pytest.raises(ValueError, match="one of test, train.*Received: split='validation'"):
            pipeline(source, 10, split="validation")


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
    assert caplog.text.count("Skipped") == 1 and "function_node" not in caplog.text
    assert int(dataset.epoch) == 2


def test_every_kind_of_broken_image(tmp_path):
    root = write(tmp_path) / "train"
    whole = (root / "cat/0.png").read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"text"):
        (root / "dog/2.png").write_bytes(content)
        with pytest.raises(tf.errors.OpError, match=r"dog/2\.png can't be read: \w"):
            list(pipeline(root, 4))
        assert sorted(labels_of(pipeline(root, 4, on_error="skip"))) == [0, 0, 0, 1, 1]
    (root / "dog/2.png").unlink()
    source = image_folder(write(tmp_path / "other") / "train", on_error="skip")
    pathlib.Path(source.paths[0]).unlink()
    assert len(labels_of(pipeline(source, 4))) == 5 and list(source.skipped) == source.paths[:1]


def test_what_is_skipped_reaches_no_operation(tmp_path):
    root = write(tmp_path, broken=["train/dog/1.png"])
    # What stands for a broken image is too small to be cropped.
    for x, _ in pipeline(root, 4, [RandomCrop(0, size=8)], on_error="skip"):
        assert x.shape[1:] == (8, 8, 3)
    for drop in (False, True):
        mixed = pipeline(root, 4, [RandomCrop(0, size=8), MixUp(num_classes=2)], on_error="skip", drop_remainder=drop)
        for _ in range(3):
            labels = np.concatenate([y for _, y in mixed])
            assert labels.shape == (4 if drop else 5, 2)
            np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_resume_counts_the_images_that_are_not_skipped(tmp_path, seed):
    root = write(tmp_path, broken=["train/dog/1.png", "train/cat/2.png"])
    arguments = {"operations": [RandomResizedCrop(6)], "on_error": "skip", "seed": seed, "epoch": 2}
    whole, resumed = (pipeline(root, 1, **arguments, batch=batch) for batch in (0, 2))
    first = list(whole)
    for expected in (first[2:], list(whole)):
        for (x, y), (u, v) in zip(expected, resumed, strict=True):
            np.testing.assert_array_equal(x, u)
            np.testing.assert_array_equal(y, v)


def test_classes_have_one_number_in_all_splits(tmp_path):
    root = write(tmp_path)
    for file in (root / "test" / "cat").iterdir():
        file.unlink()
    (root / "test" / "cat").rmdir()
    (root / "LICENSE.txt").write_text("free")
    for source in (image_folder(root, "test"), tfds.ImageFolder(str(root)), root):
        dataset = pipeline(source, 3, split="test", training=False)
        assert dataset.source.class_names == ["cat", "dog"]
        np.testing.assert_array_equal(labels_of(dataset), [1, 1, 1])


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    root = write(tmp_path / ".hidden") / "train"
    (root / ".thumbnails").mkdir()
    for copy in (root / ".thumbnails" / "0.png", root / "cat" / "._0.png"):
        copy.write_bytes((root / "cat/0.png").read_bytes())
    source = image_folder(root)
    assert source.class_names == ["cat", "dog"] and source.size == 6


def test_folder_without_the_split(tmp_path):
    root = write(tmp_path)
    for folder in (root, root / "train"):
        with pytest.raises(FileNotFoundError, match="no subfolder validation.*Received: split='validation'"):
            pipeline(folder, 2, split="validation")
    assert len(labels_of(pipeline(root / "train", 2))) == 6


@pytest.mark.parametrize("typed", ["imgaes", "imgaes/train"])
def test_mistyped_folder_is_answered_by_a_folder(tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images" / "train").mkdir(parents=True)
    meant = typed.replace("imgaes", "images")
    with pytest.raises(FileNotFoundError, match=f"Did you mean {meant}.*Received: source='{typed}'"):
        pipeline(typed, 2)


def test_string_that_is_no_folder_and_no_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"neither a folder cifar1 in .* nor .*: .*cifar10.*Received: source='cifar1'"):
        pipeline("cifar1", 2)
    # No data set's name has a folder in it.
    with pytest.raises(ValueError, match=r"nor a TFDS data set of that name\. Received: source='cifar1/train'"):
        pipeline("cifar1/train", 2)


def test_opened_folder_is_a_sequence(tmp_path):
    root = write(tmp_path, broken=["test/dog/1.png"])
    source = image_folder(root, "train")
    image, label = source[-1]
    assert len(source) == 6 and image.shape == (8, 10, 3) and label == 1
    images = np.stack([image for image, _ in source])
    np.testing.assert_allclose(PCAColorNoise().fit(source).eigenvalues, PCAColorNoise().fit(images).eigenvalues)
    np.testing.assert_allclose(Standardize().fit(source).mean_value, Standardize().fit(images).mean_value)
    with pytest.raises(ValueError, match="can't be read"):
        list(image_folder(root, "test", on_error="skip"))
    with pytest.raises(IndexError):
        source[6]


def test_label_file(tmp_path):
    root = write(tmp_path) / "train"
    file = tmp_path / "labels.csv"
    file.write_text("file,label\ncat/0.png,b\ndog/2.png,a\n")
    source = image_folder(root, labels=file)
    assert source.size == 2 and source.class_names == ["a", "b"]
    np.testing.assert_array_equal(labels_of(pipeline(source, 2, training=False)), [1, 0])
    named = image_folder(root, labels=file, class_names=["b", "c", "a"])
    np.testing.assert_array_equal(labels_of(pipeline(named, 2, training=False)), [0, 2])
    file.write_text("cat/0.png,10\ncat/1.png,9\ndog/2.png,2\n")
    assert image_folder(root, labels=file).class_names == ["2", "9", "10"]
    with pytest.raises(ValueError, match=r"labels\.csv, line 2: the class is not in .*Received: row="):
        image_folder(root, labels=file, class_names=["10", "2"])
    with pytest.raises(ValueError, match=r"dog/0\.png is not in `class_names`. Received: "):
        image_folder(root, class_names=["cat"])
    for names in ("ab", ["a", "a"], [1, 2]):
        with pytest.raises(ValueError, match="`class_names` must be.*Received: class_names="):
            image_folder(root, class_names=names)


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
        (([np.zeros((4, 4, 3))] * 2, np.zeros(2)), r"one length.*A list counts as several arrays.*np.stack\(images\)"),
        ((np.zeros((2, 4, 4, 3)), np.array([0, 1], object)), "Python objects.*astype.*Received: dtype=object"),
        ({}, "one length"),
        (3, "`source` must be"),
        ("no_such_set", "neither a folder no_such_set"),
        (range(0), "at least one example"),
        (tf.data.Dataset.range(0), "at least one example"),
        (tf.data.Dataset.range(3).repeat(), "must end"),
        ((np.zeros((4, 2)), [1, 2, 3]), r"one length.*2 arrays of shapes=\[\(4, 2\), \(3,\)\]$"),
    ],
)
def test_bad_source(source, text):
    for cache in (False, True):
        with pytest.raises(ValueError, match=rf"{text}([\s\S]*Received: )?"):
            open_source(source, cache=cache)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"on_error": "skip"}, "is for folders of images"),
        ({"on_error": "pass"}, "`on_error` must be"),
        ({"cache": True, "folder": True}, "`cache` of an opened source goes to `image_folder`"),
        ({"on_error": "skip", "folder": True}, "goes to `image_folder` where that opened it"),
        ({"cache": "file", "folder": False}, "`cache` must be a directory"),
    ],
)
def test_arguments_that_would_do_nothing_are_refused(tmp_path, arguments, text):
    root = write(tmp_path)
    (tmp_path / "file").write_text("")
    kind = arguments.pop("folder", None)
    source = {True: lambda: image_folder(root, "train"), False: lambda: root, None: lambda: np.arange(4)}[kind]()
    if "cache" in arguments and arguments["cache"] == "file":
        arguments["cache"] = tmp_path / "file"
    with pytest.raises(ValueError, match=rf"{text}.*Received: "):
        pipeline(source, 2, **arguments)


class Counting:
    """Six images with a name each, which counts how often each is read."""

    def __init__(self):
        self.reads = np.zeros(6, int)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.reads[index] += 1
        rng = np.random.default_rng(index)
        return rng.integers(0, 256, (8, 8, 3), dtype="uint8"), f"name {index}", rng.random()


@pytest.mark.parametrize("where", ["memory", "directory", "nowhere"])
def test_cached_sequence_is_read_once_and_augmented_anew(tmp_path, where):
    cache = {"memory": True, "directory": tmp_path / "cache", "nowhere": False}[where]
    sequence = Counting()
    cached = pipeline(sequence, 4, [RandomRotation()], cache=cache)
    plain = pipeline(Counting(), 4, [RandomRotation()])
    looks = []
    for _ in range(2):
        epoch = list(cached)
        for one, other in zip(epoch, plain, strict=True):
            for u, v in zip(one, other):
                np.testing.assert_array_equal(u, v)
        images, names = (np.concatenate(part) for part in list(zip(*epoch))[:2])
        looks.append(images[names.argsort()])
    assert (looks[0] != looks[1]).any()
    # The first example is read once more, to see what it is like.
    reads = sequence.reads - (np.arange(6) == 0)
    np.testing.assert_array_equal(reads, 2 if where == "nowhere" else 1)
    again = Counting()
    list(pipeline(again, 4, cache=cache))
    # Four of those in a directory are read to compare them.
    assert again.reads[1:].sum() == (3 if where == "directory" else 5)


def test_cached_folder_decodes_once_and_sees_changes(tmp_path, monkeypatch):
    root = write(tmp_path) / "train"
    decoded = []
    decode = tf.io.decode_image
    monkeypatch.setattr(tf.io, "decode_image", lambda *args, **kwargs: decoded.append(1) or decode(*args, **kwargs))
    for cache, expected in ((True, 6), (tmp_path / "cache", 12), (tmp_path / "cache", 12)):
        dataset = pipeline(root, 4, cache=cache, training=False)
        one, other = (np.concatenate([x for x, _ in dataset]) for _ in range(2))
        np.testing.assert_array_equal(one, other)
        assert len(decoded) == expected
    (root / "cat/0.png").write_bytes(tf.io.encode_png(np.zeros((8, 10, 3), "uint8")).numpy())
    changed = np.concatenate([x for x, _ in pipeline(root, 4, cache=tmp_path / "cache", training=False)])
    assert len(decoded) == 13 and not changed[0].any()
    np.testing.assert_array_equal(changed[1:], one[1:])


@pytest.mark.parametrize(
    "wrong", [(np.zeros((8, 8, 3)), 1), (np.zeros((8, 8, 3), "uint8"), 0.5), (np.zeros((8, 8, 1), "uint8"), 1)]
)
def test_example_unlike_the_first_one_is_named(wrong):
    examples = collections.deque([(np.zeros((8, 8, 3), "uint8"), 1)] * 4 + [wrong])
    with pytest.raises(tf.errors.OpError, match=r"Example 4 of the source must be like the first[\s\S]*Received: "):
        list(pipeline(examples, 2))


class Batches(keras.utils.PyDataset):
    """Ten examples in batches of four, the last of which has two."""

    def __init__(self, make, num=3):
        super().__init__()
        self.make, self.num = make, num

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        rows = np.arange(4 * index, min(4 * index + 4, 10))
        return self.make(np.broadcast_to(rows[:, None, None, None], (len(rows), 4, 4, 1)).astype("uint8"), rows)


@pytest.mark.parametrize(
    ("make", "take"),
    [
        (lambda x, y: (x, y), lambda batch: batch),
        (lambda x, y: (x, y, y / 2), lambda batch: batch[:2]),
        (lambda x, y: (x, y, None), lambda batch: batch),
        (lambda x, y: ({"image": x, "other": y}, [y, y / 2]), lambda batch: (batch[0]["image"], batch[1][0])),
        (lambda x, y: x, lambda batch: (batch, tf.round(batch[:, 0, 0, 0] * 255))),
        # Entries of no size end the process in TensorFlow's `unbatch`.
        (lambda x, y: ({"image": x, "none": np.zeros((len(x), 0, 4))}, y), lambda batch: (batch[0]["image"], batch[1])),
    ],
)
def test_examples_of_a_py_dataset(make, take):
    for cache in (False, True):
        dataset = pipeline(Batches(make), 3, [RandomFlip()], cache=cache)
        for _ in range(2):
            parts = [take(batch) for batch in dataset]
            images, labels = (np.concatenate([np.asarray(part) for part in column]) for column in zip(*parts))
            assert sorted(labels) == list(range(10)) and len(parts[0][1]) == 3
            np.testing.assert_allclose(images[:, 0, 0, 0] * 255, labels, rtol=1e-5)


def test_bad_py_datasets():
    class Endless(keras.utils.PyDataset):
        def __getitem__(self, index):
            return np.zeros((2, 4, 4, 1), "uint8")

    with pytest.raises(ValueError, match="must end.*define `__len__`.*Received: source="):
        pipeline(Endless(), 2)
    with pytest.raises(ValueError, match="at least one example"):
        pipeline(Batches(lambda x, y: x, num=0), 2)
    with pytest.raises(tf.errors.OpError, match="Batch 2 must be like batch 0"):
        list(pipeline(Batches(lambda x, y: x if len(x) == 4 else x / 255), 2))
    with pytest.raises(ValueError, match=r"generator can be read only once: .*from_generator.*Received: source="):
        pipeline((x for x in range(3)), 2)


def test_lists_are_arrays_or_tuples():
    x, names = np.zeros((3, 4, 4, 1)), ["one", "two", "three"]
    ((image, name, number),) = pipeline([x, names, [1, 2, 3]], 3, [RandomFlip()], training=False)
    assert image.shape == (3, 4, 4, 1) and [text.decode() for text in name.numpy()] == names
    np.testing.assert_array_equal(number, [1, 2, 3])
    examples = collections.deque([one, text, [1, 2]] for one, text in zip(x, names))
    ((image, name, pair),) = pipeline(examples, 3, [RandomFlip()], training=False)
    assert image.shape == (3, 4, 4, 1) and [text.decode() for text in name.numpy()] == names
    np.testing.assert_array_equal(pair, [[1, 2]] * 3)


def test_named_tuples_stay_named():
    Pair = collections.namedtuple("Pair", "image label")
    pair = Pair(np.zeros((3, 4, 4, 1)), np.arange(3))
    for source in (pair, tf.data.Dataset.from_tensor_slices(pair)):
        (batch,) = pipeline(source, 3, [RandomFlip()], training=False)
        np.testing.assert_array_equal(batch.label, [0, 1, 2])


def test_structures_of_arrays_and_cached_streams(tmp_path):
    source = open_source({"a": np.arange(5), "b": [np.ones((5, 2))]})
    assert source.size == 5 and keras.tree.flatten(source.fetch([3]))[0].numpy() == [3]
    dataset = pipeline(tf.data.Dataset.range(7), 3, cache=tmp_path / "cache")
    for _ in range(2):
        assert sorted(np.concatenate(list(dataset))) == list(range(7))
    assert list(tmp_path.glob("cache*"))


def test_a_mistyped_folder_is_answered_by_the_folder_beside_it(tmp_path, monkeypatch):
    (tmp_path / "photographs" / "cat").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Did you mean photographs\? Received: source='photografs'"):
        open_source("photografs")
