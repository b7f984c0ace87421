"""One snapshot run on disk."""

import hashlib
import json
import os
import pickle
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
    expected = {"format": 1, "settings": {"cycles": 2}, "finished": False, "architecture": None, "members": []}
    assert directory.read() == expected


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


def entry(cycle=1, **changes):
    """Returns a member as a run writes it."""
    digest = "0" * 64
    state = {"file": f"cycle-{cycle:02d}.state.npz", "sha256": digest}
    member = {"file": f"cycle-{cycle:02d}.weights.h5", "sha256": digest, "state": state, "cycle": cycle}
    return {**member, "epoch": cycle, "step": 10 * cycle, "learning_rate": 0.1, "logs": {}, **changes}


def written(path, members, **changes):
    """Writes a manifest as it is, whatever it says."""
    path.mkdir(exist_ok=True)
    manifest = {"format": 1, "settings": {}, "finished": False, "members": members, **changes}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return SnapshotDirectory(path)


NAMES = [
    *("../precious.txt", "{outside}", "cycle-01.weights.h5/../../precious.txt", "cycle-01.weights.h5\0", "", None, 3),
    *("cycle-01.weights.h5\n", "cycle-\u0661\u0661.weights.h5", "cycle-01.weights.h5/", "manifest.json", ["x"]),
]


@pytest.mark.parametrize("key", ["file", "state"])
@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_can_t_name_a_file_outside(key, name, tmp_path):
    outside = tmp_path / "precious.txt"
    outside.write_text("keep")
    member = entry()
    (member if key == "file" else member["state"])["file"] = str(outside) if name == "{outside}" else name
    directory = written(tmp_path / "run", [member])
    with pytest.raises(
        ValueError, match=r"manifest\.json is not a readable manifest: a (member|state)'s file is called"
    ):
        directory.read()
    with pytest.raises(ValueError, match="file is called"):
        directory.member_path(member) if key == "file" else directory.remove_state(member["state"])
    assert outside.read_text() == "keep"


# Weights in the place of a state, and a state in that of weights, are no names either.
DAMAGE = {
    "a state as weights": [entry(file="cycle-01.state.npz")],
    "weights as a state": [entry(state={"file": "cycle-01.weights.h5", "sha256": "0" * 64})],
    "a state that is a word": [entry(state="cycle-01.state.npz")],
    "a short checksum": [entry(sha256="0")],
    "a step of 10**400": [entry(step=10**400)],
    "a step before the first": [entry(step=-1)],
    "a step that is true": [entry(step=True)],
    "half a step": [entry(step=1.5)],
    "an epoch that is a word": [entry(epoch="1")],
    "no epoch": [{key: value for key, value in entry().items() if key != "epoch"}],
    "a rate that is a word": [entry(learning_rate="0.1")],
    "a rate of 10**400": [entry(learning_rate=10**400)],
    "logs that are a list": [entry(logs=[])],
    "a first cycle of 2": [entry(2)],
    "the same member twice": [entry(), entry()],
    "members in another order": [entry(2), entry(1)],
    "steps in another order": [entry(1, step=30), entry(2)],
    "one file for two members": [entry(), entry(2, file="cycle-01.weights.h5")],
    "members that are a dictionary": {"1": entry()},
    "a member that is a list": [[]],
}


@pytest.mark.parametrize("members", DAMAGE.values(), ids=DAMAGE)
def test_types_sizes_and_order_are_checked(members, tmp_path):
    written(tmp_path / "good", [entry(), entry(2)]).read()
    with pytest.raises(ValueError, match=r"manifest\.json is not a readable manifest: .*Delete the directory") as error:
        written(tmp_path / "run", members).read()
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "changes", [{"settings": []}, {"finished": "no"}, {"finished": 1}, {"architecture": "x"}, {"architecture": 3}]
)
def test_a_manifest_s_own_entries_have_types(changes, tmp_path):
    with pytest.raises(ValueError, match="is not a readable manifest"):
        written(tmp_path / "run", [], **changes).read()


