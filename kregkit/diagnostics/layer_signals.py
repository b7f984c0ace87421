"""Activations forward and gradients backward, layer by layer."""

import keras
import numpy as np

from kregkit._core import keras_internals
from kregkit._core.graph import all_layers
from kregkit._core.types import Data
from kregkit.diagnostics._freshness import is_fresh
from kregkit.diagnostics._probe import probing
from kregkit.diagnostics._saturation import saturated_part
from kregkit.diagnostics.finding import Finding, Problem

# By chance a sound unit is zero for all of so few values.
_FEW = 8
_BATCH_NORMALIZATION = "put BatchNormalization before the activations"


def signal_flow(model: keras.Model, data: Data) -> Finding:
    """Checks the signal through depth: dead ReLUs, saturation, vanishing and exploding, detached and frozen weights.

    One forward and backward pass over up to 128 examples tells, for each layer, its outputs' mean, standard
    deviation and gradient, the part of its units that are zero for every example (ReLU), and the part of its outputs
    where the activation is flat (sigmoid, tanh). Fewer than 8 values per unit can't show that it is dead. Of dead units
    over 90% are a failure and over half a warning, of flat outputs over half and over a quarter. Gradients at the first
    hidden layer more than 10,000 times smaller, or larger, than at the last one (as lengths, over all of a layer's
    outputs) have vanished, or exploded; so have activations.

    A trainable variable without a gradient is detached: nothing that it does reaches the loss. Layers with
    `trainable=False` and weights as their initializers made them are reported: nobody wants those. Trained layers that
    are frozen, as by `kregkit.transfer.freeze`, are sound, unless nothing at all is left to train, which fails.

    Args:
        model: A compiled, built Keras model. It is left bit for bit as it was.
        data: As for `input_statistics`.

    Returns:
        A `Finding`. Its problems are named `"activations not finite"`, `"dead ReLUs"`, `"saturation"`,
        `"vanishing activations"`, `"exploding activations"`, `"vanishing gradients"`, `"exploding gradients"`,
        `"detached branch"` and `"frozen layer"`. Details: one dictionary per layer call, under `"layers"`.

    Raises:
        ValueError: The model is not compiled or built, or `data` is an iterator.

    Example:

    >>> import keras, numpy as np
    >>> layers = [keras.Input((4,)), keras.layers.Dense(8, "relu", bias_initializer=keras.initializers.Constant(-50)),
    ...           keras.layers.Dense(1)]
    >>> model = keras.Sequential(layers)
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> signal_flow(model, (x, x[:, :1])).faults[0]
    'dead ReLUs'
    """
    with probing(model, data) as probe:
        seen = probe.observation
        outputs = {id(record) for record in _last(seen.records)}
        rows, problems = [], []
        for record in seen.records:
            if not record.outputs or isinstance(record.layer, keras.layers.InputLayer):
                continue
            row = _row(record, id(record) in outputs)
            rows.append(row)
            problems += _layer_problems(row)
        attached = {id(v) for v, slope in zip(model.trainable_variables, seen.gradients) if slope is not None}
        attached = {layer.name for layer in all_layers(model) if attached & set(map(id, layer.trainable_variables))}
        hidden = [row for row in rows if row["weights"] and not row["last"]]
        problems += _depth_problems([row for row in hidden if row["layer"] in attached])
        problems += _weight_problems(model, seen.gradients)
    hidden = [row for row in rows if row["weights"]]
    figure = "std " + (f"{hidden[0]['std']:.2g} to {hidden[-1]['std']:.2g}" if hidden else "-")
    expected = "no dead, saturated or vanishing layers"
    return Finding("signal_flow", figure, expected, tuple(problems), {"layers": rows})


def _last(records):
    """Returns the records of the layers from the last one with weights on: outputs, which may be flat or zero."""
    weighted = [index for index, record in enumerate(records) if record.layer.weights]
    return records[weighted[-1] :] if weighted else records[-1:]


def _activation(layer):
    if isinstance(layer, keras.layers.ReLU):
        return "relu" if not getattr(layer, "negative_slope", 0) else "leaky_relu"
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", "") if activation is not None else ""


