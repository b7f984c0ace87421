"""Imports of libraries that only some users need."""

import importlib
import warnings

# The name to import -> the name to install, where the two differ.
_PACKAGES = {"sklearn": "scikit-learn", "tensorflow_datasets": "tensorflow-datasets"}
# What a library imports on every Python and declares for old ones alone.
_COMPANIONS = {"tensorflow_datasets": ["importlib_resources"]}


def import_optional(module, purpose):
    """Imports `module`, or raises `ImportError` that names the pip command.

    Args:
        module: String, the module's dotted name, such as `"matplotlib.pyplot"`.
        purpose: String, what needs it, such as `"kregkit.plots"`; begins the message.
    """
    try:
        with warnings.catch_warnings():
            # What tqdm says in notebooks without widgets, of bars that nobody asked for.
            warnings.filterwarnings("ignore", message="IProgress not found")
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        package = _PACKAGES.get(top, top)
        command = " ".join([package, *_COMPANIONS.get(top, [])])
        raise ImportError(f"{purpose} needs {package}, which is not installed: pip install {command}") from error