def test_each_changed_byte_of_a_manifest_is_noticed(tmp_path):
    directory = SnapshotDirectory(tmp_path)
    directory.write({"cycles": 2, "peak": 0.1}, [entry(logs={"loss": 0.25}), entry(2)], finished=False)
    read, content = directory.read(), directory.manifest_path.read_bytes()
    noticed = 0
    for index in range(0, len(content), 3):
        changed = bytearray(content)
        changed[index] ^= 1
        directory.manifest_path.write_bytes(changed)
        try:
            # White space says nothing.
            assert SnapshotDirectory(tmp_path).read() == read
        except ValueError as error:
            noticed += 1
            assert "manifest.json" in str(error)
    assert noticed > 100
    # Another run's file is whole too; older ones have no checksum, and unknown entries are no part of any.
    for members, change in (([entry()], {"sha256": "0" * 64}), ([entry()], {"sha512": "0"})):
        with pytest.raises(ValueError, match="is not a readable manifest"):
            written(tmp_path, members, **change).read()
    assert written(tmp_path, [entry()]).read()["members"] == [entry()]


def test_a_manifest_that_would_never_end_is_refused(tmp_path):
    path = tmp_path / "manifest.json"
    for text in ("[" * 100_000, '{"format": 1, "format": 1}', '{"format": NaN}', "9" * 5000):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not a readable manifest"):
            SnapshotDirectory(tmp_path).read()
    # Read, a pipe would wait for someone who writes.
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="is no ordinary file"):
        SnapshotDirectory(tmp_path).read()
    path.unlink()
    with open(path, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="too large to be read"):
        SnapshotDirectory(tmp_path).read()


def test_the_architecture_has_a_checksum(tmp_path):
    directory = SnapshotDirectory(tmp_path / "run")
    assert directory.save_architecture(probes.small_model())
    directory.write({}, [], finished=False)
    again = SnapshotDirectory(tmp_path / "run")
    again.load_architecture()
    text = again.architecture_path.read_text()
    again.architecture_path.write_text(text.replace('"units": ', '"units": 1'))
    with pytest.raises(ValueError, match=r"architecture\.json is corrupt: its checksum is .*`model=`"):
        again.load_architecture()
    # A run goes on with the checksum that it found, not with that of what lies there now.
    again.write({}, [], finished=True)
    with pytest.raises(ValueError, match="is corrupt"):
        SnapshotDirectory(tmp_path / "run").load_architecture()
    again.architecture_path.rename(tmp_path / "elsewhere.json")
    again.architecture_path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ValueError, match="is a link"):
        again.load_architecture()


def test_a_state_that_holds_no_arrays_is_named(tmp_path):
    directory = SnapshotDirectory(tmp_path)
    for content in (b"", b"PK\x03\x04 half", pickle.dumps([1])):
        (tmp_path / "cycle-01.state.npz").write_bytes(content)
        state = {"file": "cycle-01.state.npz", "sha256": hashlib.sha256(content).hexdigest()}
        with pytest.raises(ValueError, match=r"cycle-01\.state\.npz is no state of a run"):
            directory.load_state(state)


def test_a_link_is_no_member(tmp_path):
    (tmp_path / "precious.txt").write_text("keep")
    directory = SnapshotDirectory(tmp_path / "run")
    directory.path.mkdir()
    (directory.path / "cycle-01.weights.h5").symlink_to(tmp_path / "precious.txt")
    with pytest.raises(ValueError, match="is a link"):
        directory.member_path({"file": "cycle-01.weights.h5", "sha256": "0" * 64})


@pytest.mark.parametrize("there", [True, False], ids=["leads to a manifest", "leads nowhere"])
def test_a_link_is_no_manifest(tmp_path, there):
    other = SnapshotDirectory(tmp_path / "other")
    if there:
        other.write({}, [], finished=True)
    directory = SnapshotDirectory(tmp_path / "run")
    directory.path.mkdir()
    directory.manifest_path.symlink_to(other.manifest_path)
    with pytest.raises(ValueError, match=r"manifest\.json is a link.*Received: directory="):
        directory.read()
    assert directory.exists()


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
    directory = SnapshotDirectory(tmp_path)
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
