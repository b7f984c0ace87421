"""The directory in which a snapshot run keeps its members: written by a callback, read by an ensemble.

manifest.json        format, settings, whether the run is finished, one entry per member, a checksum of these
architecture.json    the model as `keras.saving.serialize_keras_object` gives it, compile arguments included
cycle-01.weights.h5  one file per member, as `model.save_weights` writes it
cycle-01.state.npz   what training goes on from after the newest cycle: weights, slots and seeds, as they are

Nothing in a manifest is trusted: names, types, sizes and order are checked before any file is touched, and links are
refused, so that no manifest can have another file read or removed.
"""

import os
import pathlib
import re

import keras
import numpy as np

from kregkit._core.checks import check_integer, check_number, shown
from kregkit._core.files import file_digest, read_json, replacing, value_digest, write_json

FORMAT = 1
# The only names that a member's files have, so that no manifest can name another file to read or to delete.
_FILE_NAMES = {
    "member": re.compile(r"cycle-[0-9]{2,9}\.weights\.h5"),
    "state": re.compile(r"cycle-[0-9]{2,9}\.state\.npz"),
}
_KEYS = {"format", "settings", "finished", "architecture", "members"}
_DIGEST = re.compile(r"[0-9a-f]{64}")
# What no run reaches, and what still fits into 64 bits.
_MOST_STEPS = 2**62


class SnapshotDirectory:
    """One snapshot run on disk. Nothing is created before something is written.

    Args:
        path: String or path of the directory.
    """

    def __init__(self, path):
        if not isinstance(path, (str, os.PathLike)) or not str(path):
            raise ValueError(f"`directory` must be a string or a path. Received: directory={path!r}")
        self.path = pathlib.Path(path)
        self.manifest_path = self.path / "manifest.json"
        self.architecture_path = self.path / "architecture.json"
        self._architecture_digest = None

    def __fspath__(self):
        return str(self.path)

    def exists(self):
        """Returns whether a run has been recorded here."""
        # A link that leads nowhere counts, so that it is refused.
        return os.path.lexists(self.manifest_path)

    def read(self):
        """Returns the manifest as a dictionary with the keys `settings`, `finished` and `members`.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is not one that this version can read; the message names the file.
        """
        if not self.exists():
            raise FileNotFoundError(f"No snapshot run in this directory: {self.manifest_path} does not exist")
        _check_no_link(self.manifest_path)
        try:
            manifest = read_json(self.manifest_path)
            known = manifest["format"] == FORMAT and {"settings", "finished", "members"} <= manifest.keys()
            if known:
                _check_digest(manifest)
                _check_manifest(manifest)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.manifest_path} is not a readable manifest: {error}. Delete the directory to train anew"
            ) from error
        if not known:
            raise ValueError(f"{self.manifest_path} has another format than this version of kregkit reads ({FORMAT})")
        self._architecture_digest = manifest.get("architecture")
        return manifest

    def write(self, settings, members, finished):
        """Replaces the manifest, whole or not at all."""
        manifest = {"format": FORMAT, "settings": settings, "finished": finished}
        manifest |= {"architecture": self._architecture_digest, "members": members}
        write_json(self.manifest_path, {**manifest, "sha256": value_digest(manifest)})

    def save_architecture(self, model):
        """Records how to rebuild `model`; returns False for a model whose config can't be had."""
        self._architecture_digest = None
        try:
            config = keras.saving.serialize_keras_object(model)
            write_json(self.architecture_path, config)
        except (NotImplementedError, TypeError, ValueError):
            # What an earlier run in this directory may have left is another model.
            self.architecture_path.unlink(missing_ok=True)
            return False
        self._architecture_digest = file_digest(self.architecture_path)
        return True

    def load_architecture(self, custom_objects=None):
        """Returns the run's model, rebuilt and compiled as it was, with fresh weights.

        Raises:
            ValueError: The architecture was not recorded, isn't the one that was written, or needs classes that Keras
                doesn't find; the message says how to pass the model itself.
        """
        remedy = "Pass the architecture as `model=`, or its classes in `custom_objects=`"
        if not self.architecture_path.is_file():
            raise ValueError(f"{self.architecture_path} does not exist: the model had no config. {remedy}")
        _check_no_link(self.architecture_path)
        # Runs of older versions have no checksum.
        expected = self.read().get("architecture") if self.exists() else self._architecture_digest
        if expected is not None and (digest := file_digest(self.architecture_path)) != expected:
            raise ValueError(
                f"{self.architecture_path} is corrupt: its checksum is {digest}, not {expected}. "
                "Pass the architecture as `model=`"
            )
        try:
            config = read_json(self.architecture_path)
            return keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)
        except Exception as error:
            raise ValueError(f"{self.architecture_path} can't be rebuilt: {error}. {remedy}") from error

    def save_member(self, model, cycle):
        """Writes the model's present weights as a member; returns `{"file": ..., "sha256": ...}` for its entry."""
        path = self.path / f"cycle-{cycle:02d}.weights.h5"
        with replacing(path) as temporary:
            model.save_weights(temporary, overwrite=True)
        return {"file": path.name, "sha256": file_digest(path)}

    def save_state(self, arrays, cycle):
        """Writes what training goes on from after a cycle; returns `{"file": ..., "sha256": ...}` for its entry."""
        path = self.path / f"cycle-{cycle:02d}.state.npz"
        with replacing(path) as temporary:
            np.savez(temporary, *arrays)
        return {"file": path.name, "sha256": file_digest(path)}

    def load_state(self, state):
        """Returns the arrays of a state's entry; those of bfloat16 have no type, which NumPy's files don't know."""
        path = self.member_path(state, "state")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return [arrays[name] for name in arrays.files]
        except Exception as error:
            # NumPy and zipfile raise many kinds for files that are none of theirs.
            raise ValueError(f"Snapshot {path} is no state of a run: {error}") from error

    def remove_state(self, state):
        """Removes the file of a state that no run needs any more."""
        _check_file(state, "state")
        (self.path / state["file"]).unlink(missing_ok=True)

    def remove_unfinished(self):
        """Removes what a killed run was writing."""
        for name in ("cycle", "manifest", "architecture"):
            for path in self.path.glob(f".{name}-*"):
                path.unlink()

    def remove_members(self):
        """Removes the files of all members, listed or not."""
        for pattern in ("cycle-*", ".cycle-*"):
            for path in self.path.glob(pattern):
                path.unlink()

    def member_path(self, member, kind="member"):
        """Returns the path of a manifest's member, or of its state, after comparing the file with its checksum.

        Raises:
            ValueError: The file is missing or is not the one that was written; the message names it.
        """
        _check_file(member, kind)
        path = self.path / member["file"]
        _check_no_link(path)
        if not path.is_file():
            raise ValueError(f"Snapshot {path} is missing, although the manifest lists it")
        digest = file_digest(path)
        if digest != member["sha256"]:
            raise ValueError(f"Snapshot {path} is corrupt: its checksum is {digest}, not {member['sha256']}")
        return path


