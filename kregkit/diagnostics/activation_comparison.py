"""How activations fare through depth: initialisation by activation by batch normalisation."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kregkit._core import rules
from kregkit._core.checks import check_array, check_integer, check_list
from kregkit._core.notebook import Notebook
from kregkit._core.seeds import derived_seed
from kregkit._core.types import Data
from kregkit.diagnostics._saturation import saturated_part

_INITIALIZERS = {
    "0.01 normal": lambda seed: keras.initializers.RandomNormal(stddev=0.01, seed=seed),
    "1 normal": lambda seed: keras.initializers.RandomNormal(stddev=1.0, seed=seed),
    "Xavier": lambda seed: keras.initializers.GlorotNormal(seed=seed),
    "He": lambda seed: keras.initializers.HeNormal(seed=seed),
}
_ACTIVATIONS = {
    "sigmoid": ops.sigmoid,
    "tanh": ops.tanh,
    "ReLU": ops.relu,
    "leaky ReLU": lambda x: ops.leaky_relu(x, 0.01),
    "ELU": ops.elu,
    "maxout": None,
}


class _Unit(keras.layers.Layer):
    """A copy of a layer with another initialiser, then normalisation if asked, then the activation."""

    def __init__(self, layer, initializer, activation, normalize, seeds):
        super().__init__(name=layer.name)
        config = layer.get_config()
        for key in ("name", "kernel_initializer", "bias_initializer", "activation"):
            config.pop(key, None)
        config["activation"] = None
        initializers = [_INITIALIZERS[initializer](seed) for seed in seeds]
        self.parts = [type(layer).from_config({**config, "kernel_initializer": made}) for made in initializers]
        self.normalization = keras.layers.BatchNormalization() if normalize else None
        self.activation = activation

    def call(self, inputs, training=False):
        parts = [part(inputs) for part in self.parts]
        if self.normalization is not None:
            joined = self.normalization(ops.concatenate(parts, axis=-1), training=True)
            parts = ops.split(joined, len(parts), axis=-1)
        return ops.maximum(*parts) if self.activation == "maxout" else _ACTIVATIONS[self.activation](parts[0])


class _Skip(keras.layers.Layer):
    """Takes the place of an activation or a normalisation, with whatever arguments that was called with."""

    def call(self, inputs, training=None, mask=None):
        return inputs


@dataclasses.dataclass(frozen=True)
class ActivationComparison(Notebook):
    """What `compare_activations` measured.

    Args:
        runs: List of dictionaries with `initializer`, `activation`, `batch_normalization`, `verdict` and `layers`, a
            list of dictionaries with `layer`, `mean`, `std`, `variety` (the standard deviation over examples),
            `saturated`, `dead`, `histogram` and `edges`.
    """

    runs: list

    def __getitem__(self, key):
        """Returns the run of `(initializer, activation, batch_normalization)`."""
        for run in self.runs:
            if (run["initializer"], run["activation"], run["batch_normalization"]) == tuple(key):
                return run
        raise KeyError(key)

    def to_dict(self) -> dict[str, Any]:
        """Returns `{"runs": [...]}` of plain values."""
        return {"runs": self.runs}

    def plot(self) -> Any:
        """Draws the histograms with `kregkit.plots.activation_histograms`; returns the Figure."""
        from kregkit import plots

        return plots.activation_histograms(self.runs)

    def __str__(self):
        rows = [
            f"{run['initializer']:<12} {run['activation']:<11} {'BN' if run['batch_normalization'] else '  '}  "
            f"std {run['layers'][0]['std']:.2g} to {run['layers'][-1]['std']:.2g}: {run['verdict']}"
            for run in self.runs
        ]
        return "\n".join(rows)


@rules.checked(
    data=rules.optional(rules.data),
    initializers=rules.entries(rules.word()),
    activations=rules.entries(rules.word()),
    batch_normalization=rules.entries(rules.boolean),
)
def compare_activations(
    model: keras.Model | Sequence[int] | None = None,
    data: Data = None,
    initializers: Sequence[str] = ("0.01 normal", "Xavier", "He"),
    activations: Sequence[str] = ("sigmoid", "tanh", "ReLU", "leaky ReLU", "ELU", "maxout"),
    batch_normalization: Sequence[bool] = (False, True),
    seed: int = 0,
) -> ActivationComparison:
    """Shows what each initialisation does to each activation through a model's depth, before any training.

    The model's hidden layers with kernels are rebuilt with every initialiser and every activation, with and without
    batch normalisation in between, and run on data once. The output layer is left alone. The verdict of a run is
    `"healthy"`; or `"vanishing"` (the last hidden layer's standard deviation is below a tenth of the first's),
    `"exploding"` (above 10 times), `"saturated"` (over half of a layer's outputs where sigmoid or tanh is flat), or
    `"no variety"` (the last sigmoids hardly tell one example from another: their outputs' standard
    deviation over examples is below 0.02).

    Args:
        model: A functional or built sequential Keras model of which only the shape is used; or a list of widths of
            dense layers. Defaults to ten layers of 500.
        data: Array of inputs for the model. Defaults to 256 standard normal ones.
        initializers: Names out of `"0.01 normal"`, `"1 normal"`, `"Xavier"`, `"He"`; the numbers are the standard
            deviations. Defaults to all but `"1 normal"`, whose outputs are too large for one picture with the others'.
        activations: Names out of `"sigmoid"`, `"tanh"`, `"ReLU"`, `"leaky ReLU"`, `"ELU"`, `"maxout"`.
        batch_normalization: Tuple of booleans.
        seed: Integer, for the weights and the normal inputs.

    Returns:
        An `ActivationComparison`, which prints, is a dictionary, and draws itself.

    Raises:
        ValueError: A name is unknown, or the model's graph can't be read or has fewer than two hidden layers.

    Example:

    >>> found = compare_activations([64] * 6, initializers=["0.01 normal", "Xavier"], activations=["tanh"],
    ...                             batch_normalization=[False])
    >>> [run["verdict"] for run in found.runs]
    ['vanishing', 'healthy']

    Reference: [Glorot and Bengio, 2010](https://proceedings.mlr.press/v9/glorot10a.html),
    [He et al., 2015](https://arxiv.org/abs/1502.01852)
    """
    check_integer("seed", seed, 0)
    for name, values, known in (
        ("initializers", initializers, _INITIALIZERS),
        ("activations", activations, _ACTIVATIONS),
    ):
        if isinstance(values, str) or not values or any(value not in known for value in values):
            raise ValueError(f"`{name}` must be a list out of {list(known)}. Received: {name}={values!r}")
    widths: Any = [500] * 10 if model is None else model
    net: Any = model
    if isinstance(widths, (list, tuple)):
        check_list("model", widths)
        layers = [keras.layers.Dense(check_integer("model", width, 1)) for width in widths]
        net = keras.Sequential([keras.Input((widths[0],)), *layers, keras.layers.Dense(1)])
    if not getattr(net, "inputs", None) or len(net.inputs) != 1:
        raise ValueError(f"`model` must be functional or sequential, with one input. Received: model={net!r}")
    kernels = [layer for layer in net.layers if hasattr(layer, "kernel_initializer") and hasattr(layer, "activation")]
    if len(kernels) < 3:
        raise ValueError(f"`model` must have at least two hidden layers. Received: layers={len(kernels)}")
    if data is None:
        shape = [size or 8 for size in net.inputs[0].shape[1:]]
        data = np.random.default_rng(seed).normal(size=(256, *shape))
    data = np.asarray(check_array("data", data), "float32")
    expected = tuple(net.inputs[0].shape[1:])
    if data.ndim != len(expected) + 1 or any(own not in (None, size) for own, size in zip(expected, data.shape[1:])):
        raise ValueError(
            f"`data` must be inputs of the model, of shape {expected}; without `model` these are the default one's. "
            f"Received: data of shape={data.shape}"
        )
    runs = [
        _run(net, kernels, data, *setting, seed)
        for setting in itertools.product(initializers, activations, map(bool, batch_normalization))
    ]
    return ActivationComparison(runs)


def _run(model, kernels, data, initializer, activation, normalize, seed):
    units = []
    layer_indices = {id(layer): index for index, layer in enumerate(kernels[:-1])}

    def clone(layer):
        if id(layer) in layer_indices:
            # Maxout is the larger of two copies.
            copies = range(2 if activation == "maxout" else 1)
            seeds = [derived_seed(seed, layer_indices[id(layer)], copy) for copy in copies]
            units.append(_Unit(layer, initializer, activation, normalize, seeds))
            return units[-1]
        if isinstance(layer, (keras.layers.BatchNormalization, keras.layers.Activation, keras.layers.ReLU)):
            return _Skip(name=layer.name)
        return type(layer).from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=clone)
    outputs = keras.Model(copy.inputs[0], [unit.output for unit in units])(data, training=False)
    rows = [
        _row(unit.name, np.asarray(ops.convert_to_numpy(values), "float64"), activation)
        for unit, values in zip(units, keras.tree.flatten(outputs))
    ]
    return {
        "initializer": initializer,
        "activation": activation,
        "batch_normalization": normalize,
        "verdict": _verdict(rows, activation),
        "layers": rows,
    }


def _row(name, values, activation):
    limit = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}.get(activation)
    if limit is None:
        low, high = np.quantile(values, [0.0005, 0.9995])
        limit = (float(min(low, 0.0)), float(max(high, 1e-12)))
    counts, edges = np.histogram(values, bins=40, range=limit)
    units = values.reshape(-1, values.shape[-1])
    return {
        "layer": name,
        "mean": float(values.mean()),
        "std": float(values.std()),
        "variety": float(np.sqrt(np.mean(values.var(axis=0)))),
        "saturated": saturated_part(activation, values),
        "dead": float(np.mean((units == 0).all(axis=0))),
        "histogram": (counts / max(counts.max(), 1)).tolist(),
        "edges": edges.tolist(),
    }


def _verdict(rows, activation):
    first, last = rows[0]["std"], rows[-1]["std"]
    if not np.isfinite(last) or last > 10 * max(first, 1e-30):
        return "exploding"
    if max(row["saturated"] for row in rows) > 0.5:
        return "saturated"
    if activation == "sigmoid":
        # It can't die out: small inputs all become one half, and each unit's bias differs from the others'.
        return "no variety" if rows[-1]["variety"] < 0.02 else "healthy"
    return "vanishing" if last < 0.1 * first or last < 1e-3 else "healthy"
