"""A training kit for Keras: better optima, averages, ensembles and noise, all through `model.fit`.

Training a network is choosing `W` in `y = f(x; W, z)`, where `z` is noise that exists only while training.

- choose `W`: `kregkit.optimizers`, `kregkit.schedules`
- add `z`: `kregkit.layers`, `kregkit.data`
- average out `z` and `W`: `kregkit.inference`
- do it inside `model.fit`: `kregkit.callbacks`
- start from another `W`: `kregkit.transfer`
- find out whether it works: `kregkit.diagnostics`
- find its hyperparameters: `kregkit.search`
- see it: `kregkit.plots`
- do it on several machines: `kregkit.distribution`
"""

import importlib
from typing import TYPE_CHECKING

# These three hold classes that Keras finds by their registered names, so that
# `keras.models.load_model` opens a file with nothing imported but kregkit.
from kregkit import layers, optimizers, schedules
from kregkit._core.late_classes import register_late
from kregkit._core.words import missing_names
from kregkit._version import __version__

if TYPE_CHECKING:
    # What `__getattr__` imports when it is asked for.
    from kregkit import callbacks, data, diagnostics, distribution, inference, plots, search, transfer

_LAZY_ROOMS = ("callbacks", "data", "diagnostics", "distribution", "inference", "plots", "search", "transfer")
# The layers and models of lazy rooms that files name.
register_late(
    {
        "kregkit.data.augment_layer": "AugmentLayer",
        "kregkit.inference._calibrators": "Calibrator",
        "kregkit.inference._saved": "MarginalModel",
    }
)

__all__ = [
    "__version__",
    "callbacks",
    "data",
    "diagnostics",
    "distribution",
    "inference",
    "layers",
    "optimizers",
    "plots",
    "schedules",
    "search",
    "transfer",
]


def __getattr__(name):
    if name in _LAZY_ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    return missing_names(__name__)(name)


def __dir__():
    return sorted(__all__)