def _row(record, last):
    values, gradient = np.asarray(record.outputs[0], "float64"), np.asarray(record.gradients[0], "float64")
    units = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values.reshape(-1, 1)
    activation = _activation(record.layer)
    rectified = activation in ("relu", "relu6")
    return {
        "layer": record.layer.name,
        "kind": type(record.layer).__name__,
        "activation": activation,
        "weights": any(len(variable.shape) > 1 for variable in record.layer.weights),
        "last": last,
        "mean": float(values.mean()),
        "std": float(values.std()),
        "gradient": float(np.sqrt(np.sum(gradient**2) / max(len(gradient), 1))),
        "dead": float(np.mean((units == 0).all(axis=0))) if rectified and len(units) >= _FEW else 0.0,
        "saturated": saturated_part(activation, values),
    }


def _layer_problems(row):
    if not np.isfinite([row["mean"], row["std"]]).all():
        remedy = "lower the initial weights (He or Xavier for this activation) and check the inputs' scale"
        yield Problem("activations not finite", "fail", "NaN or infinite", "finite", remedy, row["layer"])
        return
    if row["last"]:
        return
    if row["dead"] > 0.5:
        yield Problem(
            "dead ReLUs",
            "fail" if row["dead"] > 0.9 else "warn",
            f"{row['dead']:.0%} of units are zero for every example",
            "at most 50%",
            f"{_BATCH_NORMALIZATION}; or He initialisation, biases at 0, a lower rate, a leaky ReLU",
            row["layer"],
        )
    if row["saturated"] > 0.25:
        yield Problem(
            "saturation",
            "fail" if row["saturated"] > 0.5 else "warn",
            f"{row['saturated']:.0%} of outputs lie where {row['activation']} is flat",
            "at most 25%",
            f"{_BATCH_NORMALIZATION}; or Xavier initialisation, scaled inputs, ReLU",
            row["layer"],
        )


def _depth_problems(rows):
    # Exactly zero are the branches of residual networks that begin at zero, and dead units, which are named above.
    rows = [row for row in rows if np.isfinite([row["std"], row["gradient"]]).all() and row["std"] > 0]
    rows = [row for row in rows if row["gradient"] > 0]
    if len(rows) < 2:
        return
    first, last = rows[0], rows[-1]
    remedy = (
        f"{_BATCH_NORMALIZATION}; or initialise for the activation (He for ReLU, Xavier for tanh); skip connections"
    )
    for name, start, end in (
        ("activations", first["std"], last["std"]),
        ("gradients", last["gradient"], first["gradient"]),
    ):
        ratio = end / start
        steps = f"{start:.2g} to {end:.2g} over {len(rows)} layers"
        if ratio < 1e-4:
            yield Problem(f"vanishing {name}", "fail", steps, "within a factor of 10,000", remedy, first["layer"])
        elif ratio > 1e4:
            yield Problem(f"exploding {name}", "fail", steps, "within a factor of 10,000", remedy, first["layer"])


def _weight_problems(model, gradients):
    owners = {id(v): layer for layer in all_layers(model) for v in keras_internals.own_trainable_variables(layer)}
    detached, zero = {}, {}
    for variable, gradient in zip(model.trainable_variables, gradients):
        name = owners[id(variable)].name if id(variable) in owners else variable.path
        if gradient is None:
            detached.setdefault(name, []).append(variable.name)
        elif not np.any(gradient):
            zero.setdefault(name, []).append(variable.name)
    for name, variables in detached.items():
        yield Problem(
            "detached branch",
            "fail",
            f"no gradient for {', '.join(variables)}",
            "every trainable weight reaches the loss",
            "connect its output to one that has a loss, or remove stop_gradient, argmax or rounding on the way",
            name,
        )
    if not detached and zero and len(zero) == len({id(owners.get(id(v))) for v in model.trainable_variables}):
        remedy = "all units are dead, or the loss doesn't depend on the outputs: see the layers above"
        yield Problem("vanishing gradients", "fail", "every gradient is exactly 0", "some gradient", remedy)
    yield from _frozen(model)


def _frozen(model):
    remedy = "set `layer.trainable = True` and compile again; leave it if random weights are what you want there"
    for layer in all_layers(model):
        own = keras_internals.own_trainable_variables(layer)
        if not own or (layer.trainable and all(variable.trainable for variable in own)):
            continue
        if not model.trainable_variables:
            expected = "weights that train"
            yield Problem("frozen layer", "fail", "nothing in the model trains", expected, remedy, layer.name)
        elif is_fresh(layer) is not False:
            figure, expected = "trainable=False, with untrained weights", "untrained layers train"
            yield Problem("frozen layer", "warn", figure, expected, remedy, layer.name)
