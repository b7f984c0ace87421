"""One snapshot run on disk."""

import json
import re

import keras
import numpy as np
import probes
import pytest

from kregkit._core.snapshot_directory import SnapshotDirectory


def test_nothing_is_created_before_something_is_written(tmp_path):
    directory = SnapshotDirectory(tmp_path / "run")
    assert not directory.exists()
    with pytest.raises(FileNotFoundError, match=r"No snapshot run in this directory: .*manifest\.json does not exist"):
        directory.read()
    assert not directory.path.exists()
    directory.write({"cycles": 2}, [], finished=False)
    assert directory.exists()
    assert directory.read() == {"format": 1, "settings": {"cycles": 2}, "finished": False, "members": []}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a readable manifest"),
        ('{"format": 1, "settings": {}', "is not a readable manifest"),
        ("[]", "is not a readable manifest"),
        ("null", "is not a readable manifest"),
        ('{"settings": {}}', "is not a readable manifest"),
        ('{"format": 2, "settings": {}, "finished": true, "members": []}', "another format"),
        ('{"format": 1, "settings": {}, "finished": true}', "another format"),
        ('{"format": 1, "settings": {}, "finished": true, "members": [3]}', "is not a readable manifest"),
        ('{"format": 1, "settings": {}, "finished": true, "members": [{"file": "x"}]}', "is not a readable manifest"),
    ],
)
def test_an_unreadable_manifest_is_named(text, message, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path))}.*{message}"):
        SnapshotDirectory(tmp_path).read()


@pytest.mark.parametrize("key", ["file", "state"])
@pytest.mark.parametrize(
    "name", ["../precious.txt", "{outside}", "cycle-01.weights.h5/../../precious.txt", "", None, 3]
)
def test_a_manifest_can_t_name_a_file_outside(key, name, tmp_path):
    outside = tmp_path / "precious.txt"
    outside.write_text("keep")
    directory = SnapshotDirectory(tmp_path / "run")
    member = {"file": "cycle-01.weights.h5", "sha256": "0", "state": {"file": "cycle-01.state.npz", "sha256": "0"}}
    (member if key == "file" else member["state"])["file"] = str(outside) if name == "{outside}" else name
    directory.write({}, [member], finished=False)
    with pytest.raises(ValueError, match=r"manifest\.json is not a readable manifest: a member's file is called"):
        directory.read()
    with pytest.raises(ValueError, match="a member's file is called"):
        directory.member_path(member if key == "file" else member["state"])
    assert outside.read_text() == "keep"


def test_a_link_is_no_member(tmp_path):
    (tmp_path / "precious.txt").write_text("keep")
    directory = SnapshotDirectory(tmp_path / "run")
    directory.path.mkdir()
    (directory.path / "cycle-01.weights.h5").symlink_to(tmp_path / "precious.txt")
    with pytest.raises(ValueError, match="is a link"):
        directory.member_path({"file": "cycle-01.weights.h5", "sha256": "0"})


def test_members_are_checked_against_their_checksum(tmp_path):
    directory, model = SnapshotDirectory(tmp_path), probes.small_model()
    member = directory.save_member(model, 3)
    path = directory.member_path(member)
    assert path == tmp_path / "cycle-03.weights.h5"
    other = probes.small_model()
    other.set_weights([weight + 1 for weight in other.get_weights()])
    other.load_weights(path)
    for one, two in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(one, two)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Snapshot .*cycle-03\.weights\.h5 is corrupt: its checksum is"):
        directory.member_path(member)
    path.unlink()
    with pytest.raises(
        ValueError, match=r"Snapshot .*cycle-03\.weights\.h5 is missing, although the manifest lists it"
    ):
        directory.member_path(member)


class Unknown(keras.layers.Layer):
    """A layer that no registry knows."""

    def call(self, x):
        return x


def test_architecture_comes_back_compiled(tmp_path):
    directory, model = SnapshotDirectory(tmp_path), probes.small_model(keras.optimizers.Adam(0.01), metrics=["mae"])
    assert directory.save_architecture(model)
    again = directory.load_architecture()
    again.set_weights(model.get_weights())
    x, y = probes.regression(4)
    assert again.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)


def test_architecture_of_unknown_classes_says_what_to_do(tmp_path):
    directory = SnapshotDirectory(tmp_path)
    with pytest.raises(ValueError, match=r"does not exist: the model had no config. Pass the architecture as `model=`"):
        directory.load_architecture()
    assert directory.save_architecture(keras.Sequential([keras.Input((2,)), Unknown()]))
    config = json.loads(directory.architecture_path.read_text())
    text = json.dumps(config).replace(__name__, "no.such.module")
    directory.architecture_path.write_text(text)
    with pytest.raises(ValueError, match=r"(?s)can't be rebuilt: .*`custom_objects=`"):
        directory.load_architecture()
    assert isinstance(directory.load_architecture({"Unknown": Unknown}).layers[-1], Unknown)


def test_a_model_without_a_config_is_told(tmp_path):
    class Bare(keras.Model):
        def __init__(self, width):
            super().__init__()
            self.dense = keras.layers.Dense(width)

        def get_config(self):
            raise NotImplementedError

        def call(self, x):
            return self.dense(x)

    assert SnapshotDirectory(tmp_path).save_architecture(Bare(2)) is False
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [None, "", 3])
def test_a_directory_is_a_path(path):
    with pytest.raises(ValueError, match="`directory` must be .*Received: directory="):
        SnapshotDirectory(path)


def test_states_come_back_and_go(tmp_path):
    directory = SnapshotDirectory(tmp_path)
    entry = directory.save_state([np.arange(3), np.float32(0.5)], 2)
    assert entry["file"] == "cycle-02.state.npz"
    first, second = directory.load_state(entry)
    np.testing.assert_array_equal(first, np.arange(3))
    assert second == np.float32(0.5)
    (tmp_path / ".cycle-03-half.weights.h5").write_bytes(b"half")
    directory.remove_unfinished()
    assert [path.name for path in tmp_path.iterdir()] == ["cycle-02.state.npz"]
    with pytest.raises(ValueError, match="is called"):
        directory.remove_state({"file": "../other", "sha256": ""})
    directory.remove_state(entry)
    (tmp_path / "cycle-01.weights.h5").write_bytes(b"old")
    directory.remove_members()
    assert list(tmp_path.iterdir()) == []
