"""Imports of libraries that only some users need."""

import importlib

# The name to import -> the name to install, where the two differ.
_PACKAGES = {"sklearn": "scikit-learn", "tensorflow_datasets": "tensorflow-datasets"}


def import_optional(module, purpose):
    """Imports `module`, or raises `ImportError` that names the pip command.

    Args:
        module: String, the module's dotted name, such as `"matplotlib.pyplot"`.
        purpose: String, what needs it, such as `"kregkit.plots"`; begins the message.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        package = _PACKAGES.get(top, top)
        raise ImportError(f"{purpose} needs {package}, which is not installed: pip install {package}") from error
