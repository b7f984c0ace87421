"""BatchNormalization that uses its batch's statistics although nothing is being trained."""

import contextlib

import keras

from kregkit._core.graph import all_layers
from kregkit._core.replacing import replaced_all


def batch_normalizations(model):
    """Returns the BatchNormalization layers that training would update; a frozen one keeps its statistics."""
    layers = [model, *all_layers(model)]
    return [
        layer
        for layer in layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and layer.built
    ]


@contextlib.contextmanager
def batch_statistics_in_inference(layers, momentum=None):
    """Makes layers normalise by the batch for a block, whatever `training` says; their moving statistics move on.

    Args:
        layers: List of BatchNormalization layers, as `batch_normalizations` gives them.
        momentum: Float for the block; `0.0` makes the moving statistics those of the last batch. Defaults to the
            layers' own.
    """

    def trained(call):
        return lambda inputs, training=None, mask=None: call(inputs, training=True, mask=mask)

    changes = [(layer, "call", trained(layer.call)) for layer in layers]
    if momentum is not None:
        changes += [(layer, "momentum", momentum) for layer in layers]
    with replaced_all(changes):
        yield
