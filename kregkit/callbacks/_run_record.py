"""What `kregkit.resume_check` learns from a run in another process: when its fits begin, and what they end in."""

import hashlib
import json
import os

import numpy as np

from kregkit._core.workers import worker
from kregkit.callbacks._run_variables import RunVariables, as_arrays

VARIABLE = "KREGKIT_RESUME_RECORD"


def record_begin(resume):
    """Appends to the record, if there is one, that a fit begins."""
    _append({"event": "begin", "directory": os.path.abspath(resume.fit_directory), "pid": os.getpid()}, resume.model)


def record_end(resume):
    """Appends to the record, if there is one, what a fit ends in, as checksums."""
    if os.environ.get(VARIABLE):
        variables = RunVariables(resume.model)
        values = as_arrays(variables.read(variables.state))
        history = resume.model.history
        _append(
            {
                "event": "end",
                "directory": os.path.abspath(resume.fit_directory),
                "variables": [[path_of(one), _digest(parts)] for one, parts in zip(variables.state, values)],
                "history": {name: [repr(value) for value in values] for name, values in history.history.items()},
                "epochs": history.epoch,
            },
            resume.model,
        )


def path_of(variable):
    """Returns the name by which differences are told."""
    return getattr(variable, "path", None) or variable.name


def _digest(parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _append(entry, model):
    path = os.environ.get(VARIABLE)
    if path:
        here = worker(model)
        if here.count > 1:
            entry["worker"] = here.index
        # Several workers append to one file: each line by one system call, so that none falls into another.
        with open(path, "ab", buffering=0) as file:
            file.write((json.dumps(entry) + "\n").encode())
