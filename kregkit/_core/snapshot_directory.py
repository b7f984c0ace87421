"""The directory in which a snapshot run keeps its members: written by a callback, read by an ensemble.

manifest.json        format, settings, whether the run is finished, one entry per member
architecture.json    the model as `keras.saving.serialize_keras_object` gives it, compile arguments included
cycle-01.weights.h5  one file per member, as `model.save_weights` writes it
cycle-01.state.npz   what training goes on from after the newest cycle: weights, slots and seeds, as they are

Nothing in a manifest is trusted: a name that leads out of the directory is an error before any file is touched.
"""

import json
import os
import pathlib
import re

import keras
import numpy as np

from kregkit._core.files import file_digest, replacing, write_json

FORMAT = 1
# The only names that a member's files have, so that no manifest can name another file to read or to delete.
_FILE_NAME = re.compile(r"cycle-\d{2,9}\.(weights\.h5|state\.npz)")


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

    def exists(self):
        """Returns whether a run has been recorded here."""
        return self.manifest_path.exists()

    def read(self):
        """Returns the manifest as a dictionary with the keys `settings`, `finished` and `members`.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is not one that this version can read; the message names the file.
        """
        if not self.exists():
            raise FileNotFoundError(f"No snapshot run in this directory: {self.manifest_path} does not exist")
        try:
            manifest = json.loads(self.manifest_path.read_text(encoding="utf-8"))
            known = manifest["format"] == FORMAT and {"settings", "finished", "members"} <= manifest.keys()
            for member in manifest["members"] if known else ():
                for entry in (member, member["state"]) if member.get("state") else (member,):
                    self._check_entry(entry)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.manifest_path} is not a readable manifest: {error}") from error
        if not known:
            raise ValueError(f"{self.manifest_path} has another format than this version of kregkit reads ({FORMAT})")
        return manifest

    def write(self, settings, members, finished):
        """Replaces the manifest, whole or not at all."""
        write_json(
            self.manifest_path, {"format": FORMAT, "settings": settings, "finished": finished, "members": members}
        )

    def save_architecture(self, model):
        """Records how to rebuild `model`; returns False for a model whose config can't be had."""
        try:
            config = keras.saving.serialize_keras_object(model)
            write_json(self.architecture_path, config)
        except (NotImplementedError, TypeError, ValueError):
            return False
        return True

    def load_architecture(self, custom_objects=None):
        """Returns the run's model, rebuilt and compiled as it was, with fresh weights.

        Raises:
            ValueError: The architecture was not recorded, or needs classes that Keras doesn't find; the message says
                how to pass the model itself.
        """
        remedy = "Pass the architecture as `model=`, or its classes in `custom_objects=`"
        if not self.architecture_path.exists():
            raise ValueError(f"{self.architecture_path} does not exist: the model had no config. {remedy}")
        try:
            config = json.loads(self.architecture_path.read_text(encoding="utf-8"))
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
        with np.load(self.member_path(state)) as arrays:
            return [arrays[name] for name in arrays.files]

    def remove_state(self, state):
        """Removes the file of a state that no run needs any more."""
        self._check_entry(state)
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

    def member_path(self, member):
        """Returns the path of a manifest's member, after comparing the file with its checksum.

        Raises:
            ValueError: The file is missing or is not the one that was written; the message names it.
        """
        self._check_entry(member)
        path = self.path / member["file"]
        if path.is_symlink():
            raise ValueError(f"Snapshot {path} is a link, and a run's files lie in its directory")
        if not path.is_file():
            raise ValueError(f"Snapshot {path} is missing, although the manifest lists it")
        digest = file_digest(path)
        if digest != member["sha256"]:
            raise ValueError(f"Snapshot {path} is corrupt: its checksum is {digest}, not {member['sha256']}")
        return path

    def _check_entry(self, entry):
        name, digest = entry["file"], entry["sha256"]
        if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
            raise ValueError(f"a member's file is called cycle-01.weights.h5 or alike. Received: file={name!r}")
        if not isinstance(digest, str):
            raise ValueError(f"a checksum is a string. Received: sha256={digest!r}")
