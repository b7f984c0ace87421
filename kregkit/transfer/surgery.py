"""Leave layers out, put layers in, begin layers anew: a trained network's other weights stay as they are."""

from collections.abc import Sequence

import keras

from kregkit._core import keras_internals, rules
from kregkit._core.checks import check_integer
from kregkit._core.graph import flat_layers
from kregkit._core.weights import assign_values, copy_values
from kregkit.layers import DropConnect
from kregkit.transfer._graph import check_graph, matching, rebuilt, weighted_layers

# Layers that do nothing outside of training.
_TRAINING_ONLY = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.AlphaDropout,
    keras.layers.ActivityRegularization,
    keras.layers.AugMix,
    keras.layers.CutMix,
    keras.layers.MixUp,
    keras.layers.RandAugment,
    keras.layers.RandomBrightness,
    keras.layers.RandomColorDegeneration,
    keras.layers.RandomContrast,
    keras.layers.RandomFlip,
    keras.layers.RandomRotation,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
    keras.layers.RandomColorJitter,
    keras.layers.RandomElasticTransform,
    keras.layers.RandomErasing,
    keras.layers.RandomGaussianBlur,
    keras.layers.RandomGrayscale,
    keras.layers.RandomHue,
    keras.layers.RandomInvert,
    keras.layers.RandomPerspective,
    keras.layers.RandomPosterization,
    keras.layers.RandomSaturation,
    keras.layers.RandomSharpness,
    keras.layers.RandomShear,
)


def insert(model: keras.Model, after: keras.layers.Layer | str, layer: keras.layers.Layer) -> keras.Model:
    """Returns a copy of a model with one more layer, the weights kept: such as dropout in a pretrained network.

    Args:
        model: A functional or built sequential model.
        after: A layer of the model (a nested model too) or its name; the new layer gets its output, and what used that
            output gets the new layer's. A regular expression or a list names several layers; each is followed by
            its own copy of the new layer.
        layer: A Keras layer that keeps the shape.

    Raises:
        ValueError: `after` names no layer, `layer` would change the shape, or the model has no readable graph.

    Example:

    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, name="one"), keras.layers.Dense(2, name="two")]
    >>> model = keras.Sequential(layers)
    >>> [one.name for one in insert(model, after="one", layer=keras.layers.Dropout(0.5, name="noise")).layers]
    ['one', 'noise', 'two']
    """
    check_graph(model)
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(f"`layer` must be a Keras layer. Received: layer={layer!r}")
    anchors = matching(model, after, "after", whole=True)
    for anchor in anchors:
        shape = tuple(keras_internals.inbound_nodes(anchor)[0].output_tensors[0].shape)
        given = tuple(layer.compute_output_shape(shape))
        if given != shape:
            raise ValueError(f"`layer` must keep the shape {shape}. Received: layer={layer.name!r}, shape={given}")
    added = {id(anchor): layer for anchor in anchors}
    if len(anchors) > 1:
        config = layer.get_config()
        for index, anchor in enumerate(anchors):
            added[id(anchor)] = type(layer).from_config({**config, "name": f"{config['name']}_{index}"})
    return rebuilt(model, after=added)


def strip(model: keras.Model) -> keras.Model:
    """Returns a copy of a model without the layers that do something in training only, for export.

    These are Keras's dropout, noise and random augmentation layers (not `RandomCrop`, which cuts the centre at test
    time), activity regularisation, and any layer that says so by an attribute `training_only = True`. A class derived
    from one of these, such as dropout that draws at test time too, stays unless it says so. A `DropConnect` whose
    inference is the mean is replaced by the layer that it wraps. `AugmentLayer` and `StochasticDepth` stay: they
    compute at test time too. Predictions are the same, bit for bit.

    Raises:
        ValueError: The model has no readable graph.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(2, name="top")])
    >>> [layer.name for layer in strip(model).layers]
    ['top']
    """

    def unwrap(layer):
        return layer.layer if isinstance(layer, DropConnect) and layer.inference == "mean" else layer

    def drop(layer):
        return type(layer) in _TRAINING_ONLY or getattr(layer, "training_only", False)

    return rebuilt(model, drop, unwrap=unwrap)


@rules.checked(model=rules.model)
def reinitialize(
    model: keras.Model, layers: keras.layers.Layer | str | int | Sequence[keras.layers.Layer | str]
) -> list[str]:
    """Gives layers new weights by their initialisers; changes `model`, and returns the layers' names.

    Initialisers that were given a seed draw new numbers as well: the global seed decides.

    Where little data differ from those that the model was trained on, more of the top layers begin anew. A compiled
    model should be compiled again: its optimizer's slots belong to the old weights.

    Args:
        model: A built Keras model.
        layers: A layer, its name, a regular expression, a list of these; or an integer, that many layers with kernels
            from the top.

    Raises:
        ValueError: `layers` names no layer.

    Example:

    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, name="one"), keras.layers.Dense(2, name="two")]
    >>> model = keras.Sequential(layers)
    >>> reinitialize(model, 1)
    ['two']
    """
    if isinstance(layers, int) and not isinstance(layers, bool):
        weighted = weighted_layers(model)
        check_integer("layers", layers, 1, len(weighted))
        flat = flat_layers(model)
        chosen = flat[next(index for index, layer in enumerate(flat) if layer is weighted[-layers]) :]
    else:
        chosen = matching(model, layers, "layers")
    chosen = [layer for layer in chosen if layer.weights]
    new = [_fresh_values(layer) for layer in chosen]
    for layer, values in zip(chosen, new):
        assign_values(layer.weights, values)
    return [layer.name for layer in chosen]


def _fresh_values(layer):
    fresh = type(layer).from_config(_unseeded(layer.get_config()))
    fresh.build_from_config(layer.get_build_config() or {})
    if len(fresh.weights) != len(layer.weights):
        raise ValueError(f"The layer can't be built from its own config. Received: layer={layer.name!r}")
    return copy_values(fresh.weights)


def _unseeded(config):
    """Returns a layer's config whose initialisers have no seed."""
    if isinstance(config, (list, tuple)):
        return type(config)(map(_unseeded, config))
    if not isinstance(config, dict):
        return config
    if config.get("module") == "keras.initializers" and "seed" in (config.get("config") or {}):
        return {**config, "config": {**config["config"], "seed": None}}
    return {key: _unseeded(value) for key, value in config.items()}