def _check_no_link(path):
    if path.is_symlink():
        raise ValueError(
            f"{path} is a link, and a run's files lie in its directory: put the file itself there, or use another "
            f"directory. Received: directory={str(path.parent)!r}"
        )


def _check_file(entry, kind):
    """Raises an error unless an entry has the name and the checksum of a member's file, or of its state's."""
    if not isinstance(entry, dict):
        raise ValueError(f"a {kind} must be a dictionary. Received: {kind}={shown(entry)}")
    name, digest = entry["file"], entry["sha256"]
    if not isinstance(name, str) or not _FILE_NAMES[kind].fullmatch(name):
        example = "cycle-01.weights.h5" if kind == "member" else "cycle-01.state.npz"
        raise ValueError(f"a {kind}'s file is called {example} or alike. Received: file={shown(name)}")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError(f"a checksum is 64 hexadecimal digits. Received: sha256={shown(digest)}")


def _check_digest(manifest):
    """Takes the manifest's own checksum out of it, and raises an error unless it fits; older runs have none."""
    digest = manifest.pop("sha256", None)
    if unknown := sorted(manifest.keys() - _KEYS):
        raise ValueError(f"it has no such entries. Received: keys={shown(unknown)}")
    if digest is not None and digest != value_digest(manifest):
        raise ValueError(f"its checksum doesn't fit: it was changed. Received: sha256={shown(digest)}")


def _check_manifest(manifest):
    """Raises an error unless the entries have the types, the sizes and the order that a run gives them."""
    for name, kind in (("settings", dict), ("finished", bool), ("members", list)):
        if not isinstance(manifest[name], kind):
            raise ValueError(f"`{name}` must be a {kind.__name__}. Received: {name}={shown(manifest[name])}")
    digest = manifest.get("architecture")
    if digest is not None and not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
        raise ValueError(f"a checksum is 64 hexadecimal digits. Received: architecture={shown(digest)}")
    step = 0
    for cycle, member in enumerate(manifest["members"], start=1):
        _check_file(member, "member")
        if member.get("state") is not None:
            _check_file(member["state"], "state")
        check_integer("cycle", member["cycle"], cycle, cycle)
        check_integer("epoch", member["epoch"], 0, _MOST_STEPS)
        # An entry that only says where weights lie has neither rate nor step; no run goes on from it.
        step = check_integer("step", member.get("step", step + 1), step + 1, _MOST_STEPS)
        check_number("learning_rate", member.get("learning_rate", 0.0))
        if not isinstance(member.get("logs", {}), dict):
            raise ValueError(f"`logs` must be a dict. Received: logs={shown(member['logs'])}")
    files = [member["file"] for member in manifest["members"]]
    if len(set(files)) != len(files):
        raise ValueError(f"members must have files of their own. Received: file={shown(files)}")
