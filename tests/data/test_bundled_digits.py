import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

import kregkit
from kregkit.data import digits
from kregkit.data.bundled_digits import prepared_digits

ROOT = pathlib.Path(kregkit.__file__).parents[1]
PREPARE = "import sys; from kregkit.data import digits; print(len(digits('train', sys.argv[1])))"


def script(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def test_every_original_image_is_there_once(data_dir, no_network):
    bunch = load_digits()
    images, labels = (
        np.concatenate(parts) for parts in zip(*(digits(s, data_dir, as_arrays=True) for s in ("train", "test")))
    )
    assert images.shape == (1797, 8, 8, 1) and images.dtype == np.uint8
    assert labels.dtype == np.int64
    counts = np.round(images[..., 0] * (16 / 255))
    read = sorted((*image.ravel().astype(int), label) for image, label in zip(counts, labels))
    original = sorted((*image.ravel().astype(int), label) for image, label in zip(bunch.images, bunch.target))
    assert read == original
    assert images.max() == 255


def test_split_is_stratified_and_fixed(data_dir):
    train, test = (digits(split, data_dir, as_arrays=True)[1] for split in ("train", "test"))
    assert len(train) == 1437 and len(test) == 360
    share = np.bincount(np.concatenate([train, test])) * 360 / 1797
    assert np.abs(np.bincount(test) - share).max() < 1
    # Written down when the split was made: it must never move, or results on it stop being comparable.
    np.testing.assert_array_equal(test[:12], [2, 4, 6, 1, 0, 8, 2, 7, 7, 8, 8, 8])
    assert int(digits("test", data_dir, as_arrays=True)[0].astype("int64").sum()) == 1782029


def test_dataset_dictionary_and_slices(data_dir):
    pairs = digits("train[:80%]", data_dir)
    assert pairs.element_spec == (tf.TensorSpec((8, 8, 1), tf.uint8), tf.TensorSpec((), tf.int64))
    assert int(pairs.cardinality()) == 1150
    assert set(digits("test", data_dir, as_supervised=False).element_spec) == {"image", "label"}
    first, rest = digits(["train[:80%]", "train[80%:]"], data_dir, as_arrays=True)
    whole = digits("train", data_dir, as_arrays=True)
    np.testing.assert_array_equal(np.concatenate([first[0], rest[0]]), whole[0])
    assert len(digits("train+test", data_dir)) == 1797
    # Read twice, the order is the same.
    np.testing.assert_array_equal(whole[1], digits("train", data_dir, as_arrays=True)[1])


def test_environment_variable_names_the_directory(tmp_path):
    code = "import os; from kregkit.data.bundled_digits import prepared_digits as p; print(p().data_path)"
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path / "here")}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True, cwd=ROOT
    )
    assert out.stdout.strip() == str(tmp_path / "here" / "digits" / "1.0.0")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["digits"]


@pytest.mark.slow
def test_two_processes_prepare_at_once_and_one_was_killed(tmp_path):
    flag = tmp_path / "writing"
    stuck = (
        "import sys, time, pathlib; import kregkit.data; from kregkit.data._digits_builder import Digits\n"
        "def generate(self, *_):\n"
        "    pathlib.Path(sys.argv[2]).touch(); time.sleep(600); yield\n"
        "Digits._generate_examples = generate; kregkit.data.digits('train', sys.argv[1])"
    )
    killed = script(stuck, tmp_path / "data", flag)
    while not flag.exists() and killed.poll() is None:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert list((tmp_path / "data").glob(".digits-*"))
    both = [script(PREPARE, tmp_path / "data") for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == ["1437", "1437"]


def test_slower_of_two_writers_takes_what_the_faster_wrote(tmp_path, monkeypatch):
    from kregkit.data._digits_builder import Digits

    original = Digits.download_and_prepare

    def overtaken(self, **arguments):
        monkeypatch.setattr(Digits, "download_and_prepare", original)
        prepared_digits(tmp_path)
        (tmp_path / "digits" / "1.0.0" / "mark").touch()
        original(self, **arguments)

    monkeypatch.setattr(Digits, "download_and_prepare", overtaken)
    assert len(digits("test", tmp_path)) == 360
    assert (tmp_path / "digits" / "1.0.0" / "mark").exists()
    assert not list(tmp_path.glob(".digits-*"))


def test_remains_are_replaced_and_stale_directories_removed(tmp_path):
    half = tmp_path / "digits" / "1.0.0"
    half.mkdir(parents=True)
    (half / "digits-train.tfrecord-00000-of-00001").touch()
    old, young = tmp_path / ".digits-old", tmp_path / ".digits-young"
    old.mkdir(), young.mkdir()
    os.utime(old, (0, 0))
    assert len(digits("train", tmp_path)) == 1437
    assert not old.exists() and young.exists()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("digits-train.tfrecord-00000-of-00001", lambda content: content[: len(content) // 2]),
        (
            "digits-test.tfrecord-00000-of-00001",
            lambda content: content[:99] + bytes([content[99] ^ 1]) + content[100:],
        ),
        ("digits-test.tfrecord-00000-of-00001", None),
        ("dataset_info.json", lambda content: content[:50]),
        ("features.json", lambda content: b"{}"),
        ("kregkit_checksums.json", lambda content: b"[" * 5000),
    ],
)
def test_damaged_files_are_named_with_what_to_delete(name, damage, data_dir, tmp_path):
    shutil.copytree(data_dir / "digits", tmp_path / "digits")
    file = tmp_path / "digits" / "1.0.0" / name
    file.unlink() if damage is None else file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"(?s)digits.*[Dd]elete.*written again.*Received: "):
        digits("test", tmp_path)
    shutil.rmtree(tmp_path / "digits" / "1.0.0")
    assert len(digits("test", tmp_path)) == 360


def test_nothing_is_printed(tmp_path, capfd):
    digits("test", tmp_path)
    assert "ownload" not in capfd.readouterr().out


@pytest.mark.parametrize("split", ["validation", "train[:80%", "", None, 3, ["train", "nothing"]])
def test_bad_split(data_dir, split):
    with pytest.raises(ValueError, match=r"test, train.*Received: split="):
        digits(split, data_dir)


def test_bad_switch(data_dir):
    with pytest.raises(ValueError, match="Received: as_arrays='numpy'"):
        digits("train", data_dir, as_arrays="numpy")
